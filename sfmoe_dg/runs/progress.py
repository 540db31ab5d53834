"""The last step of a run and its speed: ``progress.json`` in the run's folder, which stays when the run is done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from sfmoe_dg.foundation.files import write_atomic
from sfmoe_dg.runs.folder import RunFolder


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Args:
        step: the last step that was trained, counted from 0.
        steps: the number of steps of the whole run.
        seconds_per_step: the mean over this start's steps, with the time of its evaluations.

    Examples:
        >>> from sfmoe_dg.runs.progress import Progress
        >>> Progress(step=99, steps=300, seconds_per_step=0.5).seconds_left
        100.0
    """

    step: int
    steps: int
    seconds_per_step: float

    @property
    def steps_left(self) -> int:
        return max(0, self.steps - self.step - 1)

    @property
    def seconds_left(self) -> float:
        return self.steps_left * self.seconds_per_step


def write_progress(folder: RunFolder, progress: Progress) -> None:
    write_atomic(folder.progress, json.dumps(asdict(progress)) + "\n")


def read_progress(folder: RunFolder) -> Progress | None:
    """The progress of a run, or None if the file is missing or unreadable."""
    try:
        values = json.loads(folder.progress.read_bytes())
        return Progress(int(values["step"]), int(values["steps"]), float(values["seconds_per_step"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
