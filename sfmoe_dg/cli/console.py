"""Show a run on the terminal and in its ``out.txt``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.training.reporters.reporter import Reporter

if TYPE_CHECKING:
    from sfmoe_dg.algorithms.base import Values
    from sfmoe_dg.runs.owner import Owner
    from sfmoe_dg.training.prepare import Setup

SHOWN_SECONDS = 1.0
"""The progress bar shows a new loss after this time."""


class ConsoleReporter(Reporter):
    """Prints a line per evaluation, also to ``out.txt``, and shows a progress bar if there is a terminal."""

    def __init__(self, folder: Path, on_start: Callable[[], None] = lambda: None) -> None:
        self._folder, self._on_start = RunFolder(folder), on_start
        self._log: TextIO | None = None
        self._bar: Any = None
        self._setup: Setup | None = None
        self._started, self._first_step = time.monotonic(), 0
        self._shown = float("-inf")

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._log is not None:
            self._log.close()

    def waiting(self, owner: Owner | None, seconds: float) -> None:
        who = owner or "a process that is just beginning"
        print(f"{self._folder} is held by {who}: watching its heartbeat for up to {seconds:.0f} s", flush=True)

    def started(self, setup: Setup, step: int, notice: str) -> None:
        from tqdm import tqdm

        self._on_start()
        self._setup = setup
        self._log = self._folder.output.open("a" if step else "w", encoding="utf-8")
        self._bar = tqdm(total=setup.steps, initial=step, disable=not sys.stderr.isatty(), unit="step", leave=False)
        self._started, self._first_step = time.monotonic(), step
        for line in [*describe_run(setup), *([notice] if notice else [])]:
            self._say(line)

    def stepped(self, step: int, values: Values) -> None:
        now = time.monotonic()
        if not self._bar.disable and now - self._shown >= SHOWN_SECONDS:
            # Not at every step, because reading the loss waits for the device.
            self._shown = now
            self._bar.set_postfix(loss=f"{float(values['loss']):.3f}" if "loss" in values else "", refresh=False)
        self._bar.update(1)

    def evaluating(self, step: int) -> None:
        self._bar.set_description("evaluating")

    def evaluated(self, record: dict[str, Any]) -> None:
        self._bar.set_description("training")
        self._say(self._line(record))

    def _line(self, record: dict[str, Any]) -> str:
        assert self._setup is not None
        steps_left = self._setup.steps - record["step"] - 1
        steps_done = max(1, record["step"] + 1 - self._first_step)
        left = (time.monotonic() - self._started) / steps_done * steps_left
        loss = f"loss {record['loss']:.4f}  " if "loss" in record else ""
        accuracies = "  ".join(
            f"{name}{'*' if i in self._setup.spec.test_envs else ''} "
            f"{in_percent(record.get(f'env{i}_in_acc'))}/{in_percent(record[f'env{i}_out_acc'])}"
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


def in_percent(accuracy: float | None) -> str:
    """An accuracy in percent with one decimal; a dash if it was not measured."""
    return "-" if accuracy is None else f"{100 * accuracy:.1f}"


def describe_run(setup: Setup) -> list[str]:
    """The lines that introduce a run: its algorithm, data, hyper-parameters, split sizes and left-out files."""
    from sfmoe_dg.data.splits import count_shared_identities

    names = setup.dataset.domain_names
    held_out = ", ".join(names[i] for i in setup.spec.test_envs)
    device = f"device {setup.device}"
    if setup.execution.world.shared:
        device += f" and {setup.execution.world.size - 1} more ({setup.execution.parallel})"
    lines = [f"{setup.spec}", f"{device}, {setup.num_parameters:,} parameters, held out: {held_out}", "hparams:"]
    lines += [f"  {name}: {value}" for name, value in sorted(setup.hparams.items())]
    lines.append("images (in + out):")
    lines += [f"  {name}: {len(split.in_)} + {len(split.out)}" for name, split in zip(names, setup.splits, strict=True)]
    shared = count_shared_identities(setup.dataset, setup.splits, setup.spec.test_envs)
    if shared:
        lines.append(f"{shared} objects are trained on in one domain and tested on in another (see --split identity)")
    if setup.dataset.ignored:
        shown = ", ".join(setup.dataset.ignored[:3]) + (", …" if len(setup.dataset.ignored) > 3 else "")
        lines.append(f"{len(setup.dataset.ignored)} files are no images by their ending: {shown}")
    if setup.dataset.skipped:
        lines.append(f"left out {len(setup.dataset.skipped)} images that do not decode:")
        lines += [f"  {image}" for image in setup.dataset.skipped]
    lines.append("accuracy in % on in-split/out-split, * marks a held-out domain:")
    return lines
