"""Is everything here that runs need? Questions to the machine, each with a time limit, none of which changes anything.

``machine.py`` asks after software and devices, ``disks.py`` after room and what the file systems can do,
``datasets.py`` after data, ``services.py`` after the hub, Slurm, and other packages. Whatever happens, an answer is a
:class:`Finding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    OK = "ok"
    WARNING = "warning"
    """Something will be slow, or will not work for those who need it."""
    PROBLEM = "problem"
    """Runs will fail."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, and in one sentence how it is; below ok also what to do."""

    level: Level
    topic: str
    text: str


def ok(topic: str, text: str) -> Finding:
    return Finding(Level.OK, topic, text)


def warning(topic: str, text: str) -> Finding:
    return Finding(Level.WARNING, topic, text)


def problem(topic: str, text: str) -> Finding:
    return Finding(Level.PROBLEM, topic, text)


@dataclass(frozen=True)
class Probe:
    """A question: what yields the findings, and how long that may take.

    ``late`` is the finding when it takes longer, or None for a warning in general words.
    """

    topic: str
    ask: Callable[[], Iterator[Finding]]
    seconds: float = 20.0
    late: Finding | None = None
