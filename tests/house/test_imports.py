"""Imports point one way: a module knows what lies above it in this list, never what lies below."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sfmoe_dg

PACKAGE = Path(sfmoe_dg.__file__).parent
ROWS = """
errors registry arguments seeds durations cores slurm_queue hparams host_buffers host_memory
run record_lines columns records record_folders progress lease
distributed data weight_average models algorithms
launch_settings compat plugins
sweep_spec sweep naming steering
selection tables render svg page report
cost checkpoint evaluate whole_states parallel speed seen
prepare resume train
launch loggers diwa analysis report_page doctor
cli __main__
"""
ORDER = ROWS.split()
"""Modules and folders of the package, every one after all that it imports anywhere, functions included."""


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("sfmoe_dg", *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


def imported(path: Path, known: dict[str, Path], *, everywhere: bool = True) -> Iterator[str]:
    """The package's modules that a file imports; not ``everywhere``: those that importing it imports at once."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sfmoe_dg"):
            assert node.level == 0, f"{path} has a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("sfmoe_dg"))


def part(module: str) -> str:
    """The entry of ``ORDER`` that a module belongs to; the package itself, which holds the version, is none."""
    return module.split(".")[1] if "." in module else ""


def test_every_module_imports_only_what_comes_before_it():
    known, place = modules(), {name: number for number, name in enumerate(["", *ORDER])}
    assert len(place) == len(ORDER) + 1
    assert {part(module) for module in known} == set(place), "ORDER names every module and folder of the package, once"
    upward = [
        f"{module} imports {target}"
        for module, path in known.items()
        for target in imported(path, known)
        if part(module) and place[part(target)] > place[part(module)]
    ]
    assert not upward


@pytest.mark.parametrize("folder", sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()))
def test_modules_of_a_folder_import_each_other_in_one_direction(folder):
    known = {name: path for name, path in modules().items() if part(name) == folder}
    graph: dict[str, set[str]] = defaultdict(set)
    for module, path in known.items():
        graph[module] |= {target for target in imported(path, known, everywhere=False) if target in known} - {module}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
