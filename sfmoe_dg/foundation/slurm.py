"""The states of Slurm jobs, from one query of the queue for all of them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence

ASK_AGAIN_SECONDS = 10.0
DEAD_SECONDS = 1.0
"""An answer by which a job has ended must not be older than this: the job may have started after it."""
ALIVE_STATES = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")


def this_job() -> str:
    """'<job>@<cluster>' of the Slurm job that this process runs in, or ''."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}@{os.environ.get('SLURM_CLUSTER_NAME', '')}" if job else ""


class SlurmQueue:
    """Job states by number. While the jobs in question run, Slurm is asked every :data:`ASK_AGAIN_SECONDS` at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: float | None = None
        self._states: dict[str, str] | None = None
        self._cluster: str | None = None

    def state(self, job: str) -> str | None:
        """The state of '<job>@<cluster>': '' if it has left the queue, None if the state is unknown.

        It is unknown if ``squeue`` is missing, if the controller does not answer, or if the job is another cluster's.
        """
        number, _, cluster = job.partition("@")
        if self._is_out_of_date(number):
            self._look()
        if self._states is None or (cluster and cluster != self._cluster):
            return None
        return self._states.get(number, "")

    def _is_out_of_date(self, number: str) -> bool:
        if self._asked is None:
            return True
        is_dead = self._states is not None and self._states.get(number) not in ALIVE_STATES
        return self._clock() - self._asked > (DEAD_SECONDS if is_dead else ASK_AGAIN_SECONDS)

    def _look(self) -> None:
        if not self._cluster:
            # Ask again if there was no answer: the controller may have been restarting.
            self._cluster = parse_config(_ask(["scontrol", "show", "config"]) or []).get("ClusterName")
        lines = _ask(["squeue", "--noheader", "--format", "%A %T"]) if self._cluster else None
        self._states = None if lines is None else dict(line.split() for line in lines if len(line.split()) == 2)
        # Read the clock after the answer: a slow answer would otherwise be out of date at once.
        self._asked = self._clock()


def parse_config(lines: Iterable[str]) -> dict[str, str]:
    """The names and values that ``scontrol show config`` prints."""
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _ask(command: Sequence[str]) -> list[str] | None:
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.splitlines() if asked.returncode == 0 else None
