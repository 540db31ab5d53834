"""A run's folder: the names of its files, its states, its failures. No other module knows these names.

Two kinds of files are named elsewhere: ``runs.lease`` names the leases, and every logger names its own files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import names_in, read_json, write_atomic
from sfmoe_dg.foundation.slurm import SlurmQueue
from sfmoe_dg.runs.lease import current_lease, current_owner, is_owned
from sfmoe_dg.runs.owner import Owner

RESULTS = "results.jsonl"
ABOUT = "run.json"
OUTPUT = "out.txt"
ERRORS = "err.txt"
PROGRESS = "progress.json"
MODEL = "model.pkl"
TENSORS = "model.safetensors"
INTERRUPTED = "results.interrupted.jsonl"
CHECKPOINT = "checkpoint.pt"
FAILED = "failed.json"
DONE = "done"


class State(Enum):
    DONE = "done"
    RUNNING = "running"
    """The process that holds its lease is alive, or may be alive."""
    QUEUED = "queued"
    """A job in a cluster's queue will run it."""
    WAITING = "waiting"
    """It has not begun."""
    LOST = "lost"
    """It has begun and no process trains it now. The next start resumes it from its last checkpoint."""
    FAILED = "failed"


class Failure(NamedTuple):
    """The last error of a run, and how often it has failed: '' and 0 if it never failed or was forgiven."""

    error: str = ""
    times: int = 0


@dataclass(frozen=True, order=True)
class RunFolder:
    """The folder of one run. It need not exist yet. Functions that take a path accept it too.

    Examples:
        >>> from pathlib import Path
        >>> from sfmoe_dg.runs.folder import RunFolder
        >>> run = RunFolder(Path("results/quickstart/0a9a67c1"))
        >>> run.results.name, run.is_done, run.state()[0].value
        ('results.jsonl', False, 'waiting')
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path: in a sweep, the run's id."""
        return self.path.name

    # ------------------------------------------------------------------------------------------------------- files

    @property
    def results(self) -> Path:
        """The records, one JSON object per line."""
        return self.path / RESULTS

    @property
    def interrupted(self) -> Path:
        """Records of an earlier start that ended before its first checkpoint. The next start moves them here."""
        return self.path / INTERRUPTED

    @property
    def about(self) -> Path:
        """The names of domains and classes, the software's versions, the sizes of splits and model."""
        return self.path / ABOUT

    @property
    def output(self) -> Path:
        """What the run printed on standard output."""
        return self.path / OUTPUT

    @property
    def errors(self) -> Path:
        """The standard error of a run that a launcher started."""
        return self.path / ERRORS

    @property
    def progress(self) -> Path:
        """The last step and the seconds per step (``runs.progress``)."""
        return self.path / PROGRESS

    @property
    def checkpoint(self) -> Path:
        """Everything that the run needs to resume."""
        return self.path / CHECKPOINT

    @property
    def model(self) -> Path:
        """The trained model in DomainBed's format."""
        return self.path / MODEL

    @property
    def tensors(self) -> Path:
        """The trained model as safetensors."""
        return self.path / TENSORS

    def model_of_step(self, step: int) -> Path:
        """The model saved at the evaluation of this step, in DomainBed's format."""
        return self.path / f"model_step{step}.pkl"

    def names(self) -> set[str]:
        """The names of all files in the folder; an empty set if the folder does not exist."""
        return names_in(self.path)

    def write_about(self, about: dict[str, Any]) -> None:
        write_atomic(self.about, json.dumps(about, indent=1, sort_keys=True) + "\n")

    def remove_leftovers(self) -> None:
        """Delete half-written files of a killed process. The caller must hold the folder's lease."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------ states

    @property
    def is_done(self) -> bool:
        return (self.path / DONE).exists()

    @property
    def has_model(self) -> bool:
        """Whether the folder holds a trained model, in either format."""
        return self.tensors.is_file() or self.model.is_file()

    @property
    def lacks(self) -> str:
        """What is missing to a finished run with a model, as the predicate of a sentence; '' if nothing is."""
        if not self.is_done:
            return "is not finished"
        return "" if self.has_model else f"has no model, neither {TENSORS} nor {MODEL}"

    @property
    def begun_files(self) -> list[str]:
        """The names of the existing files that a new run must not overwrite: records and checkpoint."""
        return [path.name for path in (self.results, self.checkpoint) if path.exists()]

    @property
    def lease(self) -> Path | None:
        """The valid lease file, whether its owner is alive or not; None without one."""
        return current_lease(self.path)

    @property
    def owner(self) -> Owner | None:
        """The process that wrote that lease."""
        return current_owner(self.path)

    def state(
        self, is_queued: bool = False, queue: SlurmQueue | None = None, names: Collection[str] | None = None
    ) -> tuple[State, Failure]:
        """The run's state, and its last failure. A run that is done has no failure.

        Args:
            is_queued: whether a cluster's queue holds a job that will run it.
            queue: answers whether the job of an owner under Slurm is alive.
            names: the result of :meth:`names`, if the caller has it, which saves listing the folder.
        """
        names = self.names() if names is None else names
        if DONE in names:
            return State.DONE, Failure()
        failure = self.failure() if FAILED in names else Failure()
        if is_owned(current_lease(self.path, names), queue):
            return State.RUNNING, failure
        if is_queued:
            return State.QUEUED, failure
        if failure.times:
            return State.FAILED, failure
        return State.LOST if names else State.WAITING, failure

    def finish(self) -> None:
        """Mark the run as done, then delete its checkpoint and its note of failures."""
        # The mark comes first: a kill after the deletion alone would lose the whole training.
        write_atomic(self.path / DONE, DONE)
        self.checkpoint.unlink(missing_ok=True)
        self.forgive()

    # ---------------------------------------------------------------------------------------------------- failures

    def fail(self, error: str, exit_code: int) -> int:
        """Record that the run failed; returns how often it has failed."""
        times = self.failure().times + 1
        content = {"error": error, "exit_code": exit_code, "failures": times}
        write_atomic(self.path / FAILED, json.dumps(content) + "\n")
        return times

    def failure(self) -> Failure:
        """The last failure.

        Raises:
            UserError: if the note of the failure cannot be read.
        """
        path = self.path / FAILED
        try:
            content = read_json(path)
        except UserError:
            if path.exists():
                raise
            return Failure()
        return Failure(str(content.get("error", "")), int(content.get("failures", 1)))

    def forgive(self) -> None:
        """Delete the note of failures, so that the next sweep starts the run again."""
        (self.path / FAILED).unlink(missing_ok=True)


def run_folders(root: str | os.PathLike[str]) -> list[RunFolder]:
    """The sub-folders of ``root`` that hold records, sorted by name."""
    return [RunFolder(path.parent) for path in sorted(Path(root).glob(f"*/{RESULTS}"))]


def finished(root: str | os.PathLike[str]) -> list[RunFolder]:
    """The sub-folders of ``root`` whose runs are done and have kept a model, sorted by name."""
    return [folder for folder in run_folders(root) if not folder.lacks]
