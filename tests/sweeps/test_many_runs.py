"""Ten thousand runs in every state: counts are right, and status and planning need little memory."""

import tracemalloc
from collections import Counter

import pytest
from study_makers import make_done, make_failed, make_lost, make_running, make_study

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.runs.folder import State
from sfmoe_dg.runs.progress import Progress
from sfmoe_dg.sweeps.plan import load_plans
from sfmoe_dg.sweeps.status import status
from sfmoe_dg.sweeps.time_estimate import estimate

STUDY = {
    "datasets": ["RotatedMNIST", "DomainNet", "OfficeHome", "TerraIncognita"],  # 6 + 6 + 4 + 4 domains to hold out
    "algorithms": list(ALGORITHMS)[:5],
    "single_test_envs": True,
    "n_trials": 5,
    "n_hparams": 20,
    "steps": 1000,
}


@pytest.mark.slow
def test_ten_thousand_runs_are_counted(tmp_path):
    runs = make_study(tmp_path, STUDY)
    assert len(runs) == 10_000  # 20 x 5 x 5 x 20
    for i, run in enumerate(runs[:5000]):
        if i % 10 < 6:
            make_done(tmp_path, run, 0.5)
        elif i % 10 < 8:
            make_running(tmp_path, run, Progress(499, 1000, 0.5))
        else:
            (make_lost if i % 10 == 8 else make_failed)(tmp_path, run)
    tracemalloc.start()
    states = status(load_plans(tmp_path), tmp_path, queued={run.run_id for run in runs[9000:]})
    cost = estimate(states)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counts = Counter(s.state for s in states)
    assert counts == {
        State.DONE: 3000,
        State.RUNNING: 1000,
        State.LOST: 500,
        State.FAILED: 500,
        State.WAITING: 4000,
        State.QUEUED: 1000,
    }
    assert cost.runs == 5000
    assert cost.hours == pytest.approx(5000 * 1000 * 0.5 / 3600)
    assert peak < 100 * 2**20
