"""Launchers run the runs of a study: one file per launcher, one line here.

Another package adds a launcher through an entry point in the group ``sfmoe_dg.launchers``. The entry point has the
launcher's name and points to a class with the methods of :class:`Launcher`.

The class may have two more attributes. ``settings`` is a dataclass derived from :class:`LaunchSettings`. It declares
the launcher's own keys of a study's ``[launch]`` table. ``prints_commands = True`` means that the launcher prints
command lines; then nothing else is printed on standard output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sfmoe_dg.foundation.checked import Value, from_mapping, read, values_of
from sfmoe_dg.foundation.registry import BrokenPlugin, Registry, unknown
from sfmoe_dg.foundation.slurm import SlurmQueue
from sfmoe_dg.runs.folder import RunFolder, State
from sfmoe_dg.runs.lease import Watch, is_owned
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.launch.settings import LaunchSettings
from sfmoe_dg.sweeps.status import RunStatus, status


@dataclass(frozen=True)
class Job:
    """The command line of one run, its title for messages, and its folder."""

    title: str
    command: tuple[str, ...]
    folder: RunFolder


@dataclass(frozen=True)
class Study:
    """The runs of a sweep, their states and their command lines: everything that a launcher needs."""

    name: str
    output_dir: Path
    runs: Sequence[RunSpec]
    command: Callable[[RunSpec, RunFolder], tuple[str, ...]]
    watch: Watch = field(default_factory=Watch)
    queue: SlurmQueue = field(default_factory=SlurmQueue)

    def states(self) -> list[RunStatus]:
        """The current state of every run.

        If only the heartbeat can show whether a run's owner is alive, the run counts as running until ``watch`` has
        observed that the heartbeat stopped.
        """
        queued = queued_runs(self.output_dir)
        states = status(self.runs, self.output_dir, queued, self.queue)
        return [
            replace(state, state=State.LOST)
            if state.state is State.RUNNING and not self.is_owned(state.folder)
            else state
            for state in states
        ]

    def is_owned(self, folder: RunFolder) -> bool:
        """Whether a folder's owner is alive, or may be alive as far as this process has observed it."""
        lease = folder.lease
        return lease is not None and is_owned(lease, self.queue) and not self.watch.has_stopped(lease)

    def job(self, state: RunStatus) -> Job:
        return Job(str(state.spec), self.command(state.spec, state.folder), state.folder)


class Listener(Protocol):
    """Receives a launcher's messages, so that launchers print nothing themselves."""

    def say(self, sentence: str) -> None:
        """A sentence for the user."""

    def command(self, line: str) -> None:
        """The command line of a run, for the user to run. Only launchers with ``prints_commands`` call this."""

    def ended(self, job: Job, error: str | None, seconds: float) -> None:
        """A run took ``seconds`` and is done, or has failed with ``error``."""


class Launcher(Protocol):
    def launch(self, study: Study, settings: Any, listener: Listener) -> bool:
        """Start every run that is to do. A run that fails does not stop the others.

        ``settings`` is an instance of the class's attribute ``settings``, or of :class:`LaunchSettings` by default.

        Returns True if all runs have ended, successfully or not, and False if some go on after this call.
        """

    def queued(self, output_dir: Path) -> dict[str, str]:
        """The runs that this launcher's queue will start or has started: run id to the name of the job."""

    def cancel(self, output_dir: Path, runs: Collection[str] | None = None) -> list[str]:
        """Cancel the waiting and running jobs that contain one of these runs; returns the names of the jobs.

        ``runs`` are ids; None means all runs of the folder.
        """


def settings_class(launcher: Any) -> type[LaunchSettings]:
    """The class of a launcher's settings. ``launcher`` is an instance or a class."""
    cls: type[LaunchSettings] = getattr(launcher, "settings", LaunchSettings)
    return cls


def prints_commands(launcher: Launcher) -> bool:
    """Whether a launcher prints command lines, so that nothing else may be printed on standard output."""
    return bool(getattr(launcher, "prints_commands", False))


def _complaint(name: str, launcher: Any) -> str:
    settings = settings_class(launcher)
    if isinstance(settings, type) and issubclass(settings, LaunchSettings):
        return ""
    return f"one whose settings are not a class derived from {LaunchSettings.__module__}.LaunchSettings"


LAUNCHERS: Registry[Callable[[], Launcher]] = Registry("launcher", "sfmoe_dg.launchers", _complaint)
"""Launchers by name. ``LAUNCHERS.register(name, cls)`` adds one.

Examples:
    >>> from sfmoe_dg import LAUNCHERS
    >>> sorted(LAUNCHERS.registered)
    ['commands', 'local', 'slurm']
"""
LAUNCHERS.register("local", "sfmoe_dg.sweeps.launch.local:Local")
LAUNCHERS.register("slurm", "sfmoe_dg.sweeps.launch.slurm.launcher:Slurm")
LAUNCHERS.register("commands", "sfmoe_dg.sweeps.launch.commands:Commands")


def _working() -> Iterator[Callable[[], Launcher]]:
    """The launchers that can be loaded. A broken launcher of another package must not block the others."""
    for name in LAUNCHERS:
        with suppress(BrokenPlugin):
            yield LAUNCHERS.load(name)


def declared_settings() -> dict[str, list[Value]]:
    """The allowed keys of a study's ``[launch]`` table, each with the declarations of all launchers that have it.

    A study does not name its launcher, so the keys of every launcher are allowed.
    """
    declarations: dict[str, list[Value]] = {}
    for launcher in _working():
        for name, declared in values_of(settings_class(launcher)).items():
            declarations.setdefault(name, []).append(declared)
    return declarations


def check_launch(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check a ``[launch]`` table and return it. At least one launcher must declare each key and allow its value.

    Raises:
        UserError: if a key is unknown (the message gives the nearest known keys) or a value is not allowed (the message
            gives the key, the value and the allowed values).
    """
    known = declared_settings() if values else {}
    for name in values:
        if name not in known:
            raise unknown("key", name, known, f" in {where}")
    return {name: read(_fitting(known[name], given), given, where) for name, given in values.items()}


def all_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """A ``[launch]`` table with the defaults of all keys that it does not set."""
    return {name: declared[0].default for name, declared in declared_settings().items()} | dict(values)


def _fitting(declared: Sequence[Value], given: Any) -> Value:
    """The first declaration that allows a value; without one, the first, whose message then says what is wrong."""
    return next((one for one in declared if not one.complaint(given)), declared[0])


def make_settings(launcher: Any, values: Mapping[str, Any]) -> LaunchSettings:
    """The settings of one launcher: the keys and values of a ``[launch]`` table that it declares.

    Raises:
        UserError: if only other launchers allow a value.
    """
    cls = settings_class(launcher)
    own = {name: given for name, given in values.items() if name in values_of(cls)}
    return from_mapping(cls, own, "[launch]")


def queued_runs(output_dir: Path) -> dict[str, str]:
    """The runs of this folder that are in any launcher's queue: run id to the name of the job.

    Launchers of other packages that cannot be loaded are skipped. A run in such a queue may then be started a second
    time, but its lease lets only one process train it. An error here would block every start instead.

    Raises:
        UserError: if jobs were submitted and their queue does not answer.
    """
    queued: dict[str, str] = {}
    for launcher in _working():
        queued |= launcher().queued(output_dir)
    return queued
