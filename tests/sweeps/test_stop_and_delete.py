"""`sfmoe-dg retry`, `cancel` and `delete-incomplete`: what they change, and what they never touch."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from study_makers import NO_PROCESS, begin, make_done, make_failed, make_lost, make_running, make_study

from sfmoe_dg.cli.main import main
from sfmoe_dg.runs.folder import FAILED, State
from sfmoe_dg.runs.lease import acquire
from sfmoe_dg.runs.owner import this_process
from sfmoe_dg.sweeps.launch.active_sweeps import registered, sweeps_of
from sfmoe_dg.sweeps.launch.pool import STOPPED
from sfmoe_dg.sweeps.status import status
from sfmoe_dg.sweeps.stop_and_delete import Stop, delete_run, stop_runs

OWNER = """
import signal, sys, time
from pathlib import Path
from sfmoe_dg.runs.lease import acquire

folder, told = Path(sys.argv[1]), []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
signal.signal(signal.SIGINT, signal.SIG_DFL)
lease = acquire(folder)
while not told or "deaf" in sys.argv:
    time.sleep(0.02)
(folder / "checkpoint.pt").write_text("saved")
lease.release()
time.sleep(100)
"""
"""Trains nothing, and stops as a run does: it saves, gives its lease back and waits to be killed, deaf to SIGTERM."""

STUDY = """
datasets = ["Debug28"]
algorithms = ["ERM"]
n_trials = 1
n_hparams = 1
test_envs = [[0], [1], [2]]
steps = 100000
skip_model_save = true

[hparams]
batch_size = 2

[launch]
jobs = 2
threads = 1
device = "cpu"
"""


class Owner:
    """A process that holds a run. It is reaped as soon as it ends, as a launcher would do."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", OWNER, str(folder), *words])
        threading.Thread(target=self.process.wait, daemon=True).start()
        wait_for(lambda: (folder / "lease.1.json").exists() and (folder / "lease.1.json").stat().st_size)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states_of(runs, output_dir):
    return [s.state for s in status(runs, output_dir)]


# ------------------------------------------------------------------------------------------------------------- retry


def test_retry_lets_the_next_sweep_start_failed_runs_again(tmp_path, capsys):
    runs = make_study(tmp_path)
    for run in runs[:3]:
        make_failed(tmp_path, run, times=3)
    make_done(tmp_path, runs[3])
    assert main(["retry", "--failed", "--output_dir", str(tmp_path), "--dry_run"]) == 0
    assert "would start again: 3" in capsys.readouterr().out
    assert states_of(runs[:3], tmp_path) == [State.FAILED] * 3
    assert main(["retry", "--output_dir", str(tmp_path), runs[1].run_id]) == 0
    assert [s.is_to_do for s in status(runs[:4], tmp_path)] == [False, True, False, False]
    assert main(["retry", "--failed", "--output_dir", str(tmp_path)]) == 0
    assert "starts again: 2" in capsys.readouterr().out
    assert [s.is_to_do for s in status(runs[:4], tmp_path)] == [True, True, True, False]


def test_retry_says_what_it_needs(tmp_path, capsys):
    runs = make_study(tmp_path)
    assert main(["retry", "--output_dir", str(tmp_path)]) == 2
    assert "say --failed for every run that failed" in capsys.readouterr().err
    assert main(["retry", "--output_dir", str(tmp_path), runs[0].run_id]) == 2
    assert "has not failed: it is waiting" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ delete


def test_only_what_is_neither_done_nor_owned_nor_queued_is_deleted(tmp_path, capsys, monkeypatch):
    runs = make_study(tmp_path)
    kept = [make_done(tmp_path, runs[0]), make_running(tmp_path, runs[1]), make_running(tmp_path, runs[2], machine="x")]
    queued = make_lost(tmp_path, runs[3])
    gone = [make_lost(tmp_path, runs[4]), make_failed(tmp_path, runs[5]), begin(tmp_path, runs[6])]
    foreign = tmp_path / "notes"
    foreign.mkdir()
    monkeypatch.setattr("sfmoe_dg.sweeps.launch.launcher.queued_runs", lambda output_dir: {runs[3].run_id: "17_3"})
    (gone[0] / "wandb" / "run").mkdir(parents=True)
    (gone[0] / "wandb" / "run" / "file").write_text("")
    words = ["delete-incomplete", "--output_dir", str(tmp_path)]
    assert main([*words, "--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "folders that would be deleted: 3"
    assert main(words) == 2
    assert "deleted for good: 3" in (error := capsys.readouterr().err)
    assert "say --yes" in error
    assert all(folder.is_dir() for folder in [*kept, queued, *gone])
    assert main([*words, "--yes"]) == 0
    assert "folders deleted: 3" in capsys.readouterr().out
    assert all(folder.is_dir() for folder in [*kept, queued, foreign])
    assert not any(folder.exists() for folder in gone)
    assert main([*words, "--yes"]) == 0
    assert "nothing to delete" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1), ("", 1)])
