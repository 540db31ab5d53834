"""Comparison of methods: paired tests, ranks and critical differences, with what they cannot show.

Sources: Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, 2006 (ranks, Friedman, Nemenyi);
Holm 1979.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
from scipy import stats

from sfmoe_dg.analysis.statistics.resampling import holm
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.results.record_lines import Record
from sfmoe_dg.results.selection import SelectionMethod, group_records, select

SCORE_COLUMNS = ("dataset", "method", "domain", "trial", "accuracy")
"""What every table of scores has, one row per trained and selected result."""

FEW_BLOCKS = 10
"""Below this number of blocks the Friedman test's distribution is a rough approximation (Demšar, section 3.2.2)."""

_EXACT_SIGNS = 16
_PLURAL = {"dataset": "data sets", "domain": "test domains"}


def scores_of(records: Iterable[Record], selection: SelectionMethod) -> pd.DataFrame:
    """One row per data set (with its options), method, test domain and trial; accuracy in percent."""
    chosen = select(group_records(records), selection)
    rows = [
        (key.dataset, key.algorithm, key.test_env, key.trial_seed, 100 * choice.test_acc)
        for key, choice in sorted(chosen.items())
    ]
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard error of every method on every data set, as in DomainBed's averages: over trials, of each
    trial's mean over domains. The standard error is std / √n, with the standard deviation of the population.

    Columns: dataset, method, mean, stderr, trials, domains.
    """
    of_trial = scores.groupby(["dataset", "method", "trial"], sort=False)["accuracy"].mean().reset_index()
    rows = []
    for (dataset, method), group in of_trial.groupby(["dataset", "method"], sort=False):
        values = group["accuracy"].to_numpy()
        mine = scores[(scores["dataset"] == dataset) & (scores["method"] == method)]
        stderr = float(values.std() / np.sqrt(len(values)))
        rows.append((dataset, method, float(values.mean()), stderr, len(values), mine["domain"].nunique()))
    return pd.DataFrame(rows, columns=["dataset", "method", "mean", "stderr", "trials", "domains"])


def paired_tests(scores: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Compare every two methods on the (data set, domain, trial) triples that both have.

    Trials of one domain share its images, so pairs are not independent, and ``p_t`` and ``p_wilcoxon`` are too small.
    ``p_domains`` takes each domain's mean difference as one observation, as a claim about *new* domains needs. With
    four domains it cannot be below 1/8.

    Args:
        baseline: compare with this method only; otherwise all pairs.

    Columns:
        method, other; pairs, domains: how many are shared;
        difference, stderr: accuracy of ``method`` minus that of ``other``, its mean over pairs and standard error;
        p_t, p_wilcoxon: two-sided paired t-test and signed-rank test over pairs, and with ``_holm`` Holm's correction
        over all rows;
        p_domains, p_domains_holm: sign-flip test over domain means, exact up to 16 domains.
        p-values are NaN where there are fewer than two pairs (or domains).

    Raises:
        UserError: if there is no such baseline, or fewer than two methods.
    """
    wide = _wide(scores, ["dataset", "domain", "trial"])
    methods = list(wide.columns)
    if baseline is not None and baseline not in methods:
        raise UserError(f"method {baseline!r} has no scores; the methods are {', '.join(methods)}")
    chosen = combinations(methods, 2) if baseline is None else ((m, baseline) for m in methods if m != baseline)
    table = pd.DataFrame([_pair(wide, method, other) for method, other in chosen])
    for name in ("p_t", "p_wilcoxon", "p_domains"):
        table[f"{name}_holm"] = holm(table[name].to_numpy())
    return table


