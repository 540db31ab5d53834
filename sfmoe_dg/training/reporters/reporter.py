"""What training tells: the protocol of a reporter, and one that shows nothing."""

from __future__ import annotations

from typing import Any, Protocol

from sfmoe_dg.algorithms.base import Values
from sfmoe_dg.runs.owner import Owner
from sfmoe_dg.training.prepare import Setup


class Reporter(Protocol):
    """Told what happens, so that training itself prints nothing."""

    def waiting(self, owner: Owner | None, seconds: float) -> None: ...

    def started(self, setup: Setup, step: int, notice: str) -> None: ...

    def stepped(self, step: int, values: Values) -> None: ...

    def evaluating(self, step: int) -> None: ...

    def evaluated(self, record: dict[str, Any]) -> None: ...


class Quiet:
    """The reporter that shows nothing."""

    def waiting(self, owner: Owner | None, seconds: float) -> None: ...

    def started(self, setup: Setup, step: int, notice: str) -> None: ...

    def stepped(self, step: int, values: Values) -> None: ...

    def evaluating(self, step: int) -> None: ...

    def evaluated(self, record: dict[str, Any]) -> None: ...
