"""Spawrious: six data sets that are chosen from the same pictures."""

from __future__ import annotations

from sfmoe_dg.data.facts.dataset_facts import PHOTO, DatasetFacts, FolderContent

_DOMAINS = ("Test", "SC_group_1", "SC_group_2")
_COUNTS = (25344, 12672, 12672)  # 8, 4 and 4 × 3168
_NAMES = tuple(f"{kind}_{level}" for kind in ("O2O", "M2M") for level in ("easy", "medium", "hard"))

_PUBLISHED = {f"{name} {domain}": n for name in _NAMES for domain, n in zip(_DOMAINS, _COUNTS, strict=True)}
DOGS = FolderContent("Spawrious", tuple(_PUBLISHED), _PUBLISHED, num_classes=4)

SPAWRIOUS = tuple(
    DatasetFacts(
        name=f"Spawrious{name}",
        folder="spawrious224",
        domains=_DOMAINS,
        labels=_DOMAINS,
        num_classes=4,
        input_shape=(3, 224, 224),
        checkpoint_freq=100,
        reader="sfmoe_dg.data.sets.spawrious:read",
        counts=_COUNTS,
        domain_attributes=((*PHOTO, "synthetic"),) * 3,  # made by a text-to-image model
        crops=False,
        counter="sfmoe_dg.data.sets.spawrious:count",
        made_of=DOGS,
    )
    for name in _NAMES
)
