"""Shared fixtures: the folder of real sample data, and small data that is made for a test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sfmoe_dg.foundation.registry import REGISTRIES, open_registry

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


@pytest.fixture(autouse=True)
def forgotten_plugins() -> Iterator[None]:
    """Remove the entries and plug-in files that a test registered or loaded, because tests share a process."""
    # Those that take torch to import are left alone by tests that have not imported it.
    here = [what for what, place in REGISTRIES.items() if what != "backbones" or place.partition(":")[0] in sys.modules]
    registered = {what: set(open_registry(what).registered) for what in here}
    yield
    for what, names in registered.items():
        for name in set(open_registry(what).registered) - names:
            del open_registry(what)[name]
            for module in [module for module in sys.modules if module.startswith("sfmoe_dg_plugin_")]:
                del sys.modules[module]
