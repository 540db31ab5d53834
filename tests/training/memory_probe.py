"""Train through the command line and print the memory and objects of the process and its loaders between steps.

    python tests/training/memory_probe.py CASES

CASES is a JSON list of ``{"leak": …, "every": N, "flags": […]}``, trained one after the other in this process. It
prints a line of JSON for every case: its samples, taken before the steps 0, N, 2N, … Objects are counted that were made
since the first sample.
"""

from __future__ import annotations

import ctypes
import gc
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing.reductions import shared_cache

from sfmoe_dg.algorithms.base import Minibatches
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.cli.main import main
from sfmoe_dg.data.sets.image_folder import FolderDomain

KEPT: list[Any] = []
"""What leaks."""
SAMPLES: list[dict[str, float]] = []


def held() -> float:
    """MiB of anonymous memory of this process and its workers.

    Code and mapped caches are left out: they come and go as the kernel likes. A page that several processes share
    counts once (``Pss``), and one that a worker has written to is its own.
    """
    processes = [str(child.pid) for child in multiprocessing.active_children()]
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in ("self", *processes)]
    lines = (line.split() for rollup in rollups for line in rollup.splitlines())
    return sum(int(words[1]) for words in lines if words[0] in ("Pss_Anon:", "Pss_Shmem:")) / 1024


def sample(step: int) -> dict[str, float]:
    # torch keeps up to 128 dead references to what workers have sent, and clears them when there are more.
    shared_cache.free_dead_references()
    gc.collect()
    if not SAMPLES:
        gc.freeze()  # what was there before is looked at no more, which makes samples cheap
    ctypes.CDLL(None).malloc_trim(0)  # what is free, but not given back, is no leak
    things = gc.get_objects()
    return {
        "step": step,
        "mib": held(),
        "processes": 1 + len(multiprocessing.active_children()),
        "objects": len(things),
        # The type is asked, not the thing: some things answer isinstance by importing a module.
        "tensors": sum(issubclass(type(thing), torch.Tensor) for thing in things),
    }


class Probed(ALGORITHMS.load("SFMoE")):
    """SF-MoE that takes a sample before every ``every``-th step."""

    every = 1

    def schedule(self, step: int, steps: int) -> None:
        super().schedule(step, steps)
        if step % self.every == 0:
            SAMPLES.append(sample(step))


class KeepsGraphs(Probed):
    """Forgets to detach: every step's activations stay."""

    def update(self, minibatches: Minibatches, unlabeled: Sequence[torch.Tensor] | None = None) -> dict[str, Any]:
        KEPT.append(self.predict(minibatches[0][0]).sum())
        return super().update(minibatches, unlabeled)


class KeepsObjects(Probed):
    """Keeps one object per step, too small to show in the memory."""

    def update(self, minibatches: Minibatches, unlabeled: Sequence[torch.Tensor] | None = None) -> dict[str, Any]:
        KEPT.append([object()])
        return super().update(minibatches, unlabeled)


def keeping_images() -> AbstractContextManager[Any]:
    """Make workers that are forked in this block keep every image that they decode."""
    decode = FolderDomain.image

    def image(self: FolderDomain, index: int) -> Any:
        KEPT.append(decode(self, index))
        return KEPT[-1]

    return patch.object(FolderDomain, "image", image)


LEAKS: dict[str | None, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
    None: ("Probed", nullcontext),
    "graphs": ("KeepsGraphs", nullcontext),
    "objects": ("KeepsObjects", nullcontext),
    "workers": ("Probed", keeping_images),
}


def run(leak: str | None, every: int, flags: Sequence[str]) -> list[dict[str, float]]:
    """The samples of one training run."""
    KEPT.clear()
    SAMPLES.clear()
    Probed.every = every
    algorithm, leaking = LEAKS[leak]
    with leaking(), redirect_stdout(sys.stderr):
        code = main(["train", "--algorithm", algorithm, "--device", "cpu", *flags])
    if code:
        raise SystemExit(code)
    return list(SAMPLES)


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"
    for algorithm_class in (Probed, KeepsGraphs, KeepsObjects):
        ALGORITHMS.register(algorithm_class.__name__, algorithm_class)
    for case in json.loads(sys.argv[1]):
        sys.stdout.write(json.dumps(run(**case)) + "\n")