def test_deleting_asks_on_a_terminal(tmp_path, monkeypatch, answer, code):
    runs = make_study(tmp_path)
    folder = make_lost(tmp_path, runs[0])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: answer, raising=False)
    assert main(["delete-incomplete", "--output_dir", str(tmp_path)]) == code
    assert folder.exists() == (code == 1)


def test_a_run_that_begins_or_ends_in_the_meantime_is_left_alone(tmp_path):
    runs = make_study(tmp_path)
    folders = [make_lost(tmp_path, run) for run in runs[:3]]
    before = status(runs[:3], tmp_path)
    (folders[1] / "done").write_text("done")
    with acquire(folders[0]):
        assert [delete_run(s) for s in before] == [False, False, True]
    assert [folder.exists() for folder in folders] == [True, True, False]
    assert (folders[0] / "results.jsonl").exists()
    assert (folders[1] / "results.jsonl").exists()


def test_a_link_in_the_place_of_a_run_is_not_followed(tmp_path, capsys):
    runs = make_study(tmp_path / "out")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    (tmp_path / "out" / runs[0].run_id).symlink_to(tmp_path / "precious")
    folder = make_lost(tmp_path / "out", runs[1])
    (folder / "link").symlink_to(tmp_path / "precious")
    assert main(["delete-incomplete", "--output_dir", str(tmp_path / "out"), "--yes"]) == 0
    assert not folder.exists()
    assert (tmp_path / "precious" / "file").exists()


# ------------------------------------------------------------------------------------------------------------ cancel