def _wide(scores: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Accuracies with methods as columns, in the order of ``scores``, and ``keys`` as rows."""
    methods = list(dict.fromkeys(scores["method"]))
    if len(methods) < 2:
        raise UserError(f"methods are compared with each other, but the scores are of {len(methods)}")
    return scores.pivot_table(index=keys, columns="method", values="accuracy", aggfunc="mean")[methods]


def _pair(wide: pd.DataFrame, method: str, other: str) -> dict[str, object]:
    difference = (wide[method] - wide[other]).dropna()
    values = difference.to_numpy()
    by_domain = difference.groupby(level=["dataset", "domain"]).mean().to_numpy()
    several = len(values) > 1
    return {
        "method": method,
        "other": other,
        "pairs": len(values),
        "domains": len(by_domain),
        "difference": float(values.mean()) if len(values) else float("nan"),
        "stderr": float(values.std(ddof=1) / np.sqrt(len(values))) if several else float("nan"),
        "p_t": _t_test(values) if several else float("nan"),
        "p_wilcoxon": _signed_ranks(values) if several else float("nan"),
        "p_domains": sign_flip_p(by_domain) if len(by_domain) > 1 else float("nan"),
    }


def _t_test(values: np.ndarray) -> float:
    spread = values.std(ddof=1)
    if spread == 0:
        # Without spread the statistic is infinite, or 0 / 0 if the methods never differ.
        return 1.0 if values[0] == 0 else 0.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def _signed_ranks(values: np.ndarray) -> float:
    return float(stats.wilcoxon(values).pvalue) if np.any(values != 0) else 1.0


def sign_flip_p(values: np.ndarray, flips: int = 10_000) -> float:
    """The chance of so large an absolute mean if every difference is as likely to be positive as negative.

    Up to 16 values, all 2^n signs are tried; of more values, ``flips`` random signs and the data themselves.
    """
    observed = abs(values.sum())
    if len(values) <= _EXACT_SIGNS:
        signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
    else:
        drawn = np.random.default_rng(0).choice([-1, 1], size=(flips, len(values)))
        signs = np.concatenate([np.ones((1, len(values)), dtype=np.int64), drawn])
    return float((np.abs(signs @ values) >= observed - 1e-9).mean())


@dataclass(frozen=True, eq=False)
class Ranking:
    """Mean ranks of methods over blocks, and which methods can be told apart.

    Attributes:
        ranks: one row per block, one column per method; 1 is best, equal accuracies share the mean of their ranks.
        mean_ranks: per method, ascending.
        chi2, p_friedman: Friedman's test that all methods are alike, with its distribution for many blocks.
        p_permutation: the same test by permutations of methods within blocks; use it with few blocks.
        critical_difference: Nemenyi: mean ranks that differ by less are not told apart.
        groups: the largest sets of neighbouring methods that are not told apart, for the bars of a
            critical-difference diagram; only sets of two or more.
        cautions: sentences about the limits of the numbers; they belong under every diagram.
    """

    ranks: pd.DataFrame
    mean_ranks: pd.Series
    chi2: float
    p_friedman: float
    p_permutation: float
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]
    cautions: tuple[str, ...]


def rank_methods(scores: pd.DataFrame, blocks: str = "dataset", alpha: float = 0.05) -> Ranking:
    """Rank methods within blocks, and compare their mean ranks by Friedman's and Nemenyi's tests.

    Args:
        blocks: "dataset": one rank per data set, of the mean accuracy, as Demšar has it; "domain": one per test domain.
            Domains of one data set share classes and training domains, so their blocks are not independent.
        alpha: of the critical difference.

    Raises:
        UserError: on other blocks, fewer than two methods, or fewer than two blocks that all methods have.
    """
    keys: Mapping[str, Sequence[str]] = {"dataset": ["dataset"], "domain": ["dataset", "domain"]}
    if blocks not in keys:
        raise UserError(f"blocks is {blocks!r}; allowed: dataset, domain")
    of_domain = scores.groupby(["dataset", "domain", "method"], sort=False)["accuracy"].mean().reset_index()
    wide = _wide(of_domain, list(keys[blocks]))
    whole = wide.dropna()
    if len(whole) < 2:
        raise UserError(f"ranks need two {_PLURAL[blocks]} that all methods have results for; there are {len(whole)}")
    # Rounded, so that equal means tie.
    ranks = whole.round(9).rank(axis=1, ascending=False, method="average")
    mean_ranks = ranks.mean().sort_values(kind="stable")
    n, k = ranks.shape
    chi2 = float(friedman_chi2(ranks.to_numpy()))
    difference = critical_difference(k, n, alpha)
    return Ranking(
        ranks=ranks,
        mean_ranks=mean_ranks,
        chi2=chi2,
        p_friedman=float(stats.chi2.sf(chi2, k - 1)),
        p_permutation=friedman_permutation_p(ranks.to_numpy()),
        critical_difference=difference,
        groups=_groups(mean_ranks, difference),
        cautions=tuple(_cautions(blocks, n, k, len(wide) - len(whole), difference)),
    )


def friedman_chi2(ranks: np.ndarray) -> np.ndarray:
    """Friedman's χ² of ranks [..., blocks, methods], corrected for ties; 0 where all tie everywhere."""
    n, k = ranks.shape[-2:]
    spread = ((ranks - (k + 1) / 2) ** 2).sum(axis=(-2, -1))
    between = (k - 1) * ((ranks.sum(axis=-2) - n * (k + 1) / 2) ** 2).sum(axis=-1)
    return np.where(spread > 0, between / np.where(spread > 0, spread, 1.0), 0.0)


def friedman_permutation_p(ranks: np.ndarray, draws: int = 20_000) -> float:
    """The chance of so large a χ² if every order of a block's ranks is equally likely.

    Exact if the orders of all blocks but the first have at most ``draws`` combinations; otherwise from ``draws`` random
    ones and the data themselves.
    """
    n, k = ranks.shape
    observed = friedman_chi2(ranks)
    orders = np.array(list(permutations(range(k)))) if k <= 7 else np.empty((0, k), dtype=np.int64)
    if len(orders) and len(orders) ** (n - 1) <= draws:
        # Only the order of blocks relative to each other matters, so the first block stays as it is.
        chosen = np.array(list(product(range(len(orders)), repeat=n - 1)), dtype=np.int64).reshape(-1, n - 1)
        blocks = [np.broadcast_to(ranks[0], (len(chosen), k))]
        blocks += [ranks[block][orders[chosen[:, block - 1]]] for block in range(1, n)]
        return float((friedman_chi2(np.stack(blocks, axis=1)) >= observed - 1e-9).mean())
    random = np.random.default_rng(0)
    null = friedman_chi2(random.permuted(np.broadcast_to(ranks, (draws, n, k)), axis=2))
    return float((1 + (null >= observed - 1e-9).sum()) / (1 + draws))


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's q_α · √(k (k + 1) / (6 N)), with q_α the studentised range for infinite freedom over √2."""
    q = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def _groups(mean_ranks: pd.Series, difference: float) -> tuple[tuple[str, ...], ...]:
    names, values = list(mean_ranks.index), mean_ranks.to_numpy()
    ranges: list[tuple[int, int]] = []
    for start in range(len(names)):
        stop = int(np.searchsorted(values, values[start] + difference, side="right"))
        # A range that ends where the one before ended is part of it.
        if stop - start > 1 and (not ranges or stop > ranges[-1][1]):
            ranges.append((start, stop))
    return tuple(tuple(names[start:stop]) for start, stop in ranges)


def _cautions(blocks: str, n: int, k: int, left_out: int, difference: float) -> Iterable[str]:
    if left_out:
        yield f"Left out for want of a method's result: {left_out} of {n + left_out} {_PLURAL[blocks]}."
    if n < FEW_BLOCKS:
        yield (
            f"Only {n} {_PLURAL[blocks]}: mean ranks, which differ by {k - 1} at most, must differ by {difference:.2f} "
            "to be told apart, so methods that are not told apart may well differ."
        )
    if difference > k - 1:
        yield "With so few no two methods can be told apart, whatever their accuracies."
    if blocks == "domain":
        yield "Domains of one data set are not independent; the test treats them as if they were."
