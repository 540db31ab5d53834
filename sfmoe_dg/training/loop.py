"""The training loop: one run, from its specification to its records, interrupted or not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import make_folder
from sfmoe_dg.foundation.processes import World, all_max
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.runs.lease import Lease, acquire, refuse_living_owner
from sfmoe_dg.runs.progress import Progress, write_progress
from sfmoe_dg.runs.records import append_record
from sfmoe_dg.runs.spec import RunSpec
from sfmoe_dg.training.checkpoint import Position, Random, load_state, save_state
from sfmoe_dg.training.evaluate import evaluate, validation_loss
from sfmoe_dg.training.model_file import save_model, save_trained
from sfmoe_dg.training.pending_values import PendingValues
from sfmoe_dg.training.prepare import Execution, Setup, describe, prepare
from sfmoe_dg.training.reporters.reporter import Reporter

PROGRESS_SECONDS = 10.0


class Stopped(Exception):
    """The run was asked to stop and has saved its checkpoint; ``step`` is None if it had not begun."""

    def __init__(self, step: int | None) -> None:
        super().__init__(step)
        self.step = step


class StopRequest:
    """Training looks at ``requested`` between steps and between batches of an evaluation; a signal handler sets it."""

    requested = False


def train(
    spec: RunSpec,
    output_dir: str | Path,
    execution: Execution | None = None,
    reporter: Reporter | None = None,
    stop: StopRequest | None = None,
) -> None:
    """Train one run and write its folder; ``done`` comes last.

    An interrupted run goes on from its last checkpoint; its records, predictions and weights are the same as without
    the interruption. A run that left records but no checkpoint starts again; the old records are kept as
    ``results.interrupted.jsonl``.

    Raises:
        UserError: for bad input, and for a folder whose run is done: a finished run is never overwritten.
        Owned: if another process trains in this folder.
        LeaseLost: if another process took the run over, because this one showed no sign of life.
        Stopped: after saving, once ``stop`` is requested.

    Examples:
        >>> from sfmoe_dg import Execution, Options, RunSpec, load_records, train
        >>> options = Options(eval="fast")
        >>> run = RunSpec(dataset="StyledDigits", algorithm="SFMoE", test_envs=(3,), steps=10, options=options)
        >>> train(run, "results/one", Execution(device="cpu", num_workers=0))
        >>> [record["step"] for record in load_records("results").records]
        [0, 9]
    """
    folder, world = RunFolder(Path(output_dir)), (execution or Execution()).world
    _refuse_done(folder)
    if world.leads:
        refuse_living_owner(folder.path)
    reporter = reporter or Reporter()
    setup = prepare(spec, execution)
    try:
        with _held(folder, world, reporter) as lease:
            _refuse_done(folder)
            _Training(setup, folder, lease, reporter, stop or StopRequest()).run()
    finally:
        setup.close()


def _refuse_done(folder: RunFolder) -> None:
    if folder.is_done:
        raise UserError(
            f"{folder} holds a finished run; choose another output_dir, or delete it to train again", "output_dir"
        )


@contextmanager
def _held(folder: RunFolder, world: World, reporter: Reporter) -> Iterator[Lease | None]:
    """Hold the folder's lease. The leading process holds it for all, and the other processes wait until it does.

    If bad input (an image that does not decode) ends the run before its first record, a folder that was made here is
    removed again.
    """
    made, emptied = [path for path in (folder.path, *folder.path.parents) if not path.exists()], False
    if world.leads:
        make_folder(folder)
    try:
        with acquire(folder.path, on_wait=reporter.waiting) if world.leads else nullcontext() as lease:
            if world.shared:
                all_max(0)
            try:
                yield lease
            except UserError:
                emptied = bool(made) and lease is not None and _empty(folder, lease)
                raise
    finally:
        with suppress(OSError):  # something that was not made here lies in it
            for path in made if emptied else ():
                path.rmdir()


def _empty(folder: RunFolder, lease: Lease) -> bool:
    """Delete what a run wrote before its first record. If there is more, touch nothing and return False."""
    written = [path for path in folder.path.iterdir() if path != lease.path]
    has_more = folder.is_done or folder.begun_files or any(path.is_dir() for path in written)
    if has_more or not lease.holds():
        return False
    for path in written:
        path.unlink(missing_ok=True)
    return True


class _Training:
    """One run in training, in a folder whose lease this process or the leading one holds."""

    def __init__(
        self, setup: Setup, folder: RunFolder, lease: Lease | None, reporter: Reporter, stop: StopRequest
    ) -> None:
        self.setup, self.folder, self.lease, self.reporter, self.stop = setup, folder, lease, reporter, stop
        self.world = setup.execution.world
        self.seen = PendingValues()
        self.last_save = self.last_progress = time.monotonic()
        self.begun, self.first_step = time.monotonic(), 0

    def run(self) -> None:
        if self.world.leads:
            self.folder.remove_leftovers()
        position = load_state(self.folder, self.setup)
        self._compare(position.step)
        notice = self._open_folder(position)
        self.setup.algorithm.train()
        self.reporter.started(self.setup, position.step + 1, notice)
        self.seen = PendingValues(position.seen)
        self.first_step = position.step + 1
        if position.due:
            self._evaluate(position.step, Random.now(self.setup.device), dict(position.record))
            self.begun = time.monotonic()  # this evaluation belongs to a step of the process before
        self._train_steps(position.step + 1)
        self._finish()

    def _compare(self, step: int) -> None:
        if self.world.shared and all_max(step, -step) != [step, -step]:
            raise UserError(
                f"the processes of this run find different checkpoints in {self.folder}; it must lie on a file system "
                "that all of them see"
            )

    def _open_folder(self, position: Position) -> str:
        """Cut the records back to the checkpoint and write run.json; returns a sentence for the user."""
        if not self.world.leads:
            return ""
        results = self.folder.results
        notice = position.notice
        if position.step >= 0:
            with results.open("ab") as file:
                # The run makes the records after the checkpoint again.
                file.truncate(position.records_bytes)
            notice = notice or f"goes on after step {position.step}"
        elif results.exists() and results.stat().st_size:
            os.replace(results, self.folder.interrupted)
        self.folder.write_about(describe(self.setup))
        return notice

    def _train_steps(self, first: int) -> None:
        setup, algorithm = self.setup, self.setup.algorithm
        started = time.time()
        for batch in setup.train_loader.batches(first, setup.steps):
            algorithm.schedule(batch.step, setup.steps)
            with algorithm.precision.autocast():
                values = algorithm.update(batch.minibatches, batch.unlabeled)
            self.seen.add(values)
            due = batch.step % setup.checkpoint_freq == 0 or batch.step == setup.steps - 1
            if due:
                self.seen.numbers()  # wait for the device, so that the steps' time is not counted as the evaluation's
            self.seen.add({"step_time": time.time() - started})
            self.reporter.stepped(batch.step, values)
            random = Random.now(setup.device)
            self._pulse(batch.step, due, random, {})
            if due:
                self._evaluate(batch.step, random, {})
            started = time.time()

    def _evaluate(self, step: int, random: Random, record: dict[str, Any]) -> None:
        """Evaluate, append the record, and save; ``record`` holds what was measured before an interruption."""
        setup, algorithm = self.setup, self.setup.algorithm
        self.reporter.evaluating(step)
        if setup.validation_loader is not None and algorithm.needs_validation_loss and "validation_loss" not in record:
            pulse = self._evaluation_pulse(step, random, {})
            loss = validation_loss(algorithm, setup.validation_loader, step, pulse)
            record["validation_loss"] = loss
            algorithm.validated(loss)
            random = Random.now(setup.device)
        pulse = self._evaluation_pulse(step, random, record)
        accuracies = evaluate(
            algorithm, setup.eval_loader, setup.splits, step, pulse, out_only=setup.measured_on_out_only(step)
        )
        line = self._record(step, record | accuracies)
        self._check_lease()
        if self.world.leads:
            append_record(self.folder.results, line)
        self.reporter.evaluated(line)
        if setup.spec.save_model_every_checkpoint and not setup.spec.skip_model_save:
            path = self.folder.model_of_step(step)
            save_model(path, algorithm, setup.spec.args(str(self.folder)), write=self.world.leads)
        self.seen.clear()
        self._save(step, False, Random.now(setup.device), {})
        self._note_progress(step)

    def _evaluation_pulse(self, step: int, random: Random, record: dict[str, Any]) -> Callable[[], None]:
        # Processes that share an evaluation are at different batches, so they cannot stop or save together there.
        return (lambda: None) if self.world.shared else lambda: self._pulse(step, True, random, record)

    def _pulse(self, step: int, due: bool, random: Random, record: dict[str, Any]) -> None:
        """Stop if a stop is requested, and save if it is time; ``random`` holds the generators' states to save.

        Raises:
            Stopped: after saving.
        """
        now, stop = time.monotonic(), self.stop.requested
        save = now - self.last_save >= 60 * self.setup.execution.checkpoint_minutes
        if self.world.shared:
            stop, save = map(bool, all_max(stop, save))
        if stop or save:
            self._save(step, due, random, record)
        if stop:
            raise Stopped(step)
        if now - self.last_progress >= PROGRESS_SECONDS:
            self._note_progress(step)

    def _save(self, step: int, due: bool, random: Random, record: dict[str, Any]) -> None:
        self._check_lease()
        results = self.folder.results
        size = results.stat().st_size if results.exists() else 0
        save_state(self.folder, self.setup, Position(step, due, self.seen.numbers(), record, size), random)
        self.last_save = time.monotonic()

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.check()

    def _note_progress(self, step: int) -> None:
        """Write the step and the seconds per step, evaluations included; ``sfmoe-dg status`` reads them."""
        passed = step + 1 - self.first_step
        if not self.world.leads or not passed:
            return
        self.last_progress = time.monotonic()
        write_progress(self.folder, Progress(step, self.setup.steps, (self.last_progress - self.begun) / passed))

    def _finish(self) -> None:
        setup, folder = self.setup, self.folder
        self._check_lease()
        if not setup.spec.skip_model_save:
            save_trained(folder, setup.algorithm, setup.spec.args(str(folder)), write=self.world.leads)
        if self.world.leads:
            folder.finish()

    def _record(self, step: int, measured: dict[str, Any]) -> dict[str, Any]:
        """One line of results.jsonl, with upstream's keys."""
        setup = self.setup
        record: dict[str, Any] = {"step": step, "epoch": step / setup.steps_per_epoch}
        record |= self.seen.means() | measured
        peak = torch.cuda.max_memory_allocated(setup.device) if setup.device.type == "cuda" else 0
        record["mem_gb"] = peak / 1024**3
        record["hparams"] = setup.hparams
        record["args"] = setup.spec.args(str(self.folder))
        changed = setup.spec.options.changed()
        return record | ({"options": changed} if changed else {})
