"""Stop a run on SIGTERM, SIGUSR2 or Ctrl-C, after it has saved."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from sfmoe_dg.training.loop import Stopped, StopRequest

GRACE_SECONDS = 60.0
"""How long a run waits to be killed after it has saved, if it does not run under Slurm."""


class StopSignals(StopRequest):
    """Stores the first signal, so that training saves and stops. A second Ctrl-C ends the process at once.

    Before training has begun (:meth:`defer`) there is nothing to save, so the first signal raises Stopped.
    """

    def __init__(self) -> None:
        self.number = 0
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR2", None)):
            if number is not None:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """Training has begun: from now on the first signal only sets ``requested``."""
        self._deferred = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            # Slurm signals every process of a job, and the task that started this run signals it too. These two signals
            # are one request, so only a second Ctrl-C ends the process.
            if number == signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.number, self.requested = number, True
        if not self._deferred:
            raise Stopped(None)

    def wait_to_be_killed(self) -> int:
        """After SIGTERM or SIGUSR2, wait to be killed; returns the exit code if the wait ends.

        Slurm counts a job that exits on SIGTERM as failed and does not requeue it, so there the wait does not end.
        Elsewhere it ends after :data:`GRACE_SECONDS`, so that ``timeout`` or a shutdown does not hang.
        """
        if self.number != signal.SIGINT:
            sys.stdout.flush()
            deadline = time.monotonic() + GRACE_SECONDS
            while "SLURM_JOB_ID" in os.environ or time.monotonic() < deadline:
                time.sleep(0.2)
        return 128 + self.number
