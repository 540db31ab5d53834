"""Runs as processes side by side: places, jobs that are started or left alone, saving, and no process left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.lease import acquire
from sfmoe_dg.sweeps.launch.launcher import Job
from sfmoe_dg.sweeps.launch.pool import Pool, make_places


def test_runs_are_dealt_out_over_the_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in make_places(4, 2, gpus=2)] == ["0", "1", "0", "1"]
    assert make_places(2, 3, gpus=None) == [{"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in make_places(2, 1, gpus=2)] == ["5", "GPU-7"]
    with pytest.raises(UserError, match="gpus is 3 and CUDA_VISIBLE_DEVICES=5,GPU-7 names 2"):
        make_places(3, 1, gpus=3)


def python(folder: Path, code: str) -> Job:
    return Job(folder.name, (sys.executable, "-c", code, str(folder)), RunFolder(folder))


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
    assert RunFolder(tmp_path / "b").failure() == ("no luck", 1)
    pool.run(jobs[1:2])
    assert RunFolder(tmp_path / "b").failure() == ("no luck", 2)


def test_a_pool_leaves_alone_what_is_done_or_given_up_or_somebody_elses(pool, ended, tmp_path):
    done, given_up, owned = (python(tmp_path / name, FAIL) for name in ("done", "given up", "owned"))
    done.folder.path.mkdir()
    (done.folder.path / "done").write_text("done")
    given_up.folder.path.mkdir()
    for _ in range(3):
        given_up.folder.fail("no luck", 1)
    with acquire(owned.folder.path):
        assert pool.run([done, given_up, owned]) == [owned]
    assert ended == []


def test_a_run_that_finds_another_owner_is_no_failure(pool, ended, tmp_path):
    job = python(tmp_path / "run", "import sys; sys.exit(75)")
    assert pool.run([job]) == [job]
    assert ended == []
    assert not (job.folder.path / "failed.json").exists()


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
    while not (job.folder.path / "ready").exists():
        time.sleep(0.05)
    entry = pool.running[0]
    assert not entry.has_saved
    pool.save(signal.SIGUSR2)
    assert job.folder.checkpoint.read_text() == str(int(signal.SIGUSR2))
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
        while not (job.folder.path / "ready").exists():
            time.sleep(0.05)
        signal.pthread_kill(main_thread, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        pool.run([job])
    assert job.folder.checkpoint.exists()
    assert pool.running == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")
def test_a_run_dies_with_the_process_that_started_it(tmp_path):
    code = (
        "import sys, pathlib; from sfmoe_dg.runs.folder import RunFolder;"
        "from sfmoe_dg.sweeps.launch.launcher import Job;"
        "from sfmoe_dg.sweeps.launch.pool import Pool, make_places;"
        "folder = pathlib.Path(sys.argv[1]);"
        "command = (sys.executable, '-c', 'import time, pathlib, os, sys;"
        'pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)\', str(folder / "pid"));'
        "Pool(make_places(1, 1, None), print).run([Job('', command, RunFolder(folder))])"
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
