"""Run a function in several gloo processes and return their results."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from sfmoe_dg.foundation.processes import World, join, leave


def on_processes(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Run ``function(world, *args)`` in ``size`` connected processes; returns their results by rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_work, (size, folder, function, args), nprocs=size, start_method="spawn")
        return [torch.load(Path(folder) / f"result{rank}", weights_only=False) for rank in range(size)]


def _work(rank: int, size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    world = World(rank, size)
    join(world, torch.device("cpu"), f"file://{folder}/meeting", timeout_minutes=2)
    try:
        torch.save(function(world, *args), Path(folder) / f"result{rank}")
    finally:
        leave()
