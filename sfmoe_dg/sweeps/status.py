"""The state of every planned run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfmoe_dg.foundation.files import names_in
from sfmoe_dg.foundation.slurm import SlurmQueue
from sfmoe_dg.runs.folder import RunFolder, State
from sfmoe_dg.runs.spec import RunSpec

MAX_FAILURES = 3
"""After this many failures a run is not started again until ``sfmoe-dg retry``."""


@dataclass(frozen=True)
class RunStatus:
    """One planned run, its folder and state, the last line of its last error, and how often it failed."""

    spec: RunSpec
    folder: RunFolder
    state: State
    error: str = ""
    failures: int = 0

    @property
    def is_to_do(self) -> bool:
        """Whether a sweep should start it: it is not done, owned or queued, and has not failed too often."""
        if self.state is State.FAILED:
            return self.failures < MAX_FAILURES
        return self.state in (State.WAITING, State.LOST)

    @property
    def is_open(self) -> bool:
        """Whether the run goes on, or a sweep starts it, without an action of the user."""
        return self.is_to_do or self.state in (State.RUNNING, State.QUEUED)


def status(
    runs: Sequence[RunSpec], output_dir: Path, queued: Collection[str] = (), queue: SlurmQueue | None = None
) -> list[RunStatus]:
    """The state of every planned run. ``queued``: the ids of the runs that are in a cluster's queue."""
    queue = queue or SlurmQueue()
    begun = names_in(output_dir)
    return [_status_of(run, RunFolder(output_dir / run.run_id), begun, queued, queue) for run in runs]


def _status_of(
    run: RunSpec, folder: RunFolder, begun: Collection[str], queued: Collection[str], queue: SlurmQueue
) -> RunStatus:
    # Looking into missing folders would take long: most runs of a large sweep have no folder yet.
    names = folder.names() if folder.name in begun else ()
    state, failure = folder.state(folder.name in queued, queue, names)
    return RunStatus(run, folder, state, failure.error, failure.times)
