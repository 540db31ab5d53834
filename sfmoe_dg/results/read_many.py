"""The numbers of all records of a folder of runs, as tables need them: for sweeps of millions of records.

Several processes may read; what they find is put together in the order of the folders' names.
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
"""Another process for so many folders: reading fewer takes about as long as starting one on a busy machine."""

_BATCH = 128


@dataclass
class LoadedRuns:
    """``LoadedRecords`` (where ``problems`` and ``domains`` are explained) with the numbers of the records alone."""

    blocks: list[Block]
    problems: list[str]
    domains: dict[str, tuple[str, ...]]

    @property
    def total(self) -> int:
        """How many records."""
        return sum(len(block.values) for block in self.blocks)


class RunFile(NamedTuple):
    """What a run's results file holds; see ``columns.read_blocks``. ``error``: that it cannot be read."""

    name: str
    blocks: list[Block]
    faults: list[str]
    repeated: bool
    error: OSError | None


def load_runs(input_dir: str | os.PathLike[str], processes: int = 1) -> LoadedRuns:
    """The numbers of the records that ``load_records`` gives, in the same order, with the same problems and domains.

    Args:
        processes: read in up to so many, where the folder is large enough for it to be worth while. More than one
            need a program that may be imported without doing anything (``if __name__ == "__main__":``).

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
            notes.add(run.name, run.blocks[0].facts, run.repeated)
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
            for found in pool.map(partial(_read_batch, str(root)), batches):
                yield from found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_batch(root: str, names: Iterable[str]) -> list[RunFile]:
    return list(read_files(root, names))


def read_files(root: str, names: Iterable[str]) -> Iterator[RunFile]:
    """The results files of some runs; what has none is left out."""
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
