"""Is everything here that runs need? Questions to the machine, each with a time limit, none of which changes anything.

``machine.py`` asks after software and devices, ``disks.py`` after room and what the file systems can do,
``datasets.py`` after data, ``services.py`` after the hub, Slurm, and other packages. Whatever happens, an answer is a
:class:`Finding`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


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


def probes(data_dir: str | None, output_dir: str, environment: Mapping[str, str]) -> list[Probe]:
    """All questions, in the order in which they are answered."""
    from sfmoe_dg.doctor import datasets, disks, machine, services

    return [
        *machine.probes(),
        *disks.probes(Path(output_dir)),
        *(datasets.probes(Path(data_dir)) if data_dir else ()),
        *services.probes(environment),
    ]


def examine(questions: Sequence[Probe]) -> Iterator[Finding]:
    """The answers, in the order of the questions, which are asked side by side.

    A question that hangs (a file system that does not answer, mostly) is left behind in a thread of its own.
    """
    asked = [_Asked(question) for question in questions]
    started = time.monotonic()
    for one in asked:
        yield from one.answers(started)


class _Asked:
    """A question under way."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._found.extend(self._probe.ask())
        except Exception as error:  # what a probe has not foreseen is a finding too: this must never be what fails
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            self._found.append(warning(self._probe.topic, f"this check itself failed ({what}); please report it"))

    def answers(self, started: float) -> list[Finding]:
        probe = self._probe
        self._thread.join(max(0.0, started + probe.seconds - time.monotonic()))
        if not self._thread.is_alive():
            return self._found
        late = probe.late or warning(probe.topic, f"no answer within {probe.seconds:g} s; look at what it waits for")
        return [*self._found, late]
