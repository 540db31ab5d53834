"""Association in tables, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sfmoe_dg.analysis.statistics.information import cramers_v, entropies

TABLES = arrays(np.int64, (3, 4), elements=st.integers(0, 9))


def test_one_to_one_is_full_information():
    found = entropies(np.array([[2, 0], [0, 2]]))
    assert (found.rows, found.columns, found.mutual) == (1, 1, 1)
    assert found.normalised == found.explained == 1
    assert cramers_v(np.array([[2, 0], [0, 2]])) == 1


def test_independence_is_none():
    assert entropies(np.ones((2, 3))).mutual == pytest.approx(0, abs=1e-12)
    assert cramers_v(np.ones((2, 3))) == pytest.approx(0)


def test_in_between():
    # Expected counts are all 2, so χ² = 4 · 1² / 2 = 2 and V = √(2 / 8). H(1/4, 3/4) = 0.811278 bits.
    table = np.array([[3, 1], [1, 3]])
    assert cramers_v(table) == pytest.approx(0.5)
    assert entropies(table).mutual == pytest.approx(1 - 0.811278, abs=1e-6)


def test_two_classes_that_share_an_expert():
    # Rows 1/4, 1/4, 1/2 (1.5 bits), columns 1/2, 1/2 (1 bit), and the row tells the column.
    found = entropies(np.array([[1, 0], [1, 0], [0, 2]]))
    assert found.mutual == pytest.approx(1)
    assert found.normalised == pytest.approx(2 / 2.5)
    assert found.explained == pytest.approx(1)


def test_tables_in_which_nothing_varies():
    empty, one_row = np.zeros((2, 2)), np.array([[3, 1], [0, 0]])
    for table in (empty, one_row):
        assert entropies(table).mutual == pytest.approx(0)
        assert entropies(table).normalised == pytest.approx(0)
        assert np.isnan(cramers_v(table))
    assert cramers_v(np.array([[3, 0, 1], [0, 0, 0], [1, 0, 3]])) == pytest.approx(0.5)


@given(TABLES, st.permutations(range(3)), st.permutations(range(4)))
def test_the_order_of_rows_and_columns_does_not_matter(table, rows, columns):
    other = table[rows][:, columns]
    np.testing.assert_allclose(cramers_v(other), cramers_v(table))
    np.testing.assert_allclose(entropies(other), entropies(table), atol=1e-12)
    np.testing.assert_allclose(entropies(table.T).mutual, entropies(table).mutual, atol=1e-12)


@given(TABLES, TABLES)
def test_a_stack_of_tables_is_each_of_them(first, second):
    stacked = entropies(np.stack([first, second])).mutual
    np.testing.assert_allclose(stacked, [entropies(first).mutual, entropies(second).mutual])
