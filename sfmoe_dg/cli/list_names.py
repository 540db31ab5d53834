"""List algorithms and their needs, backbones, data sets, launchers, loggers or analyses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import Registry, open_registry, package_of

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Algorithm

T = TypeVar("T")

EXAMPLE = """example:
  sfmoe-dg list algorithms
  sfmoe-dg list algorithms --format markdown    # the table of README.md
  sfmoe-dg list backbones --plugin my_backbone.py

The list includes what other installed packages add, with their names. The exit code is 1 if any of it cannot be loaded.
"""

TITLES = {
    "algorithms": ("algorithm", "paper", "year", "needs"),
    "backbones": ("backbone", "what it is"),
    "datasets": ("data set", "classes", "where", "domains"),
    "launchers": ("launcher", "what it does"),
    "loggers": ("logger", "what it does"),
    "analyses": ("analysis", "what it shows"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="WHAT", choices=tuple(TITLES), help=f"one of {', '.join(TITLES)}")
    parser.add_argument("--format", choices=("text", "markdown"), default="text", help="default: %(default)s")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.foundation.plugins import load_plugins

    load_plugins(args.plugin)
    registry = open_registry(args.what)
    broken = list(_broken(registry))
    for problem in broken:
        print(f"sfmoe-dg: note: {problem}", file=sys.stderr)
    describe = {"algorithms": algorithm_rows, "backbones": _backbones, "datasets": _datasets}.get(args.what)
    rows = describe() if describe else _with_docstrings(registry)
    for line in markdown(TITLES[args.what], rows) if args.format == "markdown" else align(rows):
        print(line)
    return 1 if broken else 0


def _broken(registry: Registry[Any]) -> Iterator[str]:
    """One sentence for each entry of another package that cannot be loaded."""
    for name in registry.offers:
        try:
            registry.load(name)
        except UserError as error:
            yield str(error)


def _loaded(registry: Registry[T]) -> Iterator[tuple[str, T, tuple[str, ...]]]:
    """The name and object of every entry that can be loaded, and a note if it comes from another package."""
    for name in registry:
        with suppress(UserError):
            yield name, registry.load(name), tuple(f"from {package_of(p)}" for p in registry.offers.get(name, ()))


def algorithm_rows() -> list[tuple[str, ...]]:
    """Name, paper, year and needs of every registered algorithm. The year is empty if ``paper`` has none."""
    from sfmoe_dg.algorithms.registry import ALGORITHMS

    rows: list[tuple[str, ...]] = []
    for name, algorithm, package in _loaded(ALGORITHMS):
        paper, _, year = algorithm.paper.rpartition(", ")
        named = (paper, year) if year.isdecimal() else (algorithm.paper, "")
        rows.append((name, *named, "; ".join([*_needs(algorithm), *package])))
    return rows


def _needs(algorithm: type[Algorithm]) -> list[str]:
    # For SWAD, the attribute of the class is a property, because its need ends during training. It counts as a need.
    needs = {
        f"at least {algorithm.min_domains} training domains": algorithm.min_domains > 1,
        f"minibatches of at least {algorithm.min_batch_size} images": algorithm.min_batch_size > 1,
        "validation loss at every evaluation": algorithm.needs_validation_loss is not False,
        "predicts in context of the batch": algorithm.predicts_in_context,
        "can use unlabeled minibatches": algorithm.uses_unlabeled,
        algorithm.needs: bool(algorithm.needs),
        _own_backbone(algorithm): bool(_own_backbone(algorithm)),
    }
    return [words for words, holds in needs.items() if holds]


def _own_backbone(algorithm: type[Algorithm]) -> str:
    """The default backbones for large and small pictures, for algorithms that have a backbone of their own."""
    tables = [algorithm.hparam_table(dataset) for dataset in ("PACS", "StyledDigits")]
    # DomainBed's own algorithms have no hyper-parameter "backbone".
    large, small = (table["backbone"].default if "backbone" in table else "auto" for table in tables)
    return "" if large == "auto" else f"backbone {large} by default, {small} for small pictures"


def _backbones() -> list[tuple[str, ...]]:
    from sfmoe_dg.models.backbones import BACKBONES, known_backbones

    packages = {name: package for name, _, package in _loaded(BACKBONES)}
    return [(name, "; ".join([text, *packages.get(name, ())])) for name, text in known_backbones().items()]


def _datasets() -> list[tuple[str, ...]]:
    from sfmoe_dg.data.catalog import CATALOG

    rows: list[tuple[str, ...]] = []
    for name, entry, package in _loaded(CATALOG):
        domains = ", ".join(entry.domains) or "your own folders"
        classes = f"{entry.num_classes} classes" if entry.num_classes else "your own classes"
        where = f"data_dir/{entry.folder}" if entry.folder else "data_dir" if entry.needs_data_dir else "no files"
        rows.append((name, classes, where, "; ".join([domains, *package])))
    return rows


def _with_docstrings(registry: Registry[Any]) -> list[tuple[str, ...]]:
    """Names and the first lines of docstrings."""
    rows: list[tuple[str, ...]] = []
    for name, entry, package in _loaded(registry):
        # Our entries have a file each, whose docstring describes them. A plug-in's file may hold several entries.
        docs = (entry.__doc__, sys.modules[entry.__module__].__doc__)
        text = next(filter(None, docs if package else docs[::-1]), "no description")
        rows.append((name, "; ".join([text.strip().splitlines()[0], *package])))
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
