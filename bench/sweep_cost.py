"""Estimate from a few measured numbers what a full study with DomainBed's protocol costs; print Markdown.

    python bench/sweep_cost.py                        # GPUs, computed from floating-point operations
    python bench/sweep_cost.py --measure              # this machine, one thread, measured now
    python bench/sweep_cost.py --seconds_per_step 0.1 --eval_rate 3000 --cores 16       # what you have measured

Runs, hyper-parameters, steps, evaluations and images are those of the sweep planner. The time of a run is the sum of

- start-up;
- training: the longer of the device's time (seconds per image × images of all steps, a step being batch size × training
  domains) and of decoding (images ÷ images per second and core ÷ cores), because both happen at the same time;
- evaluation, likewise, of every image of every domain at step 0, every ``checkpoint_freq`` steps and at the end. "Fast"
  evaluation reads the training domains' in-splits only at the end.

Several runs on one device use the time that each of them leaves idle: together they take the largest of the device's
time, the cores' time, and the sum of their own times divided by their number. Saving and the network are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from device_rates import PEAK_TFLOPS, assumed, measured

from sfmoe_dg.algorithms.registry import hparam_table
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.foundation.durations import duration
from sfmoe_dg.runs.hparams import resolve
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.plan import plan
from sfmoe_dg.sweeps.study import make_spec

DATASETS = ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")
UPSTREAM_DATASETS = ("RotatedMNIST", "ColoredMNIST", "VLCS", "PACS", "OfficeHome", "TerraIncognita", "DomainNet")
"""The data sets of ``domainbed.scripts.sweep``, without those for debugging."""
STEP_IMAGES = 96
"""Images of the step whose time ``--seconds_per_step`` gives: 32 of each of three domains."""
DECODE_RATE = {"files": 226.0, "cached": 1445.0}
"""Training images per second and core up to uint8 pixels in the main process, PACS, measured (docs/input_path.md)."""


@dataclass(frozen=True)
class Work:
    """An amount of work: runs, and images that pass the network."""

    runs: int = 0
    steps: int = 0
    evaluations: int = 0
    trained: int = 0
    evaluated: int = 0
    evaluated_fast: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


Works = dict[str, list[Work]]
"""The work of every run, by data set."""


def num_evaluations(steps: int, freq: int) -> int:
    """The number of evaluations: step 0, every ``freq`` steps, and the last step."""
    return len({*range(0, steps, freq), steps - 1})


def work_of(run: RunSpec) -> Work:
    """The work of one run on a data set whose images the catalog counts."""
    entry = CATALOG.load(run.dataset)
    hparams = resolve(hparam_table(run.algorithm, run.dataset), run.hparams_seed, run.trial_seed, {})
    steps, freq = run.steps or entry.steps, run.checkpoint_freq or entry.checkpoint_freq
    training = [n for i, n in enumerate(entry.counts) if i not in run.test_envs]
    evaluations, images = num_evaluations(steps, freq), sum(entry.counts)
    # The in-splits of the training domains, rounded as split_domains does.
    in_splits = sum(n - int(n * run.holdout_fraction) for n in training)
    return Work(
        runs=1,
        steps=steps,
        evaluations=evaluations,
        trained=steps * hparams["batch_size"] * len(training),
        evaluated=evaluations * images,
        evaluated_fast=evaluations * images - (evaluations - 1) * in_splits,
    )


def planned(datasets: Sequence[str], algorithm: str, pairs: bool) -> list[RunSpec]:
    """DomainBed's study: 3 trials of 20 draws, every domain held out, and every pair too if ``pairs``."""
    values: dict[str, Any] = {"datasets": list(datasets), "algorithms": [algorithm], "single_test_envs": not pairs}
    return plan(make_spec({"name": "full", **values}, "bench/sweep_cost.py"), None)


