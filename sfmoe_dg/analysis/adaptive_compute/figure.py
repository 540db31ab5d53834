"""Adaptive compute: one trained model with smaller buffers or fewer experts, and which patches it drops first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.adaptive_compute.compute import (
    ALLOCATIONS,
    RATIOS,
    accuracy_against_capacity,
    dropped_patches,
    drops_on_object,
    first_dropped,
)
from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import AMOUNTS, curve, new_figure, picture, plain_axes
from sfmoe_dg.analysis.expert_maps.compute import pictures
from sfmoe_dg.analysis.parts.compute import part_patches
from sfmoe_dg.analysis.subject.opened import ImageSelection
from sfmoe_dg.analysis.subject.predicting import Batches, vision_transformer
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject, short
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.moe.layers import moe_layers

SHOWN = 6
NAMES = {"vanilla": "vanilla", "batch_priority": "batch priority (BPR)"}


def drawings(subject: Subject) -> Iterator[Drawing]:
    subject.require_experts()
    unseen = unseen_images(subject)
    batches = list(subject.batches(unseen))
    algorithm = subject.run.algorithm
    where = f"{subject.title}, not trained again; {subject.where(unseen)}"
    capacity = capacity_table(subject, batches)
    yield Drawing(
        "adaptive_compute",
        draw_capacity(capacity),
        capacity,
        "Accuracy (binomial standard error) and kept tokens against the capacity ratio, vanilla and batch priority "
        f"allocation: {where}.",
    )
    options = moe_layers(algorithm)[0][1].options
    ks = sorted({1, 2, 3, options.top_k, options.num_experts} & set(range(1, options.num_experts + 1)))
    by_k = accuracy_against_capacity(algorithm, batches, ratios=(None,), ks=ks)
    yield Drawing(
        "adaptive_compute_k",
        draw_k(by_k, options.top_k),
        by_k,
        f"Accuracy against the number of experts per token, nothing dropped; trained with {options.top_k}: {where}.",
    )
    yield from dropped_drawings(subject, unseen)


def dropped_drawings(subject: Subject, chosen: ImageSelection) -> Iterator[Drawing]:
    """Which patches are dropped first, on pictures and on average."""
    drops = drops_of(subject, chosen)
    what = f"layer {short(drops.layer)} of {subject.title}, one batch of {subject.where(chosen)}"
    pixels, first = drops.shown(subject, chosen)
    yield Drawing(
        "adaptive_compute_dropped",
        draw_dropped(pixels, first),
        dropped_table(first),
        f"Largest capacity ratio at which a patch is dropped (0: kept at all ratios), {len(pixels)} pictures "
        f"from the first to the last of the batch: {what}.",
    )
    if not subject.observed.annotations.part_names:
        return
    on_object = objects_of(subject, chosen)
    tables = {name: drops_on_object(dropped, RATIOS, on_object) for name, dropped in drops.dropped.items()}
    shares = pd.concat(tables, names=["allocation"]).reset_index(level=0)
    yield Drawing(
        "adaptive_compute_object",
        draw_object(shares),
        shares,
        f"Share of dropped patches among those that hold a visible part and among the others: {what}.",
    )


def capacity_table(subject: Subject, batches: Batches) -> pd.DataFrame:
    """:func:`accuracy_against_capacity` of the subject's run on these batches.

    Raises:
        NotApplicable: if its experts have no buffers: conditional experts whose route does not depend on the token.
    """
    try:
        return accuracy_against_capacity(subject.run.algorithm, batches)
    except UserError as error:
        raise NotApplicable(f"{subject.title} has no capacity to change: {error}") from None


@dataclass(frozen=True, eq=False)
class Drops:
    """Which patches the first layer with experts drops.

    Attributes:
        layer: its name.
        dropped: allocation → bool [R, N, h, w], a row per capacity ratio of ``RATIOS``.
    """

    layer: str
    dropped: Mapping[str, np.ndarray]

    def shown(self, subject: Subject, chosen: ImageSelection) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """A few pictures from the first to the last of the batch, and allocation → when each patch is first dropped.

        They come from the whole batch, because vanilla allocation serves the first images of a batch first.
        """
        rows = np.linspace(0, len(chosen) - 1, min(SHOWN, len(chosen))).astype(int)
        first = {name: first_dropped(dropped, RATIOS)[rows] for name, dropped in self.dropped.items()}
        return pictures(subject.run.dataset, chosen.domain[rows], chosen.index[rows]), first


def drops_of(subject: Subject, chosen: ImageSelection) -> Drops:
    """The drops under both allocations, all images in one batch.

    Raises:
        NotApplicable: as :func:`capacity_table`.
    """
    x = subject.inputs(chosen)
    try:
        network = vision_transformer(subject.run.algorithm, x[:1])
        by_layer = {name: dropped_patches(network, x, RATIOS, allocation=name) for name in ALLOCATIONS}
    except UserError as error:
        raise NotApplicable(f"{subject.title} has no capacity to change: {error}") from None
    layer = next(iter(by_layer[ALLOCATIONS[0]]))
    return Drops(layer, {name: layers[layer] for name, layers in by_layer.items()})


def unseen_images(subject: Subject) -> ImageSelection:
    """The images of unseen domains, or all images if the run was trained on every domain."""
    domain = subject.selection.domain
    rows = np.flatnonzero(np.isin(domain, subject.run.spec.test_envs))
    return subject.only(rows if len(rows) else np.arange(len(domain)))


def objects_of(subject: Subject, chosen: ImageSelection) -> np.ndarray:
    """Patches that hold a visible part, bool [N, h, w]."""
    observed = subject.observed
    row_of = {pair: row for row, pair in enumerate(zip(observed.domain.tolist(), observed.index.tolist(), strict=True))}
    rows = [row_of[pair] for pair in zip(chosen.domain.tolist(), chosen.index.tolist(), strict=True)]
    background = part_patches(observed.take(np.array(rows)), 1)[:, -1]
    return ~background.reshape(len(rows), *observed.grid)


def draw_capacity(table: pd.DataFrame) -> Figure:
    """Accuracy, and tokens that reach an expert, one line per allocation; a dotted line where nothing is dropped."""
    figure, axes = new_figure(1, 2, 4.2, 3.2)
    limited = table.dropna(subset="capacity_ratio")
    for place, (allocation, rows) in enumerate(limited.groupby("allocation", sort=False)):
        curve(
            axes[0, 0],
            place,
            rows["capacity_ratio"],
            100 * rows["accuracy"],
            100 * rows["stderr"],
            NAMES[str(allocation)],
        )
        curve(axes[0, 1], place, rows["capacity_ratio"], 100 * rows["tokens_kept"])
    dropless = table[table["capacity_ratio"].isna()]
    if len(dropless):
        axes[0, 0].axhline(100 * dropless["accuracy"].iloc[0], color="#1a1a1a", linestyle=":", label="nothing dropped")
    plain_axes(axes[0, 0], "capacity ratio", "accuracy (%)")
    plain_axes(axes[0, 1], "capacity ratio", "tokens that reach an expert (%)")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_k(table: pd.DataFrame, trained: int) -> Figure:
    """Accuracy against k; the k of training marked."""
    figure, axes = new_figure(1, 1, 4.2, 3.0)
    curve(axes[0, 0], 0, table["k"], 100 * table["accuracy"], 100 * table["stderr"])
    axes[0, 0].axvline(trained, color="#1a1a1a", linestyle=":", linewidth=1)
    axes[0, 0].annotate(
        "as trained", (trained, 0.03), xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points",
        fontsize=8,
    )  # fmt: skip
    axes[0, 0].set_xticks(sorted(table["k"].unique()))
    plain_axes(axes[0, 0], "experts per token, k", "accuracy (%)")
    return figure


def dropped_table(first: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Columns allocation, picture, row, column, first_dropped."""
    parts = []
    for allocation, values in first.items():
        places = dict(zip(("picture", "row", "column"), np.indices(values.shape).reshape(3, -1), strict=True))
        parts.append(pd.DataFrame({"allocation": allocation} | places | {"first_dropped": values.ravel()}))
    return pd.concat(parts, ignore_index=True)


