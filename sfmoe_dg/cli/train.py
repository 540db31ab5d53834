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
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.runs.spec import OPTION_CHOICES, PARALLEL_MODES, TASKS, Options, RunSpec

if TYPE_CHECKING:
    from sfmoe_dg.cli.stop_signals import StopSignals
    from sfmoe_dg.foundation.processes import World
    from sfmoe_dg.training.prepare import Execution
    from sfmoe_dg.training.reporters.reporter import Reporter

CACHE_VARIABLE = "SFMOE_DG_CACHE"

EXAMPLE = """example:
  sfmoe-dg train --dataset StyledDigits --algorithm SFMoE --test_envs 3 --steps 300 --output_dir results/one
  sfmoe-dg train --data_dir DATA --dataset PACS --algorithm CORAL --hparams '{"backbone": "resnet18"}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("the run (DomainBed's flags)")
    run.add_argument("--data_dir", help="the folder that holds the data sets' folders")
    run.add_argument(
        "--dataset", default="RotatedMNIST", help="a name of sfmoe-dg list datasets (default: %(default)s)"
    )
    run.add_argument("--algorithm", default="ERM", help="a name of sfmoe-dg list algorithms (default: %(default)s)")
    run.add_argument(
        "--task", default=TASKS[0], choices=TASKS, help="domain_adaptation uses unlabeled images of test domains"
    )
    run.add_argument("--hparams", metavar="JSON", help="hyper-parameters that override the defaults or the draw")
    run.add_argument("--hparams_seed", type=int, default=0, help="0: defaults; otherwise the seed of a random draw")
    run.add_argument("--trial_seed", type=int, default=0, help="seeds the splits and the random draw")
    run.add_argument("--seed", type=int, default=0, help="seeds everything else")
    run.add_argument("--steps", type=int, help="default: the data set's")
    run.add_argument("--checkpoint_freq", type=int, help="steps between evaluations; default: the data set's")
    run.add_argument("--test_envs", type=int, nargs="+", default=[0], metavar="N", help="domains held out")
    run.add_argument("--output_dir", default="train_output", help="the run's folder (default: %(default)s)")
    run.add_argument(
        "--holdout_fraction", type=float, default=0.2, help="share of the out-splits (default: %(default)s)"
    )
    run.add_argument("--uda_holdout_fraction", type=float, default=0, help="share of a test domain used unlabeled")
    run.add_argument("--skip_model_save", action="store_true", help="keep the records only")
    run.add_argument("--save_model_every_checkpoint", action="store_true", help="keep a model of every evaluation")
    _add_options(parser)
    _add_execution(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options that upstream does not have (recorded where they differ from it)")
    group.add_argument(
        "--split",
        default="random",
        choices=OPTION_CHOICES["split"],
        help="identity: no object on both sides of a split",
    )
    group.add_argument(
        "--eval_transforms",
        default="train",
        choices=OPTION_CHOICES["eval_transforms"],
        help="eval: evaluate without augmentation",
    )
    group.add_argument(
        "--precision", default="fp32", choices=OPTION_CHOICES["precision"], help="of autocast; weights stay fp32"
    )
    group.add_argument(
        "--on_bad_image",
        default="error",
        choices=OPTION_CHOICES["on_bad_image"],
        help="skip: leave out what does not decode",
    )
    group.add_argument("--images", default="files", choices=OPTION_CHOICES["images"], help="see docs/input_path.md")
    group.add_argument("--eval", default="all", choices=OPTION_CHOICES["eval"], help="see docs/speed.md")
    group.add_argument(
        "--memory_format",
        default="contiguous",
        choices=OPTION_CHOICES["memory_format"],
        help="how pictures lie in memory",
    )
    group.add_argument(
        "--compile", default="none", choices=OPTION_CHOICES["compile"], help="default: updates through torch.compile"
    )
    group.add_argument(
        "--hparams_per_trial", default="true", choices=("true", "false"), help="false: one draw for all trials"
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    execution = parser.add_argument_group("execution (changes no record)")
    execution.add_argument("--dry_run", action="store_true", help="check everything, say what would be trained")
    execution.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    execution.add_argument("--num_workers", type=int, help="loader processes, shared by all domains")
    execution.add_argument(
        "--cache_dir", metavar="DIR", help=f"for --images cached; default: ${CACHE_VARIABLE}, or ~/.cache/sfmoe_dg"
    )
    execution.add_argument(
        "--checkpoint_minutes",
        type=float,
        default=10,
        metavar="M",
        help="save what is needed to go on at least every M minutes, besides every evaluation (default: 10)",
    )
    execution.add_argument("--log", nargs="+", default=[], metavar="NAME", help="records also to: tensorboard, wandb")
    execution.add_argument(
        "--parallel",
        default="ddp",
        choices=PARALLEL_MODES,
        help="how processes started by torchrun share the run; see docs/distributed.md",
    )
    execution.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def make_spec(args: argparse.Namespace) -> RunSpec:
    """The run that the flags describe."""
    return RunSpec(
        dataset=args.dataset,
        algorithm=args.algorithm,
        test_envs=tuple(args.test_envs),
        data_dir=args.data_dir,
        task=args.task,
        hparams=args.hparams,
        hparams_seed=args.hparams_seed,
        trial_seed=args.trial_seed,
        seed=args.seed,
        steps=args.steps,
        checkpoint_freq=args.checkpoint_freq,
        holdout_fraction=args.holdout_fraction,
        uda_holdout_fraction=args.uda_holdout_fraction,
        skip_model_save=args.skip_model_save,
        save_model_every_checkpoint=args.save_model_every_checkpoint,
        options=Options(
            split=args.split,
            eval_transforms=args.eval_transforms,
            precision=args.precision,
            on_bad_image=args.on_bad_image,
            images=args.images,
            eval=args.eval,
            memory_format=args.memory_format,
            compile=args.compile,
            hparams_per_trial=args.hparams_per_trial == "true",
        ),
    )


def cache_folder(given: str | None = None) -> str:
    """Where decoded images are kept: as the user says, or the environment, or in the home folder."""
    return os.path.expanduser(given or os.environ.get(CACHE_VARIABLE) or "~/.cache/sfmoe_dg")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.foundation.quick_imports import quick_imports

    with quick_imports(compiling=args.compile != "none", logging_to=tuple(args.log)):
        from sfmoe_dg.cli.stop_signals import StopSignals
        from sfmoe_dg.foundation.plugins import load_plugins
        from sfmoe_dg.training.loop import Stopped
        from sfmoe_dg.training.reporters.loggers import check_loggers

    if not args.checkpoint_minutes >= 0:
        raise UserError(f"--checkpoint_minutes is {args.checkpoint_minutes}; it must be at least 0 (0: at every step)")
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
    """What prints a sentence: of several processes, only the one that leads does."""
    from sfmoe_dg.cli.processes import launched

    return partial(print, flush=True) if launched().leads else lambda line: None


def _train(args: argparse.Namespace, signals: StopSignals) -> int:
    from sfmoe_dg.cli.processes import by_torchrun, launched, together
    from sfmoe_dg.foundation.devices import pick_device
    from sfmoe_dg.foundation.glibc_memory import keep_freed_memory
    from sfmoe_dg.training.loop import train
    from sfmoe_dg.training.prepare import Execution

    world, say, spec = launched(), _speaker(), make_spec(args)
    if args.parallel != "ddp" and not by_torchrun():
        raise UserError(f"--parallel {args.parallel} is how processes share a run, and this is one; use torchrun")
    with together(world, args.device) as device, _reporter(args, world, signals.defer) as reporter:
        # Whoever has set one of the C library's own variables has decided otherwise.
        if pick_device(device).type == "cpu" and not any(name.startswith("MALLOC_") for name in os.environ):
            keep_freed_memory()
        execution = Execution(
            device,
            args.num_workers,
            cache_dir=cache_folder(args.cache_dir),
            checkpoint_minutes=args.checkpoint_minutes,
            world=world,
            parallel=args.parallel,
        )
        if args.images == "cached":
            say(f"images from the cache {execution.cache_dir}; those missing there are decoded first")
        if args.dry_run:
            return _show(spec, execution, say)
        train(spec, args.output_dir, execution, reporter, signals)
    say(f"done: {args.output_dir}")
    return 0


def _show(spec: RunSpec, execution: Execution, say: Callable[[str], None]) -> int:
    """Check the run as training would, say what it is, and write nothing but the image cache."""
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
    """The console and the loggers for the process that leads, silence for the others."""
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
