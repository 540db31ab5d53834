"""Experts compared between domains and runs: against results by hand, with a planted agreement, and without one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from observation_makers import LAYER, attributed, observations, renamed, routing

from sfmoe_dg.analysis.attributes.compute import Units, units_of
from sfmoe_dg.analysis.stability.compute import (
    counting_attributes,
    domain_stability,
    match,
    match_by_patches,
    match_by_profiles,
    pairing_p,
    profile,
    rank_correlations,
)
from sfmoe_dg.foundation.errors import UserError


def test_rank_correlations_by_hand():
    # Ranks of three attributes: 1 2 3 and 3 2 1 against 1 3 2 and a constant. With d² = 0 + 1 + 1 = 2 of three,
    # rho = 1 − 6 · 2 / (3 · 8) = 1/2; the reversed one has d² = 4 + 1 + 1 = 6, so −1/2.
    first = np.array([[0.1, 0.9], [0.2, 0.5], [0.7, 0.0]])
    second = np.array([[-0.5, 0.0], [0.4, 0.0], [0.3, 0.0]])
    np.testing.assert_allclose(rank_correlations(first, second), [[0.5, 0], [-0.5, 0]])


def test_a_profile_is_of_correlations():
    # Two images, three experts: usage 1, 0, 0 and 0, 1, 0; the second image alone has the attribute.
    units = Units(np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[0.0], [1.0]]), np.zeros(2), ("a",))
    np.testing.assert_allclose(profile(units), [[-1, 1, 0]])
    np.testing.assert_allclose(profile(units, np.array([1, 0])), [[1, -1, 0]])


def test_pairings_by_hand():
    # Of the two pairings, 0.9 + 0.8 beats 0.1 + 0.2; reversed, both reach the true one.
    likeness = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert pairing_p(likeness, np.random.default_rng(0)) == 0.5
    assert pairing_p(likeness[::-1], np.random.default_rng(0)) == 1
    assert pairing_p(np.eye(4), np.random.default_rng(0)) == pytest.approx(1 / 24)
    assert pairing_p(np.eye(8), np.random.default_rng(0)) < 0.01


def test_the_best_assignment_by_hand():
    # 0.6 + 0.7 = 1.3 beats 0.9 + 0.1.
    rows, columns = match(np.array([[0.9, 0.6], [0.7, 0.1]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])


def test_rare_attributes_do_not_count():
    attributes = np.zeros((12, 3))
    attributes[:5, 0], attributes[:4, 1], attributes[:9, 2] = 1, 1, 1
    attributes[9:11, 2] = np.nan
    units = Units(np.ones((12, 2)), attributes, np.zeros(12), ("often", "rare", "rarely absent"))
    assert counting_attributes(units).tolist() == [True, False, False]


def digits(seed: int, meaning: tuple[float, ...], objects: int = 60, shift: int = 0):
    """Observations of objects in ``len(meaning)`` domains, with 20 patches each, 5 attributes and 4 experts.

    Expert e is drawn to patches of objects with attribute e; ``meaning`` is the strength per domain. In the last
    domain experts are turned by ``shift``.
    """
    random = np.random.default_rng(seed)
    attributes = random.integers(2, size=(objects, 5))
    experts = []
    for domain, strength in enumerate(meaning):
        logits = strength * attributes[:, None, :4] + random.gumbel(size=(objects, 20, 4))
        turn = shift if domain == len(meaning) - 1 else 0
        experts.append((logits.argmax(-1) + turn) % 4)
    count = len(meaning)
    return observations(
        routing(np.concatenate(experts)[..., None], num_experts=4),
        grid=(4, 5),
        domain=np.repeat(range(count), objects),
        identity=np.tile(range(objects), count),
        annotations=attributed(np.tile(attributes, (count, 1))),
        domain_names=("chalk", "ink", "neon")[:count],
        seen=(True, True, False)[:count],
    )


def test_a_meaning_that_survives_is_found():
    found = domain_stability(digits(0, (2, 2, 2)), LAYER, permutations=199)
    assert found.pairs["kind"].tolist() == ["seen-seen", "seen-unseen", "seen-unseen"]
    assert found.pairs["attributes"].tolist() == [5, 5, 5]
    assert (found.pairs["rho"] > 0.7).all()
    assert (found.pairs["p"] == 1 / 200).all()
    # All 24 pairings of four experts, of which the true one is the best.
    assert found.pairs["p_same_expert"].tolist() == pytest.approx([1 / 24] * 3)
    assert found.kinds["pairs"].tolist() == [1, 2]
    by_expert = found.experts.groupby(["domain", "other"], sort=False)["rho"].mean()
    assert by_expert.tolist() == pytest.approx(found.pairs["rho"].tolist())
    expected = found.experts[found.experts["kind"] == "seen-unseen"]["rho"].mean()
    assert found.kinds.loc[1, "rho"] == pytest.approx(expected)


def test_a_meaning_that_is_lost_is_not():
    found = domain_stability(digits(1, (2, 2, 0)), LAYER, permutations=199)
    assert found.kinds.loc[0, ["rho", "p"]].tolist() == pytest.approx([found.pairs.loc[0, "rho"], 1 / 200])
    assert found.kinds.loc[1, "p"] > 0.05
    assert abs(found.kinds.loc[1, "rho"]) < 0.4


def test_experts_that_swap_meanings_are_not_the_same():
    found = domain_stability(digits(2, (2, 2), shift=1), LAYER, permutations=99)
    assert found.pairs.loc[0, "p_same_expert"] > 0.2
    assert found.pairs.loc[0, "rho"] < 0.3


def test_disjoint_objects_agree_only_in_what_is_general():
    same = digits(3, (2, 2), objects=200)
    found = domain_stability(same, LAYER, permutations=99, disjoint=True)
    assert found.pairs.loc[0, "rho"] > 0.5
    with pytest.raises(UserError, match="has no identities"):
        domain_stability(replace(same, identity=np.full(len(same), -1)), LAYER, disjoint=True)


def test_what_cannot_be_compared():
    two = digits(0, (1, 1))
    with pytest.raises(UserError, match="all of one"):
        domain_stability(two.take(two.domain == 0), LAYER)
    with pytest.raises(UserError, match="of both chalk and ink; observe more images"):
        domain_stability(two.take(two.identity < 8), LAYER)


@pytest.mark.parametrize("order", [(2, 0, 3, 1), (3, 2, 1, 0)])
def test_renamed_experts_are_matched(order):
    first = digits(4, (2, 2))
    second = renamed(first, order)
    by_patches = match_by_patches(first, second, (LAYER, LAYER), permutations=49)
    assert by_patches.table["match"].tolist() == list(order)
    assert (by_patches.likeness, by_patches.p) == (1, 1 / 50)
    # Four experts at random share about 1 / 7 of the union of their patches.
    assert by_patches.chance == pytest.approx(1 / 7, abs=0.06)
    by_profiles = match_by_profiles(units_of(first, LAYER), units_of(second, LAYER), permutations=49)
    assert by_profiles.table["match"].tolist() == list(order)
    assert by_profiles.likeness == pytest.approx(1)
    assert by_profiles.p == 1 / 50
    assert 0 < by_profiles.chance < 1


def test_shared_patches_by_hand():
    # Two images, 1 × 2 patches, three experts: expert 0 of the first run shares 1 patch of 2 with expert 1 of the
    # second, expert 1 takes what expert 2 takes and one more, expert 2 takes what expert 0 takes.
    first, second = (observations(routing([[[a], [b]], [[c], [d]]])) for a, b, c, d in ((0, 1, 1, 2), (1, 1, 2, 0)))
    found = match_by_patches(first, second, (LAYER, LAYER), permutations=9)
    assert found.table["match"].tolist() == [1, 2, 0]
    assert found.table["likeness"].tolist() == pytest.approx([1 / 2, 1 / 2, 1])
    with pytest.raises(UserError, match="observe the same images"):
        match_by_patches(first, second.take(np.array([1, 0])), (LAYER, LAYER))


def test_runs_without_common_ground():
    first = units_of(digits(5, (1, 1)), LAYER)
    with pytest.raises(UserError, match="different attributes"):
        match_by_profiles(first, replace(first, attribute_names=tuple("vwxyz")))
    with pytest.raises(UserError, match="fewer than 3 attributes vary"):
        match_by_profiles(first, replace(first, attributes=np.zeros_like(first.attributes)))


@example(87, [0, 3, 2, 1])  # two correlations that are equal but for rounding
@given(st.integers(0, 99), st.permutations(range(4)))
def test_renaming_experts_in_all_domains_renames_rows(seed, order):
    found = digits(seed, (1, 1), objects=24)
    tables = []
    for o in (found, renamed(found, order)):
        stable = domain_stability(o, LAYER, permutations=3)
        tables.append(stable.experts.set_index("expert")[["rho", "rho_others", "p"]])
    np.testing.assert_allclose(tables[1].loc[list(order)], tables[0], atol=1e-9)
