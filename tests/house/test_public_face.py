"""The public names of ``sfmoe_dg``: their origin, types and examples."""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sfmoe_dg

ROOT = Path(__file__).resolve().parents[2]
TRAINED = "train"
"""The name whose example trains ``results/one``, which the examples of other names read."""


def home(name: str) -> tuple[Path, str]:
    """The file that defines a public name, and the name that it has there."""
    module, _, attribute = sfmoe_dg._HOMES[name].partition(":")
    return ROOT.joinpath(*module.split(".")).with_suffix(".py"), attribute


def definition(name: str) -> tuple[ast.stmt, str]:
    """The statement that defines a public name, and its docstring (that of a constant stands under it)."""
    path, attribute = home(name)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)) and statement.name == attribute:
            return statement, ast.get_docstring(statement) or ""
        targets = {ast.AnnAssign: lambda s: [s.target], ast.Assign: lambda s: s.targets}.get(type(statement))
        if targets and any(isinstance(target, ast.Name) and target.id == attribute for target in targets(statement)):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            return statement, inspect.cleandoc(str(following.value.value)) if is_text else ""
    raise AssertionError(f"{path} does not define {attribute}")


def static_imports() -> Iterator[tuple[str, str]]:
    """What type checkers import: public name and ``module:attribute``."""
    tree = ast.parse((ROOT / "sfmoe_dg" / "__init__.py").read_text(encoding="utf-8"))
    checking = next(node for node in tree.body if isinstance(node, ast.If))
    for statement in checking.body:
        assert isinstance(statement, ast.ImportFrom)
        yield from ((alias.asname or alias.name, f"{statement.module}:{alias.name}") for alias in statement.names)


def test_the_names_are_sorted_and_said_once_to_python_and_to_type_checkers():
    assert list(sfmoe_dg._HOMES) == sfmoe_dg.__all__
    assert dict(static_imports()) == sfmoe_dg._HOMES
    assert sorted(sfmoe_dg.__all__, key=str.casefold) == sorted(set(sfmoe_dg.__all__), key=str.casefold)


@pytest.mark.parametrize("name", sfmoe_dg.__all__)
def test_every_name_can_be_imported_from_the_top(name):
    namespace: dict[str, object] = {}
    exec(f"from sfmoe_dg import {name}", namespace)
    assert namespace[name] is getattr(sfmoe_dg, name)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        sfmoe_dg.trian  # noqa: B018
    assert set(dir(sfmoe_dg)) == {*sfmoe_dg.__all__, "__version__"}


@pytest.mark.parametrize("name", sfmoe_dg.__all__)
def test_every_name_is_typed(name):
    statement, _ = definition(name)
    if isinstance(statement, ast.FunctionDef):
        of = statement.args
        arguments = [*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, [of.vararg, of.kwarg])]
        written = [argument.annotation for argument in arguments] + [statement.returns]
        if name != "choice":  # values of any type
            assert not [note for note in written if note is None or ast.unparse(note) == "Any"]
    elif isinstance(statement, ast.AnnAssign):
        assert "Any" not in ast.unparse(statement.annotation).split("[")[0]


def test_the_api_reference_and_the_architecture_list_the_same_names():
    for page in ("docs/api/index.md", "ARCHITECTURE.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        block = re.search(r"<!-- public names -->(.*?)<!-- end of public names -->", text, re.S)
        assert block is not None, page
        rows = "\n".join(line for line in block[1].splitlines())
        assert sorted(set(re.findall(r"`(\w+)`", rows))) == sorted(sfmoe_dg.__all__), page


@pytest.mark.parametrize("name", sfmoe_dg.__all__)
def test_every_name_has_an_example_that_imports_it(name):
    text = definition(name)[1]
    assert re.search(r"^Examples:\n    >>> ", text, re.M), f"the docstring of {name} has no example"
    assert re.search(rf"^    (?:>>>|\.\.\.) .*\b{name}\b", text, re.M)


def run_example(name: str) -> None:
    parsed = doctest.DocTestParser().get_doctest(definition(name)[1], {}, name, str(home(name)[0]), 0)
    runner, output = doctest.DocTestRunner(verbose=False), []
    assert runner.run(parsed, out=output.append).failed == 0, "".join(output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where somebody tries the examples: with the repository's studies, and the run that an example trains."""
    made, before = tmp_path_factory.mktemp("examples"), Path.cwd()
    (made / "sweeps").symlink_to(ROOT / "sweeps")
    os.chdir(made)
    try:
        run_example(TRAINED)
        yield made
    finally:
        os.chdir(before)


@pytest.mark.parametrize("name", [name for name in sfmoe_dg.__all__ if name != TRAINED])
def test_the_example_says_what_happens(name, folder):
    run_example(name)
