"""Run jobs on this machine, a fixed number of processes at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfmoe_dg.launch import Job, OnFinished
from sfmoe_dg.sweep_spec import LaunchSettings

POLL_SECONDS = 0.1
GRACE_SECONDS = 10


def launch(jobs: Sequence[Job], settings: LaunchSettings, on_finished: OnFinished) -> None:
    """Run every job, ``settings.jobs`` at a time, each with its share of the CPU threads.

    Interrupted (Ctrl-C), it ends the running jobs before it raises KeyboardInterrupt again: no process is left
    behind.
    """
    waiting, running = list(jobs), list[_Running]()
    environment = _environment(settings)
    try:
        while waiting or running:
            while waiting and len(running) < settings.jobs:
                running.append(_start(waiting.pop(0), environment))
            time.sleep(POLL_SECONDS)
            for entry in [r for r in running if r.process.poll() is not None]:
                running.remove(entry)
                on_finished(entry.job, entry.process.returncode, time.monotonic() - entry.started)
    finally:
        _end([entry.process for entry in running])


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float


def _start(job: Job, environment: dict[str, str]) -> _Running:
    # A session of its own: Ctrl-C in the terminal reaches only the sweep, which then ends its runs in order.
    with _error_file(job.folder).open("ab") as errors:
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )
    return _Running(job, process, time.monotonic())


def _error_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "err.txt"


def _environment(settings: LaunchSettings) -> dict[str, str]:
    threads = settings.threads or max(1, available_cores() // settings.jobs)
    return os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def available_cores() -> int:
    """The cores that this process may use, which in a container or a Slurm job are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every process group to end, then make it."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
