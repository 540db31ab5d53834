"""Debug28 and Debug224: random pictures, for tests."""

from __future__ import annotations

from sfmoe_dg.data.facts.dataset_facts import DatasetFacts


def _debug(name: str, size: int) -> DatasetFacts:
    return DatasetFacts(
        name=name,
        folder="",
        domains=("0", "1", "2"),
        labels=("0", "1", "2"),
        num_classes=2,
        input_shape=(3, size, size),
        checkpoint_freq=100,
        reader="sfmoe_dg.data.sets.debug:read",
        counts=(16, 16, 16),
        needs_data_dir=False,
    )


DEBUG_28 = _debug("Debug28", 28)
DEBUG_224 = _debug("Debug224", 224)
