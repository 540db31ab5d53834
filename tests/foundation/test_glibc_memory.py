"""Freed memory is kept for later allocations. A separate process is needed, since the setting cannot be undone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource
import torch
from sfmoe_dg.foundation.glibc_memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pages(blocks):
    before = faults()
    for _ in range(blocks):
        torch.ones(8 * 2**20)
    return faults() - before

default = pages(10)
assert keep_freed_memory()
pages(30)  # until the heap has room for one
print(default, pages(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_blocks_are_used_again() -> None:
    """Ten blocks of 32 MiB one after the other: 8,192 new pages of 4 KiB each by default, and none afterwards."""
    result = subprocess.run([sys.executable, "-c", PAGES], stdout=subprocess.PIPE, text=True, check=True)
    default, kept = map(int, result.stdout.split())
    assert kept < 1_000
    assert default > 10 * kept
