"""How far a run is and how fast it goes: ``progress.json`` in its folder, which stays when the run is done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from sfmoe_dg.foundation.files import write_atomic
from sfmoe_dg.runs.folder import RunFolder


@dataclass(frozen=True)
class Progress:
    """``step`` is the last step trained, of ``steps``; ``seconds_per_step`` includes the evaluations."""

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
    """What a run's folder says, or None if it says nothing that can be read."""
    try:
        values = json.loads(folder.progress.read_bytes())
        return Progress(int(values["step"]), int(values["steps"]), float(values["seconds_per_step"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
