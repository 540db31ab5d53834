"""Launchers run jobs: one file per launcher, one line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sfmoe_dg.registry import Registry
from sfmoe_dg.sweep_spec import LaunchSettings


@dataclass(frozen=True)
class Job:
    """One run as a command line, and the folder that its output belongs to."""

    title: str
    command: tuple[str, ...]
    folder: Path


OnFinished = Callable[[Job, int, float], None]
"""Called with a job, its exit code and the seconds it took."""


class Launcher(Protocol):
    def __call__(self, jobs: Sequence[Job], settings: LaunchSettings, on_finished: OnFinished) -> None:
        """Run every job; a job that fails does not stop the others."""


LAUNCHERS: Registry[Launcher] = Registry("launcher")
LAUNCHERS.register("local", "sfmoe_dg.launch.local:launch")
