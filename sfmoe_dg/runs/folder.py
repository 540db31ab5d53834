"""A run's folder: the names of its files, its states, its failures. No other module knows these names.

Two kinds of files are named elsewhere: leases by ``runs.lease``, and what a logger writes by the logger.
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
    """Its lease is held by a process that lives, or may live."""
    QUEUED = "queued"
    """A cluster's queue holds a job that will run it."""
    WAITING = "waiting"
    """Not begun."""
    LOST = "lost"
    """Begun, and nobody trains it now: it goes on from its last checkpoint."""
    FAILED = "failed"


class Failure(NamedTuple):
    """The last error of a run, and how often it has failed; '' and 0 for one that has not, or is forgiven."""

    error: str = ""
    times: int = 0


@dataclass(frozen=True, order=True)
class RunFolder:
    """The folder of one run, which need not exist yet. It can be given wherever a path can."""

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The folder's own name: in a sweep, the run's id."""
        return self.path.name

    # ------------------------------------------------------------------------------------------------------- files

    @property
    def results(self) -> Path:
        """The records, one a line."""
        return self.path / RESULTS

    @property
    def interrupted(self) -> Path:
        """The records of a start that left no checkpoint, kept aside."""
        return self.path / INTERRUPTED

    @property
    def about(self) -> Path:
        """Names of domains and classes, versions, sizes."""
        return self.path / ABOUT

    @property
    def output(self) -> Path:
        """What the run has printed."""
        return self.path / OUTPUT

    @property
    def errors(self) -> Path:
        """The standard error of a run that a launcher started."""
        return self.path / ERRORS

    @property
    def progress(self) -> Path:
        """How far the run is and how fast it goes."""
        return self.path / PROGRESS

    @property
    def checkpoint(self) -> Path:
        """What the run saves to go on."""
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
        """The model as it was at an evaluation, in DomainBed's format."""
        return self.path / f"model_step{step}.pkl"

    def names(self) -> set[str]:
        """The names of all that lies in the folder; none if there is no such folder."""
        return names_in(self.path)

    def write_about(self, about: dict[str, Any]) -> None:
        write_atomic(self.about, json.dumps(about, indent=1, sort_keys=True) + "\n")

    def remove_leftovers(self) -> None:
        """Delete half-written files that a killed process left; the caller must hold the folder."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------ states

    @property
    def is_done(self) -> bool:
        return (self.path / DONE).exists()

    @property
    def has_model(self) -> bool:
        """Whether a trained model was kept, in either format."""
        return self.tensors.is_file() or self.model.is_file()

    @property
    def lacks(self) -> str:
        """Why this is not a finished run with its model, as the end of a sentence; '' if it is one."""
        if not self.is_done:
            return "is not finished"
        return "" if self.has_model else f"has no model, neither {TENSORS} nor {MODEL}"

    @property
    def begun_files(self) -> list[str]:
        """The names of the files that no new run may overwrite: records and a checkpoint, where they are there."""
        return [path.name for path in (self.results, self.checkpoint) if path.exists()]

    @property
    def lease(self) -> Path | None:
        """The lease that holds, whether its owner lives or not."""
        return current_lease(self.path)

    @property
    def owner(self) -> Owner | None:
        """Who wrote that lease."""
        return current_owner(self.path)

    def state(
        self, is_queued: bool = False, queue: SlurmQueue | None = None, names: Collection[str] | None = None
    ) -> tuple[State, Failure]:
        """What became of the run, and how it has failed unless it is done.

        Args:
            is_queued: whether a cluster's queue holds a job that will run it.
            queue: asked whether an owner under Slurm lives.
            names: of :meth:`names`, if they are known.
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
        """Mark the run as done; what it needed to go on, and its failures, are forgotten."""
        write_atomic(self.path / DONE, DONE)
        self.checkpoint.unlink(missing_ok=True)
        self.forgive()

    # ---------------------------------------------------------------------------------------------------- failures

    def fail(self, error: str, exit_code: int) -> int:
        """Note that the run ended badly; returns how often it has."""
        times = self.failure().times + 1
        content = {"error": error, "exit_code": exit_code, "failures": times}
        write_atomic(self.path / FAILED, json.dumps(content) + "\n")
        return times

    def failure(self) -> Failure:
        """
        Raises:
            UserError: if there is a note of a failure that cannot be read.
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
        """Forget the run's failures: the next sweep starts it again."""
        (self.path / FAILED).unlink(missing_ok=True)


def run_folders(root: str | os.PathLike[str]) -> list[RunFolder]:
    """The runs in a folder of runs that have records, in the order of their names."""
    return [RunFolder(path.parent) for path in sorted(Path(root).glob(f"*/{RESULTS}"))]


def finished(root: str | os.PathLike[str]) -> list[RunFolder]:
    """The finished runs in a folder of runs that have kept their model, in the order of their names."""
    return [folder for folder in run_folders(root) if not folder.lacks]
