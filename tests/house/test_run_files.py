"""Only ``runs/folder.py`` knows what the files of a run are called, and only ``runs/lease.py`` what a lease is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import sfmoe_dg

PACKAGE = Path(sfmoe_dg.__file__).parent
FOLDER, LEASE = PACKAGE / "runs" / "folder.py", PACKAGE / "runs" / "lease.py"
NAMES = {
    "results.jsonl",
    "results.interrupted.jsonl",
    "run.json",
    "out.txt",
    "err.txt",
    "progress.json",
    "model.pkl",
    "model.safetensors",
    "model_step",  # the beginning of the f-string
    "failed.json",
    "checkpoint.pt",
    "done",
}
LEASE_NAMES = {"lease."}  # the beginning of the f-string


def literals(source: str) -> Iterator[tuple[int, str]]:
    """Line and value of every string in a module, parts of f-strings too, but for docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def named_outside(names: set[str], home: Path) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)}:{line} says {value!r}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != home
        for line, value in literals(path.read_text(encoding="utf-8"))
        if value in names
    ]


def test_the_names_of_a_runs_files_stand_in_one_module():
    assert not named_outside(NAMES, FOLDER)


def test_the_name_of_a_lease_stands_in_one_module():
    assert not named_outside(LEASE_NAMES, LEASE)


def test_the_one_module_names_them_all():
    assert {value for _, value in literals(FOLDER.read_text())} >= NAMES
    assert {value for _, value in literals(LEASE.read_text())} >= LEASE_NAMES


def test_literals_are_found_wherever_they_stand_but_in_docstrings():
    source = '"""done"""\ndef f(folder, done="done"):\n    """run.json"""\n    return folder / f"model_step{3}.pkl"\n'
    assert list(literals(source)) == [(2, "done"), (4, "model_step"), (4, ".pkl")]
