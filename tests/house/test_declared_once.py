"""Flags, keys of studies and tables of the documentation have the names, defaults and choices of the declarations."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from sfmoe_dg.cli.flags import from_flags, to_flags
from sfmoe_dg.cli.launch_flags import KEYS_ONLY
from sfmoe_dg.cli.main import COMMANDS, make_parser
from sfmoe_dg.foundation.checked import Value, from_mapping, values_of
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.execution import Execution, Reporting
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.sweeps.launch.launcher import check_launch, declared_settings
from sfmoe_dg.sweeps.launch.settings import LaunchSettings
from sfmoe_dg.sweeps.launch.slurm.settings import SlurmSettings
from sfmoe_dg.sweeps.study import SweepSpec

OF_TRAIN = [value for cls in (RunSpec, Options, Execution, Reporting) for value in values_of(cls).values()]
OF_SWEEP = [value for value in values_of(SlurmSettings).values() if value.name not in KEYS_ONLY]
NOT_DECLARED = {
    "train": {"help", "output_dir", "dry_run", "plugin"},
    "sweep": {"help", "spec", "data_dir", "output_dir", "launcher", "dry_run", "yes"},
}
"""What a command does rather than what a run or a launcher is told."""


def actions(command: str) -> dict[str, argparse.Action]:
    (commands,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {action.dest: action for action in commands.choices[command]._actions}


@pytest.mark.parametrize(("command", "values"), [("train", OF_TRAIN), ("sweep", OF_SWEEP)])
def test_every_flag_is_a_declared_value(command, values):
    flags = actions(command)
    assert set(flags) == {value.name for value in values} | NOT_DECLARED[command]
    for value in values:
        assert flags[value.name].help.startswith(value.help.replace("%", "%%"))
        assert flags[value.name].option_strings == [f"--{value.name}"]
        if value.choices:
            assert flags[value.name].choices == value.choices


def test_a_command_line_without_flags_is_the_defaults():
    args = make_parser().parse_args(["train"])
    for cls in (RunSpec, Options, Execution, Reporting):
        assert from_flags(cls, args) == cls()
        assert to_flags(cls(), values_of(cls)) == []
    args = make_parser().parse_args(["sweep", "s.toml", "--output_dir", "x"])
    assert {getattr(args, value.name) for value in OF_SWEEP} == {None}


@pytest.mark.parametrize("value", OF_TRAIN, ids=lambda value: value.name)
def test_every_flag_goes_there_and_back(value):
    (cls,) = (c for c in (RunSpec, Options, Execution, Reporting) if value.name in values_of(c))
    given = cls(**{value.name: another(value)})
    words = to_flags(given, values_of(cls))
    assert words[0] == f"--{value.name}"
    assert from_flags(cls, make_parser().parse_args(["train", *words])) == given


def another(value: Value) -> Any:
    """A value that is not the default."""
    if value.choices:
        return value.choices[-1]
    special = {"device": "cuda:1", "holdout_fraction": 0.25, "uda_holdout_fraction": 0.5}
    kinds = {bool: not value.default, int: 7, float: 2.5, str: "some text", tuple[int, ...]: (1, 2)}
    return special.get(value.name, kinds.get(value.type, ("a", "b")))


def test_the_settings_of_a_launcher_are_keys_of_its_table():
    assert set(declared_settings()) == set(values_of(SlurmSettings))
    assert set(values_of(LaunchSettings)) < set(values_of(SlurmSettings))
    for name in values_of(SlurmSettings):
        with pytest.raises(UserError, match=f"key '{name}' in here is "):
            check_launch({name: [[1]]}, "here")


def test_a_study_has_its_declared_keys():
    study = {"name": "x", "datasets": ["Debug28"], "algorithms": ["ERM"]}
    for name in values_of(SweepSpec):
        with pytest.raises(UserError, match=rf"'{name}' in here is "):
            from_mapping(SweepSpec, study | {name: 1j}, "here")


def test_what_a_run_and_a_study_share_is_declared_once():
    shared = set(values_of(RunSpec)) & set(values_of(SweepSpec)) - {"hparams", "test_envs"}
    assert shared == {
        "task", "steps", "checkpoint_freq", "holdout_fraction", "uda_holdout_fraction", "skip_model_save",
    }  # fmt: skip
    assert all(values_of(RunSpec)[name] == values_of(SweepSpec)[name] for name in shared)


def test_the_documented_options_and_their_values_are_the_declared_ones(request):
    """docs/speed.md and docs/distributed.md have tables of values, the default first."""
    page = (request.config.rootpath / "docs" / "speed.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|", page, flags=re.MULTILINE)
    assert {name for name, _ in rows} >= {"eval", "precision", "memory_format", "compile", "images"}
    for name, choices in rows:
        declared = values_of(Options)[name]
        allowed = {declared.default, *declared.choices}
        assert set(re.findall(r"\w+", choices)) <= allowed, name
        assert re.findall(r"\w+", choices)[0] == declared.default, name
    page = (request.config.rootpath / "docs" / "distributed.md").read_text()
    table = page.partition("| `--parallel` |")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == values_of(Execution)["parallel"].choices


def test_every_flag_in_a_table_of_the_documentation_exists(request):
    known = {flag for command in COMMANDS for action in actions(command).values() for flag in action.option_strings}
    for page in sorted((request.config.rootpath / "docs").glob("*.md")):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("|"):
                unknown = set(re.findall(r"`(--[a-z_]+)[ `]", line)) - known - {"--requeue"}
                assert not unknown, f"{page.name}: {line}"
