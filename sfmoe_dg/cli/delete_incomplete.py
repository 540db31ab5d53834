"""Delete the folders of runs that are not done and that no process trains."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sfmoe_dg.cli.confirm import confirm

EXAMPLE = """example:
  sfmoe-dg delete-incomplete --output_dir results/pacs --dry_run
  sfmoe-dg delete-incomplete --output_dir results/pacs --yes

Runs that are done, under way or queued are never touched. The next sweep starts deleted runs from the beginning, while
it would resume them from their checkpoints otherwise. Use this for studies that are given up, and for full disks.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", required=True, help="the folder of a sweep")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry_run", action="store_true", help="list the folders and delete nothing")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.sweeps.launch.launcher import queued_runs
    from sfmoe_dg.sweeps.plan import load_plans
    from sfmoe_dg.sweeps.status import status
    from sfmoe_dg.sweeps.stop_and_delete import delete_run, incomplete

    output_dir = Path(args.output_dir)
    chosen = incomplete(status(load_plans(output_dir), output_dir, queued_runs(output_dir)))
    for s in chosen:
        print(f"{s.state.value:>7}  {s.folder}  {s.spec}")
    if not chosen:
        print("nothing to delete: every run that has begun is done, under way or queued")
        return 0
    if args.dry_run:
        print(f"folders that would be deleted: {len(chosen)}")
        return 0
    sys.stdout.flush()
    if not confirm(
        f"folders of incomplete runs in {output_dir} that will be deleted for good: {len(chosen)}", args.yes
    ):
        print("nothing was deleted")
        return 1
    deleted = sum(delete_run(s) for s in chosen)
    print(f"folders deleted: {deleted}")
    if deleted < len(chosen):
        print(f"left alone, since they were begun or finished in the meantime: {len(chosen) - deleted}")
    return 0
