"""Published accuracies, each with its source, beside measured ones.

The numbers are package data, ``published/*.csv``, with the columns :data:`PUBLISHED_COLUMNS`. ``domain`` is empty for
a data set's average; ``stderr`` is empty where the source gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import numpy as np
import pandas as pd

from sfmoe_dg.foundation.errors import UserError

PUBLISHED_COLUMNS = ("source", "version", "method", "algorithm", "dataset", "domain", "selection", "accuracy", "stderr")

SELECTIONS = {
    "training-domain": "training-domain validation set",
    "leave-one-out": "leave-one-domain-out cross-validation",
    "oracle": "test-domain validation set (oracle)",
    "not stated": "not stated",
}
"""A selection method's name in the files → its name in tables (``not stated`` is no name of a table)."""

DIFFERS = 2.0
"""A measured mean gets a mark if it differs from the published one by more standard errors of the difference."""


def published(
    dataset: str | None = None, selection: str | None = None, sources: Sequence[str] | None = None
) -> pd.DataFrame:
    """The published numbers, in percent; ``selection`` holds the tables' names.

    Columns: :data:`PUBLISHED_COLUMNS`. ``method`` is the source's name of the method; ``algorithm`` is the name in this
    package, if it has the same architecture and objective.

    Args:
        dataset, selection, sources: keep only these.

    Raises:
        UserError: if a source or selection method does not exist.
    """
    folder = resources.files("sfmoe_dg.analysis.compare") / "published"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".csv")), key=lambda file: file.name)
    text = {name: str for name in PUBLISHED_COLUMNS if name not in ("accuracy", "stderr")}
    parts = []
    for file in files:
        with file.open(encoding="utf-8") as content:
            parts.append(pd.read_csv(content, dtype=text, keep_default_na=False, na_values={"stderr": [""]}))
    numbers = pd.concat(parts, ignore_index=True)
    numbers["selection"] = numbers["selection"].map(SELECTIONS)
    known = set(numbers["source"])
    if strange := [source for source in sources or () if source not in known]:
        raise UserError(f"no published numbers of {strange[0]!r}; the sources are {', '.join(sorted(known))}")
    if selection is not None and selection not in SELECTIONS.values():
        raise UserError(f"selection method {selection!r} does not exist; there are {', '.join(SELECTIONS.values())}")
    kept = np.ones(len(numbers), dtype=bool)
    if dataset is not None:
        kept &= numbers["dataset"] == dataset
    if selection is not None:
        kept &= numbers["selection"] == selection
    if sources is not None:
        kept &= numbers["source"].isin(list(sources))
    return numbers[kept].reset_index(drop=True)


def beside_published(measured: pd.DataFrame, selection: str) -> pd.DataFrame:
    """Every measured mean with every published one of the same algorithm, data set and selection method.

    Args:
        measured: the columns dataset, method, mean, stderr of
            :func:`sfmoe_dg.analysis.statistics.comparison.summary`; the averages of data sets.
        selection: of the measured numbers, as the tables name it.

    Returns:
        Columns dataset, method, mean, stderr, source, version, published, published_stderr, difference (measured minus
        published), standard_errors (the difference in standard errors of itself, NaN where the source gives none or
        both are 0), mark ("higher", "lower", "" if within :data:`DIFFERS`, or "?" where that cannot be said).

    A mark says that two numbers differ, not why: a run with fewer trials or steps than the paper's is another
    experiment.

    Raises:
        UserError: on an unknown selection method.
    """
    numbers = published(selection=selection)
    averages = numbers[(numbers["domain"] == "") & (numbers["algorithm"] != "")]
    averages = averages.rename(columns={"accuracy": "published", "stderr": "published_stderr"})
    merged = measured[["dataset", "method", "mean", "stderr"]].merge(
        averages.drop(columns=["method", "domain", "selection"]),
        left_on=["dataset", "method"],
        right_on=["dataset", "algorithm"],
    )
    merged = merged.drop(columns="algorithm")
    merged["difference"] = merged["mean"] - merged["published"]
    error = np.hypot(merged["stderr"].to_numpy(), merged["published_stderr"].to_numpy())
    merged["standard_errors"] = merged["difference"] / np.where(error > 0, error, np.nan)
    merged["mark"] = [_mark(value) for value in merged["standard_errors"]]
    return merged


def _mark(standard_errors: float) -> str:
    if np.isnan(standard_errors):
        return "?"
    if abs(standard_errors) <= DIFFERS:
        return ""
    return "higher" if standard_errors > 0 else "lower"
