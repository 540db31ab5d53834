"""The flags of ``sfmoe-dg sweep`` that take precedence over a study's ``[launch]`` table."""

from __future__ import annotations

import argparse
from typing import Any

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.sweeps.launch.settings import LaunchSettings, check_value, make_launch

_HERE = {
    "jobs": ("N", "runs at a time; with GPUs, --parallel_per_gpu says so instead"),
    "threads": ("N", "CPU threads of a run; default: the cores divided among the runs side by side"),
    "device": ("NAME", "auto, cpu, cuda, cuda:N or mps"),
    "gpus": ("N", "GPUs to use (slurm: of one task); every run gets one"),
    "parallel_per_gpu": ("N", "runs side by side on one GPU, or in one task without GPUs"),
}
_CLUSTER = {
    "runs_per_task": ("N", "runs that one task works through"),
    "partition": ("NAME", ""),
    "account": ("NAME", ""),
    "qos": ("NAME", ""),
    "constraint": ("FEATURES", ""),
    "time": ("LIMIT", "of one task: minutes, or [days-]hours:minutes:seconds; it is requeued until its runs are done"),
    "cpus": ("N", "CPUs of one task"),
    "memory": ("SIZE", "of one task, such as 16G"),
    "array_parallelism": ("N", "tasks that may run at the same time"),
    "save_seconds": ("N", "how long before the time limit runs save"),
    "poll": ("N", "seconds between two looks at the queue, with --wait"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    here = parser.add_argument_group("execution (changes no record; default: the study's [launch] table)")
    cluster = parser.add_argument_group("execution with --launcher slurm")
    for group, flags in ((here, _HERE), (cluster, _CLUSTER)):
        for name, (metavar, words) in flags.items():
            kind = int if metavar == "N" else str
            group.add_argument(f"--{name}", type=kind, metavar=metavar, help=words or f"Slurm's {name}")
    here.add_argument("--log", nargs="+", metavar="NAME", help="also show records in: tensorboard, wandb")
    here.add_argument(
        "--confirm_above_hours",
        type=float,
        metavar="HOURS",
        help="ask before starting what costs more hours of runs, by the speed of those in the folder (default: 24)",
    )
    here.add_argument("--yes", action="store_true", help="do not ask")
    cluster.add_argument("--setup", action="append", metavar="LINE", help="shell line before every task; repeatable")
    cluster.add_argument("--sbatch", action="append", metavar="NAME=VALUE", help="further option of sbatch; repeatable")
    cluster.add_argument("--wait", action="store_true", default=None, help="stay until all is done, then print tables")


def _option_of_sbatch(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise UserError(f"--sbatch is {text!r}; it must be NAME=VALUE, such as exclude=node7")
    return name.lstrip("-"), value


def override(settings: LaunchSettings, args: argparse.Namespace) -> LaunchSettings:
    """The study's settings, with those that were given as flags.

    Raises:
        UserError: naming the flag, its value and what is allowed.
    """
    given: dict[str, Any] = {}
    for name in (*_HERE, *_CLUSTER, "log", "confirm_above_hours", "setup", "wait"):
        value = getattr(args, name)
        if value is not None:
            given[name] = int(value) if name == "time" and value.isdecimal() else value
            check_value(f"--{name}", name, given[name])
    if args.sbatch:
        given["sbatch"] = dict(settings.sbatch) | dict(map(_option_of_sbatch, args.sbatch))
    return make_launch(vars(settings) | given, "the flags")
