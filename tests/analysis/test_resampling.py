"""p-values from counts, corrections against results by hand, and the coverage of intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sfmoe_dg.analysis.statistics.resampling import (
    benjamini_hochberg,
    bootstrap_interval,
    holm,
    permutation_test,
    permutation_within,
)


def test_corrections_by_hand():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.5])
    # Ascending .01 .03 .04 .5 of 4: times 4/1, 4/2, 4/3, 4/4 and never above a later one.
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, 0.16 / 3, np.nan, 0.16 / 3, 0.5])
    # Times 4, 3, 2, 1 and never below an earlier one.
    np.testing.assert_allclose(holm(p), [0.04, 0.09, np.nan, 0.09, 0.5])
    assert np.isnan(holm(np.array([np.nan]))).all()


@given(st.lists(st.integers(0, 2), max_size=20), st.integers(0, 9))
def test_units_stay_in_their_stratum(strata, seed):
    strata = np.array(strata, dtype=np.int64)
    order = permutation_within(strata, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(strata)))
    assert np.array_equal(strata[order], strata)


def test_a_p_value_is_a_count():
    # Of two units one order gives 1 and the other 0, both equally likely; what cannot change counts every time.
    random = np.random.default_rng(0)

    def statistic(order):
        return np.array([order[0] == 0, 1.0, np.nan])

    test = permutation_test(statistic, np.zeros(2), 999, random)
    np.testing.assert_array_equal(test.observed, [1, 1, np.nan])
    assert test.p[0] == pytest.approx(0.5, abs=0.06)
    assert test.null_mean[0] == pytest.approx(test.p[0], abs=0.002)
    assert test.p[1] == 1
    assert np.isnan(test.p[2])
    # The larger of both is always 1.
    np.testing.assert_array_equal(test.p_max, [1, 1, np.nan])


def test_the_smallest_p_value_is_one_order_of_all():
    strata = np.arange(8) // 8
    test = permutation_test(lambda order: np.array((order == np.arange(8)).all()), strata, 99, np.random.default_rng(0))
    assert test.p == pytest.approx(1 / 100)
    alone = permutation_test(
        lambda order: np.array((order == np.arange(8)).all()), np.arange(8), 99, np.random.default_rng(0)
    )
    assert alone.p == 1


def test_a_mean_has_its_usual_interval():
    x = np.random.default_rng(1).normal(3, 2, size=400)
    low, high = bootstrap_interval(lambda w: np.array([w @ x / 400]), 400, 4000, np.random.default_rng(0))
    error = x.std() / 20
    assert low[0] == pytest.approx(x.mean() - 1.96 * error, abs=0.15 * error)
    assert high[0] == pytest.approx(x.mean() + 1.96 * error, abs=0.15 * error)


def test_p_values_are_uniform_without_effect():
    random = np.random.default_rng(0)
    found = []
    for _ in range(300):
        x, y = random.normal(size=(2, 12))
        test = permutation_test(lambda order, x=x, y=y: np.array(abs(x @ y[order])), np.zeros(12), 199, random)
        found.append(float(test.p))
    assert stats.kstest(found, "uniform").pvalue > 0.01
