"""One self-contained HTML page: the tables of all selection methods, accuracy against step, and further sections.

The page loads nothing from elsewhere and opens from a file. Without JavaScript it shows every table; with JavaScript,
switches (selection method, split and other options) show one group of tables at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import NamedTuple

from sfmoe_dg.results.formats import average_text, readable_text
from sfmoe_dg.results.page.svg import BLUE_CIRCLES, ORANGE_SQUARES, Point, Series, limits, line_chart
from sfmoe_dg.results.read import LoadedRecords
from sfmoe_dg.results.read_many import LoadedRuns
from sfmoe_dg.results.record_arrays import Block
from sfmoe_dg.results.selection import group_blocks
from sfmoe_dg.results.tables import Labels, Table, build_tables

TITLE = "Domain generalization results"


class Section(NamedTuple):
    """A further part of the page: its HTML, with all text escaped, and the style and script that it needs."""

    html: str
    style: str = ""
    script: str = ""


def render_page(
    loaded: LoadedRecords | LoadedRuns,
    title: str = TITLE,
    labels: Labels | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """The page as one string; every text from the records is escaped. ``sections`` follow the tables and curves."""
    methods = build_tables(loaded, labels)
    first = next(iter(methods.values()))
    columns = {table.name: table.columns for table in first if not table.is_averages}
    folder = resources.files("sfmoe_dg.results.page")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    styles, scripts = ("".join(part) for part in zip(("", ""), *((s.style, s.script) for s in sections), strict=True))
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>\n{style}{styles}</style>\n</head>\n<body>",
        f"<header>\n<h1>{escape(title)}</h1>\n<p>Total records: {loaded.total}</p>",
        *_problems(loaded.problems),
        "</header>\n<main>",
        "<p>Accuracy on the held-out domain in percent: mean ± standard error over trials. Bold: the highest mean of a "
        "column. X: runs are missing.</p>",
        *_switch("Model selection method", [(f"method-{i}", name) for i, name in enumerate(methods)], "#{}"),
        *_switch("Split and other options", _options(first), ".{}"),
        *(_method(f"method-{i}", name, tables) for i, (name, tables) in enumerate(methods.items())),
        *_curves(loaded.blocks, columns, _row_order(first)),
        *(section.html for section in sections),
        f"</main>\n<script>\n{script}{scripts}</script>\n</body>\n</html>",
    ]
    return "\n".join(parts) + "\n"


def _problems(problems: Sequence[str]) -> list[str]:
    if not problems:
        return []
    items = "\n".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return [f"<details>\n<summary>Notes and problems: {len(problems)}</summary>\n<ul>\n{items}\n</ul>\n</details>"]


# -------------------------------------------------------------------------------------------------------- tables


def _switch(label: str, choices: Sequence[tuple[str, str]], selector: str) -> list[str]:
    """One link per choice (identifier, name), which shows that choice and hides the others; none for one choice."""
    if len(choices) < 2:
        return []
    links = (
        f'<a href="#{identifier}" data-shows="{selector.format(identifier)}">{escape(name)}</a>'
        for identifier, name in choices
    )
    return [f'<nav aria-label="{label}">', *links, "</nav>"]


def _options(tables: Iterable[Table]) -> list[tuple[str, str]]:
    """Identifier and name of every set of options that runs were trained with, in the order of the tables."""
    different = dict.fromkeys(table.options for table in tables)
    return [(f"options-{i}", text[1:-1] or "DomainBed's random split") for i, text in enumerate(different)]


def _method(identifier: str, name: str, tables: Iterable[Table]) -> str:
    tables = list(tables)
    order = list(dict.fromkeys(table.options for table in tables))
    body = "\n".join(
        f'<div class="options options-{order.index(table.options)}">\n{_table(table)}\n</div>' for table in tables
    )
    return f'<section class="method" id="{identifier}">\n<h2>Model selection: {escape(name)}</h2>\n{body}\n</section>'


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("Algorithm", *table.columns, "Avg"))
    best = _best_of_columns(table)
    name = escape(table.name)
    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">\n<table>\n<caption>{name}</caption>',
        f"<thead><tr>{header}</tr></thead>\n<tbody>",
    ]
    for row in table.rows:
        texts = [*(readable_text(cell) for cell in row.cells), average_text(row)]
        values = [*(cell.mean if cell else None for cell in row.cells), row.average]
        notes = [*(f"n = {cell.n}" if cell else "runs are missing" for cell in row.cells), "mean of the row"]
        cells = "".join(
            f'<td{_class(value, top)} title="{note}">{text}</td>'
            for text, value, top, note in zip(texts, values, best, notes, strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(row.algorithm)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody>\n</table>\n</div>"])


def _class(value: float | None, best: float | None) -> str:
    if value is None:
        return ' class="missing"'
    return ' class="best"' if value == best else ""


def _best_of_columns(table: Table) -> list[float | None]:
    """The highest mean of each column and of the averages; None where there is nothing to compare."""
    columns = [[cell.mean for row in table.rows if (cell := row.cells[i])] for i in range(len(table.columns))]
    columns.append([row.average for row in table.rows if row.average is not None])
    return [max(values) if len(values) > 1 else None for values in columns]


# -------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class _Curves:
    """Accuracies in percent against step, over ``num_runs`` runs that hold out exactly one domain."""

    held_out: list[Point]
    training: list[Point]
    num_runs: int

    @property
    def points(self) -> list[Point]:
        return [*self.held_out, *self.training]


def _row_order(tables: Iterable[Table]) -> list[tuple[str, str]]:
    return [(table.name, row.algorithm) for table in tables if not table.is_averages for row in table.rows]


def _curves(
    blocks: Iterable[Block], columns: dict[str, tuple[str, ...]], order: Sequence[tuple[str, str]]
) -> Iterator[str]:
    by_domain: dict[tuple[str, str], dict[int, _Curves]] = defaultdict(dict)
    for (dataset, algorithm, test_env), runs in _single_domain_runs(blocks).items():
        by_domain[dataset, algorithm][test_env] = _curves_of(runs, test_env)
    yield '<section id="curves">\n<h2>Accuracy during training</h2>'
    yield (
        "<p>Lines are means over runs, of all trials and hyper-parameters; bands reach from the lowest run to the "
        "highest. Held-out: the in-split of the test domain. Training: the mean of the training domains' "
        "out-splits.</p>"
    )
    y_limits = _limits_of_datasets(by_domain)
    shown = [pair for pair in order if pair in by_domain]
    for place, (dataset, algorithm) in enumerate(shown):
        yield f"<details{' open' if place == 0 else ''}>\n<summary>{escape(dataset)}: {escape(algorithm)}</summary>"
        yield '<div class="charts">'
        for test_env, curves in sorted(by_domain[dataset, algorithm].items()):
            titles = columns[dataset]
            domain = titles[test_env] if test_env < len(titles) else f"env{test_env}"
            yield _figure(curves, dataset, algorithm, domain, y_limits[dataset])
        yield "</div>\n</details>"
    yield "</section>"


def _single_domain_runs(blocks: Iterable[Block]) -> dict[tuple[str, str, int], list[list[Block]]]:
    """The runs that hold out exactly one domain, by data set, algorithm and test domain."""
    runs: dict[tuple[str, str, int], list[list[Block]]] = defaultdict(list)
    for key, group in group_blocks(block for block in blocks if block.alone).items():
        runs[key[1:]] += group.values()
    return runs


def _curves_of(runs: Sequence[Sequence[Block]], test_env: int) -> _Curves:
    held_out: dict[float, list[float]] = defaultdict(list)
    training: dict[float, list[float]] = defaultdict(list)
    for block in (block for run in runs for block in run):
        others = [i for i in range(block.num_domains) if i != test_env]
        rows = zip(
            block.steps.tolist(), block.held_out_in(test_env).tolist(), block.out[:, others].tolist(), strict=True
        )
        for step, acc, accs in rows:
            held_out[step].append(acc)
            if accs:
                training[step].append(sum(accs) / len(accs))
    return _Curves(_points(held_out), _points(training), len(runs))


def _points(by_step: dict[float, list[float]]) -> list[Point]:
    """Percentages by step. A value that is not finite is left out of its step's mean and range."""
    points = []
    for step in sorted(by_step):
        values = [100 * value for value in by_step[step] if math.isfinite(value)]
        if values:
            points.append(Point(step, sum(values) / len(values), min(values), max(values)))
    return points


