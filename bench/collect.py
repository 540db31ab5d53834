"""Time DomainBed's collector and ours on a sweep of the size of DomainBed's published one: 1,833,734 records.

    python bench/collect.py --domainbed CHECKOUT --part 16 --rounds 3
    python bench/collect.py --rounds 3

The runs are synthetic and the same every time: 14 algorithms, 7 data sets, 20 draws of hyper-parameters, 3 trials,
every domain and every pair of domains held out; records have the keys and sizes of real ones. Some runs are missing, as
in the published sweep. ``--part N`` keeps every N-th setting (algorithm, data set, draw, trial) with all of its runs,
because DomainBed's collector needs minutes and many gigabytes for the whole. Each collector is a process of its own;
they take turns, and their outputs must be equal byte for byte. Every file is read once before each turn, so that the
operating system has all files in its cache: the benchmark compares programs, not disks. Memory is the highest sum over
a collector's processes, sampled 20 times a second; shared pages count for every process.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from targets import note

RECORDS = 1_833_734
# fmt: off
ALGORITHMS = (
    "ERM", "IRM", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "DANN", "CDANN", "MTL", "SagNet", "ARM", "VREx", "RSC",
)
# fmt: on
DATASETS = {  # domains, steps between evaluations, images of a domain's smaller part
    "ColoredMNIST": (3, 100, 4666),
    "RotatedMNIST": (6, 100, 2333),
    "VLCS": (4, 300, 531),
    "PACS": (4, 300, 409),
    "OfficeHome": (4, 300, 871),
    "TerraIncognita": (4, 300, 1166),
    "DomainNet": (6, 1000, 9669),
}
STEPS, DRAWS, TRIALS = 5001, 20, 3
ONE_PROCESS = "import sys; from sfmoe_dg.results.collect import collect; sys.stdout.write(collect(sys.argv[1]).output)"


class Setting(NamedTuple):
    dataset: str
    algorithm: str
    hparams_seed: int
    trial_seed: int


class Run(NamedTuple):
    setting: Setting
    test_envs: list[int]
    steps: list[int]


# ------------------------------------------------------------------------------------------------- the made-up sweep


def settings() -> list[Setting]:
    return [Setting(*s) for s in itertools.product(DATASETS, ALGORITHMS, range(DRAWS), range(TRIALS))]


def runs_of(setting: Setting) -> Iterator[Run]:
    domains, frequency, _ = DATASETS[setting.dataset]
    steps = [step for step in range(STEPS) if step % frequency == 0 or step == STEPS - 1]
    for env in range(domains):
        yield Run(setting, [env], steps)
        for other in range(env + 1, domains):
            yield Run(setting, [env, other], steps)


def published() -> list[Run]:
    """All runs in the order of their settings; some are missing, and one has fewer records."""
    runs = [run for setting in settings() for run in runs_of(setting)]
    surplus = sum(len(run.steps) for run in runs) - RECORDS
    for place in random.Random(0).sample(range(len(runs)), len(runs)):
        gone = min(surplus, len(runs[place].steps))
        runs[place] = runs[place]._replace(steps=runs[place].steps[: len(runs[place].steps) - gone])
        surplus -= gone
        if not surplus:
            break
    return [run for run in runs if run.steps]


def write_sweep(root: Path, part: int) -> int:
    """Write every ``part``-th setting; return the number of records."""
    kept = {setting for place, setting in enumerate(settings()) if place % part == 0}
    runs = [run for run in published() if run.setting in kept]
    for run in runs:
        write_run(root, run)
    return sum(len(run.steps) for run in runs)


def write_run(root: Path, run: Run) -> None:
    args = _args(run)
    name = hashlib.md5(json.dumps(args, sort_keys=True).encode()).hexdigest()
    args["output_dir"] = f"/checkpoint/someone/experiments/domainbed/sweep/{name}"
    draw = random.Random(name)
    hparams = _hparams(run.setting, draw)
    lines = (
        json.dumps(_record(run, step, draw) | {"args": args, "hparams": hparams}, sort_keys=True) for step in run.steps
    )
    (root / name).mkdir(parents=True)
    (root / name / "results.jsonl").write_text("\n".join(lines) + "\n")


def _args(run: Run) -> dict[str, Any]:
    dataset, algorithm, hparams_seed, trial_seed = run.setting
    return {
        "algorithm": algorithm, "checkpoint_freq": None, "data_dir": "/checkpoint/someone/datasets/domainbed",
        "dataset": dataset, "holdout_fraction": 0.2, "hparams": None, "hparams_seed": hparams_seed,
        "save_model_every_checkpoint": False, "seed": hash((hparams_seed, trial_seed)) % 2**31,
        "skip_model_save": False, "steps": None, "task": "domain_generalization", "test_envs": run.test_envs,
        "trial_seed": trial_seed, "uda_holdout_fraction": 0,
    }  # fmt: skip


def _hparams(setting: Setting, draw: random.Random) -> dict[str, Any]:
    return {
        "batch_size": draw.randrange(8, 45), "class_balanced": False, "data_augmentation": True,
        "lr": 10 ** draw.uniform(-5, -3.5), "nonlinear_classifier": False, "resnet18": False,
        "resnet_dropout": draw.choice([0.0, 0.1, 0.5]), "weight_decay": 10 ** draw.uniform(-6, -2),
        f"{setting.algorithm.lower()}_weight": 10 ** draw.uniform(-1, 1),
    }  # fmt: skip


def _record(run: Run, step: int, draw: random.Random) -> dict[str, Any]:
    """Accuracies grow with the step; they are quotients of small integers, so that some are equal."""
    domains, _, images = DATASETS[run.setting.dataset]
    record: dict[str, Any] = {}
    for env in range(domains):
        for name, count in (("in", 4 * images), ("out", images)):
            share = draw.triangular(0.1, 0.95, 0.2 + 0.7 * step / STEPS)
            record[f"env{env}_{name}_acc"] = int(share * count) / count
    measured = {"epoch": step / 37, "loss": draw.random(), "mem_gb": 5 + draw.random(), "step_time": draw.random()}
    return record | measured | {"step": step}


# ------------------------------------------------------------------------------------------------------ the turns


class Turn(NamedTuple):
    seconds: float
    cpu: float
    mib: float


def collectors(root: Path, domainbed: str | None, before: str | None) -> dict[str, tuple[list[str], str | None]]:
    """Command lines and their working directories by name. Python finds packages in its working directory first."""
    ours = [sys.executable, "-m", "sfmoe_dg", "collect", "--input_dir", str(root)]
    found: dict[str, tuple[list[str], str | None]] = {}
    if domainbed:
        upstream = [sys.executable, "-m", "domainbed.scripts.collect_results", "--input_dir", str(root)]
        wrapped = [sys.executable, "-m", "sfmoe_dg", "domainbed", "--checkout", domainbed, "--", *upstream[2:]]
        found["DomainBed"] = (wrapped, None)
    if before:
        found["before"] = (ours, before)
    found["sfmoe_dg, one process"] = ([sys.executable, "-c", ONE_PROCESS, str(root)], None)
    found["sfmoe_dg"] = (ours, None)
    return found


def warm(root: Path) -> None:
    """Read all files, several at once, so that the operating system has them in its cache."""
    with ThreadPoolExecutor(16) as pool:
        deque(pool.map(lambda path: len(path.read_bytes()), root.glob("*/results.jsonl")), maxlen=0)


def take_turn(command: Sequence[str], folder: str | None, output: Path) -> Turn:
    """Run a command with its standard output in a file."""
    started = time.perf_counter()
    with open(output, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL, cwd=folder, start_new_session=True)
    highest, ended = 0, None
    while ended is None:
        time.sleep(0.05)
        highest = max(highest, memory_of_session(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        ended = usage if pid else None
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return Turn(seconds, ended.ru_utime + ended.ru_stime, max(highest / 2**20, ended.ru_maxrss / 2**10))


def memory_of_session(session: int) -> int:
    """Resident bytes of all processes of a session, together."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                pages += int((stat.parent / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return pages * os.sysconf("SC_PAGE_SIZE")


