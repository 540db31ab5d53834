"""Whole training commands, DomainBed's beside ours, from the first import to the end of the process; prints Markdown.

    python bench/whole_run.py --data_dir DATA --domainbed CHECKOUT --jobs a b c --rounds 3

Every command of a job does the same work: steps, images, evaluations, network (never pre-trained), seed and threads.
The commands take turns, round after round, and a row's ratios are medians over rounds, with their range. CPU time is
user and system time of a command and all of its workers.

- a: ResNet-18 on PACS; unchanged DomainBed (8 workers in each of its 11 loaders), ours from files, ours from the cache.
- b: the same with 1 worker in each of DomainBed's loaders.
- c: ViT-S/16; DomainBed's loop around timm's, ours, and our mixtures of experts.

"Channels last" and "bf16" are options that change rounding, so records name them; the other commands compute the same.

A second table shows the stages of our commands, measured with hooks around functions that the training loop calls.
"Forward" is an update without backward pass and optimizer. Nothing is downloaded: networks for which DomainBed would
download weights start from random ones. Without ``--domainbed`` (or $DOMAINBED_DIR), only our commands run. Needs Linux
or macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targets import note

RESNET = {"resnet18": True, "resnet50_augmix": False, "resnet_dropout": 0.0}
DEIT = "deit_small_patch16_224"
STAGES = (
    "start-up", "data and model", "waiting for training data", "forward", "backward", "optimizer",
    "waiting for evaluation data", "evaluation", "saving", "other", "exit",
)  # fmt: skip


@dataclass
class Command:
    """A command of a job, and the times of its rounds.

    Attributes:
        hparams: for ``--hparams``, besides the batch size.
        flags: besides those that all commands of a job share.
        workers: in each of DomainBed's loaders; None: the command is ours.
        target: how many times as fast as the first command of the job it is meant to be.
        until_done: wall time until its run's last file is there. DomainBed then waits for its loaders' workers to end,
            one after the other, five seconds each at most.
    """

    name: str
    hparams: dict[str, Any]
    flags: tuple[str, ...] = ()
    workers: int | None = None
    target: str = ""
    wall: list[float] = field(default_factory=list)
    until_done: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True)
class Work:
    """The work of all commands of a job; arguments of this script change it."""

    title: str
    batch_size: int
    steps: int
    checkpoint_freq: int


WORK = {
    "a": Work("ResNet-18, DomainBed with 8 workers per loader", 16, 31, 15),
    "b": Work("ResNet-18, DomainBed with 1 worker per loader", 16, 31, 15),
    "c": Work("ViT-S/16", 8, 11, 10),
}


def commands(job: str, cache_dir: str) -> list[Command]:
    """The commands of a job. The first is DomainBed's, with which the others are compared."""
    from_cache = ("--images", "cached", "--cache_dir", cache_dir)
    half = ("--precision", "bf16")
    if job == "c":
        vit = {"backbone": DEIT, "pretrained": False}
        experts = {"pretrained": False, "lr": 5e-5}
        last_two = experts | {"moe_layers": "F*8,[S,F]x2"}
        return [
            Command("DomainBed, timm's ViT-S/16", RESNET | {"vit_dropout": 0.0}, workers=8),
            Command("ours, ViT-S/16", vit, target="2"),
            Command("ours, ViT-S/16, cached", vit, from_cache),
            Command("ours, ViT-S/16, bf16", vit, half, target="2"),
            Command("ours, ViT-S/16, cached, bf16", vit, (*from_cache, *half)),
            Command("ours, SF-MoE-S/16, experts in 6 of 12 blocks", experts, ("--algorithm", "SFMoE")),
            Command("ours, SF-MoE-S/16, experts in the last two", last_two, ("--algorithm", "SFMoE")),
            Command("ours, SF-MoE-S/16, experts in 6 of 12 blocks, bf16", experts, ("--algorithm", "SFMoE", *half)),
            Command("ours, SF-MoE-S/16, experts in the last two, bf16", last_two, ("--algorithm", "SFMoE", *half)),
            Command("ours, GMoE-S/16", experts, ("--algorithm", "GMoE")),
        ]
    resnet, many = RESNET | {"pretrained": False}, job == "a"
    last = ("--memory_format", "channels_last")
    return [
        Command("DomainBed", RESNET, workers=8 if many else 1),
        Command("ours, files", resnet, target="4" if many else "1.5"),
        Command("ours, cached", resnet, from_cache, target="6" if many else "2"),
        Command("ours, files, channels last", resnet, last),
        Command("ours, cached, channels last", resnet, (*from_cache, *last)),
        Command("ours, files, channels last, bf16", resnet, (*last, *half)),
        Command("ours, cached, channels last, bf16", resnet, (*from_cache, *last, *half)),
    ]


