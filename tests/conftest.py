"""Shared fixtures: where the real sample data is, and small data made on the spot."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: no look-ups on the network, and one thread per test process, since pytest-xdist runs two.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has SIGINT ignored, in them and in all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test may depend on how fast the machine is, and hypothesis would time every example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sample data; the test is skipped where it is absent."""
    root = Path(os.environ.get("SFMOE_DG_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (root / "PACS").is_dir():
        pytest.skip(f"real sample data not found in {root}; set SFMOE_DG_TEST_DATA to run this test")
    return root
