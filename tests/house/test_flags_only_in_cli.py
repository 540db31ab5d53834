"""Flags are the command line's: elsewhere a sentence names fields, which ``cli`` shows as flags where it has them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sfmoe_dg

PACKAGE = Path(sfmoe_dg.__file__).parent
FLAG = re.compile(r"--[a-z][\w-]*")
ALLOWED = {
    "foundation/arguments.py": {"--help"},  # what every parser offers
    "data/builders/script.py": {"--out", "--archive", "--sha256", "--keep_archive", "--verify"},
    "data/builders/recipe.py": {"--archive", "--verify", "--sha256"},  # the command line of the scripts in datasets/
    "compat/domainbed/adapters.py": {"--hparams"},  # DomainBed's own
    # The options of other programs: Slurm's, pip's, nvidia-smi's, a container's.
    "foundation/slurm.py": {"--noheader", "--format"},
    "sweeps/launch/slurm/jobs.py": {"--noheader", "--array", "--format", "--name", "--parsable2"},
    "sweeps/launch/slurm/submit.py": {"--cpus-per-task"},
    "doctor/services.py": {"--version", "--noheader", "--format"},
    "doctor/machine.py": {"--query-gpu", "--format", "--upgrade"},
}
"""What may stand outside of ``cli``, by file; an entry that is not needed fails."""


def strings(source: str) -> Iterator[tuple[int, str]]:
    """The string constants of a module that are no docstrings, with their lines."""
    tree = ast.parse(source)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.lineno, node.value


def flags_in(path: Path) -> set[str]:
    return {flag for _, text in strings(path.read_text(encoding="utf-8")) for flag in FLAG.findall(text)}


MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("cli/")])
def test_no_flag_is_named_outside_of_the_command_line(module):
    assert flags_in(PACKAGE / module) == ALLOWED.get(module, set())


def test_every_allowance_is_for_a_module():
    assert set(ALLOWED) <= set(MODULES)


def test_a_flag_in_a_string_would_be_seen():
    source = '"""--docs"""\ndef f(x):\n    """--docs"""\n    raise E(f"--steps is {x}; or --seed")\n'
    assert [FLAG.findall(text) for _, text in strings(source) if "--" in text] == [["--steps"], ["--seed"]]
