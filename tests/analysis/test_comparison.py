"""Methods compared: means, paired tests, ranks and critical differences, by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sfmoe_dg.analysis.statistics.comparison import (
    SCORE_COLUMNS,
    critical_difference,
    friedman_chi2,
    friedman_permutation_p,
    paired_tests,
    rank_methods,
    scores_of,
    sign_flip_p,
    summary,
)
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.results.selection import SELECTION_METHODS


def scores(accuracies: dict[str, dict[str, list[list[float]]]]) -> pd.DataFrame:
    """From {data set: {method: [[trial 0, trial 1, …] of domain 0, …]}}."""
    rows = [
        (dataset, method, domain, trial, accuracy)
        for dataset, methods in accuracies.items()
        for method, domains in methods.items()
        for domain, trials in enumerate(domains)
        for trial, accuracy in enumerate(trials)
    ]
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def test_scores_are_what_is_selected():
    args = {"dataset": "PACS", "algorithm": "ERM", "hparams_seed": 0, "trial_seed": 1, "test_envs": [1]}
    records = [
        {"args": args, "step": step, "env0_in_acc": 0, "env0_out_acc": val, "env1_in_acc": test, "env1_out_acc": 0}
        for step, val, test in ((0, 0.5, 0.25), (300, 0.75, 0.5), (600, 0.625, 0.875))
    ]
    found = scores_of(records, SELECTION_METHODS[0])
    assert found.to_dict("records") == [{"dataset": "PACS", "method": "ERM", "domain": 1, "trial": 1, "accuracy": 50.0}]


def test_means_and_errors_by_hand():
    # Trials average 80 and 84 over the domains: 82 ± 2 / √2.
    found = summary(scores({"PACS": {"ERM": [[70, 76], [90, 92]]}}))
    assert found.iloc[0].tolist() == ["PACS", "ERM", 82, pytest.approx(2 / math.sqrt(2)), 2, 2]


def test_paired_differences_by_hand():
    # Differences 1, 2 in domain 0 and 3, 2 in domain 1: mean 2, variance 2/3 of four, t = 2 / √(1/6) = 4.899.
    table = paired_tests(scores({"PACS": {"SFMoE": [[71, 72], [83, 82]], "ERM": [[70, 70], [80, 80]]}}))
    row = table.iloc[0]
    assert row[["method", "other", "pairs", "domains", "difference"]].tolist() == ["SFMoE", "ERM", 4, 2, 2]
    assert row["stderr"] == pytest.approx(math.sqrt(1 / 6))
    assert row["p_t"] == pytest.approx(2 * stats.t.sf(2 * math.sqrt(6), 3))
    # All four are positive: one of 2^4 signs, and its mirror.
    assert row["p_wilcoxon"] == pytest.approx(2 / 16)
    # Domain means 1.5 and 2.5 keep their signs or lose both: 2 of 4.
    assert row["p_domains"] == 0.5


def test_only_shared_results_are_paired_and_corrected_together():
    found = scores({"PACS": {"A": [[1, 2, 4]], "B": [[0, 0, 0]], "C": [[5, 9]]}})
    table = paired_tests(found)
    assert table[["method", "other", "pairs"]].to_numpy().tolist() == [["A", "B", 3], ["A", "C", 2], ["B", "C", 2]]
    order = np.argsort(table["p_t"].to_numpy())
    smallest = table.iloc[order[0]]
    assert smallest["p_t_holm"] == pytest.approx(min(1, 3 * smallest["p_t"]))
    assert table["p_domains_holm"].isna().all()
    against = paired_tests(found, baseline="B")
    assert against[["method", "other"]].to_numpy().tolist() == [["A", "B"], ["C", "B"]]
    assert against.iloc[0]["p_t_holm"] == pytest.approx(min(1, 2 * against["p_t"].min()))
    with pytest.raises(UserError, match="method 'D' has no scores; the methods are A, B, C"):
        paired_tests(found, baseline="D")
    with pytest.raises(UserError, match="the scores are of 1"):
        paired_tests(found[found["method"] == "A"])


def test_methods_that_never_differ():
    row = paired_tests(scores({"PACS": {"A": [[1, 2], [1, 2]], "B": [[1, 2], [1, 2]]}})).iloc[0]
    assert row[["p_t", "p_wilcoxon", "p_domains"]].tolist() == [1, 1, 1]
    assert row["difference"] == row["stderr"] == 0


def test_sign_flips_by_hand():
    # ±1 ± 2 ± 3 is 6, 4, 2, 0 or their negatives; 4 in size is reached by four of the eight.
    assert sign_flip_p(np.array([-1.0, 2.0, 3.0])) == 4 / 8
    assert sign_flip_p(np.ones(4)) == 2 / 16
    assert sign_flip_p(np.ones(30)) == pytest.approx(1 / 10_001)


def test_friedman_by_hand():
    # Three methods, two data sets, ranks 1 2 3 twice: rank sums 2, 4, 6 around 4, χ² = 2 · 8 / 4 = 4 = n (k − 1).
    assert friedman_chi2(np.array([[1, 2, 3], [1, 2, 3]])) == pytest.approx(4)
    # One order of six repeats the first block's.
    assert friedman_permutation_p(np.array([[1.0, 2, 3], [1, 2, 3]])) == pytest.approx(1 / 6)
    assert friedman_chi2(np.full((3, 2), 1.5)) == 0
    assert friedman_permutation_p(np.full((3, 2), 1.5)) == 1


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_friedman_is_scipys(seed):
    values = np.random.default_rng(seed).integers(6, size=(7, 4)).astype(float)
    ranks = stats.rankdata(values, axis=1)
    expected = stats.friedmanchisquare(*values.T)
    assert friedman_chi2(ranks) == pytest.approx(expected.statistic)
    assert friedman_permutation_p(ranks, draws=2000) == pytest.approx(expected.pvalue, abs=0.08)


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_nemenyi_has_the_published_quantiles(methods, q):
    # Demšar's table 5 (a).
    scale = math.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14) / scale == pytest.approx(q, abs=0.001)


def test_ranks_by_hand():
    # Means of A, B, C: 3 2 1 on the first data set, B and C tie behind A on the second.
    found = rank_methods(
        scores({"PACS": {"C": [[1]], "A": [[2], [4]], "B": [[2, 2]]}, "VLCS": {"C": [[1]], "A": [[2]], "B": [[0, 2]]}})
    )
    assert found.ranks.loc["PACS", ["A", "B", "C"]].tolist() == [1, 2, 3]
    assert found.ranks.loc["VLCS", ["A", "B", "C"]].tolist() == [1, 2.5, 2.5]
    assert found.mean_ranks.to_dict() == {"A": 1, "B": 2.25, "C": 2.75}
    assert list(found.mean_ranks.index) == ["A", "B", "C"]
    # 2.343 · √(12 / 12): no two of three methods can be that far apart.
    assert found.critical_difference == pytest.approx(2.343, abs=0.001)
    assert found.groups == (("A", "B", "C"),)
    assert any("Only 2 data sets" in caution for caution in found.cautions)
    assert any("no two methods" in caution for caution in found.cautions)


def test_groups_are_as_large_as_the_critical_difference_allows():
    # Twenty blocks, always A before B before C before D; CD = 2.569 · √(20 / 120) = 1.05: neighbours alone.
    always = {"A": [[4]], "B": [[3]], "C": [[2]], "D": [[1]]}
    found = rank_methods(scores({f"set {i}": always for i in range(20)}))
    assert found.critical_difference == pytest.approx(1.049, abs=0.001)
    assert found.groups == (("A", "B"), ("B", "C"), ("C", "D"))
    assert found.p_friedman < 1e-6
    assert found.p_permutation < 1e-3
    assert found.cautions == ()
    many = rank_methods(scores({f"set {i}": always for i in range(30)}))
    assert many.groups == ()


def test_blocks_of_domains_and_what_is_left_out():
    some = {"A": [[3], [2], [5]], "B": [[1], [3]]}
    found = rank_methods(scores({"PACS": some}), blocks="domain")
    assert found.ranks["A"].tolist() == [1, 2]
    assert any("Left out for want of a method's result: 1 of 3 test domains" in c for c in found.cautions)
    assert any("not independent" in c for c in found.cautions)
    with pytest.raises(UserError, match="there are 1"):
        rank_methods(scores({"PACS": some}))
    with pytest.raises(UserError, match="allowed: dataset, domain"):
        rank_methods(scores({"PACS": some}), blocks="trial")


@settings(max_examples=20)
@given(st.integers(0, 999), st.floats(0.1, 10), st.floats(-50, 50))
def test_ranks_do_not_see_the_scale(seed, factor, shift):
    values = np.random.default_rng(seed).normal(70, 5, size=(3, 3, 2, 2))
    named = {f"set {i}": dict(zip("ABC", block.tolist(), strict=True)) for i, block in enumerate(values)}
    found = scores(named)
    other = found.assign(accuracy=found["accuracy"] * factor + shift)
    assert rank_methods(found).ranks.equals(rank_methods(other).ranks)
    first, second = paired_tests(found), paired_tests(other)
    np.testing.assert_allclose(second["p_t"], first["p_t"], rtol=1e-6)
    np.testing.assert_allclose(second["difference"], factor * first["difference"], atol=1e-9)
