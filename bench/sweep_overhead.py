"""Measure what a sweep costs besides training: the status and plan of 10,000 runs, the start and end of one run.

    python bench/sweep_overhead.py --runs 10000 --rounds 5

The first table times whole commands, each in a process of its own, on a synthetic folder in which half of the runs have
begun (of ten: six done, one running here, one running elsewhere, one lost, one failed). The second table times a run of
one step on Debug28 by stages, the launcher's work for a run, and a local sweep of such runs, one at a time.
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
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from stopwatch import Stopwatch

from sfmoe_dg.runs.owner import this_process
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.launch.launcher import Job
from sfmoe_dg.sweeps.launch.pool import Pool, make_places
from sfmoe_dg.sweeps.plan import load_plans, plan, save_plan
from sfmoe_dg.sweeps.study import read_spec

# 20 domains to hold out, 5 algorithms, 5 trials: 500 runs for every draw of hyper-parameters.
MANY = """
datasets = ["RotatedMNIST", "DomainNet", "OfficeHome", "TerraIncognita"]
algorithms = ["ERM", "CORAL", "SFMoE", "GMoE", "MMD"]
single_test_envs = true
n_trials = 5
n_hparams = {draws}
steps = 1000
"""
RUNS_PER_DRAW = 500

FEW = """
datasets = ["Debug28"]
algorithms = ["ERM"]
single_test_envs = true
n_trials = 1
n_hparams = {draws}
steps = 1

[hparams]
batch_size = 2

[launch]
threads = 1
device = "cpu"
num_workers = 0
"""


# --------------------------------------------------------------------------------------------------- many runs


def make_folder(output_dir: Path, runs: Sequence[RunSpec]) -> None:
    """Write the folders of half of the runs, in different states; the files that are read have their usual sizes."""
    here = this_process()
    owners = {6: here, 7: replace(here, machine="elsewhere"), 8: replace(here, pid=2**22 + 1)}
    progress = json.dumps({"step": 499, "steps": 1000, "seconds_per_step": 0.5})
    failure = json.dumps({"error": "CUDA out of memory", "exit_code": 1, "failures": 3})
    for i, run in enumerate(runs[: len(runs) // 2]):
        folder = output_dir / run.run_id
        folder.mkdir()
        files = {"results.jsonl": "x" * 30_000, "run.json": "x" * 5_000, "out.txt": "x" * 2_000, "err.txt": ""}
        files["progress.json"] = progress
        if i % 10 < 6:
            files |= {"done": "done", "model.pkl": ""}
        elif i % 10 == 9:
            files["failed.json"] = failure
        else:
            files |= {"lease.1.json": json.dumps(asdict(owners[i % 10])), "checkpoint.pt": ""}
        for name, content in files.items():
            (folder / name).write_text(content)


def measure_command(words: Sequence[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and the peak MiB of the largest process of a command and its children."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "sfmoe_dg", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    usage = os.wait4(process.pid, 0)[2]
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def bench_many(root: Path, count: int, rounds: int) -> None:
    study, output_dir = root / "many.toml", root / "many"
    study.write_text(MANY.format(draws=max(1, count // RUNS_PER_DRAW)))
    for folder in ("MNIST", "domain_net", "office_home", "terra_incognita"):
        (root / "data" / folder).mkdir(parents=True)
    data_dir, spec = str(root / "data"), read_spec(study)
    runs = plan(spec, data_dir)
    output_dir.mkdir()
    save_plan(spec, data_dir, output_dir)
    make_folder(output_dir, runs)
    where = ["--output_dir", str(output_dir)]
    sweep = ["sweep", str(study), "--data_dir", data_dir, *where]
    checked = root / "checked.toml"
    checked.write_text(study.read_text() + "[hparams]\nlr = 1e-4\n")
    commands = {
        "status": ["status", *where],
        "status --json": ["status", "--json", *where],
        "retry --failed --dry_run": ["retry", "--failed", "--dry_run", *where],
        "sweep --dry_run (the launch plan)": [*sweep, "--dry_run"],
        "sweep --launcher commands (plan, states, cost)": [*sweep, "--launcher", "commands", "--yes"],
        "sweep --dry_run of a study with [hparams]": ["sweep", str(checked), *sweep[2:], "--dry_run"],
        "the interpreter and its imports (--version)": ["--version"],
    }
    print(f"| command, {len(runs):,} runs | seconds | of CPU | MiB |\n|---|---|---|---|")
    for name, words in commands.items():
        found = [measure_command(words) for _ in range(rounds)]
        seconds, of_cpu, memory = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {name} | {seconds:.2f} | {of_cpu:.2f} | {memory:.0f} |", flush=True)


# ------------------------------------------------------------------------------------------------------ one run


def train_timed(output_dir: Path, run_id: str, born: float) -> None:
    """Train one run of a folder's plan as ``sfmoe-dg train`` does, and print the seconds of its stages as JSON."""
    from sfmoe_dg.algorithms.erm import ERM
    from sfmoe_dg.runs.lease import Lease
    from sfmoe_dg.training import loop as train
    from sfmoe_dg.training.prepare import Execution

    imported, watch = time.time() - born, Stopwatch()
    stages = {"prepare": "data and model", "acquire": "lease: take", "evaluate": "evaluations", "save_state": "save"}
    stages |= {"append_record": "record", "save_trained": "model files", "describe": "run.json"}
    for name, stage in stages.items():
        setattr(train, name, watch.timed(stage, getattr(train, name)))
    # Replace methods of classes, so that all instances use them.
    ERM.update = watch.timed("the step itself", ERM.update)  # type: ignore[method-assign]
    Lease.release = watch.timed("lease: give back", Lease.release)  # type: ignore[method-assign]
    run = next(run for run in load_plans(output_dir) if run.run_id == run_id)
    started = time.perf_counter()
    train.train(run, output_dir / run_id, Execution(device="cpu", num_workers=0))
    other = time.perf_counter() - started - sum(watch.seconds.values())
    print(json.dumps({"start and imports": imported, **watch.seconds, "other": other, "end": time.time()}))


