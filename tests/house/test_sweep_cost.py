"""The arithmetic of bench/sweep_cost.py, by hand."""

import importlib
import sys
from pathlib import Path

import pytest

from sfmoe_dg.runs.spec import RunSpec

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def cost():
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("sweep_cost")
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def rates(cost):
    return importlib.import_module("device_rates")


def test_the_plan_is_domainbeds(cost):
    # 7 data sets of 6, 3, 4, 4, 4, 4 and 6 domains: 21 + 6 + 4·10 + 21 = 88 sets of one or two test domains, × 3 × 20.
    assert len(cost.planned(cost.UPSTREAM_DATASETS, "SFMoE", pairs=True)) == 88 * 60 == 5280
    # Alone: 4 + 4 + 4 + 4 + 6 = 22.
    assert len(cost.planned(cost.DATASETS, "SFMoE", pairs=False)) == 22 * 60


def test_evaluations_are_at_step_0_at_every_interval_and_at_the_end(cost):
    assert cost.num_evaluations(5001, 300) == 18  # 0, 300, …, 4800 are 17, and 5000
    assert cost.num_evaluations(15001, 1000) == 16  # 0, …, 15000, which is the last
    assert cost.num_evaluations(1, 300) == 1


def test_work_of_a_run(cost):
    # Debug28: three domains of 16, two of them trained on with batches of 64; 11 steps, evaluated at 0, 4, 8 and 10.
    work = cost.work_of(RunSpec(dataset="Debug28", algorithm="ERM", test_envs=(0,), steps=11, checkpoint_freq=4))
    assert (work.runs, work.steps, work.evaluations) == (1, 11, 4)
    assert work.trained == 11 * 64 * 2
    assert work.evaluated == 4 * 48
    # Out-splits are int(3.2) = 3 images: two in-splits of 13 are left out of three evaluations.
    assert work.evaluated_fast == 4 * 48 - 3 * 26


def test_seconds_on_a_device_that_waits_for_its_cores(cost):
    work = cost.Work(runs=1, steps=10, evaluations=2, trained=1000, evaluated=600, evaluated_fast=300)
    machine = cost.Machine("m", train_rate=100, eval_rate=300, decode_rate=25, cores=4, startup=5)
    seconds = cost.seconds_of(work, machine, fast=False)
    # The cores read 100 images per second: as fast as the device trains, a third of what it evaluates.
    assert (seconds.startup, seconds.training, seconds.evaluation) == (5, 10, 6)
    assert (seconds.device, seconds.cores, seconds.total) == (12, 16, 21)
    assert cost.seconds_of(work, machine, fast=True).evaluation == 3


def test_runs_side_by_side_fill_gaps_and_no_more(cost):
    work = cost.Work(runs=2, trained=1000, evaluated=600)
    two = cost.Machine("m", train_rate=100, eval_rate=300, decode_rate=25, cores=4, startup=20, side_by_side=2)
    assert cost.seconds_of(work, two, fast=False).total == (2 * 20 + 10 + 6) / 2
    eight = cost.Machine("m", train_rate=100, eval_rate=300, decode_rate=25, cores=4, startup=20, side_by_side=8)
    assert cost.seconds_of(work, eight, fast=False).total == 16  # the cores are busy all the time


def test_no_run_is_divided_among_devices(cost):
    assert cost.time_on(7200, longest=60, devices=8) == "15 min"
    assert cost.time_on(7200, longest=1800, devices=8) == "30 min"


def test_multiplications_of_the_paper_model(rates):
    # Dense DeiT-S/16 at 224 pixels has 4.6 G; the second expert of six blocks adds 6 · 197 tokens · 8 · 384² = 1.4 G.
    assert rates.macs_per_image("SFMoE") == pytest.approx(4.6e9 + 1.4e9, rel=0.02)


def test_assumed_gpus_follow_from_multiplications(rates):
    trained, evaluated = rates.assumed("SFMoE", "A100", 0.5)
    assert evaluated == pytest.approx(156e12 / (2 * rates.macs_per_image("SFMoE")))
    assert trained == pytest.approx(evaluated / 3)
