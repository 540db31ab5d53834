"""Leases: one owner at a time, dead owners are replaced, and no two clocks are compared."""

import errno
import json
import multiprocessing
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sfmoe_dg.foundation import slurm as slurm_queue
from sfmoe_dg.foundation.slurm import SlurmQueue
from sfmoe_dg.runs.lease import LeaseLost, Owned, Watch, acquire, current_lease, is_owned, refuse_living_owner
from sfmoe_dg.runs.owner import Liveness, Owner, liveness, read_owner, this_process

HOUR = 3600


def elsewhere(**changes):
    return replace(this_process(), host="node7", machine="another", **changes)


def write_lease(folder, owner, number=1):
    folder.mkdir(exist_ok=True)
    path = folder / f"lease.{number}.json"
    path.write_text(json.dumps(asdict(owner)))
    return path


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_a_folder_has_one_owner_until_it_is_released(tmp_path):
    with acquire(tmp_path / "run") as held:
        assert is_owned(current_lease(tmp_path / "run"))
        with pytest.raises(Owned, match=f"process {os.getpid()} on .*; its lease is alive"):
            acquire(tmp_path / "run")
        with pytest.raises(Owned):
            refuse_living_owner(tmp_path / "run")
        held.check()
    assert not list((tmp_path / "run").iterdir())
    refuse_living_owner(tmp_path / "run")
    acquire(tmp_path / "run").release()


def test_a_dead_process_of_this_machine_is_replaced_at_once(tmp_path):
    write_lease(tmp_path / "run", replace(this_process(), pid=2**22 + 1), number=4)
    write_lease(tmp_path / "run", elsewhere(), number=2)
    with acquire(tmp_path / "run") as held:
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lease.5.json"]
        held.check()


def test_a_process_number_that_was_given_again_is_not_the_owner():
    assert liveness(this_process()) is Liveness.ALIVE
    assert liveness(replace(this_process(), birth="1")) is Liveness.DEAD


def test_a_silent_owner_elsewhere_is_replaced_after_the_patience(tmp_path):
    write_lease(tmp_path / "run", elsewhere())
    asked = []
    with acquire(tmp_path / "run", patience=0.3, on_wait=lambda owner, seconds: asked.append((owner.host, seconds))):
        assert current_lease(tmp_path / "run").name == "lease.2.json"
    assert asked == [("node7", 0.3)]


@pytest.mark.parametrize("skew", [-HOUR, 0, HOUR])
def test_a_beating_owner_elsewhere_is_left_alone_whatever_its_clock_says(tmp_path, skew):
    path = write_lease(tmp_path / "run", elsewhere(started=time.time() + skew))
    os.utime(path, (time.time() + skew,) * 2)
    context = multiprocessing.get_context("fork")
    heart = context.Process(target=_beat, args=(path, skew))
    heart.start()
    try:
        with pytest.raises(Owned, match="on node7"):
            acquire(tmp_path / "run", patience=5)
    finally:
        heart.kill()
        heart.join()
    with acquire(tmp_path / "run", patience=0.3):
        assert current_lease(tmp_path / "run").name == "lease.2.json"


def _beat(path, skew):
    while True:
        time.sleep(0.1)
        os.utime(path, (time.time() + skew,) * 2)


def test_watching_uses_the_watchers_clock_alone(tmp_path):
    now = [0.0]
    watch = Watch(patience=60, clock=lambda: now[0])
    path = write_lease(tmp_path / "run", elsewhere())
    assert not watch.has_stopped(path)
    now[0] = 59
    assert not watch.has_stopped(path)
    os.utime(path, (0, 0))  # a beat, by a clock that is half a century late
    now[0] = 100
    assert not watch.has_stopped(path)
    now[0] = 159
    assert not watch.has_stopped(path)
    now[0] = 161
    assert watch.has_stopped(path)
    path.unlink()
    assert watch.has_stopped(path)


def test_an_owner_that_was_taken_for_dead_stops_and_leaves_the_new_lease_alone(tmp_path):
    slept = acquire(tmp_path / "run", heartbeat=HOUR)
    slept.path.unlink()  # what a new owner does with older leases
    write_lease(tmp_path / "run", elsewhere(), number=2)
    with pytest.raises(LeaseLost, match=r"was taken over by process \d+ on node7"):
        slept.check()
    slept.release()
    assert current_lease(tmp_path / "run").name == "lease.2.json"


