"""TOML studies are checked; plans have upstream's order; states are read from the folders."""

import json
import os
import shutil
from dataclasses import asdict, replace

import pytest

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import FAILED, RunFolder, State
from sfmoe_dg.runs.lease import acquire
from sfmoe_dg.runs.owner import this_process
from sfmoe_dg.sweeps.plan import env_combinations, load_plans, plan, save_plan
from sfmoe_dg.sweeps.status import status
from sfmoe_dg.sweeps.study import check_hparams, make_spec, read_spec

SMALL = {"name": "small", "datasets": ["StyledDigits"], "algorithms": ["ERM"], "n_trials": 1, "n_hparams": 1}


def test_test_sets_are_single_domains_and_pairs_in_upstreams_order():
    assert env_combinations(3, single=False) == [(0,), (0, 1), (0, 2), (1,), (1, 2), (2,)]
    assert env_combinations(3, single=True) == [(0,), (1,), (2,)]


@pytest.mark.parametrize(("domains", "jobs"), [(3, 6), (4, 10), (5, 15), (6, 21), (10, 55)])
def test_jobs_per_trial(domains, jobs):
    assert len(env_combinations(domains, single=False)) == jobs


def test_a_full_sweep_has_5280_jobs_an_algorithm():
    names = ["ColoredMNIST", "RotatedMNIST", "VLCS", "PACS", "OfficeHome", "TerraIncognita", "DomainNet"]
    runs = plan(make_spec({"name": "full", "datasets": names, "algorithms": ["ERM"]}, "test"), "/data")
    assert len(runs) == 5280  # (6 + 21 + 10 + 10 + 10 + 10 + 21) test sets x 20 draws x 3 trials
    assert len({run.run_id for run in runs}) == 5280


def test_pairs_of_two_domains_are_refused():
    with pytest.raises(UserError, match="set single_test_envs = true"):
        env_combinations(2, single=False)


def test_order_is_trial_dataset_algorithm_test_set_draw():
    spec = make_spec(SMALL | {"algorithms": ["ERM", "CORAL"], "n_trials": 2, "n_hparams": 2}, "test")
    runs = plan(spec, None)
    keys = [(r.trial_seed, r.algorithm != "ERM", r.test_envs, r.hparams_seed) for r in runs]
    assert keys == sorted(keys)


def test_overrides_reach_only_their_algorithm():
    values = SMALL | {
        "algorithms": ["ERM", "CORAL"],
        "hparams": {"lr": 0.1, "batch_size": 8},
        "overrides": {"CORAL": {"lr": 0.2}},
    }
    hparams = {run.algorithm: json.loads(run.hparams or "") for run in plan(make_spec(values, "test"), None)}
    assert hparams == {"ERM": {"lr": 0.1, "batch_size": 8}, "CORAL": {"lr": 0.2, "batch_size": 8}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algorithms = ['ERM']", "lacks the key 'datasets'"),
        (
            "datasets = ['PACS']\nalgorithms = []",
            r"'algorithms' in .* is \[\]; it must be a list of names, at least one",
        ),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\nstep = 3", "unknown key 'step' in .*: did you mean steps"),
        ("datasets = ['PAC']\nalgorithms = ['ERM']", "unknown data set 'PAC' in .*: did you mean PACS"),
        ("datasets = ['PACS']\nalgorithms = ['CORRAL']", "unknown algorithm 'CORRAL' in .*: did you mean CORAL"),
        ("datasets = 'PACS'\nalgorithms = ['ERM']", "must be a list of names"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\nsteps = 'many'", "'steps' in .* is 'many'; it must be a whole"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\nsteps = true", "must be a whole number"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\nn_trials = 0", "must be at least 1"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\nn_hparams = 2\nn_hparams_from = 2", "that is none"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\ntest_envs = [0]", "a list of lists of domain numbers"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\n[options]\nsplit = 'x'", "allowed: random, identity"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\n[launch]\njob = 2", "unknown key 'job' .*did you mean jobs"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\n[launch]\njobs = 0", "at least 1"),
        ("datasets = ['PACS']\nalgorithms = ['ERM']\n[overrides.CORAL]\nlr = 1.0", "it is not in the sweep"),
        ("datasets = ['PACS'\n", "is not valid TOML"),
    ],
)
def test_bad_studies(tmp_path, text, message):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_spec(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "quickstart.toml").write_text("")
    with pytest.raises(UserError, match=r"does not exist; TOML files in that folder: .*quickstart\.toml"):
        read_spec(tmp_path / "quick.toml")


def test_hyper_parameters_are_checked_before_launch():
    spec = make_spec(SMALL | {"hparams": {"lrate": 0.1}}, "test")
    with pytest.raises(UserError, match=r"unknown hyper-parameter 'lrate' .*ERM on StyledDigits"):
        check_hparams(spec)


def test_a_test_domain_that_does_not_exist():
    spec = make_spec(SMALL | {"test_envs": [[7]]}, "test")
    with pytest.raises(UserError, match="test domain 7 of sweep 'small' does not exist in StyledDigits: 0 "):
        plan(spec, None)


