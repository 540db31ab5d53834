"""Train one model and evaluate it on every split of every domain."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfmoe_dg.errors import UserError
from sfmoe_dg.run import OPTION_CHOICES, TASKS, Options, RunSpec

if TYPE_CHECKING:
    from sfmoe_dg.cli.stop_signals import StopSignals
    from sfmoe_dg.distributed import World
    from sfmoe_dg.lease import Owner
    from sfmoe_dg.prepare import Execution, Setup
    from sfmoe_dg.train import Reporter

CACHE_VARIABLE = "SFMOE_DG_CACHE"

EXAMPLE = """example:
  sfmoe-dg train --dataset StyledDigits --algorithm SFMoE --test_envs 3 --steps 300 --output_dir results/one
  sfmoe-dg train --data_dir DATA --dataset PACS --algorithm CORAL --hparams '{"backbone": "resnet18"}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("the run (DomainBed's flags)")
    run.add_argument("--data_dir", help="the folder that holds the data sets' folders")
    run.add_argument("--dataset", default="RotatedMNIST")
    run.add_argument("--algorithm", default="ERM")
    run.add_argument("--task", default=TASKS[0], choices=TASKS)
    run.add_argument("--hparams", metavar="JSON", help="hyper-parameters that override the defaults or the draw")
    run.add_argument("--hparams_seed", type=int, default=0, help="0: defaults; otherwise the seed of a random draw")
    run.add_argument("--trial_seed", type=int, default=0, help="seeds the splits and the random draw")
    run.add_argument("--seed", type=int, default=0, help="seeds everything else")
    run.add_argument("--steps", type=int, help="default: the data set's")
    run.add_argument("--checkpoint_freq", type=int, help="steps between evaluations; default: the data set's")
    run.add_argument("--test_envs", type=int, nargs="+", default=[0], metavar="N", help="domains held out")
    run.add_argument("--output_dir", default="train_output")
    run.add_argument("--holdout_fraction", type=float, default=0.2)
    run.add_argument("--uda_holdout_fraction", type=float, default=0, help="share of a test domain used unlabeled")
    run.add_argument("--skip_model_save", action="store_true")
    run.add_argument("--save_model_every_checkpoint", action="store_true")
    _add_options(parser)
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
        choices=("ddp", "fsdp", "expert"),
        help="how processes started by torchrun share the run; see docs/distributed.md",
    )
    execution.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="module or .py to import")


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options that upstream does not have (recorded where they differ from it)")
    group.add_argument("--split", default="random", choices=OPTION_CHOICES["split"])
    group.add_argument("--eval_transforms", default="train", choices=OPTION_CHOICES["eval_transforms"])
    group.add_argument("--precision", default="fp32", choices=OPTION_CHOICES["precision"])
    group.add_argument("--on_bad_image", default="error", choices=OPTION_CHOICES["on_bad_image"])
    group.add_argument("--images", default="files", choices=OPTION_CHOICES["images"], help="see docs/input_path.md")
    group.add_argument("--hparams_per_trial", default="true", choices=("true", "false"))


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
            hparams_per_trial=args.hparams_per_trial == "true",
        ),
    )


def cache_folder(given: str | None = None) -> str:
    """Where decoded images are kept: as the user says, or the environment, or in the home folder."""
    return os.path.expanduser(given or os.environ.get(CACHE_VARIABLE) or "~/.cache/sfmoe_dg")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.cli.stop_signals import StopSignals
    from sfmoe_dg.loggers import check_loggers
    from sfmoe_dg.plugins import load_plugins
    from sfmoe_dg.train import Stopped

    if args.checkpoint_minutes < 0:
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
    from sfmoe_dg.cli.processes import launched, together
    from sfmoe_dg.prepare import Execution
    from sfmoe_dg.train import train

    world, say, spec = launched(), _speaker(), make_spec(args)
    with together(world, args.device) as device, _reporter(args, world, signals.defer) as reporter:
        execution = Execution(
            device,
            args.num_workers,
            cache_dir=cache_folder(args.cache_dir),
            checkpoint_minutes=args.checkpoint_minutes,
            world=world,
            parallel=args.parallel,
        )
        if args.dry_run:
            return _show(spec, execution, say)
        if args.images == "cached":
            say(f"images from the cache {execution.cache_dir}; those missing there are decoded first")
        train(spec, args.output_dir, execution, reporter, signals)
    say(f"done: {args.output_dir}")
    return 0


