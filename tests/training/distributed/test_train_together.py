"""Whole runs by several processes: records, files, stops, and going on with another number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import on_processes

from sfmoe_dg.data.batches.loaders import ALONE
from sfmoe_dg.foundation.processes import World
from sfmoe_dg.runs.folder import CHECKPOINT
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.evaluate import evaluate, validation_loss
from sfmoe_dg.training.loop import Stopped, StopRequest, train
from sfmoe_dg.training.model_file import load_model
from sfmoe_dg.training.prepare import Execution, prepare
from sfmoe_dg.training.reporters.reporter import Reporter

HPARAMS = {"batch_size": 12, "backbone": "v_moe_tiny_32", "lr": 1e-3, "irm_penalty_anneal_iters": 4}
"""IRM's optimiser starts afresh after four updates, V-MoE's routing draws noise and has capacities."""
SPEC = RunSpec(dataset="Debug28", algorithm="IRM", steps=9, checkpoint_freq=2, hparams=json.dumps(HPARAMS))


class StopAfter(StopRequest, Reporter):
    """Asks to stop once a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int, values: dict[str, float]) -> None:
        self.requested = step == self.step


def some_steps(world: World, folder: str, mode: str, last: int) -> int:
    """Train until the last process, and no other, is asked to stop after step ``last``; the step all stopped at."""
    stop = StopAfter(last if world.rank == world.size - 1 else -1)
    execution = Execution(device="cpu", num_workers=0, world=world, parallel=mode, eval_batch_size=8)
    try:
        train(SPEC, folder, execution, stop, stop)
    except Stopped as stopped:
        return -1 if stopped.step is None else stopped.step
    return SPEC.steps or 0


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("step_time", "args", "mem_gb")} for line in lines]


def assert_same_run(folder: Path, expected: Path) -> None:
    for here, there in zip(records(folder), records(expected), strict=True):
        assert here.keys() == there.keys()
        for name, value in there.items():
            assert here[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), name
    # Not weight by weight: the gradient of an attention's key biases is zero but for rounding, which Adam enlarges.
    here, there = load_model(folder), load_model(expected)
    images = torch.randn(6, *there.input_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(here.predict(images), there.predict(images), rtol=1e-4, atol=1e-4)
    assert here.state_dict().keys() == there.state_dict().keys()
    kept = ("num_parameters", "images", "options")
    facts, expected_facts = (json.loads((f / "run.json").read_text()) for f in (folder, expected))
    assert [facts[name] for name in kept] == [expected_facts[name] for name in kept]


@pytest.mark.slow
def test_a_run_goes_on_with_any_number_of_processes(tmp_path: Path):
    one = tmp_path / "one"
    train(SPEC, one, Execution(device="cpu", num_workers=0, eval_batch_size=8))
    folder = tmp_path / "several"
    assert on_processes(2, some_steps, str(folder), "ddp", 1) == [1, 1]
    assert on_processes(4, some_steps, str(folder), "expert", 4) == [4, 4, 4, 4]
    assert on_processes(2, some_steps, str(folder), "fsdp", 6) == [6, 6]
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=True)
    whole = checkpoint["algorithm"]["modules"]["featurizer.network.blocks.1.mlp.experts.fc1.weight"]
    assert whole.shape == (8, 64, 256)
    assert not (folder / "done").exists()
    train(SPEC, folder, Execution(device="cpu", num_workers=0, eval_batch_size=8))
    assert (folder / "done").read_text() == "done"
    assert_same_run(folder, one)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fsdp", "expert"])
def test_two_processes_leave_what_one_leaves(tmp_path: Path, mode: str):
    one, two = tmp_path / "one", tmp_path / "two"
    train(SPEC, one, Execution(device="cpu", num_workers=0))
    assert on_processes(2, some_steps, str(two), mode, -2) == [9, 9]
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert_same_run(two, one)


def evaluated(world: World, mode: str) -> tuple[dict[str, float], float, int]:
    """Accuracies, a validation loss, and how many batches this process read."""
    spec = RunSpec(dataset="Debug28", algorithm="SWAD", hparams=json.dumps({"batch_size": 6}))
    execution = Execution(device="cpu", num_workers=0, world=world, parallel=mode, eval_batch_size=5)
    setup = prepare(spec, execution)
    assert setup.validation_loader is not None
    accuracies = evaluate(setup.algorithm, setup.eval_loader, setup.splits, 0)
    loss = validation_loss(setup.algorithm, setup.validation_loader, 0)
    return accuracies, loss, sum(1 for _ in setup.eval_loader.batches())


@pytest.mark.slow
def test_an_evaluation_is_shared_and_exact():
    accuracies, loss, batches = evaluated(ALONE, "ddp")
    results = on_processes(3, evaluated, "ddp")
    assert [result[:2] for result in results] == [(accuracies, loss)] * 3
    assert sum(result[2] for result in results) == batches


def torchrun(size: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    command += ["-m", "sfmoe_dg", "train", "--dataset", "Debug28", "--device", "cpu", "--output_dir", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=240, check=False
    )


@pytest.mark.slow
def test_torchrun_trains_and_one_process_speaks(tmp_path: Path):
    hparams = json.dumps({"batch_size": 4, "backbone": "sf_moe_tiny_32"})
    done = torchrun(2, tmp_path / "run", "--algorithm", "SFMoE", "--steps", "2", "--hparams", hparams)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"done: {tmp_path / 'run'}") == 1
    assert done.stdout.count("device cpu and 1 more (ddp)") == 1
    assert len(records(tmp_path / "run")) == 2


@pytest.mark.slow
def test_under_torchrun_a_mistake_is_one_sentence(tmp_path: Path):
    failed = torchrun(2, tmp_path / "run", "--algorithm", "Fish", "--hparams", '{"batch_size": 4}')
    assert failed.returncode != 0
    assert failed.stderr.count("sfmoe-dg: error: several processes cannot share an update of Fish") == 1
    assert "sfmoe_dg/training/sharing/shared_updates.py" not in failed.stderr
    assert not (tmp_path / "run").exists()
