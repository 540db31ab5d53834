"""Measure how cost grows with images, experts and processes: a Markdown table and a figure each (docs/scaling.md).

    python bench/scaling.py --rounds 3                                    # all of it, on an idle machine
    python bench/scaling.py --what experts --experts 4 8 16 --rounds 1    # a part

In every round all sizes take turns, and each time is divided by that of the smallest size in the same round. A cell of
a table is the median over rounds, with the range. Images and experts are timed by the CPU time of one thread, which
depends least on other programs; processes are timed by the wall clock, for which the machine must be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as in moe_layer.py, read when torch allocates for the first time

import numpy as np
import torch
from curves import Curves, above, draw, print_table, save
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sfmoe_dg.algorithms.registry import ALGORITHMS, default_hparams
from sfmoe_dg.analysis.drawing.style import new_figure
from sfmoe_dg.analysis.efficiency.compute import peak_memory, random_minibatches
from sfmoe_dg.data.batches.cache import cached
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.catalog import CATALOG, DatasetFacts
from sfmoe_dg.data.splits import split_domains
from sfmoe_dg.models.moe.layers import ffn_moe
from sfmoe_dg.models.moe.routing import RoutingOptions
from sfmoe_dg.runs.spec import Options, RunSpec
from sfmoe_dg.training.evaluate import evaluate
from sfmoe_dg.training.loop import train
from sfmoe_dg.training.prepare import Execution, prepare

DOMAINS, CLASSES, FILE_SIZE, INPUT_SIZE = 4, 4, 64, 32
RUN_STEPS = 40


def cpu_time(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process's CPU time, and what the function returns."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


# ------------------------------------------------------------------------------------------------------- images


def write_images(root: Path, count: int) -> str:
    """Write ``count`` JPEGs into image folders, and add a data set of that name to the catalog."""
    name, random = f"Scaling{count}", np.random.default_rng(0)
    domains = tuple(f"domain_{i}" for i in range(DOMAINS))
    for i in range(count):
        folder = root / name / domains[i % DOMAINS] / f"class_{i // DOMAINS % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        coarse.resize((FILE_SIZE, FILE_SIZE)).save(folder / f"{i:06}.jpg")
    facts = DatasetFacts(name, name, domains, domains, CLASSES, (3, INPUT_SIZE, INPUT_SIZE), RUN_STEPS,
                         "sfmoe_dg.data.sets.image_folder:read")  # fmt: skip
    CATALOG.register(name, facts)
    return name


def measure_images(curves: Curves, root: Path, name: str, count: int, images: str, folder: Path) -> None:
    """One round of one size: the parts of a run, then a run as a whole."""

    def add(part: str, unit: str, seconds: float) -> None:
        curves.add(part, unit, count, seconds)

    seconds, dataset = cpu_time(lambda: build_dataset(name, str(root)))
    if images == "files":
        add("listing the files", "s", seconds)
        add("splitting the domains", "s", cpu_time(lambda: split_domains(dataset, [0]))[0])
    else:
        for part in ("building the cache", "finding the cache again"):
            add(part, "s", cpu_time(lambda: cached(dataset, folder / "cache"))[0])
    spec = RunSpec(dataset=name, algorithm="SFMoE", data_dir=str(root), steps=RUN_STEPS, hparams='{"batch_size": 8}',
                   skip_model_save=True, options=Options(images=images))  # fmt: skip
    execution = Execution(device="cpu", num_workers=0, cache_dir=str(folder / "cache"))
    setup = prepare(spec, execution)
    steps = []
    for batch in setup.train_loader.batches(0, RUN_STEPS):
        steps.append(cpu_time(partial(setup.algorithm.update, batch.minibatches))[0])
    waiting = cpu_time(lambda: list(setup.train_loader.batches(0, RUN_STEPS)))[0] / RUN_STEPS
    add(f"a step, {images}", "s", statistics.median(steps) + waiting)
    add(f"an evaluation, {images}", "s",
        cpu_time(lambda: evaluate(setup.algorithm, setup.eval_loader, setup.splits, 0))[0])  # fmt: skip
    setup.close()
    add(f"a run of {RUN_STEPS} steps, 2 evaluations, {images}", "s",
        cpu_time(lambda: train(spec, folder / f"{name}-{images}", execution))[0])  # fmt: skip


def bench_images(args: argparse.Namespace, root: Path) -> None:
    names = {count: write_images(root / "data", count) for count in args.images}
    build_dataset(names[args.images[0]], str(root / "data"))  # the first call also imports modules, so it is not timed
    curves = Curves()
    for i in range(args.rounds):
        for count, name in names.items():
            for images in ("files", "cached"):
                measure_images(curves, root / "data", name, count, images, root / f"round{i}")
    print_table("CPU time against the number of images", "N =", curves)
    figure, axes = new_figure(1, 2, 4.6, 3.6)
    parts = {one.name: one for one in curves.values() if "run of" not in one.name and "step" not in one.name}
    runs = {one.name: one for one in curves.values() if one.name not in parts}
    draw(axes[0, 0], parts, "images", "CPU seconds", logarithmic=True)
    draw(axes[0, 1], runs, "images", "CPU seconds", logarithmic=True)
    save(figure, args.figures, "scaling_images")


# ------------------------------------------------------------------------------------------------------ experts


def measure_layer(experts: int, images: int) -> float:
    """CPU seconds of one MoE layer of SF-MoE-S/16, forward and backward, the median of three passes."""
    torch.manual_seed(0)
    layer = ffn_moe(384, 1536, options=RoutingOptions(experts, 2, renormalize=True))
    x = torch.randn(images, 197, 384, requires_grad=True)
    layer.router.weight.data *= torch.linspace(0.3, 1.5, experts)[:, None]  # type: ignore[operator]

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x)[0].square().mean().backward()

    return statistics.median([cpu_time(step)[0] for _ in range(4)][1:])


def measure_step(curves: Curves, experts: int, images: int, with_memory: bool) -> None:
    """One round of one number of experts: a whole step of SF-MoE-S/16."""
    hparams = default_hparams("SFMoE", "PACS") | {"pretrained": False, "num_experts": experts}
    learner = ALGORITHMS.load("SFMoE")((3, 224, 224), 7, 2, hparams)
    minibatches = random_minibatches((3, 224, 224), 7, 2, images // 2)
    started, optimiser = 0.0, 0.0

    def begin(*_: Any) -> None:
        nonlocal started
        started = time.process_time()

    def end(*_: Any) -> None:
        nonlocal optimiser
        optimiser = time.process_time() - started

    hooks = [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)]
    learner.update(minibatches)  # makes the optimiser's state
    steps = [(cpu_time(lambda: learner.update(minibatches))[0], optimiser) for _ in range(2)]
    for hook in hooks:
        hook.remove()
    whole, last = min(steps)
    curves.add("a step of SF-MoE-S/16", "s", experts, whole)
    curves.add("  its forward and backward pass", "s", experts, whole - last)
    curves.add("  its optimiser", "s", experts, last)
    if with_memory:
        curves.add("parameters", "M", experts, sum(p.numel() for p in learner.parameters()) / 1e6)
        curves.add("memory that a step allocates", "MiB", experts, peak_memory(learner, minibatches) / 2**20)


def bench_experts(args: argparse.Namespace, root: Path) -> None:
    curves = Curves()
    for i in range(args.rounds):
        for experts in args.experts:
            curves.add("one MoE layer, forward and backward", "s", experts, measure_layer(experts, args.batch))
            measure_step(curves, experts, args.batch, with_memory=i == 0)
    print_table(f"SF-MoE-S/16, {args.batch} images, 2 experts per token: cost against their number", "E =", curves)
    figure, axes = new_figure(1, 2, 4.6, 3.6)
    timed = {name: one for name, one in curves.items() if one.unit == "s"}
    draw(axes[0, 0], timed, "experts", "CPU time", ratio=True)
    draw(axes[0, 1], {n: c for n, c in curves.items() if n not in timed}, "experts", "amount", ratio=True)
    save(figure, args.figures, "scaling_experts")


# ---------------------------------------------------------------------------------------------------- processes

STUDY = """
datasets = ["Debug28"]
algorithms = ["SFMoE"]
single_test_envs = true
skip_model_save = true
n_trials = {trials}
n_hparams = 1
steps = {steps}
checkpoint_freq = {steps}

