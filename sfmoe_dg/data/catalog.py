"""The catalog of data sets: facts that are known without opening them. This file does not import torch.

One data set is its facts in ``facts/``, its line below, its reader in ``sets/``, and its builder and card in
``datasets/``. Names, column titles, step counts and evaluation intervals are DomainBed's (``domainbed/datasets.py``),
in its order; our own data sets follow.

Another package adds one through an entry point in the group ``sfmoe_dg.datasets``, whose name is the data set's and
whose object is its :class:`DatasetFacts`.
"""

from __future__ import annotations

from sfmoe_dg.data.facts.cub_dg import CUB_DG
from sfmoe_dg.data.facts.dataset_facts import DOMAIN_ATTRIBUTES as DOMAIN_ATTRIBUTES
from sfmoe_dg.data.facts.dataset_facts import DatasetFacts as DatasetFacts
from sfmoe_dg.data.facts.debug import DEBUG_28, DEBUG_224
from sfmoe_dg.data.facts.image_folders import (
    DOMAIN_NET,
    IMAGE_FOLDER,
    OFFICE_HOME,
    PACS,
    SVIRO,
    TERRA_INCOGNITA,
    VLCS,
)
from sfmoe_dg.data.facts.mnist import COLORED_MNIST, ROTATED_MNIST
from sfmoe_dg.data.facts.spawrious import SPAWRIOUS
from sfmoe_dg.data.facts.styled_digits import STYLED_DIGITS
from sfmoe_dg.data.facts.wilds import CAMELYON, FMOW
from sfmoe_dg.foundation.registry import Registry


def _complaint(name: str, found: object) -> str:
    if not isinstance(found, DatasetFacts):
        return f"a {type(found).__name__}, not a DatasetFacts"
    return "" if found.name == name else f"the DatasetFacts of {found.name!r}, which must have the same name"


CATALOG: Registry[DatasetFacts] = Registry("data set", "sfmoe_dg.datasets", _complaint)
"""Data sets by name. ``CATALOG.register(name, facts)`` adds one.

Examples:
    >>> from dataclasses import replace
    >>> from sfmoe_dg import CATALOG
    >>> facts = replace(CATALOG.load("PACS"), name="PACSAgain", steps=100)
    >>> CATALOG.register("PACSAgain", facts)
    >>> "PACSAgain" in CATALOG
    True
    >>> del CATALOG["PACSAgain"]
"""
for _facts in (
    DEBUG_28,
    DEBUG_224,
    COLORED_MNIST,
    ROTATED_MNIST,
    VLCS,
    PACS,
    OFFICE_HOME,
    TERRA_INCOGNITA,
    DOMAIN_NET,
    SVIRO,
    CAMELYON,
    FMOW,
    *SPAWRIOUS,
    CUB_DG,
    STYLED_DIGITS,
    IMAGE_FOLDER,
):
    CATALOG.register(_facts.name, _facts)
