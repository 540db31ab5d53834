"""How far a run is and how fast it goes: ``progress.json`` in its folder, which stays when the run is done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sfmoe_dg.foundation.files import write_atomic

PROGRESS = "progress.json"


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


def write_progress(folder: Path, progress: Progress) -> None:
    write_atomic(folder / PROGRESS, json.dumps(asdict(progress)) + "\n")


def read_progress(folder: Path) -> Progress | None:
    """What a run's folder says, or None if it says nothing that can be read."""
    try:
        values = json.loads((folder / PROGRESS).read_bytes())
        return Progress(int(values["step"]), int(values["steps"]), float(values["seconds_per_step"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
