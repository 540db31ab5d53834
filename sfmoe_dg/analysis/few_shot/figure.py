"""Few-shot transfer: accuracy on an unseen domain after a few labelled examples of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import colour, curve, dash, marker, new_figure, plain_axes
from sfmoe_dg.analysis.few_shot.compute import few_shot_prompts, few_shot_ridge
from sfmoe_dg.analysis.subject.opened import OpenedRun
from sfmoe_dg.analysis.subject.predicting import vision_transformer
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject
from sfmoe_dg.foundation.errors import UserError

DRAWS = 5
PROMPT_DRAWS = 2
QUESTIONS = 500
"""Accuracy is measured on at most so many images."""
SHARE = 0.01


def drawings(subject: Subject) -> Iterator[Drawing]:
    run = subject.run
    if not run.spec.test_envs:
        raise NotApplicable(f"{subject.title} has no unseen domain")
    tables, sizes = [], set()
    for model, opened in subject.pair.items():
        for env in run.spec.test_envs:
            table, asked = measure(subject, opened, env)
            tables.append(table.assign(model=model, domain=run.dataset.domain_names[env]))
            sizes.add(asked)
    table = pd.concat(tables, ignore_index=True)
    yield Drawing(
        "few_shot",
        draw_few_shot(table),
        table,
        f"Accuracy on the unseen domain after labelled examples of its out-split: {methods_of(table)}; measured on "
        f"{max(sizes)} images of its in-split ({run.dataset.name}); {' beside '.join(subject.pair)}.",
    )


def methods_of(table: pd.DataFrame) -> str:
    """For captions: what was measured, and which models have no prompts."""
    ridge = f"ridge head on frozen features (1, 5, 10 per class and {SHARE:.0%} of the domain)"
    prompted = set(table.loc[table["method"] == "prompts", "model"])
    without = [model for model in dict.fromkeys(table["model"]) if model not in prompted]
    if not prompted:
        return f"{ridge}; mean ± standard error of {DRAWS} draws"
    tokens = f"; {', '.join(without)} has no tokens for prompts to join" if without else ""
    both = f"{ridge} and prompt tuning ({SHARE:.0%})"
    return f"{both}; mean ± standard error of {DRAWS} and {PROMPT_DRAWS} draws{tokens}"


def measure(subject: Subject, run: OpenedRun, env: int) -> tuple[pd.DataFrame, int]:
    """The accuracies of both methods for one run and domain, and the number of images they are measured on."""
    pool = list(subject.batches(run.select(("out",), [env]), run))
    questions = run.select(("in",), [env], min(QUESTIONS, subject.images or QUESTIONS))
    query = list(subject.batches(questions, run))
    whole = len(run.dataset[env])
    tables = [few_shot_ridge(run.algorithm, pool, query, draws=DRAWS, whole=whole)]
    # A network without tokens takes no prompts; the ridge head is measured all the same.
    if has_tokens(run, query[0][0][:1]):
        prompts = few_shot_prompts(run.algorithm, pool, query, shots=(SHARE,), draws=PROMPT_DRAWS, whole=whole)
        tables.append(prompts[prompts["method"] == "prompts"])
    return pd.concat(tables, ignore_index=True), len(questions)


def has_tokens(run: OpenedRun, x: Tensor) -> bool:
    """Whether a prediction of ``x`` runs through a vision transformer."""
    try:
        vision_transformer(run.algorithm, x)
    except UserError:
        return False
    return True


def draw_few_shot(table: pd.DataFrame) -> Figure:
    """One panel per unseen domain; ``table`` with the columns of :func:`few_shot_ridge`, ``model`` and ``domain``."""
    domains, models = list(dict.fromkeys(table["domain"])), list(dict.fromkeys(table["model"]))
    figure, axes = new_figure(1, len(domains), 5.2, 3.6, sharey=True)
    for axis, domain in zip(axes[0], domains, strict=True):
        for place, model in enumerate(models):
            rows = table[(table["model"] == model) & (table["domain"] == domain)]
            ridge = rows[rows["method"] == "ridge"].sort_values("examples")
            curve(
                axis, place, ridge["examples"], 100 * ridge["accuracy"], 100 * ridge["stderr"], f"{model}: ridge head"
            )
            own = float(rows[rows["method"] == "none"]["accuracy"].iloc[0])
            axis.axhline(
                100 * own, color=colour(place), linestyle=dash(place), linewidth=1, alpha=0.7,
                label=f"{model}: no examples",
            )  # fmt: skip
            prompts = rows[rows["method"] == "prompts"]
            if len(prompts):
                axis.errorbar(
                    prompts["examples"] * (1 + 0.1 * place), 100 * prompts["accuracy"], 100 * prompts["stderr"],
                    color=colour(place), marker=marker(place), fillstyle="none", markersize=9, linestyle="none",
                    capsize=2.5, label=f"{model}: prompts",
                )  # fmt: skip
        axis.set_xscale("log")
        ticks = np.unique(table["examples"][table["examples"] > 0].round().astype(int))
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set_title(f"unseen: {domain}", fontsize=10)
        plain_axes(axis, "labelled examples of the unseen domain", "accuracy (%)" if axis is axes[0, 0] else "")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure
