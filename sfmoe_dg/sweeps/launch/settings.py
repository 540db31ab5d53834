"""What every launcher is told of how a study's runs are executed, which changes no record.

These are keys of a study's ``[launch]`` table. A launcher that has more derives its own class from
:class:`LaunchSettings`, beside its code, and names it in its attribute ``settings``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sfmoe_dg.foundation.checked import value
from sfmoe_dg.runs.execution import Reporting, Resources


@dataclass(frozen=True)
class LaunchSettings(Reporting, Resources):
    """What launchers are told. A launcher leaves alone what is not its business."""

    jobs: int = value(1, low=1, help="runs at a time; with gpus, parallel_per_gpu says so instead")
    threads: int | None = value(
        None, low=1, help="CPU threads of a run; default: the cores divided among the runs side by side"
    )
    gpus: int | None = value(None, low=1, help="GPUs to use (slurm: of one task); every run gets one")
    parallel_per_gpu: int = value(1, low=1, help="runs side by side on one GPU, or in one task without GPUs")
    confirm_above_hours: float = value(
        24,
        metavar="HOURS",
        help="ask before starting what costs more hours of runs, by the speed of those in the folder (default: 24)",
        shape=(lambda hours: 0 <= hours < math.inf, "a number of hours of at least 0"),
    )

    @property
    def side_by_side(self) -> int:
        """Runs at the same time in one task."""
        return (self.gpus or 1) * self.parallel_per_gpu
