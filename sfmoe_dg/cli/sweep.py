"""Run every run of a study that is not done yet, then print its tables."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfmoe_dg.errors import UserError

if TYPE_CHECKING:
    from sfmoe_dg.launch import Job
    from sfmoe_dg.sweep import RunStatus
    from sfmoe_dg.sweep_spec import LaunchSettings

EXAMPLE = """example:
  sfmoe-dg sweep sweeps/quickstart.toml --output_dir results/quickstart --jobs 2
  sfmoe-dg sweep sweeps/pacs.toml --data_dir DATA --output_dir results/pacs --dry_run

A run that is done is never trained again: the same command goes on with what is missing or failed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC.toml", help="the study; see sweeps/")
    parser.add_argument("--data_dir", help="the folder that holds the data sets' folders")
    parser.add_argument("--output_dir", required=True, help="one folder per run is made here")
    parser.add_argument("--launcher", default="local", help="how runs are started (local)")
    parser.add_argument("--jobs", type=int, help="runs at a time; default: the study's [launch] jobs")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps; default: the study's")
    parser.add_argument("--dry_run", action="store_true", help="print the commands of the runs and start nothing")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.launch import LAUNCHERS, Job
    from sfmoe_dg.sweep import State, check_data_folders, plan, save_plan, status
    from sfmoe_dg.sweep_spec import check_hparams, read_spec

    spec = read_spec(args.spec)
    settings = spec.launch
    if args.jobs is not None:
        if args.jobs < 1:
            raise UserError(f"--jobs is {args.jobs}; it must be at least 1")
        settings = replace(settings, jobs=args.jobs)
    if args.device is not None:
        settings = replace(settings, device=args.device)
    launcher = LAUNCHERS.load(args.launcher)
    runs = plan(spec, args.data_dir)
    check_data_folders(spec, args.data_dir)
    check_hparams(spec)
    output_dir = Path(args.output_dir)
    states = status(runs, output_dir)
    todo = [s for s in states if s.state not in (State.DONE, State.RUNNING)]
    jobs = [Job(str(s.spec), _command(s, settings, spec.plugins), s.folder) for s in todo]
    if args.dry_run:
        for job in jobs:
            print(shlex.join(job.command))
        return 0
    output_dir.mkdir(parents=True, exist_ok=True)
    save_plan(spec, args.data_dir, output_dir)
    print(f"{spec.name}: {len(runs)} runs, {len(jobs)} to do, {settings.jobs} at a time, in {output_dir}", flush=True)
    launcher(jobs, settings, _Progress(len(jobs)))
    return finish(output_dir, status(runs, output_dir))


def _command(run: RunStatus, settings: LaunchSettings, plugins: Sequence[str]) -> tuple[str, ...]:
    words = [sys.executable, "-m", "sfmoe_dg", "train", *run.spec.flags(), "--output_dir", str(run.folder)]
    words += ["--device", settings.device]
    if settings.num_workers is not None:
        words += ["--num_workers", str(settings.num_workers)]
    if settings.cache_dir is not None:
        words += ["--cache_dir", settings.cache_dir]
    for plugin in plugins:
        words += ["--plugin", plugin]
    return tuple(words)


class _Progress:
    """A line for every run that ends, with the time left; a run that failed leaves its reason in its folder."""

    def __init__(self, total: int) -> None:
        self._total, self._ended, self._started = total, 0, time.monotonic()

    def __call__(self, job: Job, code: int, seconds: float) -> None:
        from sfmoe_dg.records import write_atomic

        self._ended += 1
        left = (time.monotonic() - self._started) / self._ended * (self._total - self._ended)
        word, error = "done  ", ""
        if code != 0:
            word = "FAILED"
            error = last_line(job.folder / "err.txt") or f"ended with exit code {code}"
            write_atomic(job.folder / "failed.json", json.dumps({"error": error, "exit_code": code}) + "\n")
        counter = f"[{self._ended:>{len(str(self._total))}}/{self._total}]"
        print(f"{counter} {word} {job.title}  {seconds:.0f} s, about {left:.0f} s left", flush=True)
        if error:
            print(f"        {error}", flush=True)


def last_line(path: Path) -> str:
    """The last line of a text file that is not blank."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except FileNotFoundError:
        return ""
    return next((line for line in reversed(lines) if line), "")


def finish(output_dir: Path, states: Sequence[RunStatus]) -> int:
    """Tables on standard output and in files; failed runs on standard error; the exit code of the sweep."""
    from sfmoe_dg.cli.collect import save_tables
    from sfmoe_dg.sweep import State

    done = [s for s in states if s.state is State.DONE]
    if done:
        paths = save_tables(output_dir)
        print((output_dir / "results.txt").read_text(encoding="utf-8"))
        print("written:")
        for path in paths:
            print(f"  {path}")
    for s in states:
        if s.state is State.FAILED:
            print(f"failed: {s.spec}: {s.error} ({s.folder / 'err.txt'})", file=sys.stderr)
    if len(done) < len(states):
        print(f"{len(states) - len(done)} of {len(states)} runs are not done", file=sys.stderr)
        return 1
    return 0
