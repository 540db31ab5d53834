"""Retry, stop and delete runs."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from sfmoe_dg.runs.folder import RunFolder, State
from sfmoe_dg.runs.lease import Lease, Owned, acquire
from sfmoe_dg.runs.owner import Liveness, Owner, liveness
from sfmoe_dg.sweeps.status import RunStatus

SAVE_SECONDS = 90.0
"""How long a run may take to save, or a sweep to let its runs save, before it is killed."""
KILL_SECONDS = 10.0
POLL_SECONDS = 0.1


def forget_failures(states: Sequence[RunStatus]) -> int:
    """Delete the notes of failures, so that the next sweep starts these runs again; returns their number."""
    failed = [s for s in states if s.state is State.FAILED]
    for s in failed:
        s.folder.forgive()
    return len(failed)


# --------------------------------------------------------------------------------------------------------- stopping


class Stop(Enum):
    STOPPED = "stopped"
    KILLED = "killed"
    """It did not save in time. The next start resumes the run from its last checkpoint."""
    ELSEWHERE = "elsewhere"
    """It runs on another machine or belongs to another user, so this process cannot end it."""


def stop_runs(states: Sequence[RunStatus], patience: float = SAVE_SECONDS) -> list[tuple[RunStatus, Owner, Stop]]:
    """Stop the runs on this machine: send all owners SIGTERM, wait until they have saved, and end them.

    An owner that has saved releases its lease and waits to be killed. It ignores a second SIGTERM, so SIGINT ends it.
    Runs on other machines are left alone; they are reported as ELSEWHERE.
    """
    owned = [(s, owner) for s in states if s.state is State.RUNNING and (owner := s.folder.owner) is not None]
    signaled = [(s, owner) for s, owner in owned if _send(owner, signal.SIGTERM)]
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and not all(_has_let_go(s.folder, owner) for s, owner in signaled):
        time.sleep(POLL_SECONDS)
    how = {}
    for s, owner in signaled:
        has_saved = _has_let_go(s.folder, owner)
        how[owner.token] = Stop.STOPPED if has_saved else Stop.KILLED
        _end(owner, has_saved)
    return [(s, owner, how.get(owner.token) or _out_of_reach(owner)) for s, owner in owned]


def stop_process(owner: Owner, patience: float = SAVE_SECONDS) -> Stop:
    """End a sweep on this machine. The sweep lets the runs that it started save first."""
    if not _send(owner, signal.SIGTERM):
        return _out_of_reach(owner)
    if _ends_within(owner, patience):
        return Stop.STOPPED
    _send(owner, signal.SIGKILL)
    return Stop.KILLED


def _out_of_reach(owner: Owner) -> Stop:
    """The outcome for an owner that could not be signaled: it is out of reach, or has ended by itself meanwhile."""
    return Stop.STOPPED if liveness(owner) is Liveness.DEAD else Stop.ELSEWHERE


def _has_let_go(folder: RunFolder, owner: Owner) -> bool:
    holder = folder.owner
    return holder is None or holder.token != owner.token or liveness(owner) is Liveness.DEAD


def _end(owner: Owner, has_saved: bool) -> None:
    if has_saved:
        # Not SIGKILL, which a local sweep would record as a failure of the run.
        _send(owner, signal.SIGINT)
        if _ends_within(owner, KILL_SECONDS):
            return
    _send(owner, signal.SIGKILL)
    _ends_within(owner, KILL_SECONDS)


def _send(owner: Owner, number: int) -> bool:
    """Send a signal; returns False if the process is dead, on another machine, or another user's."""
    if liveness(owner) is not Liveness.ALIVE:
        return False
    try:
        os.kill(owner.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _ends_within(owner: Owner, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while liveness(owner) is Liveness.ALIVE:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


# --------------------------------------------------------------------------------------------------------- deleting


def incomplete(states: Sequence[RunStatus]) -> list[RunStatus]:
    """The runs that have a folder and are not done, owned or queued."""
    return [s for s in states if s.state in (State.WAITING, State.LOST, State.FAILED) and _is_own_folder(s)]


def _is_own_folder(state: RunStatus) -> bool:
    """Whether the folder has the run's id as its name and is no link, which could point anywhere."""
    path = state.folder.path
    return path.name == state.spec.run_id and path.is_dir() and not path.is_symlink()


def delete_run(state: RunStatus) -> bool:
    """Delete the folder of an incomplete run. Returns False and deletes nothing if the run is done or owned by now."""
    if not _is_own_folder(state):
        return False
    path = state.folder.path
    try:
        lease = acquire(path)
    except Owned:
        return False
    with lease:
        if state.folder.is_done:
            return False
        _empty(path, lease)
    try:
        path.rmdir()
    except OSError:
        # Another process may just have begun the run here. If the folder is merely left empty, that is harmless.
        return path.is_dir() and not any(path.iterdir())
    return True


def _empty(folder: Path, lease: Lease) -> None:
    for entry in list(folder.iterdir()):
        if entry == lease.path:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
