"""Submissions to Slurm, their limits, and the end of supervision. The tests imitate Slurm's answers."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sfmoe_dg.foundation import slurm as slurm_queue
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import RunFolder, State
from sfmoe_dg.runs.lease import Watch, current_lease
from sfmoe_dg.runs.owner import this_process
from sfmoe_dg.sweeps.launch.launcher import Job, Study, make_settings, queued_runs
from sfmoe_dg.sweeps.launch.local import Local
from sfmoe_dg.sweeps.launch.settings import LaunchSettings
from sfmoe_dg.sweeps.launch.slurm import jobs as slurm_jobs
from sfmoe_dg.sweeps.launch.slurm import launcher as slurm
from sfmoe_dg.sweeps.launch.slurm import stay as supervision
from sfmoe_dg.sweeps.launch.slurm import submit as submitting
from sfmoe_dg.sweeps.launch.slurm.settings import SlurmSettings
from sfmoe_dg.sweeps.plan import plan
from sfmoe_dg.sweeps.study import make_spec

STUDY = {"name": "small", "datasets": ["StyledDigits"], "algorithms": ["ERM"], "n_trials": 1, "n_hparams": 1}


class Said:
    """A listener that keeps its messages."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def command(self, line: str) -> None:
        self.sentences.append(line)

    def ended(self, job: Job, error: str | None, seconds: float) -> None:
        raise AssertionError("a cluster's runs do not end here")


@pytest.fixture
def study(tmp_path) -> Study:
    """Twelve runs: four domains, three trials."""
    runs = plan(make_spec(STUDY | {"n_trials": 3, "single_test_envs": True}, "test"), None)
    assert len(runs) == 12
    return Study("small", tmp_path / "out", runs, lambda run, folder: ("train", run.run_id))


@pytest.fixture
def answers(monkeypatch, tmp_path):
    """The output of Slurm's commands by their first word, and an executable squeue on the path."""
    found = {
        "scontrol": ["ClusterName = mini", "MaxArraySize = 4", "MaxJobCount = 1000"],
        "squeue": [],
        "sacctmgr": [],
    }
    found["scontrol"].append("AccountingStorageType = accounting_storage/slurmdbd")
    monkeypatch.setattr(slurm_jobs, "ask", lambda command: found[command[0]])
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.touch()
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return found


@pytest.fixture
def sizes(monkeypatch):
    """Arrays that were submitted, by their number of tasks; arrays of more than ``limit[0]`` are refused."""
    submitted: list[int] = []

    def submit(array: submitting._Array) -> str:
        if len(array.tasks) > limit[0]:
            raise submitting._TooMany("Slurm refused the jobs: too many")
        submitted.append(len(array.tasks))
        return str(len(submitted))

    limit = [1000]
    monkeypatch.setattr(submitting._Array, "submit", submit)
    return submitted, limit


@pytest.mark.parametrize(
    ("per_task", "arrays"),
    [
        (1, [4, 4, 4]),  # 12 tasks, at most 4 in an array
        (2, [4, 2]),  # 6 tasks
        (5, [3]),  # 5 + 5 + 2 runs
    ],
)
def test_arrays_are_no_larger_than_the_cluster_allows(study, answers, sizes, per_task, arrays):
    said = Said()
    taken = submitting.submit(study, SlurmSettings(runs_per_task=per_task), said)
    assert sizes[0] == arrays
    assert taken == {RunFolder(study.output_dir / run.run_id) for run in study.runs}
    assert len(said.sentences) == len(arrays)


def test_submit_limits_are_respected_and_the_rest_is_said(study, answers, sizes):
    answers["squeue"] = [str(os.getuid())] * 2 + ["99999"] * 5
    answers["sacctmgr"] = ["", "9"]  # an association without a limit, and one that allows 9
    said = Said()
    assert len(submitting.submit(study, SlurmSettings(), said)) == 7  # 9 less the user's two
    assert sizes[0] == [4, 3]
    assert "takes no more than 7 of 12 tasks now; start the same command later" in said.sentences[-1]
    answers["scontrol"][2] = "MaxJobCount = 10"
    assert slurm_jobs.room_in_queue(slurm_jobs.settings_of_cluster(), None, None) == 3  # 10 less everybody's 7


def test_a_limit_that_nobody_tells_is_found_by_trying(study, answers, sizes):
    sizes[1][0], answers["squeue"] = 1, [str(os.getuid())]
    assert len(submitting.submit(study, SlurmSettings(), Said())) == 1  # 4 is refused, then 2; then one is taken
    assert sizes[0] == [1]


