"""Launchers without a cluster: settings, places, what is run and what is left alone, and what Slurm is asked for."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sfmoe_dg.cli import main
from sfmoe_dg.errors import UserError
from sfmoe_dg.launch import Job, Study, queued_runs, slurm, slurm_jobs, supervision
from sfmoe_dg.launch.pool import CHECKPOINT, Pool, make_places
from sfmoe_dg.launch_settings import LaunchSettings, make_launch
from sfmoe_dg.lease import acquire, current, this_process
from sfmoe_dg.sweep import plan, read_failure, record_failure
from sfmoe_dg.sweep_spec import make_spec

STUDY = {"name": "small", "datasets": ["StyledDigits"], "algorithms": ["ERM"], "n_trials": 1, "n_hparams": 1}


# --------------------------------------------------------------------------------------------------------- settings


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
    assert make_launch({"time": time}, "here").minutes == minutes


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
        make_launch(values, "here")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--time", "soon"], "--time is 'soon'; it must be minutes, or"),
        (["--runs_per_task", "0"], "--runs_per_task is 0; it must be at least 1"),
        (["--sbatch", "exclude"], "--sbatch is 'exclude'; it must be NAME=VALUE"),
    ],
)
def test_flags_are_checked(flags, message, capsys, request):
    study = str(request.config.rootpath / "sweeps" / "smoke.toml")
    assert main(["sweep", study, "--output_dir", "nowhere", *flags]) == 2
    assert message in capsys.readouterr().err


def test_flags_take_precedence_over_the_study():
    import argparse

    from sfmoe_dg.cli import launch_flags

    parser = argparse.ArgumentParser()
    launch_flags.add_arguments(parser)
    args = parser.parse_args(
        shlex.split("--time 90 --cpus 3 --wait --setup a --setup b --sbatch exclude=n7 --sbatch nice=5")
    )
    settings = launch_flags.override(
        LaunchSettings(cpus=8, partition="gpu", sbatch={"nice": "1", "mail-type": "END"}), args
    )
    assert (settings.minutes, settings.cpus, settings.partition, settings.wait) == (90, 3, "gpu", True)
    assert settings.setup == ("a", "b")
    assert settings.sbatch == {"nice": "5", "mail-type": "END", "exclude": "n7"}
    assert launch_flags.override(settings, parser.parse_args([])) == settings


# ----------------------------------------------------------------------------------------------------------- places


def test_runs_are_dealt_out_over_the_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in make_places(4, 2, gpus=2)] == ["0", "1", "0", "1"]
    assert make_places(2, 3, gpus=None) == [{"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in make_places(2, 1, gpus=2)] == ["5", "GPU-7"]
    with pytest.raises(UserError, match="gpus is 3 and CUDA_VISIBLE_DEVICES=5,GPU-7 names 2"):
        make_places(3, 1, gpus=3)


def python(folder: Path, code: str) -> Job:
    return Job(folder.name, (sys.executable, "-c", code, str(folder)), folder)


TRAIN = "import pathlib, sys; pathlib.Path(sys.argv[1], 'done').write_text('done')"
FAIL = "import sys; sys.exit('first line\\nno luck')"
DIE = "import os; os.kill(os.getpid(), 9)"


@pytest.fixture
def ended():
    return []


@pytest.fixture
def pool(ended) -> Pool:
    return Pool(make_places(2, 1, None), lambda job, error, seconds: ended.append((job.title, error)))


def test_a_pool_runs_what_is_to_do_and_notes_failures(pool, ended, tmp_path):
    jobs = [python(tmp_path / name, code) for name, code in (("a", TRAIN), ("b", FAIL), ("c", DIE), ("d", TRAIN))]
    assert pool.run(jobs) == []
    assert sorted(ended, key=str) == [
        ("a", None),
        ("b", "no luck"),
        ("c", "was killed by SIGKILL (out of memory?)"),
        ("d", None),
    ]
    assert read_failure(tmp_path / "b") == ("no luck", 1)
    pool.run(jobs[1:2])
    assert read_failure(tmp_path / "b") == ("no luck", 2)


def test_a_pool_leaves_alone_what_is_done_or_given_up_or_somebody_elses(pool, ended, tmp_path):
    done, given_up, owned = (python(tmp_path / name, FAIL) for name in ("done", "given up", "owned"))
    done.folder.mkdir()
    (done.folder / "done").write_text("done")
    given_up.folder.mkdir()
    for _ in range(3):
        record_failure(given_up.folder, "no luck", 1)
    with acquire(owned.folder):
        assert pool.run([done, given_up, owned]) == [owned]
    assert ended == []


def test_a_run_that_finds_another_owner_is_no_failure(pool, ended, tmp_path):
    job = python(tmp_path / "run", "import sys; sys.exit(75)")
    assert pool.run([job]) == [job]
    assert ended == []
    assert not (job.folder / "failed.json").exists()


def test_places_are_never_overbooked_and_all_used(tmp_path, ended):
    code = (
        "import os, pathlib, sys, time; folder = pathlib.Path(sys.argv[1]); mark = folder.parent / os.environ['PLACE'];"
        "mark.mkdir(); time.sleep(0.2); mark.rmdir(); (folder / 'done').write_text('done')"
    )
    pool = Pool([{"PLACE": "x"}, {"PLACE": "y"}], lambda job, error, seconds: ended.append(error))
    pool.run([python(tmp_path / str(i), code) for i in range(6)])
    assert ended == [None] * 6  # mkdir would have failed in a place that is taken


SAVE_WHEN_TOLD = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(number, frame):
    time.sleep(0.5)
    (folder / "checkpoint.pt").write_text(str(number))
    (folder / "lease.1.json").unlink()
signal.signal(signal.SIGUSR2, save)
(folder / "lease.1.json").write_text("{}")
(folder / "ready").touch()
while True:
    time.sleep(0.1)
"""


