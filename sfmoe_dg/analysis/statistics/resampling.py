"""Permutation tests, corrections for many tests, and bootstrap intervals.

Sources: Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010 (the "+ 1"); Westfall and Young,
Resampling-Based Multiple Testing, 1993 (the maximum); Benjamini and Hochberg 1995; Holm 1979; Efron 1979.

Legend: U units that are drawn or exchanged (images or objects).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

_TIE = 1e-9
"""Statistics that differ by less count as equal: they differ in the order of computation only."""


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """The result of :func:`permutation_test`; all arrays have the statistic's shape, NaN where it is not defined.

    Attributes:
        observed: the statistic.
        p: the share of permutations in which the statistic is at least as large; the data count as one permutation.
        p_max: the share in which the largest entry of the statistic is at least as large: the chance that any entry
            gets so large if none has an effect. It needs no further correction for many tests.
        null_mean: the mean of the statistic over permutations.
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
    """Test whether a statistic is larger than by chance.

    Args:
        statistic: from an order of the units, int64 [U], to an array; larger values mean a stronger relation. It must
            apply the order to one side of the relation only.
        strata: [U]; units are exchanged within their stratum only.
        permutations: their number; the smallest possible p is 1 / (permutations + 1).
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
    """A random order of the units, int64 [U], that exchanges units within their stratum only."""
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
    """The lower and upper ends of a statistic's percentile interval.

    Args:
        statistic: from the number of times that each unit was drawn, int64 [U], to an array.
        level: the share of replicates inside the interval. Undefined values (NaN) are left out.
    """
    values = np.stack([statistic(random.multinomial(units, np.full(units, 1 / units))) for _ in range(replicates)])
    outside = (1 - level) / 2
    never = np.isnan(values).all(axis=0)
    low, high = np.nanquantile(np.where(never, 0.0, values), [outside, 1 - outside], axis=0)
    return np.where(never, np.nan, low), np.where(never, np.nan, high)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for the false discovery rate, in the same shape; NaN is left out."""
    return _adjusted(p, lambda known: stats.false_discovery_control(known, method="bh"))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for the chance of any false discovery, in the same shape; NaN is left out.

    The i-th smallest of m is multiplied by m − i + 1, and is never below an earlier one nor above 1.
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
