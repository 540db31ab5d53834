"""Locks: one holder at a time, released however a process ends, skipped if the platform has none."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.locks import file_lock


def hold(path: Path, seconds: float, held) -> None:
    with file_lock(path):
        held.set()
        time.sleep(seconds)


@pytest.fixture(params=["folder", "new/file"])
def place(request, tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / request.param


def started(path: Path, seconds: float):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(path, seconds, held))
    process.start()
    assert held.wait(30)
    return process


def test_another_process_is_refused_or_waited_for(place: Path) -> None:
    began = time.monotonic()
    process = started(place, 0.4)
    with pytest.raises(UserError, match="somebody is at it"), file_lock(place, busy="somebody is at it"):
        pytest.fail("two hold the lock")
    with file_lock(place):
        assert time.monotonic() - began >= 0.4
    process.join()
    with file_lock(place, busy="somebody is at it"):
        pass


def test_a_killed_process_holds_nothing(place: Path) -> None:
    process = started(place, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with file_lock(place, busy="somebody is at it"):
        pass


def test_without_locks_both_go_on(place: Path, monkeypatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with file_lock(place, busy="somebody is at it"), file_lock(place):
        pass
