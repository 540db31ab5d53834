"""How DomainBed's own commands are started so that they, and every process they start, know ours.

``PYTHONPATH`` is inherited, and so reaches the jobs of DomainBed's launchers, which run ``python -m
domainbed.scripts.train``: that ``python`` must be ours, and the ``domainbed`` that it finds first the shim.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfmoe_dg.compat.domainbed.checkout import PACKAGE, find_package
from sfmoe_dg.foundation.errors import UserError

CHECKOUT_VARIABLE = "SFMOE_DG_DOMAINBED"
SHIM = Path(__file__).parent / "shim"


def command(checkout: str, words: Sequence[str]) -> list[str]:
    """``domainbed.scripts.train --flags`` as a command line of this interpreter.

    Raises:
        UserError: if that is no module of the checkout, or would be found without the shim.
    """
    package = find_package(checkout)
    scripts = sorted(f"{PACKAGE}.scripts.{path.stem}" for path in (package / "scripts").glob("[!_]*.py"))
    if not words:
        raise UserError(f"give one of DomainBed's commands after --; those of this checkout: {', '.join(scripts)}")
    path = package.parent.joinpath(*words[0].split("."))
    if not words[0].startswith(f"{PACKAGE}.") or not path.with_suffix(".py").is_file():
        raise UserError(f"{words[0]} is no command of this checkout; its commands: {', '.join(scripts)}")
    if sys.version_info < (3, 11) and Path(PACKAGE).is_dir():
        raise UserError(
            f"Python before 3.11 finds the folder {PACKAGE} of the working directory first, and so would not see "
            "our algorithms; run the command in another folder"
        )
    return [sys.executable, "-m", *words]


def environment(checkout: str, current: Mapping[str, str]) -> dict[str, str]:
    """The environment of such a command: ``current``, with the shim and this interpreter before all others."""
    paths = [str(SHIM), *filter(None, [current.get("PYTHONPATH")])]
    return {
        **current,
        CHECKOUT_VARIABLE: str(find_package(checkout)),
        "PYTHONPATH": os.pathsep.join(paths),
        # The working directory comes before PYTHONPATH otherwise, and it may be the checkout.
        "PYTHONSAFEPATH": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), current.get("PATH", os.defpath)]),
    }
