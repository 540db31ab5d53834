"""Parse the repository's source for the tests of this folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sfmoe_dg"
ROOMS = ["foundation", "runs", "data", "models", "algorithms", "results", "training", "sweeps"]
ROOMS += ["analysis", "compat", "doctor", "cli"]
"""The packages of ``sfmoe_dg``, every one after all that it imports."""


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def where(path: Path, line: int = 0) -> str:
    """A file, and a line of it, as an error names them."""
    return path.relative_to(ROOT).as_posix() + (f":{line}" if line else "")


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(text(path))


@cache
def modules() -> dict[str, Path]:
    """The package's modules by their dotted names."""
    names = {}
    for path in python_files("sfmoe_dg"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


def room(module: str) -> str:
    """The room of a module; '' for the package itself, ``__main__`` for the module that starts the program."""
    return module.split(".")[1] if "." in module else ""
