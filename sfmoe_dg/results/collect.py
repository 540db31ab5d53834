"""The tables of a folder of runs in a chosen format, and its best hyper-parameters, as text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.results.formats import Tables, render_csv, render_latex, render_markdown, render_text
from sfmoe_dg.results.page.page import render_page
from sfmoe_dg.results.read import LoadedRecords, load_records
from sfmoe_dg.results.read_many import LoadedRuns, load_runs
from sfmoe_dg.results.record_lines import Record
from sfmoe_dg.results.selection import SELECTION_METHODS, GroupKey, Ranked, group_records, rank
from sfmoe_dg.results.tables import build_tables

Renderer = Callable[[Tables, int], str]

Loaded = LoadedRecords | LoadedRuns


def _of_tables(render: Renderer) -> Callable[[Loaded], str]:
    return lambda loaded: render(build_tables(loaded), loaded.total)


FORMATS: dict[str, Callable[[Loaded], str]] = {
    "text": _of_tables(render_text),
    "latex": _of_tables(render_latex),
    "markdown": _of_tables(render_markdown),
    "csv": _of_tables(render_csv),
    "html": render_page,
}
"""Name of a format → function that writes the tables in it."""


class Collected(NamedTuple):
    """``output`` is for standard output, ``problems`` (one sentence each) for standard error."""

    output: str
    problems: list[str]


def collect(input_dir: str | os.PathLike[str], format: str = "text", processes: int = 1) -> Collected:
    """The tables of all runs below a folder, in one of ``FORMATS``.

    Text and LaTeX are what DomainBed's ``collect_results`` prints, byte for byte. ``processes``: see ``load_runs``.

    Raises:
        UserError: on an unknown format, a missing folder, or one without records.

    Examples:
        >>> from sfmoe_dg import collect
        >>> report = collect("results", "csv")
        >>> report.output.splitlines()[0]
        'dataset,selection_method,algorithm,test_domain,mean,stderr,n_trials'
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    loaded = load_runs(input_dir, processes)
    return Collected(FORMATS[format](loaded), loaded.problems)


def top_hparams(input_dir: str | os.PathLike[str], dataset: str, algorithm: str, test_env: int) -> Collected:
    """Every hyper-parameter setting by selection method and trial, in the order of validation accuracy, best first.

    Raises:
        UserError: if the records hold no such data set, algorithm or test domain, or if runs with the same
            hparams_seed have different hyper-parameters.

    Source: DomainBed, ``scripts.list_top_hparams``.
    """
    loaded = load_records(input_dir)
    groups = group_records(loaded.records)
    _require_known(groups, dataset, algorithm, test_env)
    wanted = [key for key in groups if key[1:] == (dataset, algorithm, test_env)]
    lines = [f"Total records: {len(loaded.records)}"]
    for method in SELECTION_METHODS:
        lines.append(f"Model selection: {method.name}")
        for key in wanted:
            lines.append(f"trial_seed: {key.trial_seed}")
            for ranked in rank(groups[key], test_env, method):
                lines += _setting(ranked, groups[key][ranked.hparams_seed], key)
    return Collected("\n".join(lines) + "\n", loaded.problems)


def _require_known(keys: Iterable[GroupKey], dataset: str, algorithm: str, test_env: int) -> None:
    """Check one value after the other, so that the message lists what the records hold for the values before."""
    left = list(keys)
    for name, value in (("dataset", dataset), ("algorithm", algorithm), ("test_env", test_env)):
        held = sorted({getattr(key, name) for key in left})
        if value not in held:
            before = {"dataset": "", "algorithm": f" of {dataset}", "test_env": f" of {dataset} and {algorithm}"}[name]
            named = ", ".join(map(str, held))
            raise UserError(f"{name} {value} is not in the records{before}; they hold: {named}", name)
        left = [key for key in left if getattr(key, name) == value]


def _setting(ranked: Ranked, records: Sequence[Record], key: GroupKey) -> list[str]:
    hparams = records[0].get("hparams", {})
    folders = _output_dirs(records)
    if any(record.get("hparams", {}) != hparams for record in records):
        raise UserError(_disagreement(records, key))
    accuracies = {"val_acc": ranked.choice.val_acc, "test_acc": ranked.choice.test_acc}
    return [
        f"\t{accuracies}",
        "\t\thparams:",
        *(f"\t\t\t{name}: {value}" for name, value in sorted(hparams.items())),
        "\t\toutput_dirs:",
        *(f"\t\t\t{folder}" for folder in folders),
    ]


def _output_dirs(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(str(record["args"].get("output_dir")) for record in records))


def _disagreement(records: Sequence[Record], key: GroupKey) -> str:
    by_hparams: dict[str, list[Record]] = {}
    for record in records:
        by_hparams.setdefault(json.dumps(record.get("hparams", {}), sort_keys=True), []).append(record)
    sides = " and ".join(", ".join(_output_dirs(side)) for side in by_hparams.values())
    hparams_seed = records[0]["args"]["hparams_seed"]
    return (
        f"the runs of hparams_seed {hparams_seed}, trial_seed {key.trial_seed} ({key.dataset}, {key.algorithm}) "
        f"differ in their hparams: {sides}; keep runs of different sweeps in different folders"
    )