def test_what_not_even_an_empty_queue_takes_is_refused_in_slurms_words(study, answers, sizes):
    sizes[1][0] = 0
    with pytest.raises(UserError, match="Slurm refused the jobs: too many"):
        submitting.submit(study, SlurmSettings(), Said())


def test_what_is_queued_is_not_submitted_again(study, answers, sizes):
    folder = study.output_dir / slurm_jobs.FOLDER
    folder.mkdir(parents=True)
    content = {"name": "mine", "tasks": [_content(study, 0, 1, 2), _content(study, 3, 4)]}
    slurm_jobs.save_submission(folder / "slurm-abc.json", content)
    answers["squeue"] = ["mine|17|1"]
    assert queued_runs(study.output_dir) == {study.runs[3].run_id: "17_1", study.runs[4].run_id: "17_1"}
    answers["squeue"] = ["mine|17|N/A"]
    assert set(queued_runs(study.output_dir).values()) == {"17"}
    assert len(queued_runs(study.output_dir)) == 3
    states = [state for state in study.states() if state.is_to_do]
    assert len(states) == 9


def _content(study: Study, *numbers: int) -> list[dict[str, str]]:
    return [{"folder": str(study.output_dir / study.runs[number].run_id)} for number in numbers]


def test_without_squeue_nothing_is_known_to_be_queued(study, monkeypatch, tmp_path):
    folder = study.output_dir / slurm_jobs.FOLDER
    folder.mkdir(parents=True)
    slurm_jobs.save_submission(folder / "slurm-abc.json", {"name": "mine", "tasks": [_content(study, 0)]})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queued_runs(study.output_dir) == {}


def test_an_owner_out_of_reach_is_believed_until_its_heart_stops(study):
    folder = study.output_dir / study.runs[0].run_id
    folder.mkdir(parents=True)
    lease = folder / "lease.1.json"
    lease.write_text(json.dumps(asdict(replace(this_process(), machine="elsewhere", slurm_job=""))))
    now = [0.0]
    watching = replace(study, watch=Watch(patience=100, clock=lambda: now[0]))
    seen = []
    for now[0], beats in ((0, False), (90, True), (180, False), (195, False), (296, False)):
        if beats:
            os.utime(lease, ns=(0, int(now[0])))
        seen.append(watching.states()[0].state)
    # The beat that is seen at 90 is followed by more than 100 seconds of silence only after 190.
    assert seen == [State.RUNNING, State.RUNNING, State.RUNNING, State.LOST, State.LOST]


def test_slurm_is_asked_once_about_all_owners(study, monkeypatch):
    asked = []

    def ask(command):
        asked.append(command[0])
        return ["ClusterName = mini"] if command[0] == "scontrol" else ["7 RUNNING", "8 RUNNING", "9 RUNNING"]

    monkeypatch.setattr(slurm_queue, "_ask", ask)
    for run, job in zip(study.runs, (7, 8, 9), strict=False):
        folder = study.output_dir / run.run_id
        folder.mkdir(parents=True)
        owner = replace(this_process(), machine="elsewhere", slurm_job=f"{job}@mini")
        (folder / "lease.1.json").write_text(json.dumps(asdict(owner)))
    for _ in range(2):
        assert [state.state for state in study.states()[:4]] == [State.RUNNING] * 3 + [State.WAITING]
    assert asked == ["scontrol", "squeue"]


