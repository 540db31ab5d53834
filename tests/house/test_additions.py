"""An addition touches as many files as the table in ARCHITECTURE.md says.

These tests look for what is there already: the code names it only in the files that the table counts. That a new one
needs no more is tried by ``tests/models/test_adding.py`` (an architecture), ``tests/house/test_extending.py`` (files
outside the package) and ``tests/house/test_declared_once.py`` (flags and keys follow from their declarations).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from source import PACKAGE, ROOT, python_files, text, tree

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.analysis.registry import ANALYSES
from sfmoe_dg.foundation.registry import Registry
from sfmoe_dg.models.architectures.registry import ARCHITECTURES, FOLDER, import_architectures
from sfmoe_dg.models.moe.hparams import MODELS
from sfmoe_dg.sweeps.launch.launcher import LAUNCHERS
from sfmoe_dg.training.reporters.loggers import LOGGERS

OF_DOMAINBED = {"results/tables.py", "compat/domainbed/upstream_algorithms.py"}
"""Files that list DomainBed's algorithms: the order of its tables, and what its own classes need."""
ALSO_BACKBONES = {"mlp_width", "mlp_depth", "mlp_dropout"}
"""Hyper-parameters of DomainBed's MLP, which discriminators take too."""


def module_of(registered: object) -> str:
    """The module of what a registry holds: ``module:attribute``, or the object once it has been loaded."""
    return registered.partition(":")[0] if isinstance(registered, str) else str(registered.__module__)


def file_of(module: str) -> str:
    return module.removeprefix("sfmoe_dg.").replace(".", "/") + ".py"


_files = {name: file_of(module_of(found)) for name, found in ALGORITHMS.registered.items()}
OBJECTIVES = {name: file for name, file in _files.items() if file.startswith("algorithms/objectives/")}


def words(node: ast.AST) -> Iterator[str]:
    """The names that a node of the source says: identifiers, and the words of a string."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.alias):
        yield node.name
    elif isinstance(node, ast.keyword) and not ast.unparse(node.value).startswith("torch."):
        yield node.arg or ""
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "sfmoe-dg " not in node.value:
        yield node.value
        yield from re.findall(r"[\w-]+", node.value)


@cache
def names_of(path: Path) -> frozenset[str]:
    """All names in a file's code; comments, docstrings and examples of commands do not count."""
    docstrings = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
    return frozenset(word for node in ast.walk(tree(path)) if node not in docstrings for word in words(node))


@cache
def strings_of(path: Path) -> frozenset[object]:
    return frozenset(node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant))


@cache
def modules_of(path: Path) -> frozenset[str]:
    """The modules that a file imports, or names as ``module:attribute``."""
    imported = {
        name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    }
    return frozenset(imported | {str(string).partition(":")[0] for string in strings_of(path)})


def files(of: Callable[[Path], frozenset[object]] | Callable[[Path], frozenset[str]], *names: str) -> set[str]:
    """The files of the package that say one of these names."""
    return {path.relative_to(PACKAGE).as_posix() for path in python_files("sfmoe_dg") if not of(path).isdisjoint(names)}


