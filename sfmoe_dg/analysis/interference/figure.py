"""Domain interference: how a step for one domain changes the loss of another, sparse beside dense."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from sfmoe_dg.algorithms.base import Minibatches
from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import curve, heat_map, new_figure, plain_axes
from sfmoe_dg.analysis.interference.compute import ALL_LAYERS, domain_interference, matrix, mean_off_diagonal
from sfmoe_dg.analysis.subject.opened import ImageSelection, OpenedRun
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject
from sfmoe_dg.foundation.seeds import generator

BATCHES = {"gradient": 10, "step": 3}
BATCH_SIZE = 32
STEP = 1e-2


def drawings(subject: Subject) -> Iterator[Drawing]:
    names = list(subject.run.seen_domains)
    table = interference_of(subject)
    what = f"{' beside '.join(subject.pair)} (held out {subject.run.held_out}); {batches_of(subject)}"
    yield Drawing(
        "interference",
        draw_matrices(table, names),
        with_names(table, names),
        f"Interference of training domains over all weights, gradient and finite-step form (1: as good as its own "
        f"step, below 0: harm): {what}.",
    )
    depth = by_layer(table)
    yield Drawing(
        "interference_by_layer",
        draw_layers(depth),
        depth,
        f"Mean interference between different training domains, layer by layer: {what}.",
    )


def interference_of(subject: Subject) -> pd.DataFrame:
    """:func:`domain_interference` of the subject's pair in both forms; columns ``model`` and ``form`` are added.

    Raises:
        NotApplicable: if the run was trained on fewer than two domains.
    """
    if len(subject.run.seen_domains) < 2:
        raise NotApplicable(f"{subject.title} was trained on one domain only")
    tables = []
    for model, run in subject.pair.items():
        for form, number in BATCHES.items():
            table = domain_interference(run.algorithm, minibatches(subject, run, number), form=form, step=STEP)
            tables.append(table.assign(model=model, form=form))
    return pd.concat(tables, ignore_index=True)


def batches_of(subject: Subject) -> str:
    """For captions: on which batches :func:`interference_of` measures."""
    return (
        f"{BATCHES['gradient']} batches (finite step of {STEP:g}: {BATCHES['step']}) of {BATCH_SIZE} images of the "
        f"in-split of each of {', '.join(subject.run.seen_domains)} ({subject.run.dataset.name})"
    )


def with_names(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The table with names of domains in place of their positions."""
    return table.assign(affected=[names[i] for i in table["affected"]], updating=[names[i] for i in table["updating"]])


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`mean_off_diagonal` of every model and form."""
    means = []
    for (model, form), rows in table.groupby(["model", "form"], sort=False):
        means.append(mean_off_diagonal(rows).assign(model=str(model), form=str(form)))
    return pd.concat(means, ignore_index=True)


def minibatches(subject: Subject, run: OpenedRun, number: int) -> Iterator[Minibatches]:
    """Batches of the training domains' in-splits, the same for every run. No image comes twice within a batch."""
    envs = [env for env in range(len(run.dataset)) if env not in run.spec.test_envs]
    for batch in range(number):
        parts = []
        for env in envs:
            random = generator("interference", batch, env)
            members = random.choice(run.splits[env].in_, min(BATCH_SIZE, len(run.splits[env].in_)), replace=False)
            chosen = ImageSelection(np.full(len(members), env), members, np.repeat("in", len(members)))
            x, y = zip(*subject.batches(chosen, run), strict=True)
            parts.append((torch.cat(x), torch.cat(y)))
        yield parts


def draw_matrices(table: pd.DataFrame, names: list[str]) -> Figure:
    """One matrix per model and form, all weights together; rows are affected, columns do the updating."""
    groups = list(table.groupby(["model", "form"], sort=False))
    figure, axes = new_figure(1, len(groups), 1.3 + 0.55 * len(names), 1.5 + 0.42 * len(names), sharey=True)
    for axis, ((model, form), rows) in zip(axes[0], groups, strict=True):
        image = heat_map(
            axis, matrix(rows, ALL_LAYERS), names, names, limits=(-1, 1), around_zero=True, digits=2
        )  # fmt: skip
        axis.set_title(f"{model}\n{form} form", fontsize=9)
        axis.tick_params(axis="x", rotation=45)
        axis.set_xlabel("updating domain")
    axes[0, 0].set_ylabel("affected domain")
    figure.colorbar(image, ax=axes[0, :].tolist(), label="interference")
    return figure


def draw_layers(depth: pd.DataFrame) -> Figure:
    """One panel per form, one line per model over layers; see :func:`mean_off_diagonal`."""
    layers = [layer for layer in dict.fromkeys(depth["layer"]) if layer != ALL_LAYERS] + [ALL_LAYERS]
    forms = list(dict.fromkeys(depth["form"]))
    figure, axes = new_figure(1, len(forms), max(3.6, 0.42 * len(layers)), 3.4, sharey=True)
    models = list(dict.fromkeys(depth["model"]))
    for axis, form in zip(axes[0], forms, strict=True):
        for place, model in enumerate(models):
            rows = depth[(depth["form"] == form) & (depth["model"] == model)]
            at = [layers.index(layer) for layer in rows["layer"]]
            curve(axis, place, at, rows["interference"], label=model if axis is axes[0, 0] else "")
            axis.lines[-1].set_linestyle("none")
        axis.axhline(0, color="#1a1a1a", linewidth=0.8)
        axis.set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=8)
        axis.set_title(f"{form} form", fontsize=10)
        plain_axes(axis, "layer", "mean interference between domains" if axis is axes[0, 0] else "")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
