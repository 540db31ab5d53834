"""Count the runs of a sweep: done, running, failed, interrupted, missing."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

EXAMPLE = """example:
  sfmoe-dg status --output_dir results/quickstart

The exit code is 0 if every run is done, and 1 otherwise.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", required=True, help="the folder of a sweep")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.sweep import State, load_plans, status

    output_dir = Path(args.output_dir)
    states = status(load_plans(output_dir), output_dir)
    groups = sorted({(s.spec.dataset, s.spec.algorithm) for s in states})
    width = max(len(" ".join(group)) for group in groups)
    print(f"{'':{width}}  " + "  ".join(f"{state.value:>11}" for state in State))
    for group in groups:
        counts = Counter(s.state for s in states if (s.spec.dataset, s.spec.algorithm) == group)
        print(f"{' '.join(group):{width}}  " + "  ".join(f"{counts[state]:>11}" for state in State))
    for s in states:
        if s.state is State.FAILED:
            print(f"failed: {s.spec}: {s.error} ({s.folder})")
    return 0 if all(s.state is State.DONE for s in states) else 1
