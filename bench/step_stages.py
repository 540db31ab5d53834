"""Time the stages of a training step, and an evaluation, of dense networks and SF-MoE.

    python bench/step_stages.py --images 8 --threads 1
    python bench/step_stages.py --device cuda --precision bf16 --images 96

The stages of a step are ``forward`` (with the loss), ``backward``, ``optimizer``, and ``metrics``: passing the loss on
to the records, which read it once at the end of a round, as at a checkpoint. ``update`` is the whole step as the
trainer calls it. On a GPU it takes less than the sum of its stages, because timing a stage waits until the GPU has
finished. An ``evaluation`` predicts as many images. In every round all networks take turns; the tables show medians
over rounds, and ratios to the dense network within rounds, with their quartiles.

Multiply-accumulates are counted (``models.macs``); a step counts as three forward passes. Utilisation is twice the
multiply-accumulates per second over ``--peak_tflops`` (H100 SXM, bf16 without sparsity: 989).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from targets import note

from sfmoe_dg.algorithms.erm import ERM
from sfmoe_dg.algorithms.registry import default_hparams
from sfmoe_dg.algorithms.shared.precision import Precision
from sfmoe_dg.analysis.efficiency.compute import peak_memory, prediction_macs, random_minibatches, synchronize
from sfmoe_dg.runs.spec import Options
from sfmoe_dg.training.fast_options import speed_up
from sfmoe_dg.training.pending_values import PendingValues

NETWORKS = {
    "ResNet-18": "resnet18",
    "ViT-S/16": "vit_small_patch16_224",
    "SF-MoE-S/16": "sf_moe_small_patch16_224",
}
DENSE, SPARSE = "ViT-S/16", "SF-MoE-S/16"
STAGES = ("forward", "backward", "optimizer", "metrics", "update", "evaluation")
SHAPE, CLASSES, DOMAINS = (3, 224, 224), 7, 3

Times = dict[str, list[float]]


class Bench:
    """A network with a batch; every stage is timed separately."""

    def __init__(self, backbone: str, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device = torch.device(args.device)
        hparams = default_hparams("ERM", "PACS") | {"backbone": backbone, "pretrained": False}
        self.algorithm = ERM(SHAPE, CLASSES, DOMAINS, hparams)
        self.algorithm.precision = Precision(args.precision, self.device.type)
        self.algorithm.to(self.device)
        options = Options(memory_format=args.memory_format, compile=args.compile)
        speed_up(self.algorithm, options, self.device)
        per_domain = max(1, args.images // DOMAINS)
        self.minibatches = random_minibatches(SHAPE, CLASSES, DOMAINS, per_domain, self.device)
        self.images = torch.cat([x for x, _ in self.minibatches])
        self.seen = PendingValues()

    def timed(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds until the device has finished the work of ``run``, and what ``run`` returned."""
        synchronize(self.device)
        started = time.perf_counter()
        result = run()
        synchronize(self.device)
        return time.perf_counter() - started, result

    def forward(self) -> dict[str, torch.Tensor]:
        with self.algorithm.precision.autocast():
            forward = self.algorithm.forward_domains(self.minibatches)
            loss, logged = self.algorithm.objective(forward)
        return {"loss": loss} | logged | forward.routing_losses

    def record(self, values: dict[str, torch.Tensor], read: bool) -> None:
        self.seen.add(values)
        if read:
            self.seen.means()
            self.seen.clear()

    def update(self) -> None:
        with self.algorithm.precision.autocast():
            self.algorithm.update(self.minibatches)

    def evaluation(self) -> None:
        with torch.inference_mode(), self.algorithm.precision.autocast():
            for batch in self.images.split(128):
                self.algorithm.predict(batch).argmax(1)

    def one_round(self, steps: int) -> dict[str, float]:
        """Mean seconds of every stage over ``steps`` steps."""
        times: Times = {stage: [] for stage in STAGES}
        algorithm = self.algorithm.train()
        for step in range(steps):
            seconds, values = self.timed(self.forward)
            times["forward"].append(seconds)
            algorithm.optimizer.zero_grad()
            total = torch.stack(list(values.values())).sum()
            times["backward"].append(self.timed(algorithm.precision.scaler.scale(total).backward)[0])
            times["optimizer"].append(self.timed(lambda: algorithm.take_steps(algorithm.optimizer))[0])
            last = step == steps - 1
            times["metrics"].append(self.timed(lambda v=values, last=last: self.record(v, last))[0])
        seconds, _ = self.timed(lambda: [self.update() for _ in range(steps)])
        times["update"] = [seconds / steps]
        algorithm.eval()
        times["evaluation"] = [self.timed(self.evaluation)[0]]
        return {stage: statistics.fmean(values) for stage, values in times.items()}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, median, high = torch.tensor(values).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return low, median, high


