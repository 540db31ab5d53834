"""StyledDigits: scikit-learn's handwritten digits in four styles."""

from __future__ import annotations

from sfmoe_dg.data.facts.dataset_facts import RANDOM_OR_IDENTITY, DatasetFacts

_DIGIT_STYLES = ("chalk", "ink", "mosaic", "neon")

STYLED_DIGITS = DatasetFacts(
    name="StyledDigits",
    folder="",
    domains=_DIGIT_STYLES,
    labels=_DIGIT_STYLES,
    num_classes=10,
    input_shape=(3, 32, 32),
    checkpoint_freq=100,
    steps=1001,  # converged by then
    reader="sfmoe_dg.data.sets.styled_digits:read",
    counts=(1797, 1797, 1797, 1797),
    needs_data_dir=False,
    splits=RANDOM_OR_IDENTITY,
    domain_attributes=(("drawn", "texture"), ("drawn", "colour"), ("colour", "texture"), ("colour", "outline")),
)
