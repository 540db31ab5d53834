"""Estimate the time that the runs of a sweep will take, from the speed of runs in the same folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.durations import duration
from sfmoe_dg.results.record_lines import read_lines
from sfmoe_dg.runs.folder import RunFolder, State
from sfmoe_dg.runs.progress import read_progress
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.status import RunStatus

SAMPLES = 20
"""How many runs per data set and algorithm are read: enough for a median, and quick in sweeps of thousands."""

Kind = tuple[str, str]
"""Data set and algorithm."""


@dataclass(frozen=True)
class Cost:
    """The time that the runs to do will take.

    Args:
        runs: the number of runs to do.
        hours: the sum of their times; None if no run of the folder was timed.
        measured: a phrase that says what the estimate is based on.
    """

    runs: int
    hours: float | None
    measured: str

    def is_above(self, hours: float) -> bool:
        """Whether the estimate is above ``hours``; False without an estimate."""
        return self.hours is not None and self.hours > hours

    def __str__(self) -> str:
        if self.hours is None:
            return f"how long they take is not known: {self.measured}"
        return f"one after another they take about {duration(3600 * self.hours)} ({self.measured})"


@dataclass(frozen=True)
class _Speed:
    """The seconds per step of one run. Those from ``results.jsonl`` do not include evaluations."""

    seconds: float
    with_evaluations: bool


def estimate(states: Sequence[RunStatus]) -> Cost:
    """Estimate the time of the runs that a sweep would start: steps left × median seconds per step of timed runs.

    The median is over timed runs of the same data set and algorithm; without any, over all timed runs of the folder.
    Differences in hyper-parameters and machines are ignored.
    """
    to_do = [s for s in states if s.is_to_do]
    speeds = _speeds(states)
    if not to_do or not speeds:
        return Cost(len(to_do), None if to_do else 0.0, "no run in this folder has been timed yet")
    own = {kind: median(speed.seconds for speed in of_kind) for kind, of_kind in speeds.items()}
    timed = [speed for of_kind in speeds.values() for speed in of_kind]
    other = median(speed.seconds for speed in timed)
    seconds = sum(_steps_left(s) * own.get(_kind(s.spec), other) for s in to_do)
    guessed = sum(_kind(s.spec) not in own for s in to_do)
    return Cost(len(to_do), seconds / 3600, _how(timed, guessed))


def _how(timed: Sequence[_Speed], guessed: int) -> str:
    text = f"runs timed: {len(timed)}"
    bare = sum(not speed.with_evaluations for speed in timed)
    if bare:
        text += f", {bare} of them without their evaluations"
    if guessed:
        text += f"; for {guessed} of those to do, only other data sets or algorithms"
    return text


def _kind(run: RunSpec) -> Kind:
    return run.dataset, run.algorithm


def _speeds(states: Sequence[RunStatus]) -> dict[Kind, list[_Speed]]:
    by_kind: dict[Kind, list[RunStatus]] = defaultdict(list)
    for s in states:
        if s.state is not State.WAITING:
            by_kind[_kind(s.spec)].append(s)
    speeds = {kind: list(islice(_each(members), SAMPLES)) for kind, members in by_kind.items()}
    return {kind: of_kind for kind, of_kind in speeds.items() if of_kind}


def _each(states: Sequence[RunStatus]) -> Iterator[_Speed]:
    """The speeds of timed runs. Finished runs come first, because their means cover the most steps."""
    for s in sorted(states, key=lambda s: s.state is not State.DONE):
        progress = read_progress(s.folder)
        if progress is not None:
            yield _Speed(progress.seconds_per_step, True)
        elif (seconds := _step_time(s.folder)) is not None:
            yield _Speed(seconds, False)


def _step_time(folder: RunFolder) -> float | None:
    """The median ``step_time`` of a results file; None without one. DomainBed's runs have no other measure of speed."""
    try:
        lines = list(read_lines(folder.results.read_bytes()))
    except OSError:
        return None
    recorded = [record.get("step_time") for _, record in lines if isinstance(record, dict)]
    times = [seconds for seconds in recorded if isinstance(seconds, (int, float))]
    return median(times) if times else None


def _steps_left(state: RunStatus) -> int:
    progress = read_progress(state.folder) if state.state is not State.WAITING else None
    return progress.steps_left if progress is not None else (state.spec.steps or CATALOG.load(state.spec.dataset).steps)
