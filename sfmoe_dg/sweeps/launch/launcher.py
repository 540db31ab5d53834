"""Launchers run the runs of a study: one file per launcher, one line here.

Another package adds one through an entry point in the group ``sfmoe_dg.launchers``, whose name is the launcher's and
whose object is a class like :class:`Launcher`.

Two attributes of that class may say more: ``settings``, a dataclass derived from :class:`LaunchSettings` that declares
the launcher's own keys of a study's ``[launch]`` table; ``prints_commands = True``, if standard output is for the
command lines that it hands out and nothing else.
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
    """One run as a command line, and the folder that its output belongs to."""

    title: str
    command: tuple[str, ...]
    folder: RunFolder


@dataclass(frozen=True)
class Study:
    """What is to be run: every run of a sweep, what became of each, and its command line."""

    name: str
    output_dir: Path
    runs: Sequence[RunSpec]
    command: Callable[[RunSpec, RunFolder], tuple[str, ...]]
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

    def is_owned(self, folder: RunFolder) -> bool:
        """Whether a folder's owner lives, or may live as far as this process has been able to watch."""
        lease = folder.lease
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
    def launch(self, study: Study, settings: Any, listener: Listener) -> bool:
        """Start what is to do; a run that fails does not stop the others.

        ``settings`` is an object of the class's own ``settings``, or of :class:`LaunchSettings` if it has none.

        Returns whether the study's runs have ended, done or not; False if they go on elsewhere.
        """

    def queued(self, output_dir: Path) -> dict[str, str]:
        """The ids of the runs that a queue will start or has started, each with the name of its job there."""

    def cancel(self, output_dir: Path, runs: Collection[str] | None = None) -> list[str]:
        """Take the jobs that hold one of these runs out of the queue, running ones too; returns their names there.

        ``runs`` are ids; None means all of this folder.
        """


def settings_class(launcher: Any) -> type[LaunchSettings]:
    """The class of the settings that a launcher, or its class, is told."""
    found: type[LaunchSettings] = getattr(launcher, "settings", LaunchSettings)
    return found


def prints_commands(launcher: Launcher) -> bool:
    """Whether standard output is for command lines alone."""
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
    """The launchers that can be loaded: another package's that cannot must not keep the others from their work."""
    for name in LAUNCHERS:
        with suppress(BrokenPlugin):
            yield LAUNCHERS.load(name)


def declared_settings() -> dict[str, list[Value]]:
    """The keys that a study's ``[launch]`` table may have, each with its declarations: a study names no launcher."""
    found: dict[str, list[Value]] = {}
    for launcher in _working():
        for name, declared in values_of(settings_class(launcher)).items():
            found.setdefault(name, []).append(declared)
    return found


def check_launch(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys and values of a ``[launch]`` table, each right for some launcher that declares it.

    Raises:
        UserError: naming the key, its value and what is allowed, or the nearest known keys.
    """
    known = declared_settings() if values else {}
    for name in values:
        if name not in known:
            raise unknown("key", name, known, f" in {where}")
    return {name: read(_fitting(known[name], found), found, where) for name, found in values.items()}


def all_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and values of a ``[launch]`` table, and the defaults of all that it does not say."""
    return {name: declared[0].default for name, declared in declared_settings().items()} | dict(values)


def _fitting(declared: Sequence[Value], found: Any) -> Value:
    """The first declaration that a value is right for; the first of all if there is none."""
    return next((one for one in declared if not one.complaint(found)), declared[0])


def make_settings(launcher: Any, values: Mapping[str, Any]) -> LaunchSettings:
    """What a launcher is told: of the keys and values of a ``[launch]`` table, those that it declares.

    Raises:
        UserError: for a value that is right only for another launcher.
    """
    cls = settings_class(launcher)
    own = {name: found for name, found in values.items() if name in values_of(cls)}
    return from_mapping(cls, own, "[launch]")


def queued_runs(output_dir: Path) -> dict[str, str]:
    """The ids of the runs of this folder that some queue holds, each with the name of its job there.

    Another package's launcher that cannot be loaded is not asked: a run that it has queued may be started twice, which
    its lease prevents, while nothing could be started at all if it were an error here.

    Raises:
        UserError: if jobs were submitted and their queue does not answer.
    """
    queued: dict[str, str] = {}
    for launcher in _working():
        queued |= launcher().queued(output_dir)
    return queued