def test_the_repositorys_own_studies_are_valid(request):
    studies = sorted((request.config.rootpath / "sweeps").glob("*.toml"))
    assert studies
    for path in studies:
        assert plan(read_spec(path), "/data")


def test_states_are_read_from_the_folders(tmp_path):
    spec = make_spec(SMALL | {"algorithms": ["ERM", "CORAL"]}, "test")
    runs = plan(spec, None)
    folders = [tmp_path / run.run_id for run in runs]
    for folder in folders[:5]:
        folder.mkdir()
    (folders[0] / "done").write_text("done")
    RunFolder(folders[1]).fail("out of luck", 2)
    (folders[3] / "results.jsonl").write_text("")
    (folders[4] / "lease.1.json").write_text(json.dumps(asdict(replace(this_process(), pid=2**22 + 1))))
    with acquire(folders[2]):
        states = status(runs, tmp_path, queued={runs[5].run_id, runs[0].run_id})
    expected = [State.DONE, State.FAILED, State.RUNNING, State.LOST, State.LOST, State.QUEUED]
    assert [s.state for s in states][:6] == expected
    assert [s.is_to_do for s in states][:6] == [False, True, False, True, True, False]
    assert all(s.state is State.WAITING and s.is_to_do for s in states[6:])
    assert states[1].error == "out of luck"


def test_a_run_that_failed_three_times_stays_failed(tmp_path):
    runs = plan(make_spec(SMALL, "test"), None)
    folder = tmp_path / runs[0].run_id
    folder.mkdir()
    assert [RunFolder(folder).fail("again", -9) for _ in range(2)] == [1, 2]
    assert status(runs, tmp_path)[0].is_to_do
    RunFolder(folder).fail("and again", -9)
    state = status(runs, tmp_path)[0]
    assert (state.state, state.failures, state.error, state.is_to_do) == (State.FAILED, 3, "and again", False)


def test_a_run_that_vanishes_while_it_is_looked_at_is_waiting(tmp_path, monkeypatch):
    runs = plan(make_spec(SMALL, "test"), None)
    folder = tmp_path / runs[0].run_id
    folder.mkdir()
    (folder / "results.jsonl").write_text("")
    listdir = os.listdir

    def listdir_and_delete(path):
        names = listdir(path)
        if path == tmp_path:
            shutil.rmtree(folder)
        return names

    monkeypatch.setattr(os, "listdir", listdir_and_delete)
    assert status(runs, tmp_path)[0].state is State.WAITING


def test_a_failure_that_is_forgiven_while_it_is_looked_at_is_none(tmp_path, monkeypatch):
    runs = plan(make_spec(SMALL, "test"), None)
    folder = tmp_path / runs[0].run_id
    folder.mkdir()
    assert RunFolder(folder).failure() == ("", 0)
    RunFolder(folder).fail("out of luck", 1)
    listdir = os.listdir

    def listdir_and_forgive(path):
        names = listdir(path)
        if path == folder:
            (folder / FAILED).unlink()
        return names

    monkeypatch.setattr(os, "listdir", listdir_and_forgive)
    state = status(runs, tmp_path)[0]
    assert (state.state, state.error, state.failures) == (State.LOST, "", 0)


def test_a_failure_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / FAILED).write_text("{")
    with pytest.raises(UserError, match=r"failed\.json is not valid JSON"):
        RunFolder(tmp_path).failure()


def test_another_study_of_the_same_name_does_not_hide_runs_that_have_begun(tmp_path):
    first, second = (make_spec(SMALL | {"steps": steps}, "test") for steps in (100, 200))
    mistake = make_spec(SMALL | {"steps": 1}, "test")
    own = save_plan(mistake, None, tmp_path)
    assert save_plan(first, None, tmp_path) == own
    assert load_plans(tmp_path) == plan(first, None)
    (tmp_path / plan(first, None)[3].run_id).mkdir()
    other = save_plan(second, None, tmp_path)
    assert other.name.startswith("sweep-small-")
    everything = {run.run_id for run in [*plan(first, None), *plan(second, None)]}
    assert [run.run_id in everything for run in load_plans(tmp_path)] == [True] * 20  # twice ten test sets
    # Either of them once more, or more draws of the first: no further file, and no run twice.
    assert save_plan(second, None, tmp_path) == other
    assert save_plan(first, None, tmp_path) == own
    assert save_plan(replace(first, n_hparams=2), None, tmp_path) == own
    assert len({run.run_id for run in load_plans(tmp_path)}) == len(load_plans(tmp_path)) == 30


def test_a_queued_run_is_not_hidden_either(tmp_path):
    first, second = (make_spec(SMALL | {"steps": steps}, "test") for steps in (100, 200))
    own = save_plan(first, None, tmp_path)
    assert save_plan(second, None, tmp_path, queued={plan(first, None)[0].run_id}) != own


def test_a_saved_plan_is_read_back(tmp_path):
    spec = make_spec(
        SMALL | {"hparams": {"lr": 0.1}, "options": {"split": "identity"}, "test_envs": [[0], [1]]}, "test"
    )
    save_plan(spec, None, tmp_path)
    assert load_plans(tmp_path) == plan(spec, None)
    with pytest.raises(UserError, match="holds no sweep"):
        load_plans(tmp_path / "other")
