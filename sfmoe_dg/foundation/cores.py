"""The processor cores that this process has to itself."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The cores that this process may use, which in a container or a Slurm job are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_threads() -> int:
    """How many threads decode or hash files side by side: one per usable core, up to 8."""
    return min(8, usable_cores())