[hparams]
batch_size = 8

[launch]
threads = 1
device = "cpu"
"""


def seconds_of_sweep(root: Path, jobs: int, runs: int, steps: int) -> float:
    study = root / "study.toml"
    study.write_text(STUDY.format(trials=-(-runs // 3), steps=steps))
    with tempfile.TemporaryDirectory(dir=root) as folder:
        words = ["sweep", str(study), "--output_dir", folder, "--jobs", str(jobs), "--yes"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sfmoe_dg", *words], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started


def seconds_of_shared_step(root: Path, processes: int, mode: str, batch: int) -> float:
    """Times of one run that so many processes of one thread share through gloo, without evaluations."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        launch = ["torch.distributed.run", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
        how = ["--parallel", mode] if processes > 1 else []
        words = ["sfmoe_dg", "train", "--dataset", "StyledDigits", "--algorithm", "SFMoE", "--device", "cpu", "--steps",
                 "31", "--checkpoint_freq", "31", *how, "--skip_model_save", "--output_dir", folder,
                 "--hparams", json.dumps({"batch_size": batch})]  # fmt: skip
        subprocess.run([sys.executable, "-m", *launch, *words], capture_output=True, check=True)
        return float(json.loads((Path(folder) / "results.jsonl").read_text().splitlines()[-1])["step_time"])


