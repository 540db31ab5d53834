"""The settings that all launchers share: the keys of a study's ``[launch]`` table. None of them changes a record.

A launcher with more keys derives a class from :class:`LaunchSettings` and names it in its attribute ``settings``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sfmoe_dg.foundation.checked import value
from sfmoe_dg.runs.execution import Reporting, Resources


@dataclass(frozen=True)
class LaunchSettings(Reporting, Resources):
    """The settings of a launcher. A launcher ignores those that it cannot use."""

    jobs: int = value(1, low=1, help="runs at a time; with gpus, use parallel_per_gpu instead")
    threads: int | None = value(
        None, low=1, help="CPU threads per run; default: the cores divided by the number of runs at a time"
    )
    gpus: int | None = value(None, low=1, help="number of GPUs (slurm: per task); every run gets one")
    parallel_per_gpu: int = value(1, low=1, help="runs at a time on one GPU, or in one task without GPUs")
    confirm_above_hours: float = value(
        24,
        metavar="HOURS",
        help="ask before starting runs that will take more hours in total, estimated from timed runs (default: 24)",
        shape=(lambda hours: 0 <= hours < math.inf, "a number of hours of at least 0"),
    )

    @property
    def side_by_side(self) -> int:
        """The number of runs at a time in one task."""
        return (self.gpus or 1) * self.parallel_per_gpu
