"""Delete the failures of runs, so that the next sweep starts these runs again."""

from __future__ import annotations

import argparse
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError

EXAMPLE = """example:
  sfmoe-dg retry --failed --output_dir results/pacs
  sfmoe-dg retry --output_dir results/pacs 3f9a 'PACS ERM test 0'

A run is named by the beginning of its id or by words of its title, as sfmoe-dg status shows them. A failed run resumes
from its last checkpoint.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="only these")
    parser.add_argument("--failed", action="store_true", help="every run that failed")
    parser.add_argument("--output_dir", required=True, help="the folder of a sweep")
    parser.add_argument("--dry_run", action="store_true", help="list the runs and change nothing")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.runs.folder import State
    from sfmoe_dg.sweeps.find_run import find_run, title
    from sfmoe_dg.sweeps.plan import load_plans
    from sfmoe_dg.sweeps.status import status
    from sfmoe_dg.sweeps.stop_and_delete import forget_failures

    if not args.runs and not args.failed:
        raise UserError("which runs? name some, or say --failed for every run that failed")
    output_dir = Path(args.output_dir)
    runs = load_plans(output_dir)
    named = {find_run(runs, text) for text in args.runs}
    chosen = [s for s in status(runs, output_dir) if not named or s.spec in named]
    for s in chosen if named else ():
        if s.state is not State.FAILED:
            raise UserError(f"run {title(s.spec)} has not failed: it is {s.state.value}")
    failed = [s for s in chosen if s.state is State.FAILED]
    if args.dry_run:
        for s in failed:
            print(f"{title(s.spec)}: {s.error}")
        print(f"failed runs that the next sweep would start again: {len(failed)}")
        return 0
    print(f"failed runs that the next sweep starts again: {forget_failures(failed)}")
    return 0
