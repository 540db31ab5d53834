"""What became of every planned run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfmoe_dg.foundation.files import names_in
from sfmoe_dg.foundation.slurm import SlurmQueue
from sfmoe_dg.runs.folder import RunFolder, State
from sfmoe_dg.runs.spec import RunSpec

MAX_FAILURES = 3
"""A run that has failed so often stays failed until ``sfmoe-dg retry``."""


@dataclass(frozen=True)
class RunStatus:
    """One planned run, its folder and state, and, where it failed, how often and with which last line of its error."""

    spec: RunSpec
    folder: RunFolder
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
    begun = names_in(output_dir)
    return [_status_of(run, RunFolder(output_dir / run.run_id), begun, queued, queue) for run in runs]


def _status_of(
    run: RunSpec, folder: RunFolder, begun: Collection[str], queued: Collection[str], queue: SlurmQueue
) -> RunStatus:
    # Only folders that are there are looked into: most runs of a large sweep have none yet.
    names = folder.names() if folder.name in begun else ()
    state, failure = folder.state(folder.name in queued, queue, names)
    return RunStatus(run, folder, state, failure.error, failure.times)
