"""Make folders of sweeps in every state, without training."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.owner import this_process
from sfmoe_dg.runs.progress import Progress
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.sweeps.plan import plan, save_plan
from sfmoe_dg.sweeps.study import make_spec

SMALL = {"name": "small", "datasets": ["StyledDigits"], "algorithms": ["ERM", "CORAL"], "n_trials": 1, "n_hparams": 2}
NO_PROCESS = 2**22 + 1
"""Above the largest process number of Linux."""


def make_study(output_dir: Path, values: dict[str, Any] | None = None) -> list[RunSpec]:
    """The plan of a study as ``sfmoe-dg sweep`` leaves it; with SMALL: 2 algorithms × 10 test sets × 2 draws."""
    spec = make_spec(SMALL | (values or {}), "test")
    output_dir.mkdir(parents=True, exist_ok=True)
    save_plan(spec, None, output_dir)
    return plan(spec, None)


def begin(output_dir: Path, run: RunSpec, *files: str) -> Path:
    folder = output_dir / run.run_id
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("")
    return folder


def note_progress(folder: Path, progress: Progress) -> None:
    """Write progress without waiting for the disk, since tests make thousands of runs."""
    RunFolder(folder).progress.write_text(json.dumps(asdict(progress)))


def make_done(output_dir: Path, run: RunSpec, seconds_per_step: float | None = None) -> Path:
    folder = begin(output_dir, run, "results.jsonl", "done")
    if seconds_per_step is not None:
        note_progress(folder, Progress(99, 100, seconds_per_step))
    return folder


def make_running(output_dir: Path, run: RunSpec, progress: Progress | None = None, **owner: Any) -> Path:
    """Make a run whose owner is this process, with the given values changed."""
    folder = begin(output_dir, run, "results.jsonl")
    (folder / "lease.1.json").write_text(json.dumps(asdict(replace(this_process(), **owner))))
    if progress is not None:
        note_progress(folder, progress)
    return folder


def make_lost(output_dir: Path, run: RunSpec) -> Path:
    return make_running(output_dir, run, pid=NO_PROCESS)


def make_failed(output_dir: Path, run: RunSpec, times: int = 1, error: str = "out of luck") -> Path:
    folder = begin(output_dir, run, "err.txt")
    for _ in range(times):
        RunFolder(folder).fail(error, 1)
    return folder
