"""What training tells about a run, so that it prints nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Values
    from sfmoe_dg.runs.owner import Owner
    from sfmoe_dg.training.prepare import Setup


class Reporter:
    """Is told what happens in a run. This one shows nothing; subclasses override what they show."""

    def waiting(self, owner: Owner | None, seconds: float) -> None:
        """Another process may hold the run's folder; it is watched for this long."""

    def started(self, setup: Setup, step: int, notice: str) -> None:
        """Training begins with this step; ``notice`` is a sentence for the user, or empty."""

    def stepped(self, step: int, values: Values) -> None:
        """An update is done; its values may still be on the device."""

    def evaluating(self, step: int) -> None:
        """An evaluation begins."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """An evaluation is done, and its record is in the run's folder."""