def test_runs_on_this_machine_save_before_they_are_ended(tmp_path, capsys):
    runs = make_study(tmp_path)
    folders = [begin(tmp_path, run) for run in runs[:3]]
    owners = [Owner(folder) for folder in folders]
    assert main(["cancel", "--output_dir", str(tmp_path), "--dry_run"]) == 0
    assert capsys.readouterr().out.count("would stop") == 3
    assert states_of(runs[:3], tmp_path) == [State.RUNNING] * 3
    assert main(["cancel", "--output_dir", str(tmp_path), runs[0].run_id]) == 0
    assert states_of(runs[:3], tmp_path) == [State.LOST, State.RUNNING, State.RUNNING]
    assert main(["cancel", "--output_dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("stopped, and saved") == 3
    assert [(folder / "checkpoint.pt").read_text() for folder in folders] == ["saved"] * 3
    # At once, and by a signal that no launcher counts as a failure.
    codes = [owner.process.wait(10) for owner in owners]
    assert codes == [-signal.SIGINT] * 3
    assert set(codes) <= STOPPED


def test_one_that_does_not_save_in_time_is_killed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sfmoe_dg.sweeps.stop_and_delete.stop_runs.__defaults__", (1.0,))
    runs = make_study(tmp_path)
    owner = Owner(begin(tmp_path, runs[0]), "deaf")
    assert main(["cancel", "--output_dir", str(tmp_path)]) == 0
    assert "did not save in time" in capsys.readouterr().out
    assert owner.process.wait(10) == -9


def test_a_run_that_ended_before_it_could_be_told_is_not_elsewhere(tmp_path):
    runs = make_study(tmp_path)
    make_running(tmp_path, runs[0])
    seen = status(runs[:1], tmp_path)
    assert seen[0].state is State.RUNNING
    (tmp_path / runs[0].run_id / "lease.1.json").write_text(json.dumps(asdict(replace(this_process(), pid=NO_PROCESS))))
    assert [how for _, _, how in stop_runs(seen)] == [Stop.STOPPED]


def test_owners_elsewhere_are_named_with_what_to_do(tmp_path, capsys):
    runs = make_study(tmp_path)
    make_running(tmp_path, runs[0], machine="x", host="node7", pid=12)
    make_running(tmp_path, runs[1], machine="x", host="node8", pid=13, slurm_job="55@other")
    (tmp_path / "launch").mkdir()
    sweep = replace(this_process(), machine="y", host="node9", pid=14)
    (tmp_path / "launch" / "sweep-1.json").write_text(json.dumps(asdict(sweep)))
    assert main(["cancel", "--output_dir", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "not ended: the sweep of process 14 on node9; if it still runs, end it on node9" in err
    assert "is trained by process 12 on node7; on node7, say: kill -TERM 12" in err
    assert "is trained by process 13 on node8, Slurm job 55; on node8, say: scancel 55" in err


def test_cancel_of_an_idle_run_is_refused(tmp_path, capsys):
    runs = make_study(tmp_path)
    assert main(["cancel", "--output_dir", str(tmp_path), runs[0].run_id]) == 2
    assert "is neither running nor queued: it is waiting" in capsys.readouterr().err


def test_jobs_in_a_queue_are_canceled_there_and_their_runs_signaled_only_once(tmp_path, capsys, monkeypatch):
    """Two tasks of two runs; naming one run takes its task, and says that the other run goes with it."""
    runs = make_study(tmp_path)
    queue = {run.run_id: f"17_{i // 2}" for i, run in enumerate(runs[:4])}
    folder = begin(tmp_path, runs[0])
    owner = Owner(folder)

    class Queue:
        def queued(self, output_dir):
            return queue

        def cancel(self, output_dir, runs=None):
            return sorted({job for run, job in queue.items() if runs is None or run in runs})

    monkeypatch.setattr("sfmoe_dg.sweeps.launch.launcher.LAUNCHERS", Launchers(queue=Queue))
    assert main(["cancel", "--output_dir", str(tmp_path), "--dry_run"]) == 0
    assert capsys.readouterr().out.count("would cancel job 17_") == 4
    assert main(["cancel", "--output_dir", str(tmp_path), runs[1].run_id]) == 0
    out = capsys.readouterr().out
    assert "jobs canceled: 1, runs in them: 2;" in out
    assert "other runs that stop with them: 1;" in out
    assert main(["cancel", "--output_dir", str(tmp_path)]) == 0
    assert "jobs canceled: 2, runs in them: 4;" in capsys.readouterr().out
    # To tell it is the queue's business.
    assert owner.process.poll() is None
    assert not (folder / "checkpoint.pt").exists()
    owner.process.kill()


class Launchers(dict):
    def __init__(self, **launchers):
        super().__init__(launchers)

    def load(self, name):
        return self[name]


def test_a_folder_knows_the_sweeps_that_work_in_it(tmp_path):
    dead = tmp_path / "launch" / "sweep-dead.json"
    with registered(tmp_path):
        dead.write_text(json.dumps(asdict(replace(this_process(), pid=NO_PROCESS))))
        assert [owner.pid for owner in sweeps_of(tmp_path)] == [this_process().pid]
    assert sweeps_of(tmp_path) == []
    with registered(tmp_path):
        assert not dead.exists()


@pytest.mark.slow
def test_a_sweep_is_canceled_and_goes_on(tmp_path, capsys):
    """Two of three runs are under way: the sweep ends, both have saved, none failed, the third never began."""
    (tmp_path / "study.toml").write_text(STUDY)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sfmoe_dg", "sweep", str(tmp_path / "study.toml"), "--output_dir", str(out)]
    sweep = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    threading.Thread(target=sweep.wait, daemon=True).start()
    wait_for(lambda: len(list(out.glob("*/results.jsonl"))) == 2, 180)
    owners = [json.loads(path.read_text())["pid"] for path in out.glob("*/lease.1.json")]
    assert main(["cancel", "--output_dir", str(out)]) == 0
    assert sweep.wait(10) == 130
    assert "ending the sweep of process" in capsys.readouterr().out
    assert len(owners) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in owners)
    assert len(list(out.glob("*/checkpoint.pt"))) == 2
    assert not list(out.glob(f"*/{FAILED}"))
    assert not list(out.glob("launch/sweep-*.json"))
    main(["status", "--output_dir", str(out)])
    assert " ".join(capsys.readouterr().out.splitlines()[-1].split()) == "total 0 0 0 1 2 0 3"
