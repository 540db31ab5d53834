"""Start DomainBed's commands so that they, and the processes they start, know our algorithms and data sets.

DomainBed's launchers run ``python -m domainbed.scripts.train``. The environment that is made here, which these
processes inherit, makes that ``python`` this interpreter and puts the shim first in ``PYTHONPATH``.
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
    """A command such as ``domainbed.scripts.train --flags`` as a command line of this interpreter.

    Raises:
        UserError: if it is no module of the checkout, or if Python would find it without the shim.
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
    """The environment of such a command: ``current`` with the shim first in PYTHONPATH and this interpreter in PATH."""
    paths = [str(SHIM), *filter(None, [current.get("PYTHONPATH")])]
    return {
        **current,
        CHECKOUT_VARIABLE: str(find_package(checkout)),
        "PYTHONPATH": os.pathsep.join(paths),
        # Otherwise the working directory, which may be the checkout, comes before PYTHONPATH.
        "PYTHONSAFEPATH": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), current.get("PATH", os.defpath)]),
    }
