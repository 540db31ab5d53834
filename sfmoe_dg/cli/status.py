"""Show the states of a sweep's runs for every data set and algorithm."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmoe_dg.foundation.durations import duration
from sfmoe_dg.foundation.errors import UserError

if TYPE_CHECKING:
    from sfmoe_dg.runs.spec import RunSpec
    from sfmoe_dg.sweeps.status import RunStatus

LISTED = 20
"""How many running runs, and how many failed runs, are listed under the table."""
WATCH_SECONDS = 10.0
CLEAR_SCREEN = "\033[H\033[2J"

EXAMPLE = """example:
  sfmoe-dg status --output_dir results/quickstart
  sfmoe-dg status --output_dir results/quickstart --watch 5

running: trained now; queued: in a cluster's queue; waiting: not begun; lost: begun, but no process trains it now (the
next sweep resumes it); failed: see sfmoe-dg retry. The exit code is 0 if every run is done, and 1 otherwise.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", required=True, help="the folder of a sweep")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help="repeat until every run is done or has failed for good (default: every %(const)g s)",
    )
    how.add_argument("--json", action="store_true", help="print every run and its state as JSON, for scripts")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.runs.folder import State
    from sfmoe_dg.sweeps.plan import load_plans
    from sfmoe_dg.sweeps.status import status

    if args.watch is not None and not 0 < args.watch < float("inf"):
        raise UserError(f"--watch is {args.watch:g}; it must be a number of seconds above 0")
    output_dir = Path(args.output_dir)
    runs = load_plans(output_dir)
    try:
        while True:
            queued, problem = _queued(output_dir)
            states = status(runs, output_dir, queued)
            complete = all(s.state is State.DONE for s in states)
            _show(states, args, problem)
            if args.watch is None or not any(s.is_open for s in states):
                return 0 if complete else 1
            time.sleep(args.watch)
    except KeyboardInterrupt:
        if args.watch is None:
            raise
        return 130


def _queued(output_dir: Path) -> tuple[Collection[str], str]:
    """The runs that are in a queue, and a note if a queue could not be asked."""
    from sfmoe_dg.sweeps.launch.launcher import queued_runs

    try:
        return queued_runs(output_dir), ""
    except UserError as error:
        return (), f"which runs are queued is not known: {error}"


def _show(states: Sequence[RunStatus], args: argparse.Namespace, problem: str) -> None:
    if args.json:
        print(json.dumps(_as_json(states), indent=1))
    else:
        # Move the cursor home and clear the screen, so that the table stays in its place.
        before = CLEAR_SCREEN if args.watch is not None and sys.stdout.isatty() else ""
        print(before + "\n".join([*table(states), *_running(states), *_failed(states)]), flush=True)
    if problem:
        print(problem, file=sys.stderr)


def table(states: Sequence[RunStatus]) -> Iterator[str]:
    """The lines of the table: one per data set and algorithm in the order of the plan, then the total."""
    from sfmoe_dg.runs.folder import State

    counts: dict[str, Counter[State]] = defaultdict(Counter)
    for s in states:
        counts[f"{s.spec.dataset} {s.spec.algorithm}"][s.state] += 1
    rows = [*counts.items(), ("total", sum(counts.values(), Counter[State]()))]
    width = max(len(name) for name, _ in rows)
    yield " ".join([" " * width, *(f"{state.value:>8}" for state in State), f"{'all':>8}"])
    for name, row in rows:
        yield " ".join([f"{name:{width}}", *(f"{row[state]:>8}" for state in State), f"{row.total():>8}"])


def _running(states: Sequence[RunStatus]) -> Iterator[str]:
    from sfmoe_dg.runs.folder import State
    from sfmoe_dg.runs.progress import read_progress

    running = [s for s in states if s.state is State.RUNNING]
    for s in running[:LISTED]:
        progress = read_progress(s.folder)
        how_far = "no step yet"
        if progress is not None:
            how_far = f"step {progress.step + 1}/{progress.steps}, {duration(progress.seconds_left)} left"
        yield f"running: {_title(s.spec)}  {how_far}"
    if len(running) > LISTED:
        yield f"running: and {len(running) - LISTED} more"


def _failed(states: Sequence[RunStatus]) -> Iterator[str]:
    from sfmoe_dg.runs.folder import State

    failed = [s for s in states if s.state is State.FAILED]
    for s in failed[:LISTED]:
        often = "once" if s.failures == 1 else f"{s.failures} times"
        error = s.error.removeprefix("sfmoe-dg: error: ")
        then = "" if s.is_to_do else "; it stays so until sfmoe-dg retry"
        yield f"failed {often}: {_title(s.spec)}: {error}{then} ({s.folder.errors})"
    if len(failed) > LISTED:
        yield f"failed: and {len(failed) - LISTED} more"


def _title(run: RunSpec) -> str:
    from sfmoe_dg.sweeps.find_run import title

    return title(run)


def _as_json(states: Sequence[RunStatus]) -> dict[str, Any]:
    from sfmoe_dg.runs.folder import State

    counts = Counter(s.state for s in states)
    return {
        "complete": counts[State.DONE] == len(states),
        "counts": {state.value: counts[state] for state in State},
        "runs": [_run_as_json(s) for s in states],
    }


def _run_as_json(s: RunStatus) -> dict[str, Any]:
    from sfmoe_dg.runs.folder import State
    from sfmoe_dg.runs.progress import read_progress

    values: dict[str, Any] = {"id": s.folder.name, "title": str(s.spec), "dataset": s.spec.dataset}
    values |= {"algorithm": s.spec.algorithm, "state": s.state.value, "folder": str(s.folder)}
    if s.failures:
        values |= {"failures": s.failures, "error": s.error}
    if s.state is State.RUNNING:
        owner, progress = s.folder.owner, read_progress(s.folder)
        values["owner"] = None if owner is None else str(owner)
        if progress is not None:
            values |= {"step": progress.step, "steps": progress.steps, "seconds_left": round(progress.seconds_left, 1)}
    return values
