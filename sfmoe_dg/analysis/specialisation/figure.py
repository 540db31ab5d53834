"""Experts by class and by position, per layer, and how much class, domain and position say about the expert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import colour, curve, heat_map, marker, new_figure, plain_axes
from sfmoe_dg.analysis.specialisation.compute import (
    MEASURES,
    class_table,
    clustered_columns,
    position_table,
    specialisation,
)
from sfmoe_dg.analysis.subject.subject import Subject, short

LABELS = {"frequency": "share of tokens that choose the expert", "weight": "mean combine weight"}
SHOWN_NAMES = 40


def drawings(subject: Subject) -> Iterator[Drawing]:
    observed = subject.observed
    where = f"{subject.title}; {subject.where(observed)}"
    for measure in MEASURES:
        by_class = {short(layer): class_table(observed, layer, measure) for layer in observed.layers}
        what = LABELS[measure]
        yield Drawing(
            f"expert_class_{measure}",
            draw_classes(by_class, what),
            pd.DataFrame({measure: pd.concat(by_class, names=["layer"]).stack()}).reset_index(),
            f"Experts by class: {what}, per layer, classes ordered so that like stands beside like; {where}.",
        )
        by_position = {short(layer): position_table(observed, layer, measure) for layer in observed.layers}
        yield Drawing(
            f"expert_position_{measure}",
            draw_positions(by_position, what),
            position_rows(by_position, measure),
            f"Experts by position of the patch: {what}, one small picture per expert and layer; {where}.",
        )
    table = specialisation(observed).reset_index()
    table["layer"] = table["layer"].map(short)
    yield Drawing(
        "specialisation",
        draw_specialisation(table),
        table,
        "Normalised mutual information of the patches' expert with class, domain and position, by layer; open markers: "
        f"the mean when routing is exchanged at random; {where}.",
    )


def position_rows(tables: Mapping[str, pd.DataFrame], measure: str) -> pd.DataFrame:
    """Columns layer, expert, row, column and the measure."""
    parts = []
    for layer, table in tables.items():
        long = table.T.reset_index().melt(id_vars=["row", "column"], var_name="expert", value_name=measure)
        parts.append(long.assign(layer=layer)[["layer", "expert", "row", "column", measure]])
    return pd.concat(parts, ignore_index=True)


def draw_classes(tables: Mapping[str, pd.DataFrame], label: str) -> Figure:
    """One panel per layer, experts × classes, columns clustered."""
    num_classes = next(iter(tables.values())).shape[1]
    num_experts = max(len(table) for table in tables.values())
    width = min(12.0, 2.2 + 0.3 * num_classes)
    figure, axes = new_figure(len(tables), 1, width, 0.8 + 0.26 * num_experts)
    high = max(float(table.to_numpy().max()) for table in tables.values())
    for axis, (layer, table) in zip(axes[:, 0], tables.items(), strict=True):
        ordered = table.iloc[:, clustered_columns(table)]
        named = num_classes <= SHOWN_NAMES
        names = list(ordered.columns) if named else [""] * num_classes
        image = heat_map(axis, ordered.to_numpy(), list(ordered.index), names, limits=(0, high))
        if named and max(len(str(name)) for name in names) > 3:
            axis.tick_params(axis="x", rotation=90)
        axis.set_title(layer, fontsize=10)
        axis.set_ylabel("expert")
    axes[-1, 0].set_xlabel(
        "class" if num_classes <= SHOWN_NAMES else f"{num_classes} classes, in the order of the table"
    )
    figure.colorbar(image, ax=axes[:, 0].tolist(), label=label)
    return figure


def draw_positions(tables: Mapping[str, pd.DataFrame], label: str) -> Figure:
    """Layers × experts, each a small picture of the grid."""
    num_experts = max(len(table) for table in tables.values())
    figure, axes = new_figure(len(tables), num_experts, 1.05, 1.2)
    high = max(float(table.to_numpy().max()) for table in tables.values())
    for row, (layer, table) in enumerate(tables.items()):
        rows, columns = (int(table.columns.get_level_values(name).max()) + 1 for name in ("row", "column"))
        for expert in range(num_experts):
            axis = axes[row, expert]
            axis.set_axis_off()
            if expert < len(table):
                values = table.iloc[expert].to_numpy().reshape(rows, columns)
                image = heat_map(axis, values, [""] * rows, [""] * columns, limits=(0, high))
                axis.set_aspect("equal")
                axis.set_title(
                    f"{layer}\nexpert {expert}" if expert == 0 else f"expert {expert}", fontsize=8, loc="left"
                )
    figure.colorbar(image, ax=axes.ravel().tolist(), label=label)
    return figure


def draw_specialisation(table: pd.DataFrame) -> Figure:
    """One line per variable over layers, chance in open markers."""
    layers = list(dict.fromkeys(table["layer"]))
    figure, axes = new_figure(1, 1, max(4.8, 1.2 + 0.55 * len(layers)), 3.2)
    for place, (variable, rows) in enumerate(table.groupby("variable", sort=False)):
        at = np.array([layers.index(layer) for layer in rows["layer"]]) + 0.06 * (place - 1)
        curve(axes[0, 0], place, at, rows["normalised"], label=str(variable))
        axes[0, 0].plot(
            at, rows["chance"], marker=marker(place), color=colour(place), linestyle="none", fillstyle="none",
            markersize=7, label=f"{variable}, chance",
        )  # fmt: skip
    axes[0, 0].set_xticks(range(len(layers)), layers, rotation=30 if len(layers) > 4 else 0, fontsize=8)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].margins(x=0.15)
    plain_axes(axes[0, 0], "layer", "normalised mutual information\nwith the expert (0 to 1)")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure
