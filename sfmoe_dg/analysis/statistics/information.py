"""Measures of association in contingency tables, for whole stacks of tables at once.

A table is an array whose last two axes are rows and columns. Its entries are counts or other non-negative masses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Entropies(NamedTuple):
    """Entropies of rows and of columns, and their mutual information, in bits."""

    rows: np.ndarray
    columns: np.ndarray
    mutual: np.ndarray

    @property
    def normalised(self) -> np.ndarray:
        """2·I / (H(rows) + H(columns)), in [0, 1]; 0 where nothing varies."""
        total = self.rows + self.columns
        return np.where(total > 0, 2 * self.mutual / np.where(total > 0, total, 1.0), 0.0)

    @property
    def explained(self) -> np.ndarray:
        """I / H(columns), the share of the columns' entropy that rows explain; 0 where columns do not vary."""
        return np.where(self.columns > 0, self.mutual / np.where(self.columns > 0, self.columns, 1.0), 0.0)


def entropies(table: np.ndarray) -> Entropies:
    """The entropies of a table's joint distribution; 0 for an empty table."""
    table = np.asarray(table, dtype=np.float64)
    total = table.sum(axis=(-2, -1), keepdims=True)
    joint = table / np.where(total > 0, total, 1.0)
    rows, columns = _entropy(joint.sum(-1)), _entropy(joint.sum(-2))
    both = _entropy(joint.reshape(*joint.shape[:-2], -1))
    # Rounding may give a tiny negative value where rows and columns are independent.
    return Entropies(rows, columns, np.maximum(rows + columns - both, 0.0))


def _entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log2(np.where(shares > 0, shares, 1.0))).sum(-1)


def cramers_v(table: np.ndarray) -> np.ndarray:
    """√(χ² / (n · (min(rows, columns) − 1))), in [0, 1]; NaN where fewer than two rows or columns have any mass.

    Source: Cramér, Mathematical Methods of Statistics, 1946, section 21.9. Empty rows and columns do not count.
    """
    table = np.asarray(table, dtype=np.float64)
    row, column = table.sum(-1, keepdims=True), table.sum(-2, keepdims=True)
    total = table.sum(axis=(-2, -1))
    expected = row * column / np.where(total > 0, total, 1.0)[..., None, None]
    chi2 = ((table - expected) ** 2 / np.where(expected > 0, expected, 1.0)).sum(axis=(-2, -1))
    smaller = np.minimum((row > 0).sum(axis=(-2, -1)), (column > 0).sum(axis=(-2, -1))) - 1
    defined = smaller > 0
    v = np.sqrt(chi2 / np.where(defined, total * smaller, 1.0))
    return np.where(defined, np.minimum(v, 1.0), np.nan)
