"""Processes that torchrun started: the rank of this one, and one error message for all if one of them fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sfmoe_dg.foundation.devices import pick_device
from sfmoe_dg.foundation.processes import World, join, leave
from sfmoe_dg.training.loop import Stopped
from sfmoe_dg.training.prepare import Setup
from sfmoe_dg.training.reporters.reporter import Reporter


def by_torchrun() -> bool:
    """Whether torchrun, or a program that sets the same variables, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def launched() -> World:
    """The rank and the number of processes from torchrun's variables; without them, a single process."""
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if by_torchrun() else World()


class Follower(Reporter):
    """Shows nothing, because the leading process reports for all."""

    def __init__(self, on_start: Callable[[], None]) -> None:
        self._on_start = on_start

    def started(self, setup: Setup, step: int, notice: str) -> None:
        self._on_start()


@contextmanager
def together(world: World, device: str) -> Iterator[str]:
    """Connect the processes for the duration of a ``with`` block; yields the name of this process's device.

    If a process fails, the others lose their connection and fail too. Only the first one reports its error; the others
    exit without a message.

    Raises:
        UserError: if the processes cannot connect.
    """
    if not world.shared:
        yield device
        return
    picked = pick_device(device)
    name = f"cuda:{os.environ.get('LOCAL_RANK', world.rank)}" if picked.type == "cuda" else picked.type
    notes = join(world, pick_device(name))
    try:
        yield name
    except Stopped:
        raise
    except Exception:
        if notes.add("failures", 1) > 1:
            raise SystemExit(1) from None
        raise
    leave()
