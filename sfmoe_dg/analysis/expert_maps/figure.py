"""Expert maps: the same picture in every domain with its patches coloured by expert, layer by layer, parts marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import curve, expert_cells, new_figure, picture, plain_axes
from sfmoe_dg.analysis.expert_maps.compute import ExpertMaps, agreement, expert_maps, pictures, shared_objects
from sfmoe_dg.analysis.subject.subject import Subject, short
from sfmoe_dg.foundation.errors import UserError

OBJECTS = 3


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a figure: a picture and its maps.

    Attributes:
        parts: [P, 3], see :class:`sfmoe_dg.analysis.subject.annotations.Annotations`.
        row: the picture's position in :class:`ExpertMaps`.
    """

    title: str
    pixels: np.ndarray
    parts: np.ndarray
    row: int


def drawings(subject: Subject) -> Iterator[Drawing]:
    observed = subject.observed
    maps = {short(layer): expert_maps(observed, layer) for layer in observed.layers}
    for number, rows in enumerate(subject.first_objects(OBJECTS)):
        columns = columns_of(subject, rows)
        names = ", ".join(dict.fromkeys(observed.class_names[observed.label[row]] for row in rows))
        yield Drawing(
            f"expert_maps_{number + 1}",
            draw_maps(columns, maps),
            map_table(columns, maps),
            f"First choice of expert of every patch, per layer of {subject.title}, on {len(rows)} images of the "
            f"out-splits ({subject.run.dataset.name}, class {names}); circles are visible parts.",
        )
    try:
        shared_objects(observed)
    except UserError:
        return
    table = agreement(observed)
    table["layer"] = table["layer"].map(short)
    yield Drawing(
        "expert_maps_agreement",
        draw_agreement(table),
        table,
        "How often a patch keeps its expert when the style changes, mean over pairs of domains, beside another object "
        f"at the same place and chance, layer by layer of {subject.title}; {subject.where(observed)}.",
    )


def columns_of(subject: Subject, rows: np.ndarray) -> list[Column]:
    """A column for each of these rows of ``subject.observed``."""
    observed, chosen = subject.observed, subject.only(rows)
    pixels = pictures(subject.run.dataset, chosen.domain, chosen.index)
    return [
        Column(subject.domains_of(observed.domain[row : row + 1]), image, observed.annotations.parts[row], row)
        for row, image in zip(rows.tolist(), pixels, strict=True)
    ]


def map_table(columns: list[Column], maps: Mapping[str, ExpertMaps]) -> pd.DataFrame:
    """Columns picture, layer, row, column, expert, gate, kept."""
    parts = []
    for column in columns:
        for layer, of_layer in maps.items():
            rows, cols = np.indices(of_layer.experts.shape[1:])
            values = {name: getattr(of_layer, name)[column.row].ravel() for name in ("experts", "gates", "kept")}
            head = {"picture": column.title, "layer": layer, "row": rows.ravel(), "column": cols.ravel()}
            parts.append(pd.DataFrame(head | values))
    return pd.concat(parts, ignore_index=True)


def draw_maps(columns: list[Column], maps: Mapping[str, ExpertMaps]) -> Figure:
    """Pictures in the first row, one row per layer below."""
    figure, axes = new_figure(1 + len(maps), len(columns), 1.75, 1.75)
    for place, column in enumerate(columns):
        for axis in axes[:, place]:
            picture(axis, column.pixels)
        axes[0, place].set_title(column.title, fontsize=9)
        seen = column.parts[column.parts[:, 2] > 0]
        axes[0, place].scatter(seen[:, 0], seen[:, 1], s=26, facecolors="white", edgecolors="black", linewidths=1.2)
        for axis, of_layer in zip(axes[1:, place], maps.values(), strict=True):
            expert_cells(axis, of_layer.experts[column.row], of_layer.num_experts)
    for axis, layer in zip(axes[:, 0], ["picture", *maps], strict=True):
        axis.set_ylabel(layer, fontsize=9)
    return figure


def draw_agreement(table: pd.DataFrame) -> Figure:
    """Means over pairs of domains by layer."""
    means = table.groupby("layer", sort=False)[["agreement", "position", "chance"]].mean()
    figure, axes = new_figure(1, 1, max(4.6, 1.2 + 0.55 * len(means)), 3.0)
    labels = {"agreement": "same object, other style", "position": "another object, other style", "chance": "chance"}
    for place, (column, label) in enumerate(labels.items()):
        curve(axes[0, 0], place, np.arange(len(means)), 100 * means[column], label=label)
    axes[0, 0].set_xticks(range(len(means)), list(means.index), rotation=30 if len(means) > 4 else 0, fontsize=8)
    axes[0, 0].set_ylim(0, 100)
    axes[0, 0].margins(x=0.15)
    plain_axes(axes[0, 0], "layer", "patches with the same expert (%)")
    figure.legend(loc="outside upper center", ncols=1, frameon=False)
    return figure