# ---------------------------------------------------------------------------------------------- running commands


def words(command: Command, work: Work, args: argparse.Namespace, output_dir: str, born: float) -> list[str]:
    shared = {"data_dir": args.data_dir, "dataset": args.dataset, "algorithm": "ERM", "test_envs": "0", "seed": "0"}
    shared |= {"steps": str(work.steps), "checkpoint_freq": str(work.checkpoint_freq), "output_dir": output_dir}
    flags = [word for name, value in shared.items() for word in (f"--{name}", value)] + list(command.flags)
    flags += ["--hparams", json.dumps(command.hparams | {"batch_size": work.batch_size})]
    if command.workers is None:
        return [sys.executable, __file__, "--ours", repr(born), *flags]
    network = "vit" if "vit_dropout" in command.hparams else "resnet"
    return [sys.executable, __file__, "--theirs", args.domainbed, str(command.workers), network, *flags]


def measure(command: Command, work: Work, args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output_dir, told = os.path.join(folder, "run"), Path(folder, "told")
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        started = time.time()
        with told.open("w+") as output:
            process = subprocess.Popen(
                words(command, work, args, output_dir, started), stdout=output, stderr=output, env=environment
            )
            _, status, usage = os.wait4(process.pid, 0)
            ended = time.time()
        lines, done = told.read_text().splitlines(), Path(output_dir, "done")
        if status or not done.exists():
            raise SystemExit("\n".join([*lines[-20:], f"{command.name} failed"]))
        command.until_done.append(done.stat().st_mtime - started)
    command.wall.append(ended - started)
    command.cpu.append(usage.ru_utime + usage.ru_stime)
    print(f"{command.name}: {command.wall[-1]:.1f} s, {command.cpu[-1]:.1f} s of CPU", file=sys.stderr, flush=True)
    if command.workers is None:
        found = json.loads(lines[-1])
        found["exit"] = ended - found.pop("end")
        found["other"] = ended - started - sum(found.values())
        for name in STAGES:
            command.stages[name].append(found.get(name, 0.0))


def run_theirs(checkout: str, workers: int, network: str, flags: list[str]) -> None:
    """DomainBed's training script in this process, its network built without weights."""
    from sfmoe_dg.compat.domainbed.checkout import find_package, open_package

    open_package(find_package(checkout))
    import domainbed.datasets  # type: ignore[import-not-found]
    import domainbed.networks  # type: ignore[import-not-found]
    import timm
    import torch
    import torchvision

    build = torchvision.models.resnet18
    torchvision.models.resnet18 = lambda pretrained: build(weights=None)
    domainbed.datasets.MultipleDomainDataset.N_WORKERS = workers

    class VisionTransformer(torch.nn.Module):
        n_outputs = 384

        def __init__(self, input_shape: tuple[int, ...], hparams: dict[str, Any]) -> None:
            super().__init__()
            self.network = timm.create_model(DEIT, pretrained=False, num_classes=0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x)

    if network == "vit":
        domainbed.networks.Featurizer = VisionTransformer
    sys.argv = ["train", *flags]
    runpy.run_module("domainbed.scripts.train", run_name="__main__")


# ------------------------------------------------------------------------------------------- stages of our runs


def run_ours(born: float, flags: list[str]) -> None:
    """``sfmoe-dg train`` in this process; the last line printed has the seconds of its stages."""
    from stopwatch import Stopwatch, put_hooks

    from sfmoe_dg.cli import main as cli
    from sfmoe_dg.foundation.quick_imports import quick_imports

    watch = Stopwatch()
    with quick_imports():  # as the command imports
        put_hooks(watch)
    watch.seconds["start-up"] = time.time() - born
    code = cli.main(["train", *flags])
    print(json.dumps(dict(watch.seconds) | {"end": time.time()}), flush=True)
    os._exit(code)  # as the command itself does


# ------------------------------------------------------------------------------------------------------ tables


def ratios(base: Sequence[float], own: Sequence[float]) -> str:
    """How many times as fast, as text: the median over rounds, and the range."""
    found = [b / o for b, o in zip(base, own, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


def note_targets(job: str, found: Sequence[Command], work: Work, rounds: int) -> None:
    """Write what targets.py shows. The first command is DomainBed's, if it took part."""
    named = {one.name.removeprefix("ours, "): one for one in found}
    where = f"{work.steps} steps of {work.batch_size} images per domain, {rounds} rounds"
    if found[0].workers:
        for name in named.keys() & {"files", "cached", "ViT-S/16"}:
            done = ratios(found[0].until_done, named[name].until_done)
            parts = [f"{ratios(found[0].wall, named[name].wall)}; until `done` {done}"]
            for other in [other for other in named if other.startswith(f"{name}, ")]:  # the same with options
                parts.append(f"with {other.removeprefix(f'{name}, ')} {ratios(found[0].wall, named[other].wall)}")
            note(f"{job}, {name}", "; ".join([*parts, where]))
    over = []
    for name, one in named.items():
        dense = named.get("ViT-S/16, bf16" if name.endswith(", bf16") else "ViT-S/16")
        if name.startswith("SF-MoE-S/16, ") and dense:
            over.append(f"{name.removeprefix('SF-MoE-S/16, ')} {ratios(one.wall, dense.wall)}")
    if over:
        note(f"{job}, SF-MoE", "; ".join([*over, where]))


def show(found: Sequence[Command]) -> None:
    print(
        "| command | wall s | until done | CPU s | wall, times as fast | until done | CPU, times as little | target |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for one in found:
        kinds = ("wall", "until_done", "cpu")
        seconds = " | ".join(f"{statistics.median(getattr(one, kind)):.1f}" for kind in kinds)
        faster = " | ".join(ratios(getattr(found[0], kind), getattr(one, kind)) for kind in kinds)
        print(f"| {one.name} | {seconds} | {faster} | {one.target and '≥ ' + one.target} |")
    ours = [one for one in found if one.stages]
    print("\n| seconds of ours | " + " | ".join(one.name.removeprefix("ours, ") for one in ours) + " |")
    print("|---" * (len(ours) + 1) + "|")
    for stage in STAGES:
        print(f"| {stage} | " + " | ".join(f"{statistics.median(one.stages[stage]):.1f}" for one in ours) + " |")
    print(f"\nLoad average of the last minute {os.getloadavg()[0]:.1f}, this benchmark included.\n", flush=True)


def build_cache(args: argparse.Namespace, cache_dir: str) -> None:
    from sfmoe_dg.data.batches.cache import cached
    from sfmoe_dg.data.build import build_dataset

    started, cpu, dataset = time.perf_counter(), time.process_time(), build_dataset(args.dataset, args.data_dir)
    cached(dataset, cache_dir)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"Cache of {sum(map(len, dataset))} images built in {seconds:.1f} s ({cpu:.1f} s of CPU).\n", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--dataset", default="PACS")
    parser.add_argument("--domainbed", default=os.environ.get("DOMAINBED_DIR"), metavar="DIR", help="a checkout")
    parser.add_argument("--jobs", nargs="+", choices=sorted(WORK), help="default: all; without a checkout a and c")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="of our commands, those whose names end with one of these"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch's arithmetic, for all commands")
    for name in ("steps", "checkpoint_freq", "batch_size"):
        parser.add_argument(f"--{name}", type=int, help="default: the job's")
    args = parser.parse_args()
    args.jobs = args.jobs or (sorted(WORK) if args.domainbed else ["a", "c"])
    return args


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as cache_dir:
        build_cache(args, cache_dir)
        for job in args.jobs:
            named = {name: getattr(args, name) or getattr(WORK[job], name) for name in ("steps", "checkpoint_freq")}
            work = Work(WORK[job].title, args.batch_size or WORK[job].batch_size, **named)
            theirs_or_ours = [
                one
                for one in commands(job, cache_dir)
                if (args.domainbed if one.workers else not args.only or one.name.endswith(tuple(args.only)))
            ]
            if not theirs_or_ours:
                raise SystemExit(f"no command of job {job} has a name that ends with {' or '.join(args.only)}")
            for _ in range(args.rounds):
                for one in theirs_or_ours:
                    measure(one, work, args)
            print(f"### Job {job}: {work.title}\n")
            print(f"{work.steps} steps of {work.batch_size} images per domain, an evaluation every "
                  f"{work.checkpoint_freq}, {args.threads} threads, {args.rounds} rounds.\n")  # fmt: skip
            show(theirs_or_ours)
            note_targets(job, theirs_or_ours, work, args.rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        run_ours(float(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1:2] == ["--theirs"]:
        run_theirs(sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5:])
    else:
        main()
