"""Wrong inputs in a table: every row has a command line, its wrong surroundings, and the expected message.

Every command must end with exit code 2 and one sentence on standard error that names what is wrong and what to do.
Standard output must stay empty, and no file may be made or changed.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rows import DEBUG, SMALL, SWEEP, Row
from wrong_rows import PROCESSES, SCRIPTS, TABLE
from wrong_things import study

from sfmoe_dg.cli.main import COMMANDS, main, make_parser
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.loop import Stopped, StopRequest, train
from sfmoe_dg.training.prepare import Execution

ROOT = Path(__file__).resolve().parents[2]


class AtOnce(StopRequest):
    requested = True


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Finished runs of a dense and a sparse model, and one that was stopped before its first evaluation."""
    root = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    for name, backbone in (("cnn", "mnist_cnn"), ("moe", "sf_moe_tiny_32"), ("interrupted", "mnist_cnn")):
        spec = RunSpec(dataset="Debug28", steps=2, hparams=f'{{"batch_size": 4, "backbone": "{backbone}"}}')
        try:
            train(spec, root / name, Execution("cpu"), stop=AtOnce() if name == "interrupted" else None)
        except Stopped:
            assert name == "interrupted"
    return root


def everything(root: Path) -> dict[str, int]:
    """Every path below a folder with its size, to show that a command changes nothing."""
    return {str(path.relative_to(root)): path.lstat().st_size for path in sorted(root.rglob("*"))}


def flags_of(command: str) -> set[str]:
    """The flags of a sub-command."""
    (commands,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {flag for action in commands.choices[command]._actions for flag in action.option_strings}


def check(row: Row, out: str, err: str, begins: str) -> None:
    assert err.startswith(f"{begins}: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, "more than one line"
    assert not re.search(r"[.!?] [A-Z]", err), "more than one sentence"
    assert row.culprit in err
    assert row.way_out in err
    assert bool(out) == row.has_begun


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in TABLE])
def test_wrong_input_is_one_sentence(row, trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for make in row.makers:
        make(trained)
    before = everything(tmp_path)
    capfd.readouterr()
    words = shlex.split(row.words)
    assert main(words) == 2
    out, err = capfd.readouterr()
    check(row, out, err, "sfmoe-dg")
    if words and words[0] in COMMANDS and "unknown flag" not in err:
        assert set(re.findall(r"(?<!\S)--[a-z][a-z_]*", err)) <= flags_of(words[0]), "a flag that the command lacks"
    assert everything(tmp_path) == before


def start(words: list[str], **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **kwargs)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in SCRIPTS])
def test_scripts_of_data_sets_do_the_same(row, trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for make in row.makers:
        make(trained)
    before = everything(tmp_path)
    script, *words = shlex.split(row.words)
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "datasets" / script), run_name="__main__")
    assert end.value.code == 2
    out, err = capfd.readouterr()
    check(row, out, err, script)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in PROCESSES])
def test_a_process_of_its_own_does_the_same(row, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for make in row.makers:
        make(trained)
    before = everything(tmp_path)
    result = start([sys.executable, "-m", "sfmoe_dg", *shlex.split(row.words)])
    assert result.returncode == 2
    check(row, result.stdout, result.stderr, "sfmoe-dg")
    assert everything(tmp_path) == before


def test_a_run_that_another_process_trains_is_left_to_it(trained, tmp_path, capsys, monkeypatch):
    """Not wrong, only too early: exit code 75, which schedulers take as 'try again'."""
    from study_makers import make_running

    monkeypatch.chdir(tmp_path)
    held = make_running(tmp_path, RunSpec(dataset="Debug28"))
    assert main([*shlex.split(DEBUG + SMALL), "--output_dir", str(held)]) == 75
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_slurm_without_slurm(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study()(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert main([*shlex.split(SWEEP), "--launcher", "slurm"]) == 2
    err = capsys.readouterr().err
    assert "is not installed here" in err
    assert "start this on a machine that can submit jobs" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (["DATASETS=", "DATA=x"], 'say which and where: make data DATASETS="PACS VLCS" DATA=DIR'),
        (["DATASETS=PACSS", "DATA=x"], "no script for PACSS; there are: datasets/"),
    ],
)
def test_make_data(variables, sentence):
    # -o: whatever the state of the environment, this test does not install one.
    result = start(["make", "--silent", "-o", ".venv/.installed", "data", *variables], cwd=ROOT)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(sentence)
