"""Write one HTML file that shows a sweep: tables, curves, cost, and an explorer of its models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sfmoe_dg.foundation.errors import UserError

FILE = "report.html"

EXAMPLE = f"""example:
  sfmoe-dg report --output_dir results/quickstart
  sfmoe-dg report --output_dir results/quickstart --images 0    # tables, curves and cost only

The file {FILE} in that folder loads no other files, so that it can be sent or published as it is. It contains pictures
of the data set.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", required=True, help="the folder of a sweep; the report is written there")
    parser.add_argument("--title", help="the report's title; default: the folder's name")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="images in the explorer; 0: no explorer")
    parser.add_argument("--data_dir", help="the data folder; default: the runs'")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.analysis.explorer.section import explorer_section
    from sfmoe_dg.cli.collect import tell
    from sfmoe_dg.cli.train import cache_folder
    from sfmoe_dg.foundation.files import write_atomic
    from sfmoe_dg.foundation.plugins import load_plugins
    from sfmoe_dg.results.page.report import render_report
    from sfmoe_dg.results.read import load_records

    if args.images < 0:
        raise UserError(f"--images is {args.images}; it must be at least 0")
    root = Path(args.output_dir)
    loaded = load_records(root)
    load_plugins(args.plugin)
    explored, notes = _explored(root, args, cache_folder()) if args.images else (None, ())
    tell([*loaded.problems, *notes])
    title = args.title or f"Report: {root.resolve().name}"
    sections = [] if explored is None else [explorer_section(explored)]
    page = render_report(loaded, root, title, notes, sections)
    write_atomic(root / FILE, page)
    print(f"{root / FILE} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0


def _explored(root: Path, args: argparse.Namespace, cache_dir: str) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The explorer's data and notes. Without a run that kept its model, the data are None and the note says so."""
    from sfmoe_dg.analysis.explorer.data import explore
    from sfmoe_dg.analysis.subject.subject import candidates

    if not candidates(root):
        return None, ("the report has no explorer, because no finished run has kept its model",)
    explored = explore(root, args.images, data_dir=args.data_dir, device=args.device, cache_dir=cache_dir)
    return explored.data, explored.notes
