"""Measure the fixed cost of a run by stages: everything besides training steps and evaluations.

    python bench/startup.py --rounds 5 [--before DIR]

``sfmoe-dg train`` runs SFMoE on StyledDigits for a few steps, as in the quick start, with this file as its plug-in,
which times the stages. ``--before`` names a second checkout to compare with: the two take turns, and ratios are taken
within a round. CPU time depends least on what else the machine does; on an idle core wall time is about the same.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MARKS = "STARTUP_BENCH_MARKS"
HERE = Path(__file__).resolve()
RUN = "train --dataset StyledDigits --algorithm SFMoE --test_envs 3 --steps 3 --checkpoint_freq 2 --device cpu"
IMPORTING = "interpreter and imports before the run"
WORK = ("training steps", "evaluation")
COMMANDS: dict[str, Sequence[str]] = {
    "python -c pass": ("-c", "pass"),
    "import sfmoe_dg": ("-c", "import sfmoe_dg"),
    "import torch (and end)": ("-c", "import torch"),
    "sfmoe-dg --help": ("-m", "sfmoe_dg", "--help"),
    "sfmoe-dg train --help": ("-m", "sfmoe_dg", "train", "--help"),
}


class Stages:
    """CPU and wall seconds by stage. The time of a stage inside another one counts for the inner one only."""

    def __init__(self) -> None:
        self.spent = defaultdict[str, list[float]](lambda: [0.0, 0.0])
        self.open = [IMPORTING]
        self.since = [0.0, float(os.environ[MARKS].split(":")[0])]

    def turn(self) -> None:
        now = [time.process_time(), time.time()]
        for i in range(2):
            self.spent[self.open[-1]][i] += now[i] - self.since[i]
        self.since = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self.open.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self.open.pop()

        return call


def put_hooks(stages: Stages) -> None:
    """In the process that trains: replace functions that training looks up in modules by timed ones."""
    from sfmoe_dg.algorithms.erm import ERM
    from sfmoe_dg.training import loop as train
    from sfmoe_dg.training import prepare

    prepare.open_data = stages.timed("data", prepare.open_data)
    prepare.build_learner = stages.timed("model", prepare.build_learner)
    train.prepare = stages.timed("other preparation", train.prepare)
    train.evaluate = stages.timed("evaluation", train.evaluate)
    for name in ("save_state", "save_trained", "append_record", "write_progress"):
        setattr(train, name, stages.timed("saving", getattr(train, name)))
    ERM.update = stages.timed("training steps", ERM.update)  # type: ignore[method-assign]
    inner = stages.timed("the loop, and what else a run writes", train.train)

    def whole(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        Path(os.environ[MARKS].split(":", 1)[1]).write_text(json.dumps([stages.spent, stages.since]))

    train.train = whole
    stages.turn()
    stages.open = ["plug-ins, signals, reporter"]


def measured(words: Sequence[str], checkout: Path, marks: str | None = None) -> tuple[float, float]:
    """CPU seconds of a Python process in a checkout, and the time at which it ended."""
    settings = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    if marks:
        settings[MARKS] = f"{time.time()}:{marks}"
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *words], cwd=checkout, env=settings, stdout=quiet, stderr=quiet)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed in {checkout}")
    return usage.ru_utime + usage.ru_stime, time.time()


def one_run(checkout: Path, root: Path) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds by stage."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        marks = Path(folder) / "marks.json"
        words = ["-m", "sfmoe_dg", *RUN.split(), "--num_workers", "0", "--output_dir", f"{folder}/run"]
        cpu, end = measured([*words, "--plugin", str(HERE)], checkout, str(marks))
        spent, since = json.loads(marks.read_text())
    spent["exit"] = (cpu - since[0], end - since[1])
    fixed = [value for name, value in spent.items() if name not in WORK]
    return spent | {"**fixed cost**": tuple(sum(values) for values in zip(*fixed, strict=True))}


Found = list[dict[str, Any]]


def show(title: str, before: Found, after: Found, pick: Callable[[Any], float]) -> None:
    """A table of medians, and of ratios within rounds with their range."""
    print(f"\n| {title} | before | now | ratio (lowest to highest) |\n|---|---|---|---|")
    for name in after[0]:
        new, old = ([pick(found[name]) for found in side if name in found] for side in (after, before))
        ratios = [a / b for a, b in zip(new, old, strict=False) if b >= 0.005]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        first = f"{statistics.median(old):.2f}" if old else ""
        print(f"| {name} | {first} | {statistics.median(new):.2f} | {ratio} |")


def main() -> None:
    from targets import note  # here, since the runs load this file as a plug-in

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    args = parser.parse_args()
    checkouts = [HERE.parent.parent, *([args.before.resolve()] if args.before else [])]
    runs: list[Found] = [[], []]
    commands: list[Found] = [[], []]
    with tempfile.TemporaryDirectory() as root:
        for _ in range(args.rounds):
            for side, checkout in enumerate(checkouts):
                runs[side].append(one_run(checkout, Path(root)))
                commands[side].append({name: measured(words, checkout)[0] for name, words in COMMANDS.items()})
    show("command, seconds of CPU", commands[1], commands[0], lambda found: found)
    show("stage of a run, seconds of CPU", runs[1], runs[0], lambda found: found[0])
    show("stage of a run, seconds of wall time", runs[1], runs[0], lambda found: found[1])
    cpu, wall = ([found["**fixed cost**"][kind] for found in runs[0]] for kind in range(2))
    spread = f"{statistics.median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f})"
    note("startup", f"{spread}, {statistics.median(cpu):.2f} of CPU, {args.rounds} rounds")


if MARKS in os.environ:
    put_hooks(Stages())
elif __name__ == "__main__":
    main()
