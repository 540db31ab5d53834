"""Parts and experts: nearest patches and the histogram by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from observation_makers import LAYER, located, observations, random_observations, renamed, routing

from sfmoe_dg.analysis.parts.compute import (
    nearest_patches,
    part_histogram,
    part_information,
    part_overlap,
    part_patches,
    shares,
)
from sfmoe_dg.foundation.errors import UserError


def test_nearest_patches_by_hand():
    # A 2 × 3 grid: patch centres at x = 1/6, 3/6, 5/6 and y = 1/4, 3/4; patches 0 1 2 over 3 4 5.
    parts = np.array([[[1 / 6, 1 / 4, 1], [5 / 6, 0.6, 1], [0.5, 0.5, 1], [np.nan, np.nan, 0]]])
    found = nearest_patches(parts, (2, 3), 2)
    # The first lies on patch 0, then 1 and 3 are equally near in patch units, and 1 comes first.
    # The second is 0.2 patches above patch 5 and 0.8 below patch 2; the third lies midway between 1 and 4.
    np.testing.assert_array_equal(found, [[[0, 1], [5, 2], [1, 4], [-1, -1]]])


def test_nine_patches_are_a_square():
    # The centre of patch (2, 3) of a 14 × 14 grid.
    found = nearest_patches(np.array([[[3.5 / 14, 2.5 / 14, 1]]]), (14, 14))
    assert sorted(found[0, 0]) == sorted(14 * row + column for row in (1, 2, 3) for column in (2, 3, 4))


@pytest.fixture
def two_images():
    """A 1 × 2 grid and a class token that goes to expert 2; the head is left, the tail right and hidden on the second.

    First choices: image 0 (chalk) left 0, right 1; image 1 (ink) left 0, right 2.
    """
    experts = [[[2, 0], [0, 1], [1, 0]], [[2, 1], [0, 2], [2, 0]]]
    parts = [[[0.25, 0.5, 1], [0.75, 0.5, 1]], [[0.2, 0.5, 1], [np.nan, np.nan, 0]]]
    return observations(routing(experts), domain=[0, 1], annotations=located(parts, ["head", "tail"]))


def test_a_histogram_by_hand(two_images):
    found = part_histogram(two_images, LAYER, 1)
    expected = {
        ("chalk", "head"): [1, 0, 0],
        ("chalk", "tail"): [0, 1, 0],
        ("chalk", "background"): [0, 0, 0],
        ("ink", "head"): [1, 0, 0],
        ("ink", "tail"): [0, 0, 0],
        ("ink", "background"): [0, 0, 1],
        ("together", "head"): [2, 0, 0],
        ("together", "tail"): [0, 1, 0],
        ("together", "background"): [0, 0, 1],
    }
    assert {key: list(row) for key, row in zip(found.index, found.to_numpy(), strict=True)} == expected
    assert list(found.columns) == [0, 1, 2]
    assert shares(found).loc[("together", "head")].tolist() == [1, 0, 0]
    assert shares(found).loc[("ink", "tail")].isna().all()


def test_information_and_overlap_by_hand(two_images):
    histogram = part_histogram(two_images, LAYER, 1)
    found = part_information(histogram)
    # Together: each part has its own expert, with shares 1/2, 1/4, 1/4: 1.5 bits.
    assert found.loc["together"].tolist() == pytest.approx([4, 1.5, 1, 1])
    assert found.loc["chalk", "mutual_information"] == pytest.approx(1)
    assert part_overlap(histogram).loc["head"].tolist() == [1, 0, 0]
    # With both patches near each part, every patch counts for both.
    both = part_histogram(two_images, LAYER, 2)
    assert both.loc[("chalk", "head")].tolist() == both.loc[("chalk", "tail")].tolist() == [1, 1, 0]
    assert part_overlap(both, "chalk").loc["head", "tail"] == 1
    with pytest.raises(UserError, match="it has chalk, ink, together"):
        part_overlap(histogram, "neon")


def test_what_cannot_be_asked(two_images):
    with pytest.raises(UserError, match="9 nearest patches cannot be taken from a grid of 1 × 2"):
        part_patches(two_images)
    with pytest.raises(UserError, match="no part locations"):
        part_patches(observations(routing([[[0], [1]]])), 1)
    with pytest.raises(UserError, match="unknown mixture-of-experts layer"):
        part_histogram(two_images, "blocks.7.mlp", 1)


@given(st.integers(0, 99), st.permutations(range(4)))
def test_renaming_experts_renames_columns(seed, order):
    found = random_observations(seed)
    before, after = (part_histogram(o, LAYER, 2) for o in (found, renamed(found, order)))
    np.testing.assert_array_equal(after.to_numpy()[:, order], before.to_numpy())
    np.testing.assert_allclose(part_information(after), part_information(before), atol=1e-12)


@given(st.integers(0, 99))
def test_every_visible_part_has_its_patches_and_domains_add_up(seed):
    found = random_observations(seed)
    histogram = part_histogram(found, LAYER, 2)
    visible = found.annotations.parts[..., 2].sum(axis=0)
    assert histogram.loc["together"].loc[["head", "tail"]].sum(axis=1).tolist() == (2 * visible).tolist()
    total = histogram.loc["chalk"] + histogram.loc["ink"]
    np.testing.assert_array_equal(total, histogram.loc["together"])
