"""Every test of this folder starts and ends in a process that has not imported DomainBed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkouts import real_checkout, write_checkout

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.compat.domainbed.checkout import PACKAGE
from sfmoe_dg.compat.domainbed.plugin import PREFIX


@pytest.fixture
def checkout(tmp_path) -> Path:
    return write_checkout(tmp_path / "Domain Bed")


@pytest.fixture
def upstream() -> str:
    return real_checkout()


@pytest.fixture(autouse=True)
def _no_domainbed_before_or_after() -> Iterator[None]:
    """Forget the package, its modules and what was registered from it."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]
        for name in [name for name in ALGORITHMS if name.startswith(PREFIX)]:
            del ALGORITHMS[name]
        if "sfmoe_dg.compat.domainbed.upstream_algorithms" in sys.modules:
            sys.modules["sfmoe_dg.compat.domainbed.upstream_algorithms"].wrap.cache_clear()

    forget()
    yield
    forget()