def _limits_of_datasets(by_domain: Mapping[tuple[str, str], Mapping[int, _Curves]]) -> dict[str, tuple[float, float]]:
    """One accuracy axis per data set, so that its algorithms and domains can be compared by eye."""
    values: dict[str, list[float]] = defaultdict(list)
    for (dataset, _), of_domain in by_domain.items():
        for curves in of_domain.values():
            values[dataset] += [value for point in curves.points for value in (point.low, point.high)]
    return {dataset: limits(of_dataset, margin=0.04) for dataset, of_dataset in values.items()}


def _figure(curves: _Curves, dataset: str, algorithm: str, domain: str, y_limits: tuple[float, float]) -> str:
    chart = line_chart(
        [Series("held-out", BLUE_CIRCLES, curves.held_out), Series("training (mean)", ORANGE_SQUARES, curves.training)],
        title=f"{dataset}, {algorithm}, held out {domain}: accuracy against step",
        x_label="step",
        y_label="accuracy (%)",
        x_limits=limits([point.x for point in curves.points]),
        y_limits=y_limits,
    )
    runs = "1 run" if curves.num_runs == 1 else f"{curves.num_runs} runs"
    caption = f"<figcaption>Held out: <strong>{escape(domain)}</strong> ({runs})</figcaption>"
    return f"<figure>\n{caption}\n{chart}\n</figure>"
