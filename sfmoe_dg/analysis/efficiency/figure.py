"""Efficiency: the cost of an update of every algorithm on a dense and a sparse backbone, beside its accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import annotate_points, colour, marker, new_figure, plain_axes
from sfmoe_dg.analysis.efficiency.compute import (
    accuracy_against_cost,
    default_methods,
    efficiency_table,
    random_minibatches,
)
from sfmoe_dg.analysis.statistics.comparison import scores_of, summary
from sfmoe_dg.analysis.subject.subject import Subject
from sfmoe_dg.results.read import load_records
from sfmoe_dg.results.record_lines import dataset_label
from sfmoe_dg.results.selection import SELECTION_METHODS

AUTO = "auto"
DEFAULT = {AUTO: "dense (the data set's default)"}
STEPS, WARMUP = 5, 1
BATCH_SIZE = 8
SMALL_PICTURES = 64
"""For images up to this size all algorithms are measured; for larger ones only those of the sweep, because all would
take hours on a CPU."""


def drawings(subject: Subject) -> Iterator[Drawing]:
    run = subject.run
    dataset = run.dataset
    costs = measured(subject, default_methods(pairs_of(subject), run.spec.dataset))
    refused = int((costs["refused"] != "").sum())
    how = f"median and quartiles of {STEPS} updates with {conditions(subject)}; not of any split"
    yield Drawing(
        "efficiency",
        draw_costs(costs[costs["refused"] == ""]),
        costs,
        f"Time and peak memory of one update by algorithm and backbone: {how}; {refused} pairs that cannot be built "
        "are in the table with the reason.",
    )
    table = accuracy_against_cost(accuracies(subject), costs)
    yield Drawing(
        "efficiency_accuracy",
        draw_front(table),
        table,
        "Accuracy on held-out domains (training-domain validation, mean over domains and trials of the sweep) against "
        f"the time of one update, Pareto front in a line: {how}; accuracies of {dataset.name}.",
    )


def measured(subject: Subject, methods: list[tuple[str, str, dict[str, Any]]]) -> pd.DataFrame:
    """:func:`efficiency_table` of these methods on noise of the size of the subject's images."""
    run, dataset = subject.run, subject.run.dataset
    minibatches = random_minibatches(
        tuple(dataset.input_shape), dataset.num_classes, len(run.seen_domains), BATCH_SIZE, run.device
    )
    return efficiency_table(methods, minibatches, dataset.num_classes, steps=STEPS, warmup=WARMUP)


def conditions(subject: Subject) -> str:
    """For captions: on what :func:`measured` measures."""
    run = subject.run
    threads = f", {torch.get_num_threads()} thread(s)" if run.device == "cpu" else ""
    shape = "×".join(map(str, run.dataset.input_shape))
    return (
        f"{BATCH_SIZE} random images of {shape} per domain, {len(run.seen_domains)} domains, on {run.device}{threads}"
    )


def methods_of(subject: Subject) -> list[tuple[str, str, dict[str, Any]]]:
    """The methods of the sweep on the run's data set, each with the hyper-parameters of its first recorded run."""
    methods: dict[str, dict[str, Any]] = {}
    for record in load_records(subject.sweep).records:
        if dataset_label(record) == subject.label:
            methods.setdefault(record["args"]["algorithm"], record["hparams"])
    return [(name, hparams.get("backbone", AUTO), hparams) for name, hparams in sorted(methods.items())]


def pairs_of(subject: Subject) -> list[tuple[str, str]]:
    """Pairs of algorithm and backbone: every algorithm with the dense and the sparse backbone of the subject's pair,
    algorithms that are defined by a backbone of their own with that one only."""
    small = subject.run.dataset.input_shape[-1] <= SMALL_PICTURES
    used = {c.record["args"]["algorithm"] for c in subject.siblings} | {subject.run.spec.algorithm}
    backbones = list(dict.fromkeys(run.algorithm.hparams.get("backbone", AUTO) for run in subject.pair.values()))
    backbones.sort(key=lambda name: name != AUTO)
    pairs = []
    # Algorithms of other packages only if the sweep has used them: others may not even load.
    all_of_them = [*ALGORITHMS.registered, *sorted(used & ALGORITHMS.offers.keys())]
    for name in all_of_them if small else sorted(used):
        # DomainBed's algorithms have no hyper-parameter "backbone": they build their own network.
        own = default_hparams(name, subject.run.spec.dataset).get("backbone")
        pairs += [(name, backbone) for backbone in (backbones if own == AUTO else [own or AUTO])]
    return pairs