def draw_dropped(pixels: np.ndarray, first: Mapping[str, np.ndarray]) -> Figure:
    """Pictures, and below them the capacity ratio at which each patch is dropped, one row per allocation."""
    figure, axes = new_figure(1 + len(first), len(pixels), 1.3, 1.35)
    high = max(float(values.max()) for values in first.values())
    for place, image in enumerate(pixels):
        picture(axes[0, place], image)
        for row, values in enumerate(first.values()):
            picture(axes[1 + row, place], image)
            drawn = axes[1 + row, place].imshow(
                values[place], cmap=AMOUNTS, vmin=0, vmax=high or 1, alpha=0.85, extent=(0, 1, 1, 0),
                interpolation="nearest",
            )  # fmt: skip
    for axis, label in zip(axes[:, 0], ["picture", *(NAMES[name] for name in first)], strict=True):
        axis.set_ylabel(label.replace(" (", "\n("), fontsize=8)
    figure.colorbar(drawn, ax=axes.ravel().tolist(), label="largest capacity ratio\nat which it is dropped")
    return figure


def draw_object(shares: pd.DataFrame) -> Figure:
    """One panel per allocation: dropped patches with a visible part, and without."""
    names = list(dict.fromkeys(shares["allocation"]))
    figure, axes = new_figure(1, len(names), 3.6, 3.0, sharey=True)
    for axis, allocation in zip(axes[0], names, strict=True):
        rows = shares[shares["allocation"] == allocation]
        for place, (column, label) in enumerate((("object", "patches with a part"), ("background", "other patches"))):
            curve(axis, place, rows["capacity_ratio"], 100 * rows[column], label=label if axis is axes[0, 0] else "")
        axis.set_title(NAMES[allocation], fontsize=10)
        plain_axes(axis, "capacity ratio", "dropped patches (%)" if axis is axes[0, 0] else "")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
