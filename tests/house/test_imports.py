"""Imports lead one way: a room imports those before it, and no circle joins modules.

Imports inside functions and those for type checkers count like all others.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from source import ROOMS, modules, python_files, room, tree, where

TARGET = re.compile(r"(sfmoe_dg(?:\.\w+)+):(\w+)")
"""A registry's entry: an object by the name of its module and its own."""


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """The package's modules that a file imports anywhere, and the lines."""
    known = modules()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where(path, node.lineno)} has a relative import"
            source = node.module or ""
            if source.split(".")[0] == "sfmoe_dg":
                for alias in node.names:
                    name = f"{source}.{alias.name}"
                    is_module = name in known or (is_package(source) and alias.name not in exported(source))
                    yield (name if is_module else source), node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.split(".")[0] == "sfmoe_dg")


def is_package(module: str) -> bool:
    """Whether a name is that of a package below ``sfmoe_dg``, which itself exports names without importing them."""
    return module != "sfmoe_dg" and module in modules() and modules()[module].name == "__init__.py"


def exported(package: str) -> set[str]:
    """The names that the ``__init__`` of a package imports."""
    imports = (node for node in ast.walk(tree(modules()[package])) if isinstance(node, ast.Import | ast.ImportFrom))
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_rooms_import_only_those_before_them():
    place = {name: number for number, name in enumerate([*ROOMS, "__main__", ""])}
    back = [
        f"{where(path, line)} imports {target}"
        for module, path in modules().items()
        for target, line in imported(path)
        if place[room(target)] > place[room(module)]
    ]
    assert not back


def test_no_circle_joins_modules():
    # A package's own __init__ is executed before its modules, but needs none of them unless it imports them.
    graph = {module: {target for target, _ in imported(path)} - {module} for module, path in modules().items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_import_names_a_module_of_the_package():
    lost = [
        f"{where(path, line)} imports {target}"
        for path in python_files("sfmoe_dg", "datasets", "analysis", "bench", "tests")
        for target, line in imported(path)
        if target not in modules()
    ]
    assert not lost


def targets() -> dict[str, str]:
    """Every ``"module:name"`` that a string of the package holds, and where."""
    return {
        node.value: where(path, node.lineno)
        for path in modules().values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and TARGET.fullmatch(node.value)
    }


def test_objects_named_in_strings_exist():
    assert len(targets()) > 50
    lost = []
    for target, place in targets().items():
        module, _, name = target.partition(":")
        try:
            getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            lost.append(f"{place} names {target}: {error}")
    assert not lost