def count(kind: str) -> int:
    """What the table says of an addition of this kind."""
    found = re.findall(rf"<!-- count: {re.escape(kind)} -->(\d+) ", text(ROOT / "ARCHITECTURE.md"))
    assert len(found) == 1, kind
    return int(found[0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_a_file_and_a_line(name):
    file = OBJECTIVES[name]
    naming = files(names_of, name) - OF_DOMAINBED
    others = {path for path in naming if path.startswith("algorithms/objectives/")} - {file}
    assert naming - others == {file, "algorithms/registry.py"}, "others may only be objectives that derive from it"
    assert len(naming - others) == count("objective")


def test_hyper_parameters_of_objectives_stand_with_the_objectives():
    common = set(ALGORITHMS.load("ERM").hparam_table("PACS")) | ALSO_BACKBONES
    for name in OBJECTIVES:
        own = [hparam for hparam in ALGORITHMS.load(name).hparam_table("PACS") if hparam not in common]
        elsewhere = {
            (hparam, path)
            for hparam in own
            if len(hparam) > 5  # "k" and "tau" are names of many things
            for path in files(strings_of, hparam)
            if not path.startswith(("algorithms/objectives/", "algorithms/shared/"))
        }
        assert not elsewhere, name


@pytest.mark.parametrize("file", ["hybrid", "g_moe", "wide_net"])
def test_an_architecture_is_a_file_and_a_line(file):
    import_architectures()
    networks = [name for name in MODELS if f"models/architectures/{file}.py" in files(names_of, name)]
    touched = {f"models/architectures/{file}.py", "models/architectures/registry.py"}
    assert networks
    assert files(names_of, *networks, *ARCHITECTURES[file]) == touched
    assert files(modules_of, f"{FOLDER}.{file}") <= touched
    assert len(touched) == count("architecture") == count("preset")


@pytest.mark.parametrize(
    ("name", "family"), [("WILDSFMoW", "wilds"), ("SpawriousO2O_hard", "spawrious"), ("Debug224", "debug")]
)
def test_a_data_set_is_facts_a_line_and_a_reader(name, family):
    facts, reader = f"data/facts/{family}.py", f"data/sets/{family}.py"
    assert files(names_of, name) <= {facts, reader}
    assert files(modules_of, f"sfmoe_dg.data.facts.{family}") == {"data/catalog.py"}
    assert files(modules_of, f"sfmoe_dg.data.sets.{family}") == {facts}
    assert len({facts, "data/catalog.py", reader, "the builder", "the card"}) == count("data set")


def test_a_data_set_of_image_folders_needs_no_reader():
    assert files(names_of, "SVIRO") == {"data/facts/image_folders.py", "data/catalog.py"}
    assert count("image folders") == count("data set") - 1


@pytest.mark.parametrize(
    ("kind", "registry", "home"),
    [
        ("launcher", LAUNCHERS, "sweeps/launch/launcher.py"),
        ("logger", LOGGERS, "training/reporters/loggers.py"),
        ("analysis", ANALYSES, "analysis/registry.py"),
    ],
)
def test_one_place_and_a_line(kind: str, registry: Registry[object], home: str) -> None:
    """Beside the command line and others of their kind, only the registry knows their modules."""
    assert count(kind) == 2
    modules = [module_of(found) for found in registry.registered.values()]
    own = [file_of(module).removesuffix("/figure.py").removesuffix("/launcher.py") for module in modules]
    naming = {path for path in files(modules_of, *modules) if not path.startswith((*own, "cli/"))}
    assert naming == {home}


@pytest.mark.parametrize("name", ["memory_format", "eval_transforms", "hparams_per_trial"])
def test_a_recorded_option_is_a_declaration_and_its_use(name):
    naming = files(names_of, name)
    assert "runs/spec.py" in naming
    assert len(naming) == count("recorded option"), naming


def test_a_setting_of_execution_is_a_declaration_and_its_use():
    naming = files(names_of, "checkpoint_minutes")
    assert "runs/execution.py" in naming
    assert len(naming) == count("execution"), naming


def test_a_hyper_parameter_of_the_experts_is_a_declaration_and_a_setting():
    naming = files(strings_of, "routing_loss_weight") | files(names_of, "routing_loss_weight")
    defaults = {f"models/architectures/{file}.py" for file in ARCHITECTURES}
    touched = naming - defaults - {"models/moe/balance.py"}  # the sentence that refuses a value
    assert touched == {"models/moe/hparams.py", "models/architectures/settings.py"}
    assert len(touched) == count("MoE hyper-parameter")


def test_a_command_is_a_file_and_its_lines_in_main():
    for name in ("delete-incomplete", "top-hparams"):
        naming = files(strings_of, name) | files(modules_of, f"sfmoe_dg.cli.{name.replace('-', '_')}")
        assert naming == {"cli/main.py"}
    assert count("command") == 2


def test_the_table_names_tests_that_exist():
    rows = re.findall(r"^\| .*<!-- count: .*$", text(ROOT / "ARCHITECTURE.md"), re.M)
    named = {name for row in rows for name in re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", row)}
    assert len(rows) == 13
    assert named
    assert named <= {path.name for path in python_files("tests")}