def test_the_same_number_with_another_token_is_not_mine(tmp_path):
    slept = acquire(tmp_path / "run", heartbeat=HOUR)
    write_lease(tmp_path / "run", elsewhere(token="other"), number=1)
    with pytest.raises(LeaseLost):
        slept.check()
    slept.release()
    assert read_owner(current_lease(tmp_path / "run")).token == "other"


def test_a_lease_that_is_being_written_may_live(tmp_path):
    (tmp_path / "lease.1.json").write_text("")
    assert is_owned(current_lease(tmp_path))
    with acquire(tmp_path, patience=0.2):
        assert current_lease(tmp_path).name == "lease.2.json"


def test_the_heart_beats(tmp_path):
    with acquire(tmp_path, heartbeat=0.05) as held:
        os.utime(held.path, (0, 0))
        wait_for(lambda: held.path.stat().st_mtime > 0)


def test_the_heart_outlives_a_file_server_that_does_not_answer_for_a_while(tmp_path, monkeypatch):
    answer, refused = Path.read_bytes, []

    def read_bytes(path):
        if len(refused) < 3:
            refused.append(path)
            raise OSError(errno.EIO, "Input/output error", str(path))
        return answer(path)

    with acquire(tmp_path, heartbeat=0.05) as held:
        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        wait_for(lambda: refused == [held.path] * 3)
        os.utime(held.path, (0, 0))
        wait_for(lambda: held.path.stat().st_mtime > 0)


