"""Camelyon17 and FMoW in WILDS' layout."""

from __future__ import annotations

from sfmoe_dg.data.facts.dataset_facts import PHOTO, DatasetFacts


def _wilds(
    name: str,
    folder: str,
    domains: tuple[str, ...],
    num_classes: int,
    reader: str,
    look: tuple[str, ...],
    counter: str,
    counts: tuple[int, ...] = (),
) -> DatasetFacts:
    return DatasetFacts(
        name=name,
        folder=folder,
        domains=domains,
        labels=domains,
        num_classes=num_classes,
        input_shape=(3, 224, 224),
        checkpoint_freq=100,
        reader=f"sfmoe_dg.data.sets.wilds:{reader}",
        counts=counts,
        counter=f"sfmoe_dg.data.builders.layouts:{counter}",
        domain_attributes=(look,) * len(domains),
    )


_HOSPITALS = tuple(f"hospital_{i}" for i in range(5))
_REGIONS = tuple(f"region_{i}" for i in range(6))

CAMELYON = _wilds(
    "WILDSCamelyon",
    "camelyon17_v1.0",
    domains=_HOSPITALS,
    num_classes=2,
    reader="read_camelyon",
    counter="count_camelyon",
    look=("photographic", "colour", "texture"),
    counts=(59436, 34904, 85054, 129838, 146722),
)
FMOW = _wilds(
    "WILDSFMoW",
    "fmow_v1.1",
    domains=_REGIONS,
    num_classes=62,
    reader="read_fmow",
    counter="count_fmow",
    look=PHOTO,
)
