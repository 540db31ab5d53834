"""Train every run of a study that is not done yet, then print the tables."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sfmoe_dg.cli import launch_flags
from sfmoe_dg.cli.flags import run_flags, to_flags
from sfmoe_dg.foundation.checked import values_of
from sfmoe_dg.runs.execution import Reporting, Resources
from sfmoe_dg.runs.spec import RunSpec

if TYPE_CHECKING:
    from sfmoe_dg.runs.folder import RunFolder
    from sfmoe_dg.sweeps.launch.launcher import Job
    from sfmoe_dg.sweeps.launch.settings import LaunchSettings
    from sfmoe_dg.sweeps.status import RunStatus
    from sfmoe_dg.sweeps.study import SweepSpec

EXAMPLE = """example:
  sfmoe-dg sweep sweeps/quickstart.toml --output_dir results/quickstart --jobs 2
  sfmoe-dg sweep sweeps/pacs.toml --data_dir DATA --output_dir results/pacs --dry_run
  sfmoe-dg sweep sweeps/pacs.toml --data_dir DATA --output_dir results/pacs --launcher slurm --time 12:00:00

A run that is done is never trained again. The same command starts the missing and failed runs.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC.toml", help="the study; see sweeps/")
    parser.add_argument("--data_dir", help="the folder that holds the data sets' folders")
    parser.add_argument("--output_dir", required=True, help="the folder for the sweep, with a sub-folder per run")
    parser.add_argument("--launcher", default="local", help="how runs are started: a name of sfmoe-dg list launchers")
    parser.add_argument("--dry_run", action="store_true", help="print the commands of the runs and start nothing")
    launch_flags.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.foundation.files import make_folder
    from sfmoe_dg.sweeps.launch.active_sweeps import registered
    from sfmoe_dg.sweeps.launch.commands import Commands
    from sfmoe_dg.sweeps.launch.launcher import LAUNCHERS, Study, make_settings, prints_commands, queued_runs
    from sfmoe_dg.sweeps.plan import check_data_folders, plan, save_plan
    from sfmoe_dg.sweeps.study import read_spec
    from sfmoe_dg.training.reporters.loggers import check_loggers

    spec = read_spec(args.spec)
    launch = launch_flags.override(spec.launch, args)
    launcher = LAUNCHERS.load(args.launcher)()
    settings = make_settings(launcher, launch)
    check_data_folders(spec, args.data_dir)
    runs = plan(spec, args.data_dir)
    _check_hparams(spec)
    check_loggers(settings.log)
    output_dir = Path(args.output_dir)
    study = Study(spec.name, output_dir, runs, partial(_command, settings, spec.plugins))
    if args.dry_run:
        Commands().launch(study, settings, _Progress())
        return 0
    make_folder(output_dir)
    save_plan(spec, args.data_dir, output_dir, queued_runs(output_dir))
    states = study.states()
    to_do = sum(state.is_to_do for state in states)
    progress = _Progress(to_do, only_commands=prints_commands(launcher))
    progress.say(f"{spec.name}: {len(runs)} runs, {to_do} to do, in {output_dir}")
    if not _is_worth_it(states, settings, args.yes, progress):
        return 1
    # ``sfmoe-dg cancel`` ends a sweep as Ctrl-C does: runs save first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with registered(output_dir):
        has_ended = launcher.launch(study, settings, progress)
    if has_ended:
        return finish(output_dir, study.states())
    progress.say(f"see how it goes:  sfmoe-dg status --output_dir {shlex.quote(str(output_dir))}")
    progress.say("for the tables, and for what was lost, start the same command again")
    return 0


def _check_hparams(spec: SweepSpec) -> None:
    """Check the overrides of hyper-parameters in another process.

    The check imports torch, whose memory this process would keep during a sweep that may take days.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from sfmoe_dg.sweeps.study import check_hparams

    if not spec.hparams and not spec.overrides:
        return
    if "torch" in sys.modules:
        # A plug-in has imported torch, so another process would save nothing.
        check_hparams(spec)
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_load_and_check, spec).result()


def _load_and_check(spec: SweepSpec) -> None:
    from sfmoe_dg.foundation.plugins import load_plugins
    from sfmoe_dg.foundation.quick_imports import quick_imports
    from sfmoe_dg.sweeps.study import check_hparams

    with quick_imports():
        import sfmoe_dg.algorithms.base  # noqa: F401 - imports torch quickly, before the algorithms do
    load_plugins(spec.plugins)
    check_hparams(spec)


def _is_worth_it(states: Sequence[RunStatus], settings: LaunchSettings, yes: bool, progress: _Progress) -> bool:
    """Print how long the sweep will take and, if that is above the threshold, ask whether to start it."""
    from sfmoe_dg.cli.confirm import confirm
    from sfmoe_dg.sweeps.time_estimate import estimate

    cost = estimate(states)
    if cost.is_above(settings.confirm_above_hours):
        what = f"{cost.runs} to do: {cost}, more than {settings.confirm_above_hours:g} hours"
        return confirm(what, yes)
    if cost.runs:
        progress.say(str(cost))
    return True


def _command(settings: LaunchSettings, plugins: Sequence[str], run: RunSpec, folder: RunFolder) -> tuple[str, ...]:
    words = [sys.executable, "-m", "sfmoe_dg", "train", *run_flags(run), "--output_dir", str(folder)]
    words += to_flags(settings, {**values_of(Resources), **values_of(Reporting)}, always=("device",))
    for plugin in plugins:
        words += ["--plugin", plugin]
    return tuple(words)


class _Progress:
    """Prints sentences, and a line with the time left for every run that ends.

    With ``only_commands``, standard output is for command lines and sentences go to standard error.
    """

    def __init__(self, total: int = 0, only_commands: bool = False) -> None:
        self._total, self._ended, self._started = total, 0, time.monotonic()
        self._sentences = sys.stderr if only_commands else sys.stdout

    def say(self, sentence: str) -> None:
        print(sentence, file=self._sentences, flush=True)

    def command(self, line: str) -> None:
        print(line)

    def ended(self, job: Job, error: str | None, seconds: float) -> None:
        self._ended += 1
        left = (time.monotonic() - self._started) / self._ended * max(0, self._total - self._ended)
        counter = f"[{self._ended:>{len(str(self._total))}}/{self._total}]"
        word = "done  " if error is None else "FAILED"
        print(f"{counter} {word} {job.title}  {seconds:.0f} s, about {left:.0f} s left", flush=True)
        if error is not None:
            print(f"        {error}", flush=True)


def finish(output_dir: Path, states: Sequence[RunStatus]) -> int:
    """Print and save the tables and list failed runs on standard error; returns the sweep's exit code."""
    from sfmoe_dg.cli.collect import save_tables
    from sfmoe_dg.runs.folder import State

    done = [s for s in states if s.state is State.DONE]
    if done:
        paths = save_tables(output_dir)
        print((output_dir / "results.txt").read_text(encoding="utf-8"))
        print("written:")
        for path in paths:
            print(f"  {path}")
    for s in states:
        if s.state is State.FAILED:
            print(f"failed: {s.spec}: {s.error} ({s.folder.errors})", file=sys.stderr)
    if len(done) < len(states):
        print(f"{len(states) - len(done)} of {len(states)} runs are not done", file=sys.stderr)
        return 1
    return 0
