"""Whether an expert goes with the same attributes in another domain, seen or unseen, and in another run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.attributes.compute import units_of
from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import colour, curve, heat_map, marker, new_figure, plain_axes
from sfmoe_dg.analysis.parts.figure import routings
from sfmoe_dg.analysis.stability.compute import Stability, domain_stability, match_by_profiles
from sfmoe_dg.analysis.subject.observations import observe
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject, has_experts

PERMUTATIONS = 300
OTHER_RUNS = 4


def drawings(subject: Subject) -> Iterator[Drawing]:
    observed, layer = subject.observed, subject.main_layer
    if not observed.annotations.attribute_names:
        raise NotApplicable(f"{subject.run.dataset.name} has no attributes")
    stability = domain_stability(observed, layer, permutations=PERMUTATIONS)
    what = f"{subject.layer_title}; {subject.where(observed)}"
    yield Drawing(
        "stability",
        draw_pairs(stability.pairs),
        stability.pairs,
        "Rank correlation of an expert's attribute profile between domains, mean over experts, * where p < 0.05 "
        f"({PERMUTATIONS} permutations of objects): {what}.",
    )
    kinds = baseline_kinds(subject, stability)
    yield Drawing(
        "stability_baselines",
        draw_kinds(kinds),
        kinds,
        "Rank correlation of attribute profiles with the same expert and with the other experts of another domain, by "
        f"kind of pair, beside routing that means nothing: {what}.",
    )
    matches = matched_runs(subject)
    if len(matches):
        yield Drawing(
            "stability_runs",
            draw_matches(matches),
            matches,
            f"Experts of other runs matched by optimal assignment of attribute profiles (rank correlation, mean over "
            f"pairs) beside what matching reaches by chance: {what}.",
        )


def baseline_kinds(subject: Subject, trained: Stability) -> pd.DataFrame:
    """``kinds`` of every routing, with a column ``routing``."""
    tables = [trained.kinds.assign(routing="trained")]
    for name, seen in routings(subject).items():
        if name != "trained":
            kinds = domain_stability(seen, subject.main_layer, permutations=PERMUTATIONS).kinds
            tables.append(kinds.assign(routing=name))
    return pd.concat(tables, ignore_index=True)


def matched_runs(subject: Subject) -> pd.DataFrame:
    """Columns run, likeness, chance, p; one row per other run of the same algorithm."""
    own, layer = units_of(subject.observed, subject.main_layer), subject.main_layer
    rows = []
    alike = [c for c in subject.siblings if c.record["args"]["algorithm"] == subject.run.spec.algorithm]
    for candidate in alike[:OTHER_RUNS]:
        if not has_experts(candidate):
            continue
        run = subject.opened(candidate.folder)
        other = observe(run, limit=subject.images)
        if layer in other.layers:
            match = match_by_profiles(own, units_of(other, layer), permutations=PERMUTATIONS)
            rows.append((f"{run.spec.algorithm}, held out {run.held_out}", match.likeness, match.chance, match.p))
    return pd.DataFrame(rows, columns=["run", "likeness", "chance", "p"])


def draw_pairs(pairs: pd.DataFrame) -> Figure:
    """Domain × domain; ``pairs`` as in :class:`Stability`."""
    names = list(dict.fromkeys([*pairs["domain"], *pairs["other"]]))
    rho, sure = np.full((len(names), len(names)), np.nan), np.zeros((len(names), len(names)), dtype=bool)
    for row in pairs.itertuples():
        i, j = names.index(str(row.domain)), names.index(str(row.other))
        rho[i, j] = rho[j, i] = float(row.rho)  # type: ignore[arg-type]
        sure[i, j] = sure[j, i] = float(row.p) < 0.05  # type: ignore[arg-type]
    figure, axes = new_figure(1, 1, 1.9 + 0.8 * len(names), 1.0 + 0.65 * len(names))
    image = heat_map(axes[0, 0], rho, names, names, limits=(-1, 1), around_zero=True, digits=2, marks=sure)
    figure.colorbar(image, ax=axes[0, 0], label="rank correlation of profiles")
    return figure


def draw_kinds(kinds: pd.DataFrame) -> Figure:
    """One panel per kind of pair: the same expert and the others, by routing."""
    names = list(dict.fromkeys(kinds["kind"]))
    figure, axes = new_figure(1, len(names), 3.4, 2.6, sharey=True, sharex=True)
    for axis, kind in zip(axes[0], names, strict=True):
        rows = kinds[kinds["kind"] == kind]
        places = np.arange(len(rows))[::-1]
        for place, (column, label) in enumerate((("rho", "same expert"), ("rho_others", "other experts"))):
            axis.plot(
                rows[column], places, marker=marker(place), color=colour(place), linestyle="none", markersize=8,
                label=label if axis is axes[0, 0] else None,
            )  # fmt: skip
        axis.set_yticks(places, rows["routing"])
        axis.axvline(0, color="#1a1a1a", linewidth=0.8)
        pairs = int(rows["pairs"].iloc[0])
        axis.set_title(f"{kind} ({pairs} pair{'s' if pairs > 1 else ''})", fontsize=10)
        axis.set_xlim(-1.05, 1.05)
        plain_axes(axis, "rank correlation", "")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_matches(matches: pd.DataFrame) -> Figure:
    """Likeness of matched experts and chance, one row per run."""
    figure, axes = new_figure(1, 1, 5.6, 1.1 + 0.35 * len(matches))
    places = np.arange(len(matches))[::-1]
    for place, (column, label) in enumerate((("likeness", "matched experts"), ("chance", "matched by chance"))):
        curve(axes[0, 0], place, matches[column], places, label=label)
        axes[0, 0].lines[-1].set_linestyle("none")
    axes[0, 0].set_yticks(places, [f"{run} (p = {p:.3g})" for run, p in zip(matches["run"], matches["p"], strict=True)])
    axes[0, 0].set_ylim(-0.6, len(matches) - 0.4)
    plain_axes(axes[0, 0], "rank correlation of profiles", "")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
