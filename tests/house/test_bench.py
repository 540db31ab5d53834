"""The scripts of bench/: their measurements, but no times."""

from __future__ import annotations

import importlib
import json
import statistics
from argparse import Namespace
from pathlib import Path

import pytest

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.runs.lease import Lease
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.plan import plan, save_plan
from sfmoe_dg.sweeps.study import read_spec
from sfmoe_dg.training import loop as train

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def test_losses_of_the_first_steps_have_a_mean(script):
    spec = RunSpec("Debug28", "ERM", (0,), hparams='{"batch_size": 2}')
    found, _ = script("image_folder_steps").losses(spec, 3)
    assert len(found) == 3
    assert statistics.mean(found) > 0


@pytest.mark.parametrize(
    ("changes", "images", "meant"),
    [
        ({}, 96, True),
        ({}, 9, False),
        ({"device": "cpu"}, 96, False),
        ({"precision": "fp32"}, 96, False),
        ({"memory_format": "channels_last"}, 96, False),
        ({"compile": "default"}, 96, False),
    ],
)
def test_a_target_is_measured_as_it_says(script, changes, images, meant):
    asked = {"device": "cuda", "precision": "bf16", "memory_format": "contiguous", "compile": "none"} | changes
    assert script("step_stages").is_of_targets(Namespace(**asked), images) == meant


def test_every_stage_of_a_run_is_seen(script, tmp_path, monkeypatch, capsys):
    overhead = script("sweep_overhead")
    # Put back afterwards what the script puts its hooks on.
    for name in ("prepare", "acquire", "evaluate", "save_state", "append_record", "save_trained", "describe"):
        monkeypatch.setattr(train, name, getattr(train, name))
    monkeypatch.setattr(ERM, "update", ERM.update)
    monkeypatch.setattr(Lease, "release", Lease.release)
    study = tmp_path / "few.toml"
    study.write_text(overhead.FEW.format(draws=1))
    spec = read_spec(study)
    save_plan(spec, None, tmp_path)
    run_id = plan(spec, None)[0].run_id
    overhead.train_timed(tmp_path, run_id, born=0.0)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (tmp_path / run_id / "model.pkl").is_file()
    stages = {"data and model", "lease: take", "evaluations", "record", "model files", "run.json", "the step itself"}
    assert stages <= found.keys()
    assert {"start and imports", "lease: give back", "other", "end"} <= found.keys()
