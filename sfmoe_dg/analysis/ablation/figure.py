"""Ablations of the mixture of experts: block pattern, number of experts, choices per token, router."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sfmoe_dg.analysis.drawing.saving import Drawing
from sfmoe_dg.analysis.drawing.style import curve, new_figure, plain_axes
from sfmoe_dg.analysis.statistics.comparison import scores_of, summary
from sfmoe_dg.analysis.subject.subject import NotApplicable, Subject
from sfmoe_dg.results.read import load_records
from sfmoe_dg.results.record_lines import Record, dataset_label
from sfmoe_dg.results.selection import SELECTION_METHODS

FACTORS: Mapping[str, str] = {
    "moe_layers": "block pattern (S: sparse, F: fusion)",
    "num_experts": "number of experts",
    "top_k": "experts per token, k",
    "router": "router",
}
UNSET, AUTO = "default", "auto"
DENSE = "dense"


def drawings(subject: Subject) -> Iterator[Drawing]:
    ablation = ablation_of(subject)
    yield Drawing(
        f"ablation_{'_'.join(dict.fromkeys(ablation.table['factor']))}",
        draw_ablation(ablation.table),
        ablation.table,
        f"{ablation.what}; mean over domains and trials ({ablation.results}), standard error over trials; records up "
        f"to step {ablation.steps:g}.",
    )


@dataclass(frozen=True, eq=False)
class Ablation:
    """The ablation that a sweep is.

    Attributes:
        table: see :func:`ablation_table`.
        dataset: the data set's name.
        steps: the last step of all records.
    """

    table: pd.DataFrame
    dataset: str
    steps: float

    @property
    def what(self) -> str:
        """For captions: what is drawn."""
        return (
            f"Accuracy on the in-split of held-out domains of {self.dataset}, {SELECTION_METHODS[0].name}, when one "
            "setting of the mixture of experts changes"
        )

    @property
    def results(self) -> str:
        """For captions: how many results a point is the mean of."""
        counts = sorted({int(count) for count in self.table["results"]})
        return f"{' or '.join(map(str, counts))} result(s) each"


def ablation_of(subject: Subject) -> Ablation:
    """The ablation of the subject's sweep.

    Raises:
        NotApplicable: if the sweep has runs on several data sets, or is no ablation.
    """
    records = load_records(subject.sweep).records
    labels = sorted({dataset_label(record) for record in records})
    if len(labels) > 1:
        raise NotApplicable(f"{subject.sweep} holds runs on {', '.join(labels)}, and ablations are of one data set")
    table = ablation_table(records)
    if table.empty:
        raise NotApplicable(
            f"{subject.sweep} is no ablation: no two of its algorithms differ in {', '.join(FACTORS)} alone "
            "(see sweeps/ablation_*.toml)"
        )
    return Ablation(table, records[0]["args"]["dataset"], max(record["step"] for record in records))


def ablation_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row per factor and value: columns factor, value, method, accuracy, stderr, trials, domains, results.

    The reference is the sparse method whose settings differ least from those of the others. A factor's rows are the
    reference and the methods that differ from it in this factor alone. A method without a block pattern in its records
    is "dense", a row of the block pattern, if it has the data set's default backbone; otherwise it is left out.

    Args:
        records: of one data set, with the same options.
    """
    scores = scores_of(records, SELECTION_METHODS[0])
    means, results = summary(scores).set_index("method"), scores["method"].value_counts()
    settings = {r["args"]["algorithm"]: {name: r["hparams"].get(name, UNSET) for name in FACTORS} for r in records}
    plain = {r["args"]["algorithm"] for r in records if r["hparams"].get("backbone", AUTO) == AUTO}
    sparse = {name: values for name, values in settings.items() if values["moe_layers"] != UNSET}
    if not sparse:
        return pd.DataFrame()
    reference = min(sparse, key=lambda name: sum(len(_differing(sparse[name], other)) for other in sparse.values()))
    rows = []
    for factor in FACTORS:
        members = {n: v[factor] for n, v in sparse.items() if _differing(v, sparse[reference]) in ((), (factor,))}
        if factor == "moe_layers":
            members |= {name: DENSE for name in settings if name in plain and name not in sparse}
        if len(members) < 2:
            continue
        for name, value in sorted(members.items(), key=lambda item: _order(item[1])):
            row = means.loc[name]
            rows.append((factor, value, name, row["mean"], row["stderr"], row["trials"], row["domains"], results[name]))
    columns = ["factor", "value", "method", "accuracy", "stderr", "trials", "domains", "results"]
    return pd.DataFrame(rows, columns=columns)


def _differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in FACTORS if one[name] != two[name])


def _order(value: Any) -> tuple[int, float, str]:
    """Dense first, then by size or number of sparse blocks, then by name."""
    if value == DENSE:
        return 0, 0, ""
    return 1, float(value) if isinstance(value, int | float) else 0.0, str(value)


def draw_ablation(table: pd.DataFrame) -> Figure:
    """One panel per factor; see :func:`ablation_table`."""
    factors = list(dict.fromkeys(table["factor"]))
    figure, axes = new_figure(1, len(factors), 3.4, 3.2, sharey=True)
    for axis, factor in zip(axes[0], factors, strict=True):
        rows = table[table["factor"] == factor]
        curve(axis, 0, np.arange(len(rows)), rows["accuracy"], rows["stderr"])
        if factor in ("moe_layers", "router"):
            axis.lines[0].set_linestyle("none")
        long = max(len(str(value)) for value in rows["value"]) > 5
        axis.set_xticks(range(len(rows)), [str(value) for value in rows["value"]], rotation=30 if long else 0)
        axis.margins(x=0.15)
        plain_axes(axis, FACTORS[factor], "accuracy on held-out domains (%)" if axis is axes[0, 0] else "")
    return figure
