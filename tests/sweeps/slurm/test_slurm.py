"""A sweep completes whatever the cluster does: every run is trained once to its end, with the same records.

The cluster is real (``up.sh``). Every test disturbs a sweep of short runs and compares its results with those of the
local launcher.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sfmoe_dg.sweeps.launch.slurm.jobs import submissions

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

STUDY = """
name = "{name}"
datasets = ["Debug28"]
algorithms = ["SleepyERM"]
n_trials = {trials}
n_hparams = 1
test_envs = [[0], [1]]
steps = 31
checkpoint_freq = 10
skip_model_save = true
plugins = ["{plugin}"]

[hparams]
batch_size = 4

[launch]
threads = 1
device = "cpu"
jobs = 2
time = 20
poll = 1
save_seconds = 30
"""
STEPS = [0, 10, 20, 30]
PATIENCE = 300
HERE = Path(__file__).parent


class Sweep:
    """A ``sfmoe-dg sweep`` under way. Its runs take ``nap`` seconds for each of their later steps, until :meth:`go`."""

    def __init__(self, environment: dict[str, str], study: Path, folder: Path, *flags: str, nap: float = 0.0) -> None:
        self.folder, self._gate = folder, folder.with_name(f"{folder.name} go")
        command = [sys.executable, "-m", "sfmoe_dg", "sweep", str(study), "--output_dir", str(folder), *flags]
        self.process = subprocess.Popen(
            command,
            env=environment | {"NAP": str(nap), "GO": str(self._gate)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def go(self) -> None:
        """Let the runs train at full speed."""
        self._gate.touch()

    def end(self) -> str:
        """Wait for a successful end; returns the output."""
        self.go()
        return self.printed()

    def printed(self) -> str:
        """Like :meth:`end`, but the runs stay slow."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, output
        return output

    def records(self) -> dict[str, list[dict]]:
        """The records by run, without values that differ between two trainings of the same run."""
        found = {}
        for path in self.folder.glob("*/results.jsonl"):
            found[path.parent.name] = records = [json.loads(line) for line in path.read_text().splitlines()]
            for record in records:
                for name in ("step_time", "mem_gb", "args"):
                    del record[name]
        return found

    def is_under_way(self, runs: int) -> bool:
        """Whether that many runs have a checkpoint and are not done."""
        checkpoints = [path.parent for path in self.folder.glob("*/checkpoint.pt")]
        return sum(len((path / "results.jsonl").read_text().splitlines()) >= 2 for path in checkpoints) >= runs

    def log(self) -> str:
        """What the sweep's tasks wrote."""
        return "".join(path.read_text() for path in (self.folder / "launch" / "logs").glob("*_log.out"))

    def continued(self) -> int:
        """How often runs went on from a checkpoint."""
        return sum(path.read_text().count("goes on after step") for path in self.folder.glob("*/out.txt"))


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE} s"
        time.sleep(0.2)


def assert_complete(sweep: Sweep, local: Sweep) -> None:
    """Every run done, each step recorded once, records and tables those of the local launcher."""
    folders = sorted(path.parent for path in sweep.folder.glob("*/run.json"))
    assert [path.name for path in folders] == sorted(local.records())
    for folder in folders:
        assert (folder / "done").exists()
        assert not (folder / "results.interrupted.jsonl").exists()
        assert not list(folder.glob("lease.*"))
        assert [record["step"] for record in sweep.records()[folder.name]] == STEPS
    assert sweep.records() == local.records()
    assert (sweep.folder / "results.txt").read_text() == (local.folder / "results.txt").read_text()


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> tuple[Path, Path]:
    """A study of two runs, and one of four that contains it, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("two studies")
    for name, trials in (("two", 1), ("four", 2)):
        (folder / f"{name}.toml").write_text(STUDY.format(name=name, trials=trials, plugin=HERE / "sleepy_erm.py"))
    return folder / "two.toml", folder / "four.toml"


@pytest.fixture(scope="module")
def local_four(cluster, studies) -> Sweep:
    sweep = Sweep(dict(os.environ), studies[1], studies[1].parent / "local four", "--jobs", "4")
    sweep.end()
    return sweep


@pytest.fixture(scope="module")
def local_two(local_four, studies) -> Sweep:
    """The first trial's runs of the four: done already, so that only the tables are made."""
    folder = studies[0].parent / "local two"
    for path in local_four.folder.glob("*/results.jsonl"):
        if json.loads(path.read_text().splitlines()[0])["args"]["trial_seed"] == 0:
            shutil.copytree(path.parent, folder / path.parent.name)
    sweep = Sweep(dict(os.environ), studies[0], folder)
    assert "2 runs, 0 to do" in sweep.end()
    return sweep


@pytest.fixture
def start(cluster, studies, tmp_path):
    """Starts the study of two runs on the cluster, supervised, and waits until both are trained."""
    started: list[Sweep] = []

    def start_sweep(*flags: str, nap: float = 2.0) -> Sweep:
        folder = tmp_path / "a swéep"
        sweep = Sweep(cluster.environment, studies[0], folder, "--launcher", "slurm", "--wait", *flags, nap=nap)
        started.append(sweep)
        until(lambda: sweep.process.poll() is not None or sweep.is_under_way(2), "training")
        assert sweep.process.poll() is None, sweep.process.communicate()[0]
        return sweep

    yield start_sweep
    for sweep in started:
        sweep.process.kill()
    subprocess.run(["scancel", "--user=root"], env=cluster.environment)
    until(lambda: not cluster.ask("squeue", "--noheader"), "an empty queue")


