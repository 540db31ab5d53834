"""ColoredMNIST and RotatedMNIST, both made of MNIST's 70,000 digits."""

from __future__ import annotations

from sfmoe_dg.data.facts.dataset_facts import DatasetFacts, FolderContent

DIGITS = FolderContent("MNIST", ("train", "test"), {"train": 60000, "test": 10000}, num_classes=10)

_COLORS = ("+90%", "+80%", "-90%")
_ANGLES = ("0", "15", "30", "45", "60", "75")

COLORED_MNIST = DatasetFacts(
    name="ColoredMNIST",
    folder="MNIST",
    domains=_COLORS,
    labels=_COLORS,
    num_classes=2,
    input_shape=(2, 28, 28),
    checkpoint_freq=100,
    reader="sfmoe_dg.data.sets.mnist:read_colored",
    counts=(23334, 23333, 23333),
    counter="sfmoe_dg.data.builders.layouts:count_idx",
    made_of=DIGITS,
    downloads_itself=True,
    domain_attributes=(("drawn", "colour"),) * 3,
)
ROTATED_MNIST = DatasetFacts(
    name="RotatedMNIST",
    folder="MNIST",
    domains=_ANGLES,
    labels=_ANGLES,
    num_classes=10,
    input_shape=(1, 28, 28),
    checkpoint_freq=100,
    reader="sfmoe_dg.data.sets.mnist:read_rotated",
    counts=(11667, 11667, 11667, 11667, 11666, 11666),
    counter="sfmoe_dg.data.builders.layouts:count_idx",
    made_of=DIGITS,
    downloads_itself=True,
    domain_attributes=(("drawn",),) * 6,
)
