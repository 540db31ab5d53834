"""Which attributes go with which experts: all pairs at a glance, the strongest with their uncertainty, and chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.attributes.compute import attribute_associations
from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import colour, heat_map, new_figure, plain_axes
from sfmoe_dg.analysis.parts.figure import routings
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject

PERMUTATIONS = 1000
REPLICATES = 500
SIGNIFICANT = 0.05
SHOWN_ATTRIBUTES = 30
SHOWN_PAIRS = 15


def drawings(subject: Subject) -> Iterator[Drawing]:
    observed, layer = subject.observed, subject.main_layer
    if not observed.annotations.attribute_names:
        raise NotApplicable(f"{subject.run.dataset.name} has no attributes")
    tables = {
        name: attribute_associations(seen, layer, permutations=PERMUTATIONS, replicates=REPLICATES)
        for name, seen in routings(subject).items()
    }
    table = tables["trained"]
    what = f"{subject.layer_title}; {subject.where(observed)}, {table['units'].max()} objects"
    tests = f"{PERMUTATIONS} permutations of objects, Benjamini–Hochberg over all pairs"
    yield Drawing(
        "attributes",
        draw_associations(table),
        table,
        f"Point-biserial correlation of every attribute with the share of an object's patches that each expert takes, "
        f"* where p < {SIGNIFICANT} ({tests}): {what}.",
    )
    yield Drawing(
        "attributes_effects",
        draw_effects(table),
        strongest(table),
        f"The {min(SHOWN_PAIRS, len(table))} strongest pairs: usage with the attribute minus usage without it, with 95 "
        f"% bootstrap intervals ({REPLICATES} replicates), chosen by the same data, so expect them to shrink: {what}.",
    )
    against_chance = baseline_table(tables)
    yield Drawing(
        "attributes_baselines",
        draw_baselines(against_chance),
        against_chance,
        f"Pairs of attribute and expert with p < {SIGNIFICANT} ({tests}), and the mean absolute correlation, for "
        f"trained routing and for routing that means nothing: {what}.",
    )


def strongest(table: pd.DataFrame, number: int = SHOWN_PAIRS) -> pd.DataFrame:
    """The pairs with the largest absolute correlation."""
    order = table["r"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order[:number]]


def baseline_table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Columns routing, significant (share of the pairs that are defined), correlation (mean \\|r\\|), pairs."""
    rows = []
    for name, table in tables.items():
        known = table.dropna(subset="p_bh")
        share = float((known["p_bh"] < SIGNIFICANT).mean()) if len(known) else 0.0
        rows.append((name, share, float(known["r"].abs().mean()) if len(known) else 0.0, len(known)))
    return pd.DataFrame(rows, columns=["routing", "significant", "correlation", "pairs"])


def draw_associations(table: pd.DataFrame) -> Figure:
    """Attributes × experts; of more than fit, the attributes with the largest correlations."""
    r = table.pivot(index="attribute", columns="expert", values="r")
    order = r.abs().max(axis=1).sort_values(ascending=False, kind="stable").index[:SHOWN_ATTRIBUTES]
    p = table.pivot(index="attribute", columns="expert", values="p_bh").loc[order]
    r = r.loc[order]
    largest = max(0.1, float(np.nanmax(r.abs().to_numpy(), initial=0.0)))
    figure, axes = new_figure(1, 1, 2.6 + 0.5 * r.shape[1], 1.0 + 0.26 * len(r))
    names = [str(name).replace("_", " ") for name in r.index]
    image = heat_map(
        axes[0, 0],
        r.to_numpy(),
        names,
        list(r.columns),
        limits=(-largest, largest),
        around_zero=True,
        digits=2,
        marks=p.to_numpy() < SIGNIFICANT,
    )
    axes[0, 0].set_xlabel("expert")
    figure.colorbar(image, ax=axes[0, 0], label="correlation r with usage")
    return figure


def draw_effects(table: pd.DataFrame) -> Figure:
    """The strongest pairs' differences in usage with their intervals."""
    rows = strongest(table)[::-1]
    figure, axes = new_figure(1, 1, 5.6, 1.0 + 0.26 * len(rows))
    places = np.arange(len(rows))
    middle = 100 * rows["difference"].to_numpy()
    low, high = 100 * rows["difference_low"].to_numpy(), 100 * rows["difference_high"].to_numpy()
    axes[0, 0].errorbar(
        middle, places, xerr=np.clip([middle - low, high - middle], 0, None), fmt="o", color=colour(0), capsize=2.5
    )
    names = [f"{a.replace('_', ' ')}, expert {e}" for a, e in zip(rows["attribute"], rows["expert"], strict=True)]
    axes[0, 0].set_yticks(places, names)
    axes[0, 0].axvline(0, color="#1a1a1a", linewidth=0.8)
    plain_axes(axes[0, 0], "usage with the attribute − without it (percentage points of patches)", "")
    return figure


def draw_baselines(table: pd.DataFrame) -> Figure:
    """Share of significant pairs and mean absolute correlation per routing; see :func:`baseline_table`."""
    figure, axes = new_figure(1, 2, 3.6, 2.2, sharey=True)
    places = np.arange(len(table))[::-1]
    for axis, values, label in (
        (axes[0, 0], 100 * table["significant"], f"pairs with p < {SIGNIFICANT} (%)"),
        (axes[0, 1], table["correlation"], "mean absolute correlation"),
    ):
        axis.barh(places, values, color=[colour(i) for i in range(len(table))], height=0.6)
        axis.set_yticks(places, table["routing"])
        plain_axes(axis, label, "")
    return figure
