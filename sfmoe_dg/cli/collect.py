"""Print the result tables of a folder of runs, ours or DomainBed's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

FILES = {
    "text": "results.txt",
    "latex": "results.tex",
    "markdown": "results.md",
    "csv": "results.csv",
    "html": "results.html",
}
"""The formats of the tables, and the file name of each."""

EXAMPLE = """example:
  sfmoe-dg collect --input_dir results/quickstart
  sfmoe-dg collect --input_dir results/quickstart --format latex > table.tex
  sfmoe-dg collect --input_dir results/quickstart --save

Text on standard output is exactly what DomainBed's collect_results prints.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input_dir", required=True, help="the folder that holds one sub-folder per run")
    parser.add_argument(
        "--format", default="text", choices=tuple(FILES), help="the format that is printed (default: %(default)s)"
    )
    parser.add_argument(
        "--save", action="store_true", help="write the tables in every format into the folder and print the paths"
    )


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.foundation.cores import usable_cores
    from sfmoe_dg.results.collect import collect

    if args.save:
        for path in save_tables(Path(args.input_dir)):
            print(path)
        return 0
    report = collect(args.input_dir, args.format, usable_cores())
    tell(report.problems)
    sys.stdout.write(report.output)
    return 0


def tell(problems: Sequence[str]) -> None:
    """Print on standard error which records were left out or are doubtful."""
    for problem in problems:
        print(f"sfmoe-dg: note: {problem}", file=sys.stderr)


def save_tables(input_dir: Path) -> list[Path]:
    """Write the tables in every format into the folder of the runs; returns the paths."""
    from sfmoe_dg.foundation.cores import usable_cores
    from sfmoe_dg.foundation.files import write_atomic
    from sfmoe_dg.results.collect import FORMATS
    from sfmoe_dg.results.read_many import load_runs

    loaded = load_runs(input_dir, usable_cores())
    tell(loaded.problems)
    paths = []
    for name, file_name in FILES.items():
        write_atomic(input_dir / file_name, FORMATS[name](loaded))
        paths.append(input_dir / file_name)
    return paths