@dataclass(frozen=True)
class Machine:
    """One device and its share of the cores.

    Attributes:
        train_rate, eval_rate: images per second that the device trains and predicts.
        decode_rate: images per second of one core, up to what the device is given.
        startup: seconds before the first step and after the last.
        side_by_side: runs that share the device.
    """

    name: str
    train_rate: float
    eval_rate: float
    decode_rate: float
    cores: int = 8
    startup: float = 10.0
    side_by_side: int = 1


@dataclass(frozen=True)
class Seconds:
    """The seconds of runs by what they are spent on; ``total`` is what a device needs for them."""

    startup: float = 0.0
    training: float = 0.0
    evaluation: float = 0.0
    device: float = 0.0
    cores: float = 0.0
    total: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def shares(self) -> str:
        """Shares of training, evaluation and start-up in a run that has the device alone, and the bottleneck."""
        alone = self.startup + self.training + self.evaluation
        parts = (f"{name} {getattr(self, name) / alone:.0%}" for name in ("training", "evaluation", "startup"))
        return f"{', '.join(parts)}; {'cores' if self.cores > self.device else 'device'} busier"


def seconds_of(work: Work, machine: Machine, fast: bool) -> Seconds:
    """The time of runs with this work."""
    decoded = machine.decode_rate * machine.cores
    evaluated = work.evaluated_fast if fast else work.evaluated
    training = max(work.trained / machine.train_rate, work.trained / decoded)
    evaluation = max(evaluated / machine.eval_rate, evaluated / decoded)
    startup = work.runs * machine.startup
    device = work.trained / machine.train_rate + evaluated / machine.eval_rate
    cores = (work.trained + evaluated) / decoded
    total = max(device, cores, (startup + training + evaluation) / machine.side_by_side)
    return Seconds(startup, training, evaluation, device, cores, total)


def time_on(seconds: float, longest: float, devices: int) -> str:
    """The time of a study on so many devices; every run uses one device."""
    return duration(max(seconds / devices, longest))


def by_dataset(runs: Iterable[RunSpec]) -> Works:
    found: Works = {}
    for run in runs:
        found.setdefault(run.dataset, []).append(work_of(run))
    return found