def accuracies(subject: Subject) -> pd.DataFrame:
    """Columns algorithm, backbone, accuracy (percent), stderr, trials, domains: the sweep's methods on the run's data
    set, with the run's options."""
    records = [record for record in load_records(subject.sweep).records if dataset_label(record) == subject.label]
    backbone = {record["args"]["algorithm"]: record["hparams"].get("backbone", AUTO) for record in records}
    table = summary(scores_of(records, SELECTION_METHODS[0])).rename(
        columns={"method": "algorithm", "mean": "accuracy"}
    )
    table = table.assign(backbone=lambda t: t["algorithm"].map(backbone))
    return table[["algorithm", "backbone", "accuracy", "stderr", "trials", "domains"]]


def draw_costs(costs: pd.DataFrame) -> Figure:
    """Time and memory side by side, one row per algorithm, one marker per backbone; cheapest above."""
    order = costs.groupby("algorithm")["seconds"].min().sort_values(ascending=False).index
    places = {name: place for place, name in enumerate(order)}
    figure, axes = new_figure(1, 2, 4.2, 1.2 + 0.2 * len(order), sharey=True)
    for place, (backbone, rows) in enumerate(costs.groupby("backbone", sort=False)):
        at = [places[name] for name in rows["algorithm"]]
        spread = [rows["seconds"] - rows["seconds_low"], rows["seconds_high"] - rows["seconds"]]
        style = {"fmt": marker(place), "color": colour(place), "markersize": 5, "capsize": 2}
        axes[0, 0].errorbar(
            1e3 * rows["seconds"],
            at,
            xerr=1e3 * np.array(spread),
            label=DEFAULT.get(str(backbone), str(backbone)),
            **style,
        )
        axes[0, 1].errorbar(rows["peak_bytes"] / 2**20, at, **style)
    axes[0, 0].set_xscale("log")
    axes[0, 1].set_xlim(left=0)
    for axis, label in ((axes[0, 0], "time of one update (ms)"), (axes[0, 1], "peak memory of one update (MiB)")):
        axis.set_yticks(range(len(order)), list(order), fontsize=8)
        axis.set_ylim(-0.7, len(order) - 0.3)
        plain_axes(axis, label, "")
    figure.legend(
        loc="outside upper center", ncols=min(4, costs["backbone"].nunique()), frameon=False, title="backbone"
    )
    return figure


def draw_cost_table(costs: pd.DataFrame) -> Figure:
    """One row per method; parameters, multiply-accumulates, time and memory as bars with their values."""
    columns = {
        "parameters (millions)": costs["parameters"] / 1e6,
        "multiply-accumulates\nof one image (millions)": costs["macs"] / 1e6,
        "time of one update (ms)": 1e3 * costs["seconds"],
        "peak memory\nof one update (MiB)": costs["peak_bytes"] / 2**20,
    }
    places = np.arange(len(costs))[::-1]
    pairs = zip(costs["algorithm"], costs["backbone"], strict=True)
    names = [f"{algorithm}\n{DEFAULT.get(backbone, backbone)}" for algorithm, backbone in pairs]
    figure, axes = new_figure(1, len(columns), 2.6, 1.0 + 0.45 * len(costs), sharey=True)
    for place, (axis, (label, values)) in enumerate(zip(axes[0], columns.items(), strict=True)):
        axis.barh(places, values, height=0.6, color=colour(place))
        for y, value in zip(places, values, strict=True):
            axis.annotate(
                f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", (value, y), xytext=(3, 0),
                textcoords="offset points", va="center", fontsize=8,
            )  # fmt: skip
        axis.set_yticks(places, names, fontsize=8)
        axis.margins(x=0.3)
        axis.set_xlim(left=0)
        plain_axes(axis, label, "")
    return figure


def draw_front(table: pd.DataFrame) -> Figure:
    """Accuracy against time; ``table`` as :func:`accuracy_against_cost` returns it."""
    figure, axes = new_figure(1, 1, 5.0, 3.4)
    axis = axes[0, 0]
    known = table.dropna(subset="seconds")
    x = 1e3 * known["seconds"]
    axis.errorbar(x, known["accuracy"], yerr=known["stderr"], fmt="o", color=colour(0), capsize=2.5)
    front = known[known["on_front"]].sort_values("seconds")
    axis.plot(
        1e3 * front["seconds"], front["accuracy"], color=colour(5), linestyle="--", zorder=0, label="Pareto front"
    )
    plain_axes(axis, "time of one update (ms)", "accuracy on held-out domains (%)")
    figure.legend(loc="outside upper center", frameon=False)
    annotate_points(axis, list(x), list(known["accuracy"]), list(known["algorithm"]))
    return figure