def stage_table(rounds: dict[str, list[dict[str, float]]]) -> str:
    lines = ["| milliseconds, median | " + " | ".join(STAGES) + " |", "|---" * (len(STAGES) + 1) + "|"]
    for name, found in rounds.items():
        cells = [f"{1000 * statistics.median(each[stage] for each in found):.2f}" for stage in STAGES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio_table(rounds: dict[str, list[dict[str, float]]], benches: dict[str, Bench], args: argparse.Namespace) -> str:
    lines = [
        f"| over {DENSE} | update | quartiles | evaluation | multiplications | peak memory | utilisation |",
        "|---|---|---|---|---|---|---|",
    ]
    macs = {name: prediction_macs(bench.algorithm, bench.minibatches[0][0][:1]) for name, bench in benches.items()}
    memory = {name: peak_memory(bench.algorithm.train(), bench.minibatches) for name, bench in benches.items()}
    dense_share = "-"
    for name, found in rounds.items():
        pairs = list(zip(found, rounds[DENSE], strict=True))
        low, update, high = quartiles([mine["update"] / dense["update"] for mine, dense in pairs])
        _, evaluation, _ = quartiles([mine["evaluation"] / dense["evaluation"] for mine, dense in pairs])
        seconds = statistics.median(each["update"] for each in found)
        used = 2 * 3 * macs[name] * len(benches[name].images) / seconds / (args.peak_tflops * 1e12)
        share = f"{100 * used:.1f} %" if args.peak_tflops < float("inf") else "-"
        cells = [f"{update:.2f}", f"{low:.2f}–{high:.2f}", f"{evaluation:.2f}", f"{macs[name] / macs[DENSE]:.2f}"]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{memory[name] / memory[DENSE]:.2f}", share]) + " |")
        if name == SPARSE and is_of_targets(args, len(benches[name].images)):
            note("gpu, step", f"{update:.2f} ({low:.2f}–{high:.2f}), {args.rounds} rounds")
            note("gpu, memory", f"{memory[name] / memory[DENSE]:.2f}")
            if args.peak_tflops < float("inf"):
                note("gpu, utilisation", f"{share}, dense {dense_share}")
        dense_share = share if name == DENSE else dense_share
    return "\n".join(lines)


def is_of_targets(args: argparse.Namespace, images: int) -> bool:
    """Whether a target in targets.py is about such a measurement."""
    as_it_is = args.memory_format == "contiguous" and args.compile == "none"
    return args.device.startswith("cuda") and args.precision == "bf16" and images == 96 and as_it_is


def evaluation_batches(benches: dict[str, Bench], args: argparse.Namespace) -> str:
    sizes = args.eval_batches
    lines = ["| images per second by batch | " + " | ".join(map(str, sizes)) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name, bench in benches.items():
        bench.algorithm.eval()
        speeds: dict[int, list[float]] = {size: [] for size in sizes}
        for number in range(args.rounds + 1):
            for size in sizes:
                x = torch.randn(size, *SHAPE, device=bench.device)
                with torch.inference_mode(), bench.algorithm.precision.autocast():
                    seconds, _ = bench.timed(lambda x=x, bench=bench: bench.algorithm.predict(x))
                if number:
                    speeds[size].append(size / seconds)
        lines.append(f"| {name} | " + " | ".join(f"{statistics.median(speeds[size]):.1f}" for size in sizes) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--images", type=int, default=9, help="of one step, in three domains")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="per round and network")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: as torch chooses")
    parser.add_argument("--peak_tflops", type=float, default=float("inf"), help="of the device, for its utilisation")
    parser.add_argument("--memory_format", default="contiguous", choices=("contiguous", "channels_last"))
    parser.add_argument("--compile", default="none", choices=("none", "default"))
    parser.add_argument("--eval_batches", type=int, nargs="*", default=[], metavar="B", help="also try these batches")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    benches = {name: Bench(backbone, args) for name, backbone in NETWORKS.items()}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in benches}
    for number in range(args.rounds + 1):
        for name, bench in benches.items():
            found = bench.one_round(args.steps)
            if number:  # the first round warms up and is not counted
                rounds[name].append(found)
    images = len(next(iter(benches.values())).images)
    print(f"{args.device}, {args.precision}, {images} images a step, {args.rounds} rounds of {args.steps}\n")
    print(stage_table(rounds) + "\n\n" + ratio_table(rounds, benches, args))
    if args.eval_batches:
        print("\n" + evaluation_batches(benches, args))


if __name__ == "__main__":
    main()