def print_work(works: Works) -> None:
    print("| data set | runs | steps | evaluations | images trained | evaluated | per image trained | evaluated, fast |"
          " per image trained |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    sums = {name: sum(members, Work()) for name, members in works.items()}
    for name, w in [*sums.items(), ("all", sum(sums.values(), Work()))]:
        print(f"| {name} | {w.runs:,} | {w.steps / 1e6:.2f} M | {w.evaluations:,} | {w.trained / 1e6:,.0f} M "
              f"| {w.evaluated / 1e6:,.0f} M | {w.evaluated / w.trained:.2f} | {w.evaluated_fast / 1e6:,.0f} M "
              f"| {w.evaluated_fast / w.trained:.2f} |")  # fmt: skip


def in_sum(works: Iterable[Work], machine: Machine, fast: bool) -> tuple[Seconds, float]:
    """The time of all runs together, and of the longest one alone."""
    found = [seconds_of(work, machine, fast) for work in works]
    return sum(found, Seconds()), max(s.startup + s.training + s.evaluation for s in found)


def ways(machine: Machine, decode_rates: dict[str, float]) -> Iterator[tuple[str, Machine, bool]]:
    """Every way to read images, with full and with fast evaluation."""
    for images, rate in decode_rates.items():
        for fast in (False, True):
            how = f"{images}, {'fast' if fast else 'full'} evaluation"
            yield how, replace(machine, decode_rate=rate), fast


def print_summary(works: Works, machines: Sequence[Machine], rates: dict[str, float], devices: Sequence[int]) -> None:
    """The whole study, a line per machine and way to read; and the number of cores that keeps a device busy."""
    every = [work for members in works.values() for work in members]
    print("\n| device | images | device-hours | " + " | ".join(f"on {n}" for n in devices) + " | shares of the time |")
    print("|---|---|---|" + "---|" * len(devices) + "---|")
    for machine in machines:
        for how, variant, fast in ways(machine, rates):
            total, longest = in_sum(every, variant, fast)
            cells = " | ".join(time_on(total.total, longest, n) for n in devices)
            print(f"| {machine.name} | {how} | {total.total / 3600:,.0f} | {cells} | {total.shares} |")
    heads = [f"{what}, {images}" for images in rates for what in ("training", "evaluation")]
    print("\nCores per device at which decoding holds it up no more:\n\n| device | trained / evaluated per second | "
          + " | ".join(heads) + " |\n|---|---|" + "---|" * len(heads))  # fmt: skip
    for machine in machines:
        needs = [need / rate for rate in rates.values() for need in (machine.train_rate, machine.eval_rate)]
        cells = " | ".join(f"{cores:,.1f}" for cores in needs)
        print(f"| {machine.name} | {machine.train_rate:,.1f} / {machine.eval_rate:,.1f} | {cells} |")


def print_detail(works: Works, machine: Machine, rates: dict[str, float]) -> None:
    """Hours of one device per data set."""
    found = {how: [in_sum(members, variant, fast)[0] for members in works.values()]
             for how, variant, fast in ways(machine, rates)}  # fmt: skip
    print(f"\nDevice-hours by data set, {machine.name}:\n\n| images | " + " | ".join(works) + " |")
    print("|---|" + "---|" * len(works))
    for how, members in found.items():
        print(f"| {how} | " + " | ".join(f"{s.total / 3600:,.1f}" for s in members) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--algorithm", default="SFMoE")
    parser.add_argument("--pairs", action="store_true", help="hold out pairs of domains too, as upstream's sweep does")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 64])
    known = parser.add_argument_group("what you have measured (bench/step_stages.py, bench/input_path.py)")
    known.add_argument("--seconds_per_step", type=float, help=f"one step of {STEP_IMAGES} images on one device")
    known.add_argument("--eval_rate", type=float, help="images per second in evaluation; default: three times training")
    known.add_argument("--decode_rate", type=float, help=f"images per second and core; default {DECODE_RATE}")
    known.add_argument("--cores", type=int, default=8, help="cores per device (default: 8)")
    known.add_argument("--startup", type=float, default=10.0, help="seconds of a run besides its work (default: 10)")
    known.add_argument("--side_by_side", type=int, default=1, help="runs on one device at a time")
    parser.add_argument("--detail", action="store_true", help="hours by data set too")
    known.add_argument(
        "--measure", action="store_true", help="measure one thread of this machine; devices are cores then"
    )
    args = parser.parse_args()
    runs = planned(args.datasets, args.algorithm, args.pairs)
    works = by_dataset(runs)
    print(f"{len(runs):,} runs of {args.algorithm}; with all of upstream's data sets and pairs "
          f"{len(planned(UPSTREAM_DATASETS, args.algorithm, True)):,}\n")  # fmt: skip
    print_work(works)
    found, cores = rates(args), 1 if args.measure else args.cores
    decode_rates = {"given": args.decode_rate} if args.decode_rate else DECODE_RATE
    machines = [Machine(name, *pair, 0.0, cores, args.startup, args.side_by_side) for name, pair in found.items()]
    print_summary(works, machines, decode_rates, args.devices)
    for machine in machines if args.detail else ():
        print_detail(works, machine, decode_rates)


def rates(args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Images per second trained and evaluated, by the name of the device."""
    if args.measure:
        return {"one core of this machine": measured(args.algorithm, 12, 5)}
    if args.seconds_per_step:
        trained = STEP_IMAGES / args.seconds_per_step
        return {"your device": (trained, args.eval_rate or 3 * trained)}
    return {
        f"ASSUMED {gpu}, {share:.0%} of peak": assumed(args.algorithm, gpu, share)
        for gpu in PEAK_TFLOPS
        for share in (0.1, 0.3)
    }


if __name__ == "__main__":
    main()
