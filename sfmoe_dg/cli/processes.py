"""Started by torchrun: which process this is, and how one process's failure becomes all processes' one message."""

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
    """Whether torchrun, or what sets the same variables, has started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def launched() -> World:
    """What torchrun says in the environment; a process on its own where it says nothing."""
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if by_torchrun() else World()


class Follower(Reporter):
    """Shows nothing: another process speaks for this one."""

    def __init__(self, on_start: Callable[[], None]) -> None:
        self._on_start = on_start

    def started(self, setup: Setup, step: int, notice: str) -> None:
        self._on_start()


@contextmanager
def together(world: World, device: str) -> Iterator[str]:
    """Meet the other processes for the length of a ``with`` block; yields the name of this process's device.

    Processes that lose their connection because another one failed exit without a word: the first to fail speaks.

    Raises:
        UserError: if they cannot meet.
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
