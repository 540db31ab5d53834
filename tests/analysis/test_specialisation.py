"""Experts against classes and positions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observation_makers import LAYER, observations, random_observations, renamed, routing

from sfmoe_dg.analysis.specialisation.compute import class_table, clustered_columns, position_table, specialisation
from sfmoe_dg.foundation.errors import UserError


@pytest.fixture
def two_images():
    """A class token and 1 × 2 patches, two choices of three experts; classes c and a, domains chalk and ink."""
    experts = [[[0, 1], [0, 2], [1, 0]], [[2, 1], [2, 1], [2, 0]]]
    gates = [[[0.5, 0.25], [0.5, 0.5], [0.75, 0]], [[0.5, 0.5], [1, 0], [0.5, 0.25]]]
    return observations(routing(experts, gates), label=[2, 0], domain=[0, 1])


def test_classes_by_hand(two_images):
    found = class_table(two_images, LAYER)
    assert list(found.columns) == ["a", "c"]
    # Class a is the second image: three tokens choose 2 and 1, 2 and 1, 2 and 0.
    np.testing.assert_allclose(found["a"], [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(found["c"], [1, 2 / 3, 1 / 3])
    weight = class_table(two_images, LAYER, "weight")
    np.testing.assert_allclose(weight["a"], [0.25 / 3, 0.5 / 3, 2 / 3])
    np.testing.assert_allclose(weight["c"], [1 / 3, 1 / 3, 0.5 / 3])


def test_positions_by_hand(two_images):
    found = position_table(two_images, LAYER)
    assert list(found.columns) == [(0, 0), (0, 1)]
    np.testing.assert_allclose(found[0, 0], [0.5, 0.5, 1])
    np.testing.assert_allclose(found[0, 1], [1, 0.5, 0.5])
    np.testing.assert_allclose(position_table(two_images, LAYER, "weight")[0, 1], [0.125, 0.375, 0.25])
    with pytest.raises(UserError, match="unknown measure"):
        position_table(two_images, LAYER, "mass")


def test_information_by_hand(two_images):
    # First choices: image 0 goes to 0 and 1, image 1 to 2 twice: experts have 1.5 bits, classes 1 and tell 1;
    # places have 1 bit, and tell 0.5: given the place the expert is one of two.
    found = specialisation(two_images, permutations=20)
    assert list(found.index) == [(LAYER, "class"), (LAYER, "domain"), (LAYER, "position")]
    for variable in ("class", "domain"):
        row = found.loc[(LAYER, variable)]
        assert row[["mutual_information", "normalised", "explained"]].tolist() == pytest.approx([1, 0.8, 2 / 3])
        # Exchanging the two images changes nothing.
        assert (row["chance"], row["p"]) == (pytest.approx(0.8), 1)
    row = found.loc[(LAYER, "position")]
    assert row[["mutual_information", "normalised", "explained"]].tolist() == pytest.approx([0.5, 0.4, 1 / 3])
    assert list(specialisation(two_images.take(np.array([0])), 1).index) == [(LAYER, "position")]


def test_planted_specialists():
    # Expert = class in even patches, anything in odd ones; no difference between domains.
    random = np.random.default_rng(0)
    label = random.integers(3, size=80)
    experts = random.integers(3, size=(80, 4))
    experts[:, ::2] = label[:, None]
    found = specialisation(
        observations(routing(experts[..., None]), grid=(2, 2), label=label, domain=np.arange(80) % 2), permutations=199
    )["p"]
    assert found[LAYER, "class"] == 1 / 200
    assert found[LAYER, "domain"] > 0.05
    assert found[LAYER, "position"] > 0.05


def test_like_columns_are_neighbours():
    table = pd.DataFrame([[0.0, 1.0, 0.1, 0.9, 0.5], [1.0, 0.0, 0.9, 0.1, 0.5]])
    order = clustered_columns(table)
    assert order in ([0, 2, 4, 3, 1], [1, 3, 4, 2, 0])
    assert clustered_columns(table.iloc[:, :2]) == [0, 1]


@settings(max_examples=20)
@given(st.integers(0, 99), st.permutations(range(4)), st.sampled_from(["frequency", "weight"]))
def test_renaming_experts_renames_rows(seed, order, measure):
    found = random_observations(seed)
    other = renamed(found, order)
    for table in (class_table, position_table):
        before, after = table(found, LAYER, measure), table(other, LAYER, measure)
        np.testing.assert_allclose(after.to_numpy()[order], before.to_numpy())
        if measure == "frequency":
            np.testing.assert_allclose(before.sum(), 2)
    columns = ["mutual_information", "normalised", "explained", "chance", "p"]
    np.testing.assert_allclose(specialisation(other, 5)[columns], specialisation(found, 5)[columns], atol=1e-9)
