"""What became of every planned run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfmoe_dg.foundation.slurm import SlurmQueue
from sfmoe_dg.runs.folder import FAILED, State, read_failure
from sfmoe_dg.runs.lease import current, entries, is_owned
from sfmoe_dg.runs.spec import RunSpec

MAX_FAILURES = 3
"""A run that has failed so often stays failed until ``sfmoe-dg retry``."""


@dataclass(frozen=True)
class RunStatus:
    """One planned run, its folder and state, and, where it failed, how often and with which last line of its error."""

    spec: RunSpec
    folder: Path
    state: State
    error: str = ""
    failures: int = 0

    @property
    def is_to_do(self) -> bool:
        """Whether a sweep should start it: neither done, nor owned, nor queued, nor failed too often."""
        if self.state is State.FAILED:
            return self.failures < MAX_FAILURES
        return self.state in (State.WAITING, State.LOST)

    @property
    def is_open(self) -> bool:
        """Whether something can still become of it without the user."""
        return self.is_to_do or self.state in (State.RUNNING, State.QUEUED)


def status(
    runs: Sequence[RunSpec], output_dir: Path, queued: Collection[str] = (), queue: SlurmQueue | None = None
) -> list[RunStatus]:
    """What became of every planned run; ``queued`` are the ids of runs that a cluster's queue holds."""
    queue = queue or SlurmQueue()
    begun = entries(output_dir)
    return [_status_of(run, run.run_id, output_dir, begun, queued, queue) for run in runs]


def _status_of(
    run: RunSpec, run_id: str, output_dir: Path, begun: Collection[str], queued: Collection[str], queue: SlurmQueue
) -> RunStatus:
    folder = output_dir / run_id
    names = entries(folder) if run_id in begun else set[str]()
    if "done" in names:
        return RunStatus(run, folder, State.DONE)
    error, failures = read_failure(folder) if FAILED in names else ("", 0)
    if is_owned(current(folder, names), queue):
        state = State.RUNNING
    elif run_id in queued:
        state = State.QUEUED
    elif failures:
        state = State.FAILED
    else:
        state = State.LOST if names else State.WAITING
    return RunStatus(run, folder, state, error, failures)
