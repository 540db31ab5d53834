"""Reading the records of a folder of runs.

``load_records`` returns whole records. ``read_many.load_runs`` returns only their numbers, for tables of very many.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json
from sfmoe_dg.results.record_arrays import Block, RunKey, blocks_of
from sfmoe_dg.results.record_lines import Record as Record
from sfmoe_dg.results.record_lines import read_lines
from sfmoe_dg.runs.folder import ABOUT, RESULTS, RunFolder, run_folders


@dataclass
class LoadedRecords:
    """The records of a folder of runs. Do not change them: the records of a run share their ``args`` and ``hparams``.

    Attributes:
        problems: sentences for the user about what was left out or is doubtful.
        domains: data set → names of its domains, for data sets of which a run's ``run.json`` gives them.
    """

    records: list[Record]
    problems: list[str] = field(default_factory=list)
    domains: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many records."""
        return len(self.records)

    @property
    def blocks(self) -> list[Block]:
        """The numbers of the records, as tables need them."""
        return blocks_of(self.records)


# ------------------------------------------------------------------------------------------------------- reading


def load_records(input_dir: str | os.PathLike[str]) -> LoadedRecords:
    """Every record of ``<input_dir>/*/results.jsonl``, folders in the order of their names, lines in their order.

    A line that is not a usable record (a killed run's last one, mostly) is left out and reported in ``problems``.

    Raises:
        UserError: if the folder does not exist or no record can be read in it.

    Source: DomainBed, ``lib.reporting.load_records``, which reads in the order of the disk.

    Examples:
        >>> from sfmoe_dg import load_records
        >>> loaded = load_records("results")
        >>> loaded.total, loaded.problems
        (2, [])
        >>> 0 <= loaded.records[-1]["env3_in_acc"] <= 1
        True
    """
    root = Path(input_dir)
    notes = Notes(root)
    loaded = LoadedRecords([], notes.problems, notes.domains)
    for name in run_names(root):
        try:
            data = read_results(root / name)
        except OSError as error:
            notes.unreadable(name, error)
            continue
        records = [] if data is None else _records(notes, name, data)
        if records:
            repeated = len({record["step"] for record in records}) < len(records)
            notes.add(name, RunKey.of(records[0]), repeated)
            loaded.records.extend(records)
    if not loaded.records:
        raise notes.no_records()
    return loaded


def run_names(root: Path) -> list[str]:
    """The names of everything in a folder of runs, sorted.

    Raises:
        UserError: if there is no such folder.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"the folder {root} {what}; give the folder that holds one sub-folder per run")
    return sorted(os.listdir(root))


def runs_with_records(root: Path) -> list[RunFolder]:
    """The runs of a folder that have a results file, in order; nothing is read.

    Raises:
        UserError: if there is no such folder, or no results file in it.
    """
    run_names(root)
    folders = run_folders(root)
    if not folders:
        raise _no_records(root)
    return folders


def read_results(folder: str | os.PathLike[str]) -> bytes | None:
    """The results file of a run; None if there is none.

    Raises:
        OSError: if there is one that cannot be read.
    """
    try:
        with open(os.path.join(folder, RESULTS), "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


class Notes:
    """Collects ``problems`` and ``domains`` of ``LoadedRecords`` while a folder of runs is read."""

    def __init__(self, root: Path) -> None:
        self.problems: list[str] = []
        self.domains: dict[str, tuple[str, ...]] = {}
        self._root = root
        self._folder_of_run: dict[RunKey, str] = {}

    def unreadable(self, name: str, error: OSError) -> None:
        self.problems.append(f"{self._results(name)} cannot be read ({error.strerror}); its run is left out")

    def left_out(self, name: str, fault: str) -> None:
        self.problems.append(f"{self._results(name)}, {fault}; it is left out")

    def add(self, name: str, first: RunKey, repeated: bool) -> None:
        """Take note of a run. ``first``: the key of its first record; ``repeated``: two records have the same step."""
        self._note_repeats(name, first, repeated)
        if first.dataset not in self.domains:
            self._note_domains(os.path.join(self._root, name, ABOUT), first.dataset)

    def no_records(self) -> UserError:
        root, problems = self._root, self.problems
        if problems:
            return UserError(f"no readable record in {root}: {problems[0]} ({len(problems)} problem(s) in all)")
        return _no_records(root)

    def _results(self, name: str) -> Path:
        return self._root / name / RESULTS

    def _note_repeats(self, name: str, run: RunKey, repeated: bool) -> None:
        """Report a run that was trained twice, in one folder or in two. Selection pools both, as DomainBed does."""
        if repeated:
            self.problems.append(
                f"{self._results(name)} holds some steps more than once: the run was started again in the same folder"
            )
        first = self._folder_of_run.setdefault(run, name)
        if first != name:
            self.problems.append(
                f"{self._root / first} and {self._root / name} hold the same run ({run.dataset}, {run.algorithm}, "
                f"test_envs {list(run.test_envs)}, hparams_seed {run.hparams_seed}, trial_seed {run.trial_seed}); "
                "their records are pooled: move one of the two away"
            )

    def _note_domains(self, path: str, dataset: str) -> None:
        if not os.path.exists(path):
            return
        try:
            run = read_json(path)
        except UserError as error:
            self.problems.append(f"{error}; the names of its domains are not used")
            return
        domains = run.get("domains") if isinstance(run, dict) else None
        if isinstance(domains, list) and domains:
            self.domains[dataset] = tuple(str(name) for name in domains)


def _no_records(root: Path) -> UserError:
    """What is wrong with a folder in which no run has a results file."""
    if (root / RESULTS).exists():
        return UserError(f"{root} is the folder of one run; give the folder above it, {root.absolute().parent}")
    expected = f"expected <run>/{RESULTS} below it"
    return UserError(f"no records in {root}: {expected}; train there first, or give another folder")


def last_record(folder: str | os.PathLike[str]) -> Record:
    """The last record of one run.

    Raises:
        UserError: if its results cannot be read, or do not end with a record.
    """
    path = Path(folder) / RESULTS
    try:
        lines = list(read_lines(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the folder of a run") from None
    number, last = lines[-1] if lines else (0, "is missing")
    if isinstance(last, str):
        raise UserError(f"{path} holds no record of a finished run (line {number} {last}); train it to the end")
    return last


def _records(notes: Notes, name: str, data: bytes) -> list[Record]:
    records: list[Record] = []
    for number, record in read_lines(data):
        if isinstance(record, str):
            notes.left_out(name, f"line {number} {record}")
        else:
            records.append(_compact(record, records[-1] if records else {}))
    return records


def _compact(record: Record, previous: Record) -> Record:
    """The record with ``args`` and ``hparams`` of the previous one where they are equal: a fifth of the memory."""
    for name in ("args", "hparams"):
        if name in record and record[name] == previous.get(name):
            record[name] = previous[name]
    return {sys.intern(name): value for name, value in record.items()}
