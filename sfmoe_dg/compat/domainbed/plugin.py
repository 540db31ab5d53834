"""The plug-in ``domainbed=DIR``: every algorithm of a DomainBed checkout as ``domainbed:NAME``.

Names are read from the checkout's text, so that planning a sweep imports neither torch nor DomainBed; an algorithm is
imported when it is first used (see ``upstream_algorithms.py``).
"""

from __future__ import annotations

from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.compat.domainbed.checkout import algorithm_names, find_package, open_package

PLUGIN = "domainbed="
PREFIX = "domainbed:"
WRAPPERS = "sfmoe_dg.compat.domainbed.upstream_algorithms"


def register_algorithms(checkout: str) -> None:
    """Open a checkout and register its algorithms. A second call for the same checkout changes nothing.

    Raises:
        UserError: if there is no checkout of DomainBed, or another one is already open.
    """
    package = find_package(checkout)
    names = algorithm_names(package)
    open_package(package)
    for name in names:
        if PREFIX + name not in ALGORITHMS:
            ALGORITHMS.register(PREFIX + name, f"{WRAPPERS}:{name}")
