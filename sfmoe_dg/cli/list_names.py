"""List algorithms, backbones or data sets."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

EXAMPLE = """example:
  sfmoe-dg list algorithms
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("algorithms", "backbones", "datasets"))
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.plugins import load_plugins

    load_plugins(args.plugin)
    rows = {"algorithms": _algorithms, "backbones": _backbones, "datasets": _datasets}[args.what]()
    for line in align(rows):
        print(line)
    return 0


def _algorithms() -> list[tuple[str, ...]]:
    from sfmoe_dg.algorithms import ALGORITHMS

    return [(name, ALGORITHMS.load(name).paper) for name in ALGORITHMS]


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
