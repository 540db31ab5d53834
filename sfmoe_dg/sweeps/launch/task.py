"""One task of a Slurm job: it trains its runs, and saves them when Slurm sends a stop signal.

Slurm sends two signals. SIGUSR2 comes before the time limit: submitit calls :meth:`Task.checkpoint`, the runs save, and
the job is requeued. SIGTERM comes before a preemption: the runs save, and the task waits to be killed, because Slurm
does not requeue a job that ends by itself. If the task is killed without a signal, its runs resume from their last
checkpoint.

A task writes its messages through submitit's log to ``launch/logs/<job>_<task>_0_log.out``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from sfmoe_dg.foundation.cores import usable_cores
from sfmoe_dg.foundation.files import read_json
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.sweeps.launch.launcher import Job
from sfmoe_dg.sweeps.launch.pool import POLL_SECONDS, Pool, make_places

LONGEST_GRACE = 900.0
"""Seconds for which a task waits to be killed after SIGTERM, before it requeues itself."""


class Task:
    """Task ``index`` of a submission (``launch.slurm.jobs``). submitit calls it on the compute node."""

    def __init__(self, submission: str, index: int) -> None:
        self._submission, self._index = submission, index
        self._pool: Pool | None = None
        self._content: dict[str, Any] = {}

    def __call__(self) -> None:
        self._content = read_json(self._submission)
        os.chdir(self._content["cwd"])
        runs = self._content["tasks"][self._index]
        jobs = [Job(run["title"], tuple(run["command"]), RunFolder(Path(run["folder"]))) for run in runs]
        side_by_side = min(self._content["places"], len(jobs))
        threads = self._content["threads"] or max(1, _cores() // side_by_side)
        self._pool = Pool(make_places(side_by_side, threads, self._content["gpus"]), _log)
        signal.signal(signal.SIGTERM, self._terminate)
        of_others = self._pool.run(jobs)
        for job in of_others:
            _write(f"left to another process: {job.title}")
        if self._pool.stop_signal is not None:
            self._wait_for_the_end(self._pool)

    def _terminate(self, number: int, frame: object) -> None:
        assert self._pool is not None
        self._pool.stop_signal = number

    def _wait_for_the_end(self, pool: Pool) -> None:
        """Let the runs save, then wait for the SIGKILL with which Slurm ends a preempted job."""
        assert pool.stop_signal is not None
        _write("received SIGTERM: the runs save, then this task waits to be killed")
        pool.save(pool.stop_signal)
        _write("saved")
        deadline = time.monotonic() + LONGEST_GRACE
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        _write("this task was not killed: it requeues itself")
        pool.kill()
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True, timeout=60)
        time.sleep(LONGEST_GRACE)

    def checkpoint(self) -> Any:
        """Save the runs before the time limit. submitit requeues the job, which then calls the returned task."""
        from submitit.helpers import DelayedSubmission

        if self._pool is not None:
            self._pool.save(signal.SIGUSR2, self._content["save_seconds"])
            _write("received SIGUSR2: the runs have saved; this task is requeued")
            self._note_standstill(self._pool)
        return DelayedSubmission(Task(self._submission, self._index))

    def _note_standstill(self, pool: Pool) -> None:
        """Record a failure for runs that saved nothing in over half of the time: they would be requeued forever."""
        limit = self._content["time_limit"]
        for entry in pool.running:
            if time.monotonic() - entry.started > limit / 2 and not entry.has_saved:
                minutes = limit // 60
                error = f"a time limit of {minutes} minutes ended before a single step was saved; give it more time"
                entry.job.folder.fail(error, -signal.SIGUSR2)


def _cores() -> int:
    """The number of cores that Slurm gave this task or, without Slurm, that this process may use."""
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return int(given) if given else usable_cores()


def _log(job: Job, error: str | None, seconds: float) -> None:
    _write(f"{'done  ' if error is None else 'FAILED'} {job.title}  {seconds:.0f} s{f': {error}' if error else ''}")


def _write(line: str) -> None:
    from submitit.core.logger import get_logger

    get_logger().info(line)