def compare(commands: Mapping[str, tuple[list[str], str | None]], root: Path, output: Path, rounds: int) -> None:
    """Print what every collector took; exit with an error if their tables differ."""
    turns: dict[str, list[Turn]] = {name: [] for name in commands}
    tables: dict[str, bytes] = {}
    for number, (name, (command, folder)) in itertools.product(range(rounds), commands.items()):
        warm(root)
        turns[name].append(take_turn(command, folder, output))
        print(f"round {number + 1}, {name}: {turns[name][-1]}", file=sys.stderr)
        if tables.setdefault(name, output.read_bytes()) != tables[next(iter(tables))]:
            raise SystemExit(f"{name} prints another table than {next(iter(tables))}")
    records = int(tables["sfmoe_dg"].split(maxsplit=3)[2])
    print(f"| {records:,} records | seconds | of CPU | MiB | seconds over ours |\n|---|---|---|---|---|")
    for name, found in turns.items():
        ratios = [turn.seconds / ours.seconds for turn, ours in zip(found, turns["sfmoe_dg"], strict=True)]
        seconds, cpu, mib = (statistics.median(values) for values in zip(*found, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {seconds:.2f} | {cpu:.2f} | {mib:,.0f} | {spread} |")
        if name == "DomainBed":
            note("collect, time", f"{spread}, {records:,} records, {rounds} rounds")
        elif name == "sfmoe_dg":
            note("collect, memory", f"{mib / 1024:.2f}, {records:,} records")
    print(f"\nThe tables are equal: {len(tables['sfmoe_dg']):,} bytes.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, default=1, metavar="N", help="one of N settings; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--domainbed",
        metavar="DIR",
        default=os.environ.get("DOMAINBED_DIR"),
        help="a checkout of DomainBed, by default $DOMAINBED_DIR; without it only ours is run",
    )
    parser.add_argument("--before", metavar="DIR", help="a checkout of an earlier version of this project")
    parser.add_argument("--sweep", type=Path, metavar="DIR", help="make the sweep here, or use the one that is here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.sweep or Path(folder) / "sweep"
        if not root.is_dir():
            started = time.perf_counter()
            records = write_sweep(root, args.part)
            print(f"{records:,} records written in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        commands = collectors(root.resolve(), args.domainbed, args.before)
        compare(commands, root, Path(folder) / "table.txt", args.rounds)


if __name__ == "__main__":
    main()
