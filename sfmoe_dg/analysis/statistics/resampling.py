"""Permutation tests, corrections for many tests, and bootstrap intervals.

Sources: Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010 (the "+ 1"); Westfall and Young,
Resampling-Based Multiple Testing, 1993 (the maximum); Benjamini and Hochberg 1995; Holm 1979; Efron 1979.

Legend: U units, what is drawn or exchanged (images or objects).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

_TIE = 1e-9
"""Statistics that differ by less are the same number computed in another order."""


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """The result of :func:`permutation_test`; all arrays have the statistic's shape, NaN where it is not defined.

    Attributes:
        observed: the statistic.
        p: share of permutations in which it is at least as large, the data themselves counted as one.
        p_max: the same of the largest among all of the statistic's entries: the chance that any of them gets so large
            when none has an effect, so it needs no further correction.
        null_mean: its mean over permutations.
    """

    observed: np.ndarray
    p: np.ndarray
    p_max: np.ndarray
    null_mean: np.ndarray


def permutation_test(
    statistic: Callable[[np.ndarray], np.ndarray],
    strata: np.ndarray,
    permutations: int,
    random: np.random.Generator,
) -> PermutationTest:
    """Test whether a statistic is larger than chance makes it.

    Args:
        statistic: from an order of the units, int64 [U], to an array; the larger, the more is there. It must use the
            order for one side of the relation only.
        strata: [U]; units are exchanged within their stratum only.
        permutations: how many; the smallest possible p is 1 / (permutations + 1).
    """
    observed = np.asarray(statistic(np.arange(len(strata))), dtype=np.float64)
    reached = np.ones(observed.shape)
    maximum_reached = np.ones(observed.shape)
    total = np.zeros(observed.shape)
    threshold = observed - _TIE * np.maximum(1.0, np.abs(observed))
    for _ in range(permutations):
        value = np.nan_to_num(statistic(permutation_within(strata, random)), nan=-np.inf)
        reached += value >= threshold
        maximum_reached += value.max(initial=-np.inf) >= threshold
        total += np.where(np.isfinite(value), value, 0.0)
    unknown = np.isnan(observed)
    p, p_max, mean = (
        np.where(unknown, np.nan, sums / count)
        for sums, count in ((reached, permutations + 1), (maximum_reached, permutations + 1), (total, permutations))
    )
    return PermutationTest(observed, p, p_max, mean)


def permutation_within(strata: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random order of the units, int64 [U], that puts every unit in the place of one of its stratum."""
    order = np.empty(len(strata), dtype=np.int64)
    order[np.argsort(strata, kind="stable")] = np.lexsort((random.random(len(strata)), strata))
    return order


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    units: int,
    replicates: int,
    random: np.random.Generator,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the percentile interval of a statistic.

    Args:
        statistic: from how often each unit was drawn, int64 [U], to an array.
        level: the share of replicates inside. Replicates where the statistic is not defined are left out.
    """
    values = np.stack([statistic(random.multinomial(units, np.full(units, 1 / units))) for _ in range(replicates)])
    outside = (1 - level) / 2
    never = np.isnan(values).all(axis=0)
    low, high = np.nanquantile(np.where(never, 0.0, values), [outside, 1 - outside], axis=0)
    return np.where(never, np.nan, low), np.where(never, np.nan, high)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for the false discovery rate among all that are not NaN; the same shape."""
    return _adjusted(p, lambda known: stats.false_discovery_control(known, method="bh"))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for the chance of any false discovery among all that are not NaN; the same shape.

    The i-th smallest of m, times m − i + 1, never below an earlier one nor above 1.
    """

    def adjust(known: np.ndarray) -> np.ndarray:
        order = np.argsort(known, kind="stable")
        factors = np.arange(len(known), 0, -1)
        adjusted = np.empty(len(known))
        adjusted[order] = np.minimum(1.0, np.maximum.accumulate(known[order] * factors))
        return adjusted

    return _adjusted(p, adjust)


def _adjusted(p: np.ndarray, adjust: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    result, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        result[known] = adjust(p[known])
    return result