def bench_processes(args: argparse.Namespace, root: Path) -> None:
    sweeps, shared = Curves(), Curves()
    runs = 3 * -(-args.runs // 3)
    for _ in range(args.rounds):
        for jobs in args.jobs:
            seconds = seconds_of_sweep(root, jobs, args.runs, args.steps)
            sweeps.add(f"sweep of {runs} runs of {args.steps} steps, runs per hour", "", jobs, 3600 * runs / seconds)
            for mode in ("ddp", "expert"):
                step = seconds_of_shared_step(root, jobs, mode, args.shared_batch)
                shared.add(
                    f"one run, {3 * args.shared_batch} images a step, {mode}, steps per second", "", jobs, 1 / step
                )
    print_table("Work done per time against runs side by side", "jobs =", sweeps)
    print_table("One run shared by processes (gloo)", "processes =", shared)
    figure, axes = new_figure(1, 1, 6.4, 3.8)
    draw(axes[0, 0], sweeps | shared, "processes, one thread each", "work per time", ratio=True)
    axes[0, 0].plot(args.jobs, np.array(args.jobs) / args.jobs[0], color="#999999", linewidth=1, label="ideal")
    axes[0, 0].set_yscale("log", base=2)
    above(axes[0, 0])
    save(figure, args.figures, "scaling_processes")


PARTS = {"images": bench_images, "experts": bench_experts, "processes": bench_processes}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"), help="the folder for scaling_*.png")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--experts", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=8, help="images of a step that experts are timed with")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--runs", type=int, default=12, help="of the sweep; a multiple of all --jobs divides evenly")
    parser.add_argument("--steps", type=int, default=200, help="of every run of the sweep")
    parser.add_argument("--shared_batch", type=int, default=48, help="images per domain of the run that is shared")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {args.rounds} rounds, "
          f"load average {os.getloadavg()[0]:.1f}")  # fmt: skip
    for part in args.what:
        with tempfile.TemporaryDirectory() as root:
            PARTS[part](args, Path(root))
        print(f"\nLoad average of the last minute: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