def _show(spec: RunSpec, execution: Execution, say: Callable[[str], None]) -> int:
    """Check the run as training would, say what it is, and write nothing."""
    from sfmoe_dg.prepare import prepare

    setup = prepare(spec, execution)
    setup.close()
    for line in describe_run(setup)[:-1]:
        say(line)
    evaluations = len(set(range(0, setup.steps, setup.checkpoint_freq)) | {setup.steps - 1})
    say(f"{setup.steps} steps, {evaluations} evaluations; nothing was trained or written")
    return 0


@contextmanager
def _reporter(args: argparse.Namespace, world: World, on_start: Callable[[], None]) -> Iterator[Reporter]:
    """The console and the loggers for the process that leads, silence for the others."""
    from sfmoe_dg.cli.processes import Follower
    from sfmoe_dg.loggers import LOGGERS, Together

    if not world.leads:
        yield Follower(on_start)
        return
    folder = Path(args.output_dir)
    loggers = [LOGGERS.load(name)(folder) for name in args.log]
    with ConsoleReporter(folder, on_start) as console, Together(console, loggers) as reporter:
        yield reporter


class ConsoleReporter:
    """Shows a run: a progress bar where there is a terminal, a line per evaluation everywhere, and out.txt."""

    def __init__(self, folder: Path, on_start: Callable[[], None] = lambda: None) -> None:
        self._folder, self._on_start = folder, on_start
        self._log: TextIO | None = None
        self._bar: Any = None
        self._setup: Setup | None = None
        self._started, self._first_step = time.monotonic(), 0

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._log is not None:
            self._log.close()

    def waiting(self, owner: Owner | None, seconds: float) -> None:
        who = owner or "a process that is just beginning"
        print(f"{self._folder} is held by {who}: watching its heartbeat for up to {seconds:.0f} s", flush=True)

    def started(self, setup: Setup, step: int, notice: str) -> None:
        from tqdm import tqdm

        self._on_start()
        self._setup = setup
        self._log = (self._folder / "out.txt").open("a" if step else "w", encoding="utf-8")
        self._bar = tqdm(total=setup.steps, initial=step, disable=not sys.stderr.isatty(), unit="step", leave=False)
        self._started, self._first_step = time.monotonic(), step
        for line in [*describe_run(setup), *([notice] if notice else [])]:
            self._say(line)

    def stepped(self, step: int, values: dict[str, float]) -> None:
        self._bar.set_postfix(loss=f"{values['loss']:.3f}" if "loss" in values else "", refresh=False)
        self._bar.update(1)

    def evaluating(self, step: int) -> None:
        self._bar.set_description("evaluating")

    def evaluated(self, record: dict[str, Any]) -> None:
        self._bar.set_description("training")
        self._say(self._line(record))

    def _line(self, record: dict[str, Any]) -> str:
        assert self._setup is not None
        steps_left = self._setup.steps - record["step"] - 1
        steps_done = max(1, record["step"] + 1 - self._first_step)
        left = (time.monotonic() - self._started) / steps_done * steps_left
        loss = f"loss {record['loss']:.4f}  " if "loss" in record else ""
        accuracies = "  ".join(
            f"{name}{'*' if i in self._setup.spec.test_envs else ''} "
            f"{100 * record[f'env{i}_in_acc']:.1f}/{100 * record[f'env{i}_out_acc']:.1f}"
            for i, name in enumerate(self._setup.dataset.domain_names)
        )
        return f"step {record['step']:>5}/{self._setup.steps}  {loss}{accuracies}  {left:.0f} s left"

    def _say(self, line: str) -> None:
        assert self._log is not None
        self._log.write(line + "\n")
        self._log.flush()
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.write(line, file=sys.stdout)


def describe_run(setup: Setup) -> list[str]:
    """What is trained on what, the hyper-parameters, and what was left out."""
    names = setup.dataset.domain_names
    held_out = ", ".join(names[i] for i in setup.spec.test_envs)
    device = f"device {setup.device}"
    if setup.world.shared:
        device += f" and {setup.world.size - 1} more ({setup.execution.parallel})"
    lines = [f"{setup.spec}", f"{device}, {setup.num_parameters:,} parameters, held out: {held_out}", "hparams:"]
    lines += [f"  {name}: {value}" for name, value in sorted(setup.hparams.items())]
    lines.append("images (in + out):")
    lines += [f"  {name}: {len(split.in_)} + {len(split.out)}" for name, split in zip(names, setup.splits, strict=True)]
    if setup.dataset.skipped:
        lines.append(f"left out {len(setup.dataset.skipped)} images that do not decode:")
        lines += [f"  {image}" for image in setup.dataset.skipped]
    lines.append("accuracy in % on in-split/out-split, * marks a held-out domain:")
    return lines
