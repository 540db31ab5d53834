"""Find DomainBed's package in a checkout, list its algorithms, and import it under the name ``domainbed``."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from sfmoe_dg.foundation.errors import UserError

PACKAGE = "domainbed"
NEEDED = ("__init__.py", "algorithms.py", "datasets.py", "hparams_registry.py")


def find_package(checkout: str | Path) -> Path:
    """The folder of the package inside a checkout.

    Raises:
        UserError: if the folder does not exist, or is no checkout of DomainBed.
    """
    root = Path(checkout).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"the DomainBed checkout {checkout} does not exist; give the folder that holds domainbed/")
    missing = [name for name in NEEDED if not (root / PACKAGE / name).is_file()]
    if missing:
        raise UserError(
            f"{checkout} is not a checkout of DomainBed: it lacks {PACKAGE}/{missing[0]}; "
            f"give the folder that holds {PACKAGE}/"
        )
    return root / PACKAGE


def open_package(package: Path) -> ModuleType:
    """Import the package as the module ``domainbed``, so that its modules can be imported from then on.

    The modules that need torch are not imported. ``sys.path`` is not changed.

    Raises:
        UserError: if ``domainbed`` is already another folder's package.
    """
    known = sys.modules.get(PACKAGE)
    if known is not None:
        folders = [Path(path).resolve() for path in getattr(known, "__path__", ())]
        if package not in folders:
            where = folders[0] if folders else "elsewhere"
            raise UserError(f"{PACKAGE} is already imported from {where}; a process has room for one checkout")
        return known
    spec = importlib.util.spec_from_file_location(
        PACKAGE, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[PACKAGE]
        raise
    return module


def algorithm_names(package: Path) -> list[str]:
    """The list ``ALGORITHMS`` of ``algorithms.py``, read without running that file.

    Raises:
        UserError: if it cannot be read.
    """
    path = package / "algorithms.py"
    try:
        tree = ast.parse(path.read_bytes(), str(path))
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == "ALGORITHMS" for t in node.targets):
                return [str(name) for name in ast.literal_eval(node.value)]
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    raise UserError(f"{path} has no list ALGORITHMS of names; give a checkout of DomainBed")
