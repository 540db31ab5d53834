"""How a run is asked to stop: SIGTERM, SIGUSR2 and Ctrl-C, answered after saving."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from sfmoe_dg.training.loop import Stopped, StopRequest

GRACE_SECONDS = 60.0
"""How long a run that has saved waits to be killed, outside of Slurm."""


class StopSignals(StopRequest):
    """Notes the first signal, for training to save and stop; a second Ctrl-C ends the process at once.

    Until training has begun (:meth:`defer`) there is nothing to save, and the first signal raises Stopped.
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
        """From now on the first signal only sets ``requested``."""
        self._deferred = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            # Slurm signals every process of a job, and so does the task above this one: that is one request, not two.
            if number == signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.number, self.requested = number, True
        if not self._deferred:
            raise Stopped(None)

    def wait_to_be_killed(self) -> int:
        """After SIGTERM or SIGUSR2: wait, and return the exit code if nobody kills.

        Slurm counts a job that exits on SIGTERM as failed, and does not requeue it; one that waits is preempted. There
        the wait has no end. Elsewhere it ends after :data:`GRACE_SECONDS`, so that ``timeout`` or a shutdown does not
        hang.
        """
        if self.number != signal.SIGINT:
            sys.stdout.flush()
            deadline = time.monotonic() + GRACE_SECONDS
            while "SLURM_JOB_ID" in os.environ or time.monotonic() < deadline:
                time.sleep(0.2)
        return 128 + self.number
