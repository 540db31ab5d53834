"""A check of the machine (:class:`Probe`) and its results (:class:`Finding`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    OK = "ok"
    WARNING = "warning"
    """Something is slow, or a feature that not all runs need does not work."""
    PROBLEM = "problem"
    """Runs will fail."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: the topic, and one sentence. If the level is not OK, the sentence says what to do."""

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
    """A check.

    Attributes:
        ask: yields the findings.
        seconds: how long it may take.
        late: the finding if it takes longer; None: a general warning.
    """

    topic: str
    ask: Callable[[], Iterator[Finding]]
    seconds: float = 20.0
    late: Finding | None = None
