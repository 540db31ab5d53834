"""Stop runs of a sweep after they have saved, and take their jobs out of the queue."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfmoe_dg.foundation.errors import UserError

if TYPE_CHECKING:
    from sfmoe_dg.sweeps.status import RunStatus

EXAMPLE = """example:
  sfmoe-dg cancel --output_dir results/pacs
  sfmoe-dg cancel --output_dir results/pacs 3f9a 'PACS ERM test 0 hparams 0 trial 1'

Without RUN, the sweeps that work in the folder are ended too, so that they start no more runs. The same sweep command
resumes the runs later from their checkpoints. The exit code is 1 if a process could not be stopped from this machine.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="only these; default: all")
    parser.add_argument("--output_dir", required=True, help="the folder of a sweep")
    parser.add_argument("--dry_run", action="store_true", help="print what would be stopped and stop nothing")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.sweeps.find_run import find_run
    from sfmoe_dg.sweeps.launch.launcher import queued_runs
    from sfmoe_dg.sweeps.plan import load_plans
    from sfmoe_dg.sweeps.status import status

    output_dir = Path(args.output_dir)
    runs = load_plans(output_dir)
    queued = queued_runs(output_dir)
    named = {find_run(runs, text) for text in args.runs}
    chosen = [s for s in status(runs, output_dir, queued) if not named or s.spec in named]
    for s in chosen if named else ():
        _refuse_idle(s)
    if args.dry_run:
        return _announce(chosen, output_dir, queued, not named)
    left = 0 if named else _stop_sweeps(output_dir)
    canceled = _cancel_jobs(output_dir, {s.folder.name for s in chosen} if named else None)
    # Runs of the canceled jobs are saving now. A second signal would end them before they have saved.
    rest = [s.spec for s in chosen if s.folder.name not in canceled]
    left += _stop_runs(status(rest, output_dir))
    return 1 if left else 0


def _refuse_idle(s: RunStatus) -> None:
    from sfmoe_dg.runs.folder import State
    from sfmoe_dg.sweeps.find_run import title

    if s.state not in (State.RUNNING, State.QUEUED):
        raise UserError(f"run {title(s.spec)} is neither running nor queued: it is {s.state.value}")


def _announce(states: Sequence[RunStatus], output_dir: Path, queued: dict[str, str], whole: bool) -> int:
    from sfmoe_dg.runs.folder import State
    from sfmoe_dg.sweeps.find_run import title
    from sfmoe_dg.sweeps.launch.active_sweeps import sweeps_of

    for owner in sweeps_of(output_dir) if whole else ():
        print(f"would end the sweep of {owner}")
    for s in states:
        if s.folder.name in queued:
            print(f"would cancel job {queued[s.folder.name]} of {title(s.spec)}")
        elif s.state is State.RUNNING:
            print(f"would stop {title(s.spec)}: {s.folder.owner}")
    return 0


def _stop_sweeps(output_dir: Path) -> int:
    """End the sweeps that work in the folder; returns how many of them could not be ended."""
    from sfmoe_dg.sweeps.launch.active_sweeps import sweeps_of
    from sfmoe_dg.sweeps.stop_and_delete import Stop, stop_process

    left = 0
    for owner in sweeps_of(output_dir):
        print(f"ending the sweep of {owner}; runs that it started here are saved first", flush=True)
        if stop_process(owner) is Stop.ELSEWHERE:
            left += 1
            print(f"not ended: the sweep of {owner}; if it still runs, end it on {owner.host}", file=sys.stderr)
    return left


def _cancel_jobs(output_dir: Path, ids: set[str] | None) -> set[str]:
    """Cancel the jobs of these runs in every queue; returns all runs of these jobs, also those not in ``ids``."""
    from sfmoe_dg.foundation.registry import BrokenPlugin
    from sfmoe_dg.sweeps.launch.launcher import LAUNCHERS

    canceled = set[str]()
    for name in LAUNCHERS:
        try:
            launcher = LAUNCHERS.load(name)()
        except BrokenPlugin as error:
            print(f"sfmoe-dg: note: whether jobs are queued there is not known: {error}", file=sys.stderr)
            continue
        queued = launcher.queued(output_dir)
        jobs = set(launcher.cancel(output_dir, ids))
        held = {run_id for run_id, job in queued.items() if job in jobs}
        others = held - ids if ids is not None else set[str]()
        if jobs:
            print(f"{name}: jobs canceled: {len(jobs)}, runs in them: {len(held)}; those under way save first")
        if others:
            print(f"{name}: other runs that stop with them: {len(others)}; the next sweep starts them again")
        canceled |= held
    return canceled


def _stop_runs(states: Sequence[RunStatus]) -> int:
    """Stop runs on this machine; returns how many could not be stopped."""
    from sfmoe_dg.sweeps.find_run import title
    from sfmoe_dg.sweeps.stop_and_delete import Stop, stop_runs

    left = 0
    for s, owner, how in stop_runs(states):
        if how is Stop.STOPPED:
            print(f"stopped, and saved: {title(s.spec)}")
        elif how is Stop.KILLED:
            print(f"killed, since it did not save in time: {title(s.spec)}; it goes on from its last checkpoint")
        else:
            left += 1
            what = f"scancel {owner.slurm_job.partition('@')[0]}" if owner.slurm_job else f"kill -TERM {owner.pid}"
            print(f"not stopped: {title(s.spec)} is trained by {owner}; on {owner.host}, say: {what}", file=sys.stderr)
    return left
