"""Run jobs as processes on one machine, a fixed number at a time. The local launcher and Slurm tasks use this."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.lease import is_owned
from sfmoe_dg.sweeps.launch.launcher import Job
from sfmoe_dg.sweeps.status import MAX_FAILURES

POLL_SECONDS = 0.1
SAVE_SECONDS = 60.0
"""How long runs may take to save after a stop signal."""
EXIT_OWNED = 75
"""The exit code of ``sfmoe-dg train`` if another process trains the run."""
# A run that ends with one of these signals was asked to stop, so it has not failed. It returns 128 + the signal if it
# had installed its handlers, and the signal kills it (a negative code) if not.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
STOPPED = frozenset([-number for number in _STOP_SIGNALS] + [128 + number for number in _STOP_SIGNALS])

OnEnd = Callable[[Job, "str | None", float], None]
"""Called when a run ends: with its job, its error (None if it is done) and the seconds that it took."""


@dataclass(frozen=True)
class Running:
    """The process of a run.

    ``place`` holds its environment variables, ``error_bytes`` the size of its error file at its start, and
    ``checkpoint`` the signature of its checkpoint at its start.
    """

    job: Job
    process: subprocess.Popen[bytes]
    place: Mapping[str, str]
    started: float
    error_bytes: int
    checkpoint: tuple[int, int] | None

    @property
    def is_settled(self) -> bool:
        """Whether a run that received a stop signal has saved: it has released its lease or ended."""
        return self.process.poll() is not None or self.job.folder.lease is None

    @property
    def has_saved(self) -> bool:
        """Whether the run has finished or written a checkpoint since its start."""
        return self.job.folder.is_done or _signature(self.job.folder.checkpoint) != self.checkpoint


class Pool:
    """Runs one job per place at a time, each with the environment variables of its place."""

    def __init__(
        self,
        places: Sequence[Mapping[str, str]],
        on_end: OnEnd,
        is_owned: Callable[[RunFolder], bool] = lambda folder: is_owned(folder.lease),
    ) -> None:
        self._free = deque(places)
        self._on_end, self._is_owned = on_end, is_owned
        self._told: set[int] = set()
        self.running: list[Running] = []
        self.stop_signal: int | None = None
        """Set by a signal handler. Then no further run is started, and :meth:`tell` sends this signal to the others."""

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """Run every job that is not done, not owned by another process and has not failed too often.

        Returns the jobs that other processes own. If ``stop_signal`` is set, this returns early and its runs go on. On
        an exception such as Ctrl-C's, the runs save and are then killed, so that no process is left behind.
        """
        waiting, of_others = deque(jobs), list[Job]()
        try:
            while self.stop_signal is None and (waiting or self.running):
                while waiting and self._free and self.stop_signal is None:
                    self._take(waiting.popleft(), of_others)
                time.sleep(POLL_SECONDS)
                self._reap(of_others)
        except BaseException:
            try:
                self.save(signal.SIGTERM)
            finally:
                self.kill()
            raise
        return of_others

    def _take(self, job: Job, of_others: list[Job]) -> None:
        if job.folder.is_done or job.folder.failure().times >= MAX_FAILURES:
            return
        if self._is_owned(job.folder):
            of_others.append(job)
            return
        self._start(job)

    def _start(self, job: Job) -> None:
        job.folder.path.mkdir(parents=True, exist_ok=True)
        place = self._free.popleft()
        with job.folder.errors.open("ab") as errors:
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=os.environ | place,
                # In a session of its own, so that the terminal's Ctrl-C reaches only this process; it stops the runs.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            size = errors.tell()
        saved = _signature(job.folder.checkpoint)
        self.running.append(Running(job, process, place, time.monotonic(), size, saved))

    def _reap(self, of_others: list[Job]) -> None:
        for entry in [r for r in self.running if r.process.poll() is not None]:
            self.running.remove(entry)
            self._free.append(entry.place)
            seconds = time.monotonic() - entry.started
            if entry.job.folder.is_done:
                self._on_end(entry.job, None, seconds)
            elif self.stop_signal is not None or entry.process.returncode in STOPPED:
                # Stopped on request: neither done nor failed, and the next start resumes it.
                continue
            elif entry.process.returncode == EXIT_OWNED or self._is_owned(entry.job.folder):
                of_others.append(entry.job)
            else:
                self._on_end(entry.job, _record_failure(entry), seconds)

    def tell(self) -> None:
        """Send the stop signal to every run that has not received it yet."""
        assert self.stop_signal is not None
        for entry in self.running:
            if entry.process.pid not in self._told and entry.process.poll() is None:
                self._told.add(entry.process.pid)
                # Only to the run's main process, which ends its loader workers itself.
                entry.process.send_signal(self.stop_signal)

    def save(self, number: int, seconds: float = SAVE_SECONDS) -> None:
        """Send every run the signal to save and wait until all have saved, for at most ``seconds``."""
        self.stop_signal = number
        self.tell()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all(entry.is_settled for entry in self.running):
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """Kill every run and its child processes."""
        for entry in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(entry.process.pid, signal.SIGKILL)
            entry.process.wait()
        self.running.clear()


def make_places(count: int, threads: int, gpus: int | None) -> list[dict[str, str]]:
    """Environment variables for ``count`` runs side by side, which take turns in using ``gpus`` GPUs.

    Raises:
        UserError: if CUDA_VISIBLE_DEVICES names fewer than ``gpus`` GPUs.
    """
    places = [{"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} for _ in range(count)]
    if gpus is not None:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = [str(i) for i in range(gpus)] if given is None else [name for name in given.split(",") if name]
        if len(visible) < gpus:
            raise UserError(f"gpus is {gpus} and CUDA_VISIBLE_DEVICES={given} names {len(visible)}")
        for i, place in enumerate(places):
            place["CUDA_VISIBLE_DEVICES"] = visible[i % gpus]
    return places


def _signature(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _record_failure(entry: Running) -> str:
    code = entry.process.returncode
    ending = f"ended with exit code {code}"
    if code < 0:
        ending = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            ending += " (out of memory?)"
    error = last_line(entry.job.folder.errors, entry.error_bytes) if code > 0 else ""
    error = error or ending
    entry.job.folder.fail(error, code)
    return error


def last_line(path: Path, offset: int = 0) -> str:
    """The last line of a text file, after its first ``offset`` bytes, that is not blank; '' without one."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """On Linux, ask the kernel to kill this run if its launcher dies: nothing would record the run's end."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
