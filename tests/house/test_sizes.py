"""Files, functions and lists of parameters stay short enough to be read at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from source import python_files, text, tree, where

FOLDERS = ("sfmoe_dg", "datasets", "analysis", "bench", "tests")
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 50, 10
ARCHITECTURES = "sfmoe_dg/models/"
"""Networks are built as timm builds them, from many keyword arguments: their constructors may take more."""


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, ast.ClassDef | None]]:
    """Every function of a file, and the class that it is a method of."""
    for node in ast.walk(tree(path)):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield child, node if isinstance(node, ast.ClassDef) else None


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, owner: ast.ClassDef | None) -> int:
    """How many a caller can give; of a method without the object or the class that it is called on."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    bound = owner is not None and not static
    return len(named) - bound + sum(one is not None for one in (arguments.vararg, arguments.kwarg))


def builds_an_architecture(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    registered = any("register_model" in ast.unparse(decorator) for decorator in function.decorator_list)
    return registered or (where(path).startswith(ARCHITECTURES) and function.name == "__init__")


def test_no_file_is_too_long():
    long = {where(path): lines for path in python_files(*FOLDERS) if (lines := text(path).count("\n")) > LONGEST_FILE}
    assert not long, f"divide these files by their ideas; they may have {LONGEST_FILE} lines"


def test_no_function_is_too_long():
    long = {
        f"{where(path, function.lineno)} {function.name}": lines
        for path in python_files(*FOLDERS)
        for function, _ in functions(path)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long, f"divide these functions; they may have {LONGEST_FUNCTION} lines"


def test_no_function_takes_too_many_parameters():
    many = {
        f"{where(path, function.lineno)} {function.name}": count
        for path in python_files(*FOLDERS)
        for function, owner in functions(path)
        if (count := parameters(function, owner)) > MOST_PARAMETERS and not builds_an_architecture(path, function)
    }
    assert not many, f"gather what belongs together in an object; a function may take {MOST_PARAMETERS} parameters"
