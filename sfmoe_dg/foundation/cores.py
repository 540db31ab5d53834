"""How many processor cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The number of cores that this process may use: in a container or a Slurm job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_threads() -> int:
    """How many threads decode or hash files at once: one per usable core, at most 8."""
    return min(8, usable_cores())
