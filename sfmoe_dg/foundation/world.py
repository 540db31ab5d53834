"""Which of how many processes this one is. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """Which of how many processes this one is; ``World()`` is a process on its own."""

    rank: int = 0
    size: int = 1

    @property
    def shared(self) -> bool:
        """Whether there are other processes."""
        return self.size > 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0
