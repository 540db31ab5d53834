"""Tables as text, LaTeX, Markdown and CSV.

Text and LaTeX equal what DomainBed's ``collect_results`` prints, byte for byte.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from sfmoe_dg.results.tables import Cell, Row, Table

Tables = Mapping[str, Sequence[Table]]
"""The tables of each selection method, by its name, as ``build_tables`` returns them."""


def cell_text(cell: Cell | None, sign: str) -> str:
    """``'82.4 +/- 1.1'`` with ``sign`` in the middle, or ``'X'`` where runs are missing."""
    return "X" if cell is None else f"{cell.mean:.1f} {sign} {cell.stderr:.1f}"


def readable_text(cell: Cell | None) -> str:
    """For the formats that DomainBed does not have: a single trial is shown without a standard error."""
    return f"{cell.mean:.1f} (1 trial)" if cell is not None and cell.n == 1 else cell_text(cell, "±")


def average_text(row: Row) -> str:
    """The row's mean of means, or ``'X'``."""
    return "X" if row.average is None else f"{row.average:.1f}"


def text_rows(table: Table, show: Callable[[Cell | None], str]) -> list[list[str]]:
    """The table's rows as text, without the header: algorithm, cells, average."""
    return [[row.algorithm, *map(show, row.cells), average_text(row)] for row in table.rows]


def _padded(values: Iterable[str], table: Table, cut: bool = True) -> list[str]:
    """Values padded to the column's width and, with ``cut``, shortened to it as upstream does."""
    width = 25 if table.is_averages else 20
    return [value.ljust(width)[: width if cut else None] for value in values]


def render_text(tables: Tables, total: int) -> str:
    """What DomainBed's ``collect_results`` prints."""
    lines = [f"Total records: {total}"]
    for table in _flat(tables):
        lines += ["", f"-------- {table.title}, model selection method: {table.method}"]
        for row in [["Algorithm", *table.columns, "Avg"], *text_rows(table, partial(cell_text, sign="+/-"))]:
            lines.append("  ".join(_padded(row, table)) + " ")
    return "\n".join(lines) + "\n"


def _flat(tables: Tables) -> list[Table]:
    return [table for of_method in tables.values() for table in of_method]


_LATEX_HEAD = r"""\documentclass{article}
\usepackage{booktabs}
\usepackage{adjustbox}
\begin{document}
\section{Full DomainBed results}
"""


def render_latex(tables: Tables, total: int) -> str:
    """What DomainBed's ``collect_results --latex`` prints."""
    lines = [f"{_LATEX_HEAD}% Total records: {total}"]
    for method, of_method in tables.items():
        lines += ["", rf"\subsection{{Model selection: {method}}}"]
        for table in of_method:
            lines += ["", rf"\subsubsection{{{_latex_name(table.name, table)}}}", "", *_latex_table(table)]
    return "\n".join([*lines, r"\end{document}"]) + "\n"


def _latex_table(table: Table) -> list[str]:
    header = [f"\\textbf{{{_latex_column(title, table)}}}" for title in ("Algorithm", *table.columns, "Avg")]
    rows = [[_latex_name(name, table), *cells] for name, *cells in text_rows(table, partial(cell_text, sign=r"$\pm$"))]
    header_line, *row_lines = (
        " & ".join(_padded(row, table, cut=not table.foreign)) + r" \\" for row in [header, *rows]
    )
    return [
        r"\begin{center}",
        r"\adjustbox{max width=\textwidth}{%",
        rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}",
        r"\toprule",
        header_line,
        r"\midrule",
        *row_lines,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{center}",
    ]


def _latex_name(name: str, table: Table) -> str:
    """The name, escaped in tables that upstream cannot print, so that they compile. Upstream escapes nothing.

    Such tables are not cut to the column width either, because the cut could remove a closing brace.
    """
    return re.sub(r"([_&#%$])", r"\\\1", name) if table.foreign else name


def _latex_column(title: str, table: Table) -> str:
    return _latex_name(title, table) if table.foreign else title.replace("%", r"\%")


def render_markdown(tables: Tables, total: int) -> str:
    """The same tables in GitHub's Markdown."""
    lines = [f"Total records: {total}"]
    for method, of_method in tables.items():
        lines += ["", f"## Model selection: {method}"]
        for table in of_method:
            header = ["Algorithm", *table.columns, "Avg"]
            rules = ["---", *["---:"] * (len(header) - 1)]
            lines += ["", f"### {_markdown_name(table.name)}", ""]
            lines += ["| " + " | ".join(map(_markdown_name, row)) + " |" for row in (header, rules)]
            lines += ["| " + " | ".join(map(_markdown_name, row)) + " |" for row in text_rows(table, readable_text)]
    return "\n".join(lines) + "\n"


def _markdown_name(name: str) -> str:
    return html.escape(name, quote=False).replace("|", r"\|")


CSV_COLUMNS = ("dataset", "selection_method", "algorithm", "test_domain", "mean", "stderr", "n_trials")


def render_csv(tables: Tables, total: int) -> str:
    """One line per cell, unrounded percentages, empty where runs are missing.

    A row's average has the test domain ``Avg`` and no standard error. The lines of the averages table have
    ``Averages`` as their data set and the data set's name in place of the test domain.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in _flat(tables):
        for row in table.rows:
            start = (table.name, table.method, row.algorithm)
            for column, cell in zip(table.columns, row.cells, strict=True):
                writer.writerow([*start, column, *((cell.mean, cell.stderr, cell.n) if cell else ("", "", 0))])
            writer.writerow([*start, "Avg", "" if row.average is None else row.average, "", ""])
    return file.getvalue()
