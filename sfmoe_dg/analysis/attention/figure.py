"""Attention heads: where the class token attends, a dense network beside a sparse one on the same pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.attention.compute import class_token_rows, redundancy_by_block
from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import AMOUNTS, curve, new_figure, picture, plain_axes
from sfmoe_dg.analysis.expert_maps.compute import pictures
from sfmoe_dg.analysis.subject.opened import OpenedRun
from sfmoe_dg.analysis.subject.predicting import vision_transformer
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject
from sfmoe_dg.foundation.errors import UserError


def drawings(subject: Subject) -> Iterator[Drawing]:
    networks, left_out = transformers(subject)
    shown = head_maps(subject, networks)
    held_out = subject.run.held_out
    yield Drawing(
        "attention_heads",
        draw_heads(shown.pixels, shown.titles, shown.maps),
        head_table(shown.titles, shown.maps),
        f"Attention of the class token in the last block, every head, {' beside '.join(networks)} (held out "
        f"{held_out}), on {len(shown.titles)} images of the out-splits ({subject.run.dataset.name}); each map has its "
        f"own scale{left_out}.",
    )
    tables = []
    for name, (run, network) in networks.items():
        inputs = (x for x, _ in subject.batches(subject.selection, run))
        tables.append(redundancy_by_block(network, inputs).assign(model=name))
    table = pd.concat(tables, ignore_index=True)
    yield Drawing(
        "attention_redundancy",
        draw_redundancy(table),
        table,
        "Head redundancy: mean overlap of two heads' class-token attention over the patches (1: the same map), mean "
        f"and standard error over images, block by block; held out {held_out}; {subject.where()}{left_out}.",
    )


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """The attention of the class token in the last block, on one picture per domain.

    Attributes:
        pixels: uint8 [N, height, width, 3].
        titles: N domains.
        maps: model → float32 [N, H, h, w], the attention of every head over the patches.
    """

    pixels: np.ndarray
    titles: list[str]
    maps: Mapping[str, np.ndarray]


def head_maps(subject: Subject, networks: Mapping[str, tuple[OpenedRun, Any]]) -> HeadMaps:
    """The maps of every network (see :func:`transformers`) on the same object in every domain."""
    chosen = subject.only(subject.first_objects(1)[0])
    maps = {
        name: class_token_rows(network, subject.inputs(chosen, run)).patches
        for name, (run, network) in networks.items()
    }
    titles = [subject.domains_of(chosen.domain[i : i + 1]) for i in range(len(chosen))]
    return HeadMaps(pictures(subject.run.dataset, chosen.domain, chosen.index), titles, maps)


def transformers(subject: Subject) -> tuple[dict[str, tuple[OpenedRun, Any]], str]:
    """Model → (run, its network) for the run and its counterpart; and for captions, why a counterpart without heads is
    left out.

    Raises:
        NotApplicable: if the run itself has none.
    """
    networks, left_out = {}, ""
    for name, run in subject.pair.items():
        try:
            networks[name] = (run, transformer_of(subject, run))
        except NotApplicable as error:
            if run is subject.run:
                raise
            left_out = f"; without {name}: {error}"
    return networks, left_out


def transformer_of(subject: Subject, run: OpenedRun) -> Any:
    """The network of a run that has attention heads.

    Raises:
        NotApplicable: if it has none.
    """
    try:
        network = vision_transformer(run.algorithm, subject.inputs(subject.only(np.arange(1)), run))
    except UserError as error:
        raise NotApplicable(str(error)) from None
    if getattr(network, "cls_token", None) is None:
        raise NotApplicable(f"{run.spec.algorithm} has no class token")
    return network


def head_table(titles: list[str], maps: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Columns model, picture, head, row, column, attention."""
    parts = []
    for model, values in maps.items():
        places = np.indices(values.shape).reshape(4, -1)
        head = {"model": model, "picture": [titles[i] for i in places[0]]}
        columns = dict(zip(("head", "row", "column"), places[1:], strict=True))
        parts.append(pd.DataFrame(head | columns | {"attention": values.ravel()}))
    return pd.concat(parts, ignore_index=True)


def draw_heads(pixels: np.ndarray, titles: list[str], maps: Mapping[str, np.ndarray]) -> Figure:
    """One row per picture: the picture, then every head of every model; ``maps`` are [N, H, h, w]."""
    heads = [(model, head) for model, values in maps.items() for head in range(values.shape[1])]
    figure, axes = new_figure(len(pixels), 1 + len(heads), 1.15, 1.2)
    for row, axis in enumerate(axes[:, 0]):
        picture(axis, pixels[row])
        axis.set_ylabel(titles[row], fontsize=8)
    for place, (model, head) in enumerate(heads):
        for row, axis in enumerate(axes[:, 1 + place]):
            picture(axis, pixels[row])
            axis.imshow(maps[model][row, head], cmap=AMOUNTS, extent=(0, 1, 1, 0), alpha=0.85, interpolation="nearest")
        short = model.partition(" (")
        axes[0, 1 + place].set_title(f"{short[0]}\n{short[2].rstrip(')')}\nhead {head}", fontsize=8)
    return figure


def draw_redundancy(table: pd.DataFrame) -> Figure:
    """One line per model over blocks."""
    figure, axes = new_figure(1, 1, 4.6, 3.0)
    for place, (model, rows) in enumerate(table.groupby("model", sort=False)):
        curve(axes[0, 0], place, rows["block"], rows["redundancy"], rows["stderr"], str(model))
    axes[0, 0].set_xticks(sorted(table["block"].unique()))
    axes[0, 0].set_ylim(0, 1)
    plain_axes(axes[0, 0], "block", "overlap of two heads (0 to 1)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
