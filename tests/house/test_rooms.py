"""The package reads like a table of contents: twelve rooms, ``__init__`` files that export, and rooms without torch."""

from __future__ import annotations

import ast
import subprocess
import sys

from source import PACKAGE, ROOMS, modules, room, tree, where

HAVE_CODE = {
    "sfmoe_dg": "its public names are imported when somebody asks for them",
    "sfmoe_dg.compat.domainbed.shim.domainbed": "Python runs it instead of DomainBed's own package",
}
"""``__init__`` files that hold more than exports, and why."""

NO_TORCH = ("foundation", "runs", "results", "sweeps", "cli")
"""Rooms whose modules import no torch, also not through others."""
ALSO_NO_TORCH = ("sfmoe_dg.data.catalog", "sfmoe_dg.algorithms.registry", "sfmoe_dg.analysis.registry")
NEED_TORCH = {
    "sfmoe_dg.cli.processes": "joins processes that train together",
    "sfmoe_dg.cli.stop_signals": "tells a training loop to stop",
    "sfmoe_dg.foundation.host_counters": "counts in tensors",
    "sfmoe_dg.foundation.processes": "exchanges tensors",
    "sfmoe_dg.foundation.devices": "asks torch for its devices",
    "sfmoe_dg.foundation.torch_files": "reads and writes files of torch",
}
"""Modules of those rooms that import torch, and what for."""


def test_the_root_lists_the_rooms():
    listing = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert listing == {*ROOMS, "__init__.py", "__main__.py", "py.typed"}


def is_an_export(node: ast.stmt) -> bool:
    """Whether a statement is a docstring, an import or the list of exported names."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [ast.unparse(target) for target in targets] == ["__all__"]
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_init_files_hold_exports_only():
    files = {name: path for name, path in modules().items() if path.name == "__init__.py"}
    assert HAVE_CODE.keys() <= files.keys()
    more = [
        where(path, node.lineno)
        for name, path in files.items()
        if name not in HAVE_CODE
        for node in tree(path).body
        if not is_an_export(node)
    ]
    assert not more, "move this into a module"


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{name} imports torch")
"""


def test_rooms_without_torch():
    names = [name for name in modules() if room(name) in NO_TORCH]
    assert NEED_TORCH.keys() <= set(names)
    words = [*(name for name in names if name not in NEED_TORCH), *ALSO_NO_TORCH]
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL, *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
