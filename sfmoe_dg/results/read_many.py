"""Reads the numbers of all records of a folder of runs, as tables need them; for sweeps of millions of records.

Several processes may read at once. The result is in the order of the folders' names.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from sfmoe_dg.results.read import Notes, read_results, run_names
from sfmoe_dg.results.record_arrays import Block, read_blocks

FOLDERS_OF_A_PROCESS = 5000
"""One more process per this many folders: to read fewer takes about as long as to start a process on a busy machine."""

_BATCH = 128


@dataclass
class LoadedRuns:
    """As ``LoadedRecords``, with the numbers of the records in place of the records."""

    blocks: list[Block]
    problems: list[str]
    domains: dict[str, tuple[str, ...]]

    @property
    def total(self) -> int:
        """How many records."""
        return sum(len(block.values) for block in self.blocks)


class RunFile(NamedTuple):
    """The content of one run's results file (``record_arrays.read_blocks``).

    ``repeated``: two records have the same step. ``error``: why the file cannot be read, or None.
    """

    name: str
    blocks: list[Block]
    faults: list[str]
    repeated: bool
    error: OSError | None


def load_runs(input_dir: str | os.PathLike[str], processes: int = 1) -> LoadedRuns:
    """The numbers of the records that ``load_records`` gives, in the same order, with the same problems and domains.

    Args:
        processes: at most so many read at once; small folders are read by one. With more than one, the calling
            program must be importable without side effects (``if __name__ == "__main__":``).

    Raises:
        UserError: if the folder does not exist or no record can be read in it.
    """
    root = Path(input_dir)
    notes = Notes(root)
    blocks: list[Block] = []
    for run in _read(root, run_names(root), processes):
        if run.error is not None:
            notes.unreadable(run.name, run.error)
        for fault in run.faults:
            notes.left_out(run.name, fault)
        if run.blocks:
            notes.add(run.name, run.blocks[0].run, run.repeated)
            blocks += run.blocks
    if not blocks:
        raise notes.no_records()
    return LoadedRuns(blocks, notes.problems, notes.domains)


def _read(root: Path, names: Sequence[str], processes: int) -> Iterator[RunFile]:
    processes = min(processes, len(names) // FOLDERS_OF_A_PROCESS)
    if processes < 2:
        yield from read_files(str(root), names)
        return
    batches = [names[start : start + _BATCH] for start in range(0, len(names), _BATCH)]
    with ProcessPoolExecutor(processes, get_context("spawn"), _leave_interrupts_to_parent) as pool:
        try:
            for run_files in pool.map(partial(_read_batch, str(root)), batches):
                yield from run_files
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_batch(root: str, names: Iterable[str]) -> list[RunFile]:
    return list(read_files(root, names))


def read_files(root: str, names: Iterable[str]) -> Iterator[RunFile]:
    """The results files of some runs; folders without one are left out."""
    for name in names:
        try:
            data = read_results(os.path.join(root, name))
        except OSError as error:
            yield RunFile(name, [], [], False, error)
            continue
        if data is not None:
            blocks, faults = read_blocks(data)
            steps = [step for block in blocks for step in block.steps.tolist()]
            yield RunFile(name, blocks, faults, len(set(steps)) < len(steps), None)
