"""List algorithms with what they need, backbones or data sets."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Algorithm

EXAMPLE = """example:
  sfmoe-dg list algorithms
  sfmoe-dg list algorithms --format markdown    (the table of README.md)
"""

TITLES = {
    "algorithms": ("algorithm", "paper", "year", "needs"),
    "backbones": ("backbone", "what it is"),
    "datasets": ("data set", "classes", "where", "domains"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=tuple(TITLES))
    parser.add_argument("--format", choices=("text", "markdown"), default="text")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.plugins import load_plugins

    load_plugins(args.plugin)
    rows = {"algorithms": algorithm_rows, "backbones": _backbones, "datasets": _datasets}[args.what]()
    for line in markdown(TITLES[args.what], rows) if args.format == "markdown" else align(rows):
        print(line)
    return 0


def algorithm_rows() -> list[tuple[str, ...]]:
    """Name, paper, year and needs of every registered algorithm; the year is empty where ``paper`` ends with none."""
    from sfmoe_dg.algorithms import ALGORITHMS

    rows: list[tuple[str, ...]] = []
    for name in ALGORITHMS:
        algorithm = ALGORITHMS.load(name)
        paper, _, year = algorithm.paper.rpartition(", ")
        named = (paper, year) if year.isdecimal() else (algorithm.paper, "")
        rows.append((name, *named, "; ".join(_needs(algorithm))))
    return rows


def _needs(algorithm: type[Algorithm]) -> list[str]:
    # SWAD's attribute is a property, since its need ends; what counts here is that it may have one.
    found = {
        f"at least {algorithm.min_domains} training domains": algorithm.min_domains > 1,
        "validation loss at every evaluation": algorithm.needs_validation_loss is not False,
        "predicts in context of the batch": algorithm.predicts_in_context,
        "can use unlabeled minibatches": algorithm.uses_unlabeled,
        algorithm.needs: bool(algorithm.needs),
        _own_backbone(algorithm): bool(_own_backbone(algorithm)),
    }
    return [words for words, holds in found.items() if holds]


def _own_backbone(algorithm: type[Algorithm]) -> str:
    """The default backbones of an algorithm that is defined by one, on large pictures and on small ones."""
    tables = [algorithm.hparam_table(dataset) for dataset in ("PACS", "StyledDigits")]
    # DomainBed's own have no such hyper-parameter.
    large, small = (table["backbone"].default if "backbone" in table else "auto" for table in tables)
    return "" if large == "auto" else f"backbone {large} by default, {small} for small pictures"


def _backbones() -> list[tuple[str, ...]]:
    from sfmoe_dg.models.backbones import known_backbones

    return list(known_backbones().items())


def _datasets() -> list[tuple[str, ...]]:
    from sfmoe_dg.data.catalog import CATALOG

    rows: list[tuple[str, ...]] = []
    for name, entry in CATALOG.items():
        domains = ", ".join(entry.domains) or "your own folders"
        classes = f"{entry.num_classes} classes" if entry.num_classes else "your own classes"
        where = f"data_dir/{entry.folder}" if entry.folder else "data_dir" if entry.needs_data_dir else "no files"
        rows.append((name, classes, where, domains))
    return rows


def align(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows of equal length as lines with aligned columns."""
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """The lines of a table in GitHub's Markdown."""
    lines = [titles, ("---",) * len(titles), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
