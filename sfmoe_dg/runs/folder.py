"""A run's folder: the names of its files, its states, its failures."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json, write_atomic

CHECKPOINT = "checkpoint.pt"
"""What a run saves to go on (``resume``), in its folder."""
FAILED = "failed.json"


class State(Enum):
    DONE = "done"
    RUNNING = "running"
    """Its lease is held by a process that lives, or may live."""
    QUEUED = "queued"
    """A cluster's queue holds a job that will run it."""
    WAITING = "waiting"
    """Not begun."""
    LOST = "lost"
    """Begun, and nobody trains it now: it goes on from its last checkpoint."""
    FAILED = "failed"


def record_failure(folder: Path, error: str, exit_code: int) -> int:
    """Note that a run ended badly; returns how often it has."""
    failures = read_failure(folder)[1] + 1
    content = {"error": error, "exit_code": exit_code, "failures": failures}
    write_atomic(folder / FAILED, json.dumps(content) + "\n")
    return failures


def read_failure(folder: Path) -> tuple[str, int]:
    """The last error of a run that failed, and how often it did; '' and 0 for one that has not, or is forgiven."""
    try:
        content = read_json(folder / FAILED)
    except UserError:
        if (folder / FAILED).exists():
            raise
        return "", 0
    return str(content.get("error", "")), int(content.get("failures", 1))