def test_what_cannot_be_read_was_not_taken_over(tmp_path, monkeypatch):
    def read_bytes(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    with acquire(tmp_path, heartbeat=HOUR) as held:
        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        with pytest.raises(OSError, match="Input/output error"):
            held.check()
        monkeypatch.undo()
        held.check()


def test_a_folder_that_was_deleted_is_lost(tmp_path):
    held = acquire(tmp_path / "run", heartbeat=HOUR)
    held.path.unlink()
    held.path.parent.rmdir()
    with pytest.raises(LeaseLost, match="was taken over by another process"):
        held.check()
    held.release()


def _race(folder, start, wins, patience):
    start.wait()
    try:
        held = acquire(folder, patience=patience)
    except Owned:
        return
    with wins.get_lock():
        wins.value += 1
    time.sleep(1.0)
    held.check()
    held.release()


@pytest.mark.parametrize("dead", ["nobody", "here", "elsewhere"])
def test_of_many_that_start_at_once_one_wins(tmp_path, dead):
    folder = tmp_path / "run"
    if dead == "here":
        write_lease(folder, replace(this_process(), pid=2**22 + 1))
    elif dead == "elsewhere":
        write_lease(folder, elsewhere())
    context = multiprocessing.get_context("fork")
    start, wins = context.Event(), context.Value("i", 0)
    racers = [context.Process(target=_race, args=(folder, start, wins, 0.3)) for _ in range(8)]
    for racer in racers:
        racer.start()
    start.set()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 8
    assert wins.value == 1


def test_a_killed_owner_leaves_a_lease_that_is_dead(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=lambda: (acquire(tmp_path / "run"), ready.set(), time.sleep(60)))
    holder.start()
    ready.wait(30)
    assert is_owned(current_lease(tmp_path / "run"))
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert not is_owned(current_lease(tmp_path / "run"))
    acquire(tmp_path / "run").release()


def test_a_process_that_ended_unnoticed_is_dead(tmp_path):
    """Nobody asks after its exit code, as in a container whose first process does not."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, json.dumps(asdict(this_process())).encode())
        os._exit(0)
    owner = Owner(**json.loads(os.read(read, 4096)))
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert liveness(owner) is Liveness.DEAD
    os.waitpid(pid, 0)


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        acquire(tmp_path / "file" / "run")


# ---------------------------------------------------------------------------------------------------- Slurm's queue


class FakeSlurm:
    """Answers in place of squeue and scontrol."""

    def __init__(self, monkeypatch, lines):
        self.lines, self.asked = lines, 0
        self.config = ["Configuration data as of today", "ClusterName             = mini"]
        monkeypatch.setattr(slurm_queue, "_ask", self._answer)

    def _answer(self, command):
        if command[0] == "scontrol":
            return self.config
        self.asked += 1
        return self.lines


@pytest.mark.parametrize(
    ("job", "lines", "expected"),
    [
        ("7@mini", ["7 RUNNING"], Liveness.UNKNOWN),  # its heartbeat decides
        ("7@mini", ["7 PENDING"], Liveness.DEAD),  # requeued: the process that held the lease has gone
        ("7@mini", ["8 RUNNING"], Liveness.DEAD),
        ("7@mini", [], Liveness.DEAD),
        ("7@mini", None, Liveness.UNKNOWN),  # the controller does not answer
        ("7@other", [], Liveness.UNKNOWN),  # a job of a cluster whose queue this is not
    ],
)
def test_an_owner_under_slurm_is_looked_up_in_the_queue(monkeypatch, job, lines, expected):
    FakeSlurm(monkeypatch, lines)
    assert liveness(elsewhere(slurm_job=job)) is expected


def test_without_slurm_only_the_heartbeat_can_tell(monkeypatch):
    monkeypatch.setattr(slurm_queue, "_ask", lambda command: None)
    assert SlurmQueue().state("7@mini") is None
    assert liveness(elsewhere(slurm_job="7@mini")) is Liveness.UNKNOWN


def test_a_requeued_job_takes_its_own_runs_up_at_once(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "mini")
    assert this_process().slurm_job == "7@mini"
    assert liveness(elsewhere()) is Liveness.DEAD


def test_the_queue_is_asked_once_for_many(monkeypatch):
    slurm, now = FakeSlurm(monkeypatch, ["1 RUNNING", "2 PENDING"]), [0.0]
    queue = SlurmQueue(clock=lambda: now[0])
    assert [queue.state(f"{job}@mini") for job in (1, 2, 3)] == ["RUNNING", "PENDING", ""]
    assert slurm.asked == 1
    now[0] = 11
    queue.state("1@mini")
    assert slurm.asked == 2


def test_who_is_dead_by_an_old_look_is_looked_up_again(monkeypatch):
    """A job that begins after a look, or begins again, may hold a lease; one that ran then may be believed."""
    slurm, now = FakeSlurm(monkeypatch, ["1 RUNNING", "2 PENDING"]), [0.0]
    queue = SlurmQueue(clock=lambda: now[0])
    assert queue.state("1@mini") == "RUNNING"
    slurm.lines = ["2 RUNNING", "3 RUNNING"]
    now[0] = 5
    assert queue.state("1@mini") == "RUNNING"
    assert slurm.asked == 1
    assert [queue.state(f"{job}@mini") for job in (2, 3, 1)] == ["RUNNING", "RUNNING", ""]
    assert slurm.asked == 2


def test_a_slow_answer_is_not_out_of_date_at_once(monkeypatch):
    slurm, now = FakeSlurm(monkeypatch, []), [0.0]

    def slowly(command):
        now[0] += 30
        return slurm._answer(command)

    monkeypatch.setattr(slurm_queue, "_ask", slowly)
    queue = SlurmQueue(clock=lambda: now[0])
    assert [queue.state(f"{job}@mini") for job in (1, 2, 3)] == ["", "", ""]
    assert slurm.asked == 1


def test_a_controller_that_answers_late_is_heard(monkeypatch):
    slurm, now = FakeSlurm(monkeypatch, ["1 RUNNING"]), [0.0]
    config, slurm.config = slurm.config, None
    queue = SlurmQueue(clock=lambda: now[0])
    assert queue.state("1@mini") is None
    slurm.config, now[0] = config, 11
    assert queue.state("1@mini") == "RUNNING"


def test_waiting_for_an_owner_under_slurm_asks_the_queue_once(tmp_path, monkeypatch):
    slurm = FakeSlurm(monkeypatch, ["7 RUNNING"])
    write_lease(tmp_path / "run", elsewhere(slurm_job="7@mini"))
    with acquire(tmp_path / "run", patience=0.5):
        assert slurm.asked == 1