def bench_run(root: Path, rounds: int) -> None:
    study, output_dir = root / "few.toml", root / "few"
    study.write_text(FEW.format(draws=max(1, -(-rounds // 3))))
    spec = read_spec(study)
    output_dir.mkdir()
    save_plan(spec, None, output_dir)
    stages = defaultdict[str, list[float]](list)
    for run in plan(spec, None)[:rounds]:
        words = ["--stages", str(output_dir), run.run_id, str(time.time())]
        result = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, check=True)
        found = json.loads(result.stdout.splitlines()[-1])
        stages["exit"].append(time.time() - found.pop("end"))
        for name, value in found.items():
            stages[name].append(value)
    exit_seconds = stages.pop("exit")
    print(f"\n| stage of a run, median of {rounds} | seconds |\n|---|---|")
    for name, values in [*stages.items(), ("exit", exit_seconds)]:
        print(f"| {name} | {statistics.median(values):.3f} |")
    bench_sweep(root, study)


def bench_sweep(root: Path, study: Path) -> None:
    """The launcher's time per run, measured with runs that do nothing, and the time of a whole sweep."""
    jobs = [Job(str(i), ("touch", str(root / "pool" / str(i) / "done")), root / "pool" / str(i)) for i in range(20)]
    started = time.perf_counter()
    Pool(make_places(1, threads=1, gpus=None), lambda job, error, seconds: None).run(jobs)
    print(f"| the local launcher: look, start, note the end | {(time.perf_counter() - started) / len(jobs):.3f} |")
    count = len(plan(read_spec(study), None))
    words = ["sweep", str(study), "--output_dir", str(root / "sweep")]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sfmoe_dg", *words], stdout=subprocess.PIPE, check=True)
    whole = time.perf_counter() - started
    again, *_ = measure_command(words)
    print(f"| a local sweep of {count} runs, wall time per run | {whole / count:.3f} |")
    print(f"| the same sweep again, when all is done: plan, states, tables | {again:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stages:
        folder, run_id, born = args.stages
        train_timed(Path(folder), run_id, float(born))
        return
    with tempfile.TemporaryDirectory() as root:
        bench_many(Path(root), args.runs, args.rounds)
        bench_run(Path(root), args.rounds)


if __name__ == "__main__":
    main()
