"""What Slurm's queue says about jobs, asked once for all of them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence

ASK_AGAIN_SECONDS = 10.0
ALIVE_STATES = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")


def this_job() -> str:
    """'<job>@<cluster>' of the Slurm job that this process runs in, or ''."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}@{os.environ.get('SLURM_CLUSTER_NAME', '')}" if job else ""


class SlurmQueue:
    """Job states by number. Every question within :data:`ASK_AGAIN_SECONDS` is answered from one look at the queue."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: float | None = None
        self._states: dict[str, str] | None = None
        self._cluster: str | None = None

    def state(self, job: str) -> str | None:
        """The state of '<job>@<cluster>': '' once it has left the queue, None where this cannot be known.

        It cannot be known without ``squeue``, while the controller does not answer, and of another cluster's job.
        """
        number, _, cluster = job.partition("@")
        if self._asked is None or self._clock() - self._asked > ASK_AGAIN_SECONDS:
            self._look()
        if self._states is None or (cluster and cluster != self._cluster):
            return None
        return self._states.get(number, "")

    def _look(self) -> None:
        self._asked = self._clock()
        if self._cluster is None:
            self._cluster = cluster_setting("ClusterName")
        lines = _ask(["squeue", "--noheader", "--format", "%A %T"]) if self._cluster else None
        self._states = None if lines is None else dict(line.split() for line in lines if len(line.split()) == 2)


def cluster_setting(name: str) -> str:
    """One value of ``scontrol show config``, or '' if it cannot be had."""
    for line in _ask(["scontrol", "show", "config"]) or []:
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip()
    return ""


def _ask(command: Sequence[str]) -> list[str] | None:
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.splitlines() if asked.returncode == 0 else None