def test_saving_waits_until_the_folder_is_given_back(pool, ended, tmp_path):
    job = python(tmp_path / "run", SAVE_WHEN_TOLD)
    pool._start(job)
    while not (job.folder / "ready").exists():
        time.sleep(0.05)
    entry = pool.running[0]
    assert not entry.has_saved
    pool.save(signal.SIGUSR2)
    assert (job.folder / CHECKPOINT).read_text() == str(int(signal.SIGUSR2))
    assert entry.has_saved
    assert entry.process.poll() is None
    pool.kill()
    assert entry.process.poll() is not None
    assert ended == []


def test_an_exception_leaves_no_process_behind(pool, tmp_path):
    job = python(tmp_path / "run", SAVE_WHEN_TOLD.replace("SIGUSR2", "SIGTERM"))
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt() -> None:
        while not (job.folder / "ready").exists():
            time.sleep(0.05)
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        pool.run([job])
    assert (job.folder / CHECKPOINT).exists()
    assert pool.running == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")
def test_a_run_dies_with_the_process_that_started_it(tmp_path):
    code = (
        "import sys, pathlib; from sfmoe_dg.launch import Job; from sfmoe_dg.launch.pool import Pool, make_places;"
        "folder = pathlib.Path(sys.argv[1]);"
        "command = (sys.executable, '-c', 'import time, pathlib, os, sys;"
        'pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)\', str(folder / "pid"));'
        "Pool(make_places(1, 1, None), print).run([Job('', command, folder)])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")])
    path = tmp_path / "run" / "pid"
    while not path.exists() or not path.read_text():
        assert parent.poll() is None
        time.sleep(0.05)
    child = int(path.read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while _is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_checkpoints_name_is_the_trainings():
    from sfmoe_dg.resume import CHECKPOINT_FILE

    assert CHECKPOINT == CHECKPOINT_FILE


# ------------------------------------------------------------------------------------------------------------ slurm


class Said:
    """A listener that remembers."""

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
    """What Slurm's commands print, by their first word; and an executable that makes squeue be found."""
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

    def submit(array: slurm._Array) -> str:
        if len(array.tasks) > limit[0]:
            raise slurm._TooMany("Slurm refused the jobs: too many")
        submitted.append(len(array.tasks))
        return str(len(submitted))

    limit = [1000]
    monkeypatch.setattr(slurm._Array, "submit", submit)
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
    taken = slurm.submit(study, LaunchSettings(runs_per_task=per_task), said)
    assert sizes[0] == arrays
    assert taken == {study.output_dir / run.run_id for run in study.runs}
    assert len(said.sentences) == len(arrays)


def test_submit_limits_are_respected_and_the_rest_is_said(study, answers, sizes):
    answers["squeue"] = [str(os.getuid())] * 2 + ["99999"] * 5
    answers["sacctmgr"] = ["", "9"]  # an association without a limit, and one that allows 9
    said = Said()
    assert len(slurm.submit(study, LaunchSettings(), said)) == 7  # 9 less the user's two
    assert sizes[0] == [4, 3]
    assert "takes no more than 7 of 12 tasks now; start the same command later" in said.sentences[-1]
    answers["scontrol"][2] = "MaxJobCount = 10"
    assert slurm_jobs.room_in_queue(slurm_jobs.settings_of_cluster(), None, None) == 3  # 10 less everybody's 7


def test_a_limit_that_nobody_tells_is_found_by_trying(study, answers, sizes):
    sizes[1][0], answers["squeue"] = 1, [str(os.getuid())]
    assert len(slurm.submit(study, LaunchSettings(), Said())) == 1  # 4 is refused, then 2; then one is taken
    assert sizes[0] == [1]


def test_what_not_even_an_empty_queue_takes_is_refused_in_slurms_words(study, answers, sizes):
    sizes[1][0] = 0
    with pytest.raises(UserError, match="Slurm refused the jobs: too many"):
        slurm.submit(study, LaunchSettings(), Said())


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


class FakeCluster:
    """A queue of which every job ends at once: ``work`` is what becomes of each run that is submitted."""

    def __init__(self, monkeypatch, work) -> None:
        self.submitted = 0
        self._work = work
        monkeypatch.setattr(supervision, "submit", self.submit)
        monkeypatch.setattr(supervision.time, "sleep", lambda seconds: None)

    def submit(self, study: Study, settings: LaunchSettings, listener: Said) -> set[Path]:
        to_do = [state.folder for state in study.states() if state.is_to_do]
        self.submitted += bool(to_do)
        for folder in to_do:
            self._work(folder)
        return set(to_do)


def dies(folder: Path) -> None:
    """As a process that is killed leaves a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lease = current(folder)
    number = 1 if lease is None else int(lease.name.split(".")[1]) + 1
    (folder / f"lease.{number}.json").write_text(json.dumps(asdict(replace(this_process(), pid=2**22 + 1))))


def test_a_run_that_takes_its_task_down_three_times_is_given_up(study, monkeypatch):
    only_one = Study(study.name, study.output_dir, study.runs[:1], study.command)
    folder = study.output_dir / study.runs[0].run_id
    dies(folder)  # before this supervision: does not count
    cluster = FakeCluster(monkeypatch, dies)
    supervision.Supervision(only_one, LaunchSettings(), Said()).run()
    assert cluster.submitted == 3
    assert read_failure(folder) == (supervision.LOST, 3)


def test_supervision_ends_when_all_is_done(study, monkeypatch):
    def half(folder: Path) -> None:
        """Every run is lost once, then done."""
        done = folder.is_dir()
        dies(folder)
        if done:
            (folder / "done").touch()

    cluster, said = FakeCluster(monkeypatch, half), Said()
    supervision.Supervision(study, LaunchSettings(), said).run()
    assert cluster.submitted == 2
    assert said.sentences == ["12 waiting", "12 lost", "12 done"]


def test_jobs_that_never_begin_are_not_submitted_for_ever(study, monkeypatch):
    cluster = FakeCluster(monkeypatch, lambda folder: None)
    with pytest.raises(UserError, match="end without training anything; what they said is in"):
        supervision.Supervision(study, LaunchSettings(), Said()).run()
    assert cluster.submitted == 3


def test_parameters_of_an_array(study, answers, monkeypatch):
    settings = make_launch(
        {"partition": "gpu", "time": "2:00:00", "cpus": 4, "gpus": 1, "memory": "8G", "sbatch": {"exclude": "n7"}},
        "here",
    )
    tasks = [[study.job(state)] for state in study.states()[:3]]
    parameters = slurm._Array(study, settings, tasks)._parameters("name")
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
    parameters = slurm._Array(study, LaunchSettings(array_parallelism=2), [[], [], []])._parameters("name")
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
    assert message in str(slurm._refusal(text))
    assert isinstance(slurm._refusal("sbatch: error: AssocMaxSubmitJobLimit"), slurm._TooMany)


def test_a_limit_that_leaves_no_time_to_train_is_refused(study):
    with pytest.raises(UserError, match="save_seconds is 120 and the time limit is 2 minutes"):
        slurm.Slurm().launch(study, LaunchSettings(time=2), Said())


def test_a_percent_sign_in_the_path_is_refused(study, tmp_path):
    bad = Study(study.name, tmp_path / "50%", study.runs, study.command)
    with pytest.raises(UserError, match="Slurm gives % a meaning in paths"):
        slurm.Slurm().launch(bad, LaunchSettings(), Said())


# --------------------------------------------------------------------------------------------------------- commands


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
    code = "from sfmoe_dg.launch import LAUNCHERS; print(LAUNCHERS.load('paper').__module__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout == "third\n", result.stderr


def test_settings_survive_the_saved_plan(tmp_path):
    from sfmoe_dg.sweep import load_plans, save_plan

    spec = make_spec(STUDY | {"launch": {"setup": ["a"], "sbatch": {"nice": "1"}, "time": "1:00:00"}}, "test")
    path = save_plan(spec, None, tmp_path)
    assert make_spec(json.loads(path.read_text())["spec"], "saved").launch == spec.launch
    assert load_plans(tmp_path) == plan(spec, None)
