"""Train one model and evaluate it on every split of every domain."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfmoe_dg.run import OPTION_CHOICES, TASKS, Options, RunSpec

if TYPE_CHECKING:
    from sfmoe_dg.train import Setup

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
    execution.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    execution.add_argument("--num_workers", type=int, help="loader processes, shared by all domains")
    execution.add_argument(
        "--cache_dir", metavar="DIR", help=f"for --images cached; default: ${CACHE_VARIABLE}, or ~/.cache/sfmoe_dg"
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
    from sfmoe_dg.plugins import load_plugins
    from sfmoe_dg.train import Execution, train

    load_plugins(args.plugin)
    execution = Execution(args.device, args.num_workers, cache_dir=cache_folder(args.cache_dir))
    if args.images == "cached":
        print(f"images from the cache {execution.cache_dir}; those missing there are decoded first", flush=True)
    with ConsoleReporter(Path(args.output_dir)) as reporter:
        train(make_spec(args), args.output_dir, execution, reporter)
    print(f"done: {args.output_dir}")
    return 0


class ConsoleReporter:
    """Shows a run: a progress bar where there is a terminal, a line per evaluation everywhere, and out.txt."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log: TextIO | None = None
        self._bar: Any = None
        self._setup: Setup | None = None
        self._started = time.monotonic()

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._log is not None:
            self._log.close()

    def started(self, setup: Setup) -> None:
        from tqdm import tqdm

        self._setup = setup
        self._log = (self._folder / "out.txt").open("w", encoding="utf-8")
        self._bar = tqdm(total=setup.steps, disable=not sys.stderr.isatty(), unit="step", leave=False)
        self._started = time.monotonic()
        for line in describe_run(setup):
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
        done = (record["step"] + 1) / self._setup.steps
        left = (time.monotonic() - self._started) * (1 - done) / done
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
    parameters = sum(p.numel() for p in setup.algorithm.parameters())
    lines = [f"{setup.spec}", f"device {setup.device}, {parameters:,} parameters, held out: {held_out}", "hparams:"]
    lines += [f"  {name}: {value}" for name, value in sorted(setup.hparams.items())]
    lines.append("images (in + out):")
    lines += [f"  {name}: {len(split.in_)} + {len(split.out)}" for name, split in zip(names, setup.splits, strict=True)]
    if setup.dataset.skipped:
        lines.append(f"left out {len(setup.dataset.skipped)} images that do not decode:")
        lines += [f"  {image}" for image in setup.dataset.skipped]
    lines.append("accuracy in % on in-split/out-split, * marks a held-out domain:")
    return lines
