"""Comparing the methods of a sweep: means, paired differences, ranks, and published numbers beside measured ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.compare.published_numbers import beside_published
from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import colour, marker, new_figure, plain_axes
from sfmoe_dg.analysis.statistics.comparison import Ranking, paired_tests, rank_methods, scores_of, summary
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.results.read import load_records
from sfmoe_dg.results.selection import SELECTION_METHODS


def drawings(subject: Subject) -> Iterator[Drawing]:
    method = SELECTION_METHODS[0]
    scores = scores_of(load_records(subject.sweep).records, method)
    measured = summary(scores)
    if measured["method"].nunique() < 2:
        raise NotApplicable(f"{subject.sweep} holds results of one method only; train another one there")
    what = (
        f"accuracy on the in-split of held-out domains, {method.name}; {len(scores)} results of "
        f"{measured['method'].nunique()} methods, at most {measured['trials'].max()} trial(s)"
    )
    blocks = "dataset" if scores["dataset"].nunique() > 1 else "domain"
    ranking, unranked = ranked(scores, blocks)
    beside = beside_published(measured, method.name)
    table = measured.merge(beside.drop(columns=["mean", "stderr"]), on=["dataset", "method"], how="left")
    yield Drawing(
        "compare",
        draw_means(measured, beside),
        table,
        f"Mean ± standard error over trials by data set and method, published numbers in open markers where there are "
        f"any: {what}.",
    )
    tests = paired_tests(scores)
    yield Drawing(
        "compare_pairs",
        draw_pairs(tests),
        tests,
        "Paired differences over (domain, trial) with standard errors; p: sign-flip test over domain means, and by "
        f"Holm's correction over all pairs: {what}.{unranked}",
    )
    if ranking is None:
        return
    yield Drawing(
        "compare_ranks",
        draw_ranks(ranking),
        ranking.ranks.reset_index().assign(critical_difference=ranking.critical_difference),
        f"Mean ranks over {len(ranking.ranks)} {blocks}s (1 is best), bars join methods that Nemenyi's test does not "
        f"tell apart (Friedman p = {ranking.p_friedman:.3g}): {what}. {' '.join(ranking.cautions)}",
    )


def ranked(scores: pd.DataFrame, blocks: str) -> tuple[Ranking | None, str]:
    """The ranks; or None and, for captions, the reason."""
    try:
        return rank_methods(scores, blocks), ""
    except UserError as error:
        return None, f" No critical-difference diagram: {error}."


def draw_means(measured: pd.DataFrame, beside: pd.DataFrame) -> Figure:
    """One panel per data set; see :func:`summary` and :func:`beside_published`."""
    datasets = list(dict.fromkeys(measured["dataset"]))
    methods = list(dict.fromkeys(measured["method"]))[::-1]
    figure, axes = new_figure(1, len(datasets), 3.6, 1.2 + 0.3 * len(methods), sharey=True)
    sources = list(dict.fromkeys(beside["source"] + ", " + beside["version"])) if len(beside) else []
    for axis, dataset in zip(axes[0], datasets, strict=True):
        rows = measured[measured["dataset"] == dataset]
        at = [methods.index(name) for name in rows["method"]]
        axis.errorbar(
            rows["mean"], at, xerr=rows["stderr"], fmt="o", color=colour(0), capsize=2.5,
            label="measured" if axis is axes[0, 0] else None,
        )  # fmt: skip
        for place, source in enumerate(sources, start=1):
            numbers = beside[(beside["dataset"] == dataset) & (beside["source"] + ", " + beside["version"] == source)]
            heights = [methods.index(name) + 0.12 * place for name in numbers["method"]]
            label = source if axis is axes[0, 0] else None
            style = {"marker": marker(place), "color": colour(place), "fillstyle": "none", "linestyle": "none"}
            axis.plot(numbers["published"], heights, label=label, **style)
        axis.set_yticks(range(len(methods)), methods)
        axis.set_ylim(-0.6, len(methods) - 0.4)
        axis.set_title(dataset, fontsize=10)
        plain_axes(axis, "accuracy (%)", "")
    if sources:
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_pairs(tests: pd.DataFrame) -> Figure:
    """Differences of all pairs; see :func:`paired_tests`."""
    figure, axes = new_figure(1, 1, 5.6, 1.1 + 0.3 * len(tests))
    places = np.arange(len(tests))[::-1]
    axes[0, 0].errorbar(tests["difference"], places, xerr=tests["stderr"], fmt="o", color=colour(0), capsize=2.5)
    pairs = zip(tests["method"], tests["other"], tests["p_domains"], tests["p_domains_holm"], strict=True)
    names = [f"{one} − {two}  (p = {p:.2g}, Holm {holm:.2g})" for one, two, p, holm in pairs]
    axes[0, 0].set_yticks(places, names)
    axes[0, 0].set_ylim(-0.6, len(tests) - 0.4)
    axes[0, 0].axvline(0, color="#1a1a1a", linewidth=0.8)
    plain_axes(axes[0, 0], "difference in accuracy (percentage points)", "")
    return figure


def draw_ranks(ranking: Ranking) -> Figure:
    """The critical-difference diagram: an axis of ranks with the methods' names; bars join methods not told apart."""
    names, values = list(ranking.mean_ranks.index), ranking.mean_ranks.to_numpy()
    half, bars = (len(names) + 1) // 2, len(ranking.groups)
    bottom = 1.0 + 0.35 * bars
    figure, axes = new_figure(1, 1, 6.4, 1.0 + 0.3 * (half + bars))
    axis = axes[0, 0]
    low, high = 1.0, float(len(names))
    axis.set_xlim(low - 0.45 * (high - low), high + 0.45 * (high - low))
    axis.set_ylim(-bottom - 0.6 * half, 1.4)
    axis.set_axis_off()
    axis.plot([low, high], [0, 0], color="#1a1a1a")
    for tick in range(1, len(names) + 1):
        axis.plot([tick, tick], [0, 0.15], color="#1a1a1a")
        axis.text(tick, 0.25, str(tick), ha="center", va="bottom", fontsize=9)
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        left = place < half
        y = -bottom - 0.6 * (place if left else len(names) - 1 - place)
        edge = low - 0.05 * (high - low) if left else high + 0.05 * (high - low)
        axis.plot([value, value, edge], [0, y, y], color="#555555", linewidth=1)
        text = f"{name} ({value:.2f})"
        axis.text(edge, y, f"{text} " if left else f" {text}", ha="right" if left else "left", va="center", fontsize=9)
    for place, group in enumerate(ranking.groups):
        reach = ranking.mean_ranks[list(group)]
        y = -0.35 - 0.35 * place
        axis.plot(
            [reach.min() - 0.03, reach.max() + 0.03], [y, y], color=colour(5), linewidth=5, solid_capstyle="round"
        )
    length = min(ranking.critical_difference, high - low)
    axis.plot([low, low + length], [1.0, 1.0], color="#1a1a1a", linewidth=2)
    note = f"critical difference {ranking.critical_difference:.2f}" + (
        ", longer than the axis" if ranking.critical_difference > high - low else ""
    )
    axis.text(low + length / 2, 1.1, note, ha="center", va="bottom", fontsize=9)
    return figure
