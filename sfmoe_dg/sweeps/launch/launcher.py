"""Launchers run the runs of a study: one file per launcher, one line here.

Another package adds one through an entry point in the group ``sfmoe_dg.launchers``, whose name is the launcher's and
whose object is a class like :class:`Launcher`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from sfmoe_dg.foundation.registry import BrokenPlugin, Registry
from sfmoe_dg.foundation.slurm import SlurmQueue
from sfmoe_dg.runs.folder import State
from sfmoe_dg.runs.lease import Watch, current, is_owned
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.launch.settings import LaunchSettings
from sfmoe_dg.sweeps.status import RunStatus, status


@dataclass(frozen=True)
class Job:
    """One run as a command line, and the folder that its output belongs to."""

    title: str
    command: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class Study:
    """What is to be run: every run of a sweep, what became of each, and its command line."""

    name: str
    output_dir: Path
    runs: Sequence[RunSpec]
    command: Callable[[RunSpec, Path], tuple[str, ...]]
    watch: Watch = field(default_factory=Watch)
    queue: SlurmQueue = field(default_factory=SlurmQueue)

    def states(self) -> list[RunStatus]:
        """What became of every run, looked up now.

        A run whose owner lives where nobody can ask counts as running until its heartbeat has been seen to stop.
        """
        queued = queued_runs(self.output_dir)
        states = status(self.runs, self.output_dir, queued, self.queue)
        return [
            replace(state, state=State.LOST)
            if state.state is State.RUNNING and not self.is_owned(state.folder)
            else state
            for state in states
        ]

    def is_owned(self, folder: Path) -> bool:
        """Whether a folder's owner lives, or may live as far as this process has been able to watch."""
        lease = current(folder)
        return lease is not None and is_owned(lease, self.queue) and not self.watch.has_stopped(lease)

    def job(self, state: RunStatus) -> Job:
        return Job(str(state.spec), self.command(state.spec, state.folder), state.folder)


class Listener(Protocol):
    """Told what happens, so that launchers print nothing."""

    def say(self, sentence: str) -> None: ...

    def command(self, line: str) -> None:
        """A command line for the user to run, which is the launcher's whole work."""

    def ended(self, job: Job, error: str | None, seconds: float) -> None:
        """A run is done, or has failed with ``error``."""


class Launcher(Protocol):
    def launch(self, study: Study, settings: LaunchSettings, listener: Listener) -> bool:
        """Start what is to do; a run that fails does not stop the others.

        Returns whether the study's runs have ended, done or not; False if they go on elsewhere.
        """

    def queued(self, output_dir: Path) -> dict[str, str]:
        """The ids of the runs that a queue will start or has started, each with the name of its job there."""

    def cancel(self, output_dir: Path, runs: Collection[str] | None = None) -> list[str]:
        """Take the jobs that hold one of these runs out of the queue, running ones too; returns their names there.

        ``runs`` are ids; None means all of this folder.
        """


LAUNCHERS: Registry[Callable[[], Launcher]] = Registry("launcher", "sfmoe_dg.launchers")
"""Launchers by name. ``LAUNCHERS.register(name, cls)`` adds one.

Examples:
    >>> from sfmoe_dg import LAUNCHERS
    >>> sorted(LAUNCHERS.registered)
    ['commands', 'local', 'slurm']
"""
LAUNCHERS.register("local", "sfmoe_dg.sweeps.launch.local:Local")
LAUNCHERS.register("slurm", "sfmoe_dg.sweeps.launch.slurm.launcher:Slurm")
LAUNCHERS.register("commands", "sfmoe_dg.sweeps.launch.commands:Commands")


def queued_runs(output_dir: Path) -> dict[str, str]:
    """The ids of the runs of this folder that some queue holds, each with the name of its job there.

    Another package's launcher that cannot be loaded is not asked: a run that it has queued may be started twice, which
    its lease prevents, while nothing could be started at all if it were an error here.

    Raises:
        UserError: if jobs were submitted and their queue does not answer.
    """
    queued: dict[str, str] = {}
    for name in LAUNCHERS:
        with suppress(BrokenPlugin):
            queued |= LAUNCHERS.load(name)().queued(output_dir)
    return queued
