"""Train one model and evaluate it on every split of every domain."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sfmoe_dg.cli.console import ConsoleReporter, describe_run
from sfmoe_dg.cli.flags import add_flags, from_flags, run_from_flags
from sfmoe_dg.foundation.checked import values_of
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.execution import Execution, Reporting
from sfmoe_dg.runs.spec import Options, RunSpec

if TYPE_CHECKING:
    from sfmoe_dg.cli.stop_signals import StopSignals
    from sfmoe_dg.foundation.processes import World
    from sfmoe_dg.training.reporters.reporter import Reporter

CACHE_VARIABLE = "SFMOE_DG_CACHE"

EXAMPLE = """example:
  sfmoe-dg train --dataset StyledDigits --algorithm SFMoE --test_envs 3 --steps 300 --output_dir results/one
  sfmoe-dg train --data_dir DATA --dataset PACS --algorithm CORAL --hparams '{"backbone": "resnet18"}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("the run (DomainBed's flags)")
    add_flags(run, values_of(RunSpec).values())
    run.add_argument("--output_dir", default="train_output", help="the run's folder (default: %(default)s)")
    options = parser.add_argument_group(
        "options that DomainBed does not have (recorded if they differ from its behaviour)"
    )
    add_flags(options, values_of(Options).values())
    execution = parser.add_argument_group("execution (changes no record)")
    execution.add_argument(
        "--dry_run", action="store_true", help="check everything, print what would be trained, and train nothing"
    )
    add_flags(execution, [*values_of(Execution).values(), *values_of(Reporting).values()])
    execution.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def cache_folder(given: str | None = None) -> str:
    """The folder of decoded images: ``given``, or the environment variable's, or one in the home folder."""
    return os.path.expanduser(given or os.environ.get(CACHE_VARIABLE) or "~/.cache/sfmoe_dg")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.foundation.quick_imports import quick_imports

    with quick_imports(compiling=args.compile != "none", logging_to=tuple(args.log)):
        from sfmoe_dg.cli.stop_signals import StopSignals
        from sfmoe_dg.foundation.plugins import load_plugins
        from sfmoe_dg.training.loop import Stopped
        from sfmoe_dg.training.reporters.loggers import check_loggers

    load_plugins(args.plugin)
    check_loggers(args.log)
    with StopSignals() as signals:
        try:
            return _train(args, signals)
        except Stopped as stopped:
            where = "before its first step" if stopped.step is None else f"after step {stopped.step}, all of it saved"
            _speaker()(f"stopped {where}: {args.output_dir}; the same command goes on from there")
            return signals.wait_to_be_killed()


def _speaker() -> Callable[[str], None]:
    """A function that prints a sentence in the leading process and does nothing in the others."""
    from sfmoe_dg.cli.processes import launched

    return partial(print, flush=True) if launched().leads else lambda line: None


def _train(args: argparse.Namespace, signals: StopSignals) -> int:
    from sfmoe_dg.cli.processes import by_torchrun, launched, together
    from sfmoe_dg.foundation.devices import pick_device
    from sfmoe_dg.foundation.glibc_memory import keep_freed_memory
    from sfmoe_dg.training.loop import train

    world, say, spec = launched(), _speaker(), run_from_flags(args)
    if args.parallel != "ddp" and not by_torchrun():
        raise UserError(f"--parallel {args.parallel} is how processes share a run, and this is one; use torchrun")
    with together(world, args.device) as device, _reporter(args, world, signals.defer) as reporter:
        execution = from_flags(Execution, args, world=world, device=device, cache_dir=cache_folder(args.cache_dir))
        # A user who sets the C library's own variables has chosen how freed memory is handled.
        if pick_device(device).type == "cpu" and not any(name.startswith("MALLOC_") for name in os.environ):
            keep_freed_memory()
        if args.images == "cached":
            say(f"images from the cache {execution.cache_dir}; those missing there are decoded first")
        if args.dry_run:
            return _show(spec, execution, say)
        train(spec, args.output_dir, execution, reporter, signals)
    say(f"done: {args.output_dir}")
    return 0


def _show(spec: RunSpec, execution: Execution, say: Callable[[str], None]) -> int:
    """Check the run as training does and print it. Nothing is written but the image cache."""
    from sfmoe_dg.training.prepare import prepare

    setup = prepare(spec, execution)
    setup.close()
    for line in describe_run(setup)[:-1]:
        say(line)
    evaluations = len(set(range(0, setup.steps, setup.checkpoint_freq)) | {setup.steps - 1})
    written = "; only the image cache was filled" if spec.options.images == "cached" else " or written"
    say(f"{setup.steps} steps, {evaluations} evaluations; nothing was trained{written}")
    return 0


@contextmanager
def _reporter(args: argparse.Namespace, world: World, on_start: Callable[[], None]) -> Iterator[Reporter]:
    """The leading process reports to the console and the loggers; the others report nothing."""
    from sfmoe_dg.cli.processes import Follower
    from sfmoe_dg.training.reporters.loggers import LOGGERS
    from sfmoe_dg.training.reporters.together import Together

    if not world.leads:
        yield Follower(on_start)
        return
    folder = Path(args.output_dir)
    loggers = [LOGGERS.load(name)(folder) for name in args.log]
    with ConsoleReporter(folder, on_start) as console, Together(console, loggers) as reporter:
        yield reporter