def states_seen(cluster, sweep: Sweep, *words: str) -> str:
    """squeue's lines of the jobs of a sweep."""
    return cluster.ask("squeue", "--noheader", "--array", *words)


def test_more_tasks_than_an_array_and_the_user_may_have(cluster, studies, local_four, tmp_path):
    if cluster.has_accounting:
        cluster.ask("sacctmgr", "--immediate", "modify", "user", "root", "set", "MaxSubmitJobs=3")
    try:
        # Slow runs: none may leave the queue before the second sweep asks for room in it.
        first = Sweep(cluster.environment, studies[1], tmp_path / "out", "--launcher", "slurm", nap=5.0)
        output = first.printed()
        again = Sweep(cluster.environment, studies[1], tmp_path / "out", "--launcher", "slurm").printed()
    finally:
        if cluster.has_accounting:
            cluster.ask("sacctmgr", "--immediate", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
    assert "3 tasks with 3 runs" in output  # MaxArraySize is 3
    if cluster.has_accounting:
        assert "takes no more than 3 of 4 tasks now; start the same command later" in output
        assert "takes no more than 0 of 1 tasks now" in again
    else:
        assert "1 tasks with 1 runs" in output
    rest = Sweep(cluster.environment, studies[1], tmp_path / "out", "--launcher", "slurm", "--wait")
    output = rest.end()
    assert ("1 tasks with 1 runs" in output) == cluster.has_accounting
    assert_complete(rest, local_four)
    assert "4 runs, 0 to do" in Sweep(cluster.environment, studies[1], tmp_path / "out", "--launcher", "slurm").end()


def test_two_sweeps_at_once_submit_every_run_once(cluster, studies, local_four, tmp_path):
    flags = ("--launcher", "slurm", "--wait", "--runs_per_task", "2")
    pair = [Sweep(cluster.environment, studies[1], tmp_path / "out", *flags) for _ in range(2)]
    for sweep in pair:
        sweep.end()
        assert_complete(sweep, local_four)
    submitted = Counter(
        run["folder"] for _, content in submissions(tmp_path / "out") for task in content["tasks"] for run in task
    )
    assert len(submitted) == 4
    assert set(submitted.values()) == {1}


def test_a_task_killed_without_a_word_is_submitted_again(cluster, start, local_two):
    sweep = start()
    task = _tasks(sweep)[0]
    runs = _children(task)
    assert len(runs) == 1
    os.kill(task, signal.SIGKILL)
    until(lambda: not _is_alive(runs[0]), "the end of its run")
    output = sweep.end()
    assert output.count("submitted Slurm job") == 2
    assert sweep.continued() == 1
    assert_complete(sweep, local_two)


def test_scontrol_requeue(cluster, start, local_two):
    sweep = start()
    for line in states_seen(cluster, sweep, "--format=%F_%K").split():
        cluster.ask("scontrol", "requeue", line)
    output = sweep.end()
    assert output.count("submitted Slurm job") == 1
    assert sweep.continued() == 2
    assert_complete(sweep, local_two)


@pytest.mark.parametrize("partition", ["spot", "spot0"])
def test_preemption_with_grace_time_and_without(cluster, start, local_two, partition):
    sweep = start("--partition", partition)
    cluster.ask("sbatch", "--partition=debug", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: "PENDING" in states_seen(cluster, sweep, f"--partition={partition}", "--format=%T"), "preemption")
    output = sweep.end()
    assert output.count("submitted Slurm job") == 1  # Slurm itself requeued both
    assert sweep.continued() == 2
    assert sweep.log().count("received SIGTERM: the runs save") == 2
    assert_complete(sweep, local_two)


def test_a_time_limit_shorter_than_the_runs(cluster, start, local_two):
    # Slurm counts in minutes, and may send the signal half a minute early: also before the runs have begun.
    flags = ("--time", "1", "--save_seconds", "15", "--runs_per_task", "2", "--parallel_per_gpu", "2")
    sweep = start(*flags, nap=3.0)
    signals = sweep.log().count("received SIGUSR2: the runs have saved")
    until(lambda: sweep.log().count("received SIGUSR2: the runs have saved") > signals, "the time limit")
    output = sweep.end()
    assert output.count("submitted Slurm job") == 1
    assert sweep.continued() >= 2
    assert_complete(sweep, local_two)


def test_a_node_that_fails_and_comes_back(cluster, start, local_two):
    sweep = start()
    node = cluster.ask("sinfo", "--noheader", "--format=%n").strip()
    cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    until(lambda: "PENDING" in states_seen(cluster, sweep, "--format=%T"), "the jobs' return into the queue")
    cluster.ask("scontrol", "update", f"nodename={node}", "state=resume")
    output = sweep.end()
    assert output.count("submitted Slurm job") == 1
    assert sweep.continued() == 2
    assert_complete(sweep, local_two)


def _tasks(sweep: Sweep) -> list[int]:
    """The processes of a sweep's tasks: submitit's, in the order of their numbers."""
    mark = str(sweep.folder / "launch" / "logs").encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"submitit.core._submit" in words and mark in words and b"srun" not in words[0]:
            found.append(int(entry.name))
    return sorted(found)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
