"""Several reporters as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sfmoe_dg.training.reporters.loggers import Logger
from sfmoe_dg.training.reporters.reporter import Reporter

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Values
    from sfmoe_dg.runs.owner import Owner
    from sfmoe_dg.training.prepare import Setup


class Together(Reporter):
    """Tells several reporters in their order; as a context manager it closes the loggers among them at the end."""

    def __init__(self, first: Reporter, loggers: Sequence[Logger]) -> None:
        self._all, self._loggers = [first, *loggers], loggers

    def __enter__(self) -> Together:
        return self

    def __exit__(self, *exception: object) -> None:
        for logger in self._loggers:
            logger.close()

    def waiting(self, owner: Owner | None, seconds: float) -> None:
        for reporter in self._all:
            reporter.waiting(owner, seconds)

    def started(self, setup: Setup, step: int, notice: str) -> None:
        for reporter in self._all:
            reporter.started(setup, step, notice)

    def stepped(self, step: int, values: Values) -> None:
        for reporter in self._all:
            reporter.stepped(step, values)

    def evaluating(self, step: int) -> None:
        for reporter in self._all:
            reporter.evaluating(step)

    def evaluated(self, record: dict[str, Any]) -> None:
        for reporter in self._all:
            reporter.evaluated(record)
