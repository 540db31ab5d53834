"""Launch settings, their flags, and launchers that need no cluster."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys

import pytest

from sfmoe_dg.cli import launch_flags
from sfmoe_dg.cli.main import main
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.sweeps.launch.launcher import check_launch, make_settings
from sfmoe_dg.sweeps.launch.slurm.launcher import Slurm
from sfmoe_dg.sweeps.plan import load_plans, plan, save_plan
from sfmoe_dg.sweeps.study import make_spec

STUDY = {"name": "small", "datasets": ["StyledDigits"], "algorithms": ["ERM"], "n_trials": 1, "n_hparams": 1}


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        (90, 90),
        ("01:30:00", 90),
        ("0:00:01", 1),  # a second is a minute begun
        ("1-02:03:04", 1564),  # 24 * 60 + 2 * 60 + 3, and four seconds of the next
    ],
)
def test_time_limits_are_whole_minutes(time, minutes):
    assert make_settings(Slurm, {"time": time}).minutes == minutes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partion": "gpu"}, "unknown key 'partion' in here: did you mean partition"),
        ({"time": "90 min"}, "key 'time' in here is '90 min'; it must be minutes, or"),
        ({"time": "0:00:00"}, "it must be minutes, or"),
        ({"time": 0}, "it must be minutes, or"),
        ({"memory": "16 GB"}, "it must be a number with K, M, G or T behind it"),
        ({"gpus": True}, "key 'gpus' in here is True; it must be a whole number of at least 1"),
        ({"runs_per_task": 0}, "key 'runs_per_task' in here is 0; it must be at least 1"),
        ({"partition": ""}, "it must be a string that is not empty"),
        ({"partition": None, "qos": "a\nb"}, "key 'qos' in here is"),
        ({"setup": "module load cuda"}, "it must be a list of shell lines"),
        ({"sbatch": {"exclude": 7}}, "it must be a table of sbatch's options, all of them strings"),
        ({"wait": "yes"}, "it must be true or false"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(UserError, match=message):
        check_launch(values, "here")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--time", "soon"], "--time is 'soon'; it must be minutes, or"),
        (["--runs_per_task", "0"], "--runs_per_task is 0; it must be at least 1"),
        (["--sbatch", "exclude"], "--sbatch is 'exclude'; it must be NAME=VALUE"),
        (["--sbatch", "exclude", "--sbatch", "nice=5"], "--sbatch is 'exclude'; it must be NAME=VALUE"),
    ],
)
def test_flags_are_checked(flags, message, capsys, request):
    study = str(request.config.rootpath / "sweeps" / "smoke.toml")
    assert main(["sweep", study, "--output_dir", "nowhere", *flags]) == 2
    assert message in capsys.readouterr().err


def test_flags_take_precedence_over_the_study():
    parser = argparse.ArgumentParser()
    launch_flags.add_arguments(parser)
    args = parser.parse_args(
        shlex.split("--time 90 --cpus 3 --wait --setup a --setup b --sbatch exclude=n7 --sbatch nice=5")
    )
    study = {"cpus": 8, "partition": "gpu", "sbatch": {"nice": "1", "mail-type": "END"}}
    values = launch_flags.override(study, args)
    settings = make_settings(Slurm, values)
    assert (settings.minutes, settings.cpus, settings.partition, settings.wait) == (90, 3, "gpu", True)
    assert settings.setup == ("a", "b")
    assert settings.sbatch == {"nice": "5", "mail-type": "END", "exclude": "n7"}
    assert launch_flags.override(values, parser.parse_args([])) == values


def test_commands_are_lines_on_standard_output_and_nothing_else(tmp_path, request):
    study = str(request.config.rootpath / "sweeps" / "smoke.toml")
    words = ["sweep", study, "--output_dir", str(tmp_path / "out dir"), "--launcher", "commands"]
    result = subprocess.run([sys.executable, "-m", "sfmoe_dg", *words], capture_output=True, text=True)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert all(
        " -m sfmoe_dg train --dataset StyledDigits " in line and f"'{tmp_path}/out dir/" in line for line in lines
    )
    assert "4 runs, 4 to do" in result.stderr


def test_another_package_adds_a_launcher(monkeypatch, tmp_path):
    package = tmp_path / "third-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[sfmoe_dg.launchers]\npaper = third:Paper\n")
    (tmp_path / "third.py").write_text("class Paper:\n    pass\n")
    code = "from sfmoe_dg.sweeps.launch.launcher import LAUNCHERS; print(LAUNCHERS.load('paper').__module__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout == "third\n", result.stderr


def test_settings_survive_the_saved_plan(tmp_path):
    spec = make_spec(STUDY | {"launch": {"setup": ["a"], "sbatch": {"nice": "1"}, "time": "1:00:00"}}, "test")
    path = save_plan(spec, None, tmp_path)
    saved = make_spec(json.loads(path.read_text())["spec"], "saved").launch
    assert make_settings(Slurm, saved) == make_settings(Slurm, spec.launch)
    assert load_plans(tmp_path) == plan(spec, None)
