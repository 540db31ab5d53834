"""Attributes and experts: against results by hand, with a planted relation, and without one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observation_makers import LAYER, attributed, observations, random_observations, renamed, routing
from scipy import stats

from sfmoe_dg.analysis.attributes.compute import (
    Answers,
    Units,
    associate,
    attribute_associations,
    attributes_in_routing,
    units_of,
    usage_groups,
)
from sfmoe_dg.foundation.errors import UserError


def units(usage, attributes, strata=None) -> Units:
    usage, attributes = np.array(usage, dtype=float), np.array(attributes, dtype=float)
    strata = np.zeros(len(usage), np.int64) if strata is None else np.array(strata)
    return Units(usage, attributes, strata, tuple(f"a{i}" for i in range(attributes.shape[1])))


def test_two_images_and_three_experts_by_hand():
    # Four patches: image 0 sends 2, 1, 1 to experts 0, 1, 2; image 1 sends 1, 1, 2. It alone has the attribute.
    layer = routing([[[0], [0], [1], [2]], [[0], [1], [2], [2]]])
    found = units_of(observations(layer, grid=(2, 2), annotations=attributed([[0], [1]])), LAYER)
    np.testing.assert_allclose(found.usage, [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
    table = associate(found, np.random.default_rng(0), permutations=19, replicates=10, groups=2)
    assert table["attribute"].tolist() == ["a0"] * 3
    assert table["expert"].tolist() == [0, 1, 2]
    assert table["units"].tolist() == [2, 2, 2]
    assert table["share"].tolist() == [0.5] * 3
    np.testing.assert_allclose(table["r"], [-1, np.nan, 1])
    np.testing.assert_allclose(table["difference"], [-0.25, 0, 0.25])
    np.testing.assert_allclose(table["cramers_v"], [1, np.nan, 1])
    np.testing.assert_allclose(table["mutual_information"], [1, 0, 1])
    # Exchanging two images leaves the size of every effect as it is.
    np.testing.assert_array_equal(table["p"], [1, np.nan, 1])
    np.testing.assert_array_equal(table["p_bh"], [1, np.nan, 1])
    np.testing.assert_array_equal(table["p_information"], [1, np.nan, 1])


def test_all_experts_at_once_by_hand():
    # Without the attribute 1/2, 1/2, 0, with it 0, 1/2, 1/2: χ² = 1/2 + 0 + 1/2 = 1 and V = √(1 / 2).
    # H(experts) is 1.5 bits, within either attribute it is 1 bit.
    found = attributes_in_routing(units([[0.5, 0.5, 0], [0, 0.5, 0.5]], [[0], [1]]), np.random.default_rng(0), 9)
    assert found.loc[0, ["units", "cramers_v", "mutual_information", "p"]].tolist() == pytest.approx(
        [2, 0.5**0.5, 0.5, 1]
    )


def test_correlation_and_difference_by_hand():
    # Usage 1, 2, 3, 6 without, without, with, with; the last attribute leaves out the first unit.
    usage = np.array([[1.0], [2.0], [3.0], [6.0]])
    moments = Answers(np.array([[0, np.nan], [0, 0], [1, 1], [1, 1]])).moments(usage)
    # Means 1.5 and 4.5, then 2 and 4.5. Variances of attribute and usage are 1/4 and 14/4, so r = 3/4 / √(14/16).
    np.testing.assert_allclose(moments.difference, [[3.0], [2.5]])
    expected = [np.corrcoef([0, 0, 1, 1], [1, 2, 3, 6])[0, 1], np.corrcoef([0, 1, 1], [2, 3, 6])[0, 1]]
    assert expected[0] == pytest.approx(1.5 / 3.5**0.5)
    np.testing.assert_allclose(moments.correlation[:, 0], expected)


def test_weights_are_repetitions():
    random = np.random.default_rng(0)
    usage, attributes = random.random((6, 2)), random.integers(2, size=(6, 3)).astype(float)
    attributes[2, 1] = np.nan
    weights = np.array([2, 0, 1, 3, 0, 1])
    rows = np.repeat(np.arange(6), weights)
    weighted = Answers(attributes).moments(usage, weights)
    repeated = Answers(attributes[rows]).moments(usage[rows])
    np.testing.assert_allclose(weighted.correlation, repeated.correlation)
    np.testing.assert_allclose(weighted.difference, repeated.difference)


def test_groups_of_usage_do_not_divide_ties():
    grouped = usage_groups(np.array([[0.0], [0.0], [0.0], [0.2], [0.4], [0.6]]))
    # The quantiles are 0 and 0.2 + 1/3 · 0.2.
    assert grouped[:, 0].argmax(-1).tolist() == [0, 0, 0, 1, 2, 2]
    assert usage_groups(np.ones((4, 1)))[:, 0].argmax(-1).tolist() == [0] * 4


def test_tables_count_answers():
    grouped = usage_groups(np.array([[1.0], [2.0], [3.0], [4.0]]), 2)
    found = Answers(np.array([[0.0], [1.0], [np.nan], [0.6]])).group_tables(grouped)
    np.testing.assert_array_equal(found, [[[[1, 0], [1, 1]]]])


def test_objects_are_units_and_domains_strata():
    # Object 7 in both domains, 8 in the first, 9 in the second; one patch each.
    layer = routing([[[0]], [[0]], [[1]], [[2]]])
    notes = attributed([[1], [0], [1], [0]])
    found = units_of(
        observations(layer, (1, 1), domain=[0, 0, 1, 1], identity=[7, 8, 7, 9], label=[4, 5, 4, 5], annotations=notes),
        LAYER,
    )
    np.testing.assert_allclose(found.usage, [[0.5, 0.5, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(found.attributes, [[1], [0], [0]])
    assert len(set(found.strata)) == 3
    # Images whose objects are not known stand for themselves, within their domain, or domain and class.
    loose = observations(layer, (1, 1), domain=[0, 0, 1, 1], label=[4, 4, 4, 5], annotations=notes)
    assert units_of(loose, LAYER).strata.tolist() == [1, 1, 0, 0]
    assert len(set(units_of(loose, LAYER, within_classes=True).strata)) == 3
    with pytest.raises(UserError, match="no attributes"):
        units_of(observations(layer, (1, 1)), LAYER)


def planted(seed: int, effect: float, count: int = 120) -> Units:
    """Observations in which attribute 0 makes expert 0 more frequent. Attribute 1 and the other experts are noise."""
    random = np.random.default_rng(seed)
    attributes = random.integers(2, size=(count, 2)).astype(float)
    logits = random.normal(size=(count, 3))
    logits[:, 0] += effect * attributes[:, 0]
    return units(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), attributes)


def test_a_wired_expert_is_found():
    table = associate(planted(0, 3.0), np.random.default_rng(0), permutations=1999, replicates=200)
    wired = table.iloc[0]
    assert (wired["attribute"], wired["expert"]) == ("a0", 0)
    assert wired["p"] < 0.001
    assert wired["p_max"] < 0.001
    assert wired["p_bh"] < 0.01
    assert wired["p_information"] < 0.001
    assert wired["r_low"] > 0.5
    assert 0 < wired["difference_low"] < wired["difference"] < wired["difference_high"]
    assert (table.loc[table["attribute"] == "a1", "p_max"] > 0.05).all()


def test_nothing_is_found_where_nothing_is():
    p = [
        associate(planted(seed, 0.0, 30), np.random.default_rng(seed), permutations=99, replicates=2).loc[1, "p"]
        for seed in range(150)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_domains_taste_is_not_an_attributes():
    # In the first domain everybody has the attribute and uses expert 0, in the second nobody does.
    usage = [[1, 0], [0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0, 1], [0.2, 0.8]]
    attributes = [[1], [1], [1], [0], [0], [0]]
    apart = associate(units(usage, attributes, [0, 0, 0, 1, 1, 1]), np.random.default_rng(0), permutations=99)
    assert (apart["p"] == 1).all()
    mixed = associate(units(usage, attributes), np.random.default_rng(0), permutations=199)
    assert (mixed["p"] < 0.2).all()


@settings(max_examples=10)
@given(st.integers(0, 99), st.permutations(range(4)))
def test_renaming_experts_renames_rows(seed, order):
    found = random_observations(seed)
    columns = ["r", "difference", "cramers_v", "mutual_information", "p", "p_information", "r_low"]
    before, after = (
        attribute_associations(o, LAYER, permutations=9, replicates=9)
        .set_index(["attribute", "expert"])
        .sort_index()[columns]
        for o in (found, renamed(found, order))
    )
    rows = [(attribute, order[expert]) for attribute, expert in before.index]
    np.testing.assert_allclose(after.loc[rows], before, atol=1e-9)