def test_jobs_on_gpus_are_said_to_be_of_no_use(study, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nothing, said = replace(study, runs=[]), Said()
    assert Local().launch(nothing, LaunchSettings(jobs=4, gpus=1), said)
    assert Local().launch(nothing, LaunchSettings(jobs=4), said)
    assert Local().launch(nothing, LaunchSettings(gpus=1), said)
    assert said.sentences == ["jobs = 4 is not used: with gpus, parallel_per_gpu says how many share one"]


class FakeCluster:
    """A queue in which every job ends at once. ``work`` is called for each submitted run."""

    def __init__(self, monkeypatch, work) -> None:
        self.submitted = 0
        self._work = work
        monkeypatch.setattr(supervision, "submit", self.submit)
        monkeypatch.setattr(supervision.time, "sleep", lambda seconds: None)

    def submit(self, study: Study, settings: SlurmSettings, listener: Said) -> set[RunFolder]:
        to_do = [state.folder for state in study.states() if state.is_to_do]
        self.submitted += bool(to_do)
        for folder in to_do:
            self._work(folder.path)
        return set(to_do)


def dies(folder: Path) -> None:
    """Leave a run's folder as a killed process does."""
    folder.mkdir(parents=True, exist_ok=True)
    lease = current_lease(folder)
    number = 1 if lease is None else int(lease.name.split(".")[1]) + 1
    (folder / f"lease.{number}.json").write_text(json.dumps(asdict(replace(this_process(), pid=2**22 + 1))))


def test_a_run_that_takes_its_task_down_three_times_is_given_up(study, monkeypatch):
    only_one = Study(study.name, study.output_dir, study.runs[:1], study.command)
    folder = study.output_dir / study.runs[0].run_id
    dies(folder)  # before this supervision: does not count
    cluster = FakeCluster(monkeypatch, dies)
    supervision.Supervision(only_one, SlurmSettings(), Said()).run()
    assert cluster.submitted == 3
    assert RunFolder(folder).failure() == (supervision.LOST, 3)


def test_supervision_ends_when_all_is_done(study, monkeypatch):
    def half(folder: Path) -> None:
        """Every run is lost once, then done."""
        done = folder.is_dir()
        dies(folder)
        if done:
            (folder / "done").touch()

    cluster, said = FakeCluster(monkeypatch, half), Said()
    supervision.Supervision(study, SlurmSettings(), said).run()
    assert cluster.submitted == 2
    assert said.sentences == ["12 waiting", "12 lost", "12 done"]


def test_jobs_that_never_begin_are_not_submitted_for_ever(study, monkeypatch):
    cluster = FakeCluster(monkeypatch, lambda folder: None)
    with pytest.raises(UserError, match="end without training anything; what they said is in"):
        supervision.Supervision(study, SlurmSettings(), Said()).run()
    assert cluster.submitted == 3


def test_parameters_of_an_array(study, answers, monkeypatch):
    settings = make_settings(
        slurm.Slurm,
        {"partition": "gpu", "time": "2:00:00", "cpus": 4, "gpus": 1, "memory": "8G", "sbatch": {"exclude": "n7"}},
    )
    tasks = [[study.job(state)] for state in study.states()[:3]]
    parameters = submitting._Array(study, settings, tasks)._parameters("name")
    assert parameters == {
        "job_name": "name",
        "time": 120,
        "partition": "gpu",
        "gpus_per_node": 1,
        "cpus_per_task": 4,
        "mem": "8G",
        "array_parallelism": 3,
        "signal_delay_s": 120,
        "srun_args": ["--cpus-per-task=4"],
        "additional_parameters": {"requeue": True, "exclude": "n7"},
    }


def test_limited_parallelism_makes_arrays_follow_each_other(study, answers):
    folder = study.output_dir / slurm_jobs.FOLDER
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        content = {"name": name, "tasks": [_content(study, 0), _content(study, 1)]}
        slurm_jobs.save_submission(folder / f"slurm-{name}.json", content)
    answers["squeue"] = ["a|17|0", "b|18|0", "b|18|1"]
    parameters = submitting._Array(study, SlurmSettings(array_parallelism=2), [[], [], []])._parameters("name")
    assert parameters["array_parallelism"] == 2
    assert parameters["dependency"] == "afterany:17:18"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x\nsbatch: error: invalid partition specified: nope\nsbatch: error: Batch job failed",
            "nope; Batch job failed",
        ),
        ("something else", "Slurm refused the jobs: something else"),
    ],
)
def test_a_refusal_is_one_sentence_in_slurms_words(text, message):
    assert message in str(submitting._refusal(text))
    assert isinstance(submitting._refusal("sbatch: error: AssocMaxSubmitJobLimit"), submitting._TooMany)


def test_a_limit_that_leaves_no_time_to_train_is_refused(study):
    with pytest.raises(UserError, match="save_seconds is 120 and the time limit is 2 minutes"):
        slurm.Slurm().launch(study, SlurmSettings(time=2), Said())


def test_a_percent_sign_in_the_path_is_refused(study, tmp_path):
    bad = Study(study.name, tmp_path / "50%", study.runs, study.command)
    with pytest.raises(UserError, match="Slurm gives % a meaning in paths"):
        slurm.Slurm().launch(bad, SlurmSettings(), Said())
