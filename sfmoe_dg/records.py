"""Reading and writing what a run leaves behind: results.jsonl, one record a line, and small files written whole.

A record is the JSON object that DomainBed's train script writes at every checkpoint: ``step``, ``env{i}_in_acc``,
``env{i}_out_acc``, ``hparams`` and ``args``. Ours may carry one more key, ``options``, where a run deviates from
DomainBed's behaviour.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sfmoe_dg.errors import UserError

Record = dict[str, Any]

RESULTS = "results.jsonl"
_NEEDED_ARGS = {"algorithm": str, "dataset": str, "hparams_seed": int, "test_envs": list, "trial_seed": int}


@dataclass
class LoadedRecords:
    """The records of a folder of runs; read-only, since the records of a run share their ``args`` and ``hparams``.

    ``problems`` are sentences for the user about what was left out or is doubtful; ``domains`` maps a data set to
    the names of its domains where a run's ``run.json`` gives them.
    """

    records: list[Record]
    problems: list[str] = field(default_factory=list)
    domains: dict[str, tuple[str, ...]] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------- reading


def load_records(input_dir: str | os.PathLike[str]) -> LoadedRecords:
    """Every record of ``<input_dir>/*/results.jsonl``, folders in the order of their names, lines in their order.

    A line that is not a usable record (a killed run's last one, mostly) is left out and reported in ``problems``.

    Raises:
        UserError: if the folder does not exist or no record can be read in it.

    Source: DomainBed, ``lib.reporting.load_records``, which reads in the order of the disk.
    """
    root = Path(input_dir)
    _require_folder(root)
    loaded = LoadedRecords([])
    folder_of_run: dict[str, Path] = {}
    for path in sorted(root.glob(f"*/{RESULTS}"), key=lambda p: p.parent.name):
        records = _read_file(path, loaded.problems)
        if not records:
            continue
        _note_repeats(path, records, folder_of_run, loaded.problems)
        _note_domains(path, records[0], loaded)
        loaded.records.extend(records)
    if not loaded.records:
        raise _no_records(root, loaded.problems)
    return loaded


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"--input_dir {root} {what}; give the folder that holds one sub-folder per run")


def _no_records(root: Path, problems: list[str]) -> UserError:
    if problems:
        return UserError(f"no readable record in {root}: {problems[0]} ({len(problems)} problem(s) in all)")
    if (root / RESULTS).exists():
        return UserError(f"{root} is the folder of one run; give the folder above it, {root.absolute().parent}")
    return UserError(f"no records in {root}: expected <run>/{RESULTS} below it; train there first or check --input_dir")


def _read_file(path: Path, problems: list[str]) -> list[Record]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror}); its run is left out")
        return []
    if lines[-1] == b"":
        lines.pop()
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode())
            fault = _fault(record)
        except (ValueError, RecursionError):
            last = number == len(lines)
            fault = "is cut short or broken, as a killed run leaves it" if last else "is not valid JSON"
        if fault is None:
            records.append(_compact(record, records[-1] if records else {}))
        else:
            problems.append(f"{path}, line {number} {fault}; it is left out")
    return records


def _compact(record: Record, previous: Record) -> Record:
    """The same record, sharing what repeats from line to line: a fifth of the memory."""
    for name in ("args", "hparams"):
        if name in record and record[name] == previous.get(name):
            record[name] = previous[name]
    return {sys.intern(name): value for name, value in record.items()}


def _fault(record: Any) -> str | None:
    """What keeps a parsed line from being a record, or None."""
    args = record.get("args") if isinstance(record, dict) else None
    if not isinstance(args, dict):
        return "has no 'args'"
    for name, kind in _NEEDED_ARGS.items():
        if not isinstance(args.get(name), kind):
            return f"has no {name!r} of type {kind.__name__} in its 'args'"
    if not isinstance(record.get("step"), (int, float)):
        return "has no number 'step'"
    if not isinstance(record.get("options", {}), dict):
        return "has 'options' that are not an object"
    test_envs = args["test_envs"]
    if not test_envs or not all(isinstance(env, int) for env in test_envs):
        return "has 'test_envs' that are not a list of domain numbers"
    for name in _accuracy_names(record, test_envs):
        if not isinstance(record.get(name), (int, float)):
            return f"has no number {name!r}"
    return None


def _accuracy_names(record: Record, test_envs: list[int]) -> Iterator[str]:
    for env in test_envs:
        yield f"env{env}_in_acc"
        yield f"env{env}_out_acc"
    for env in range(len(record)):
        name = f"env{env}_out_acc"
        if name not in record:
            return
        yield name


def _note_repeats(path: Path, records: list[Record], folder_of_run: dict[str, Path], problems: list[str]) -> None:
    """Report a run that was started twice, in one folder or in two: selection pools both, as DomainBed does."""
    if len({record["step"] for record in records}) < len(records):
        problems.append(f"{path} holds some steps more than once: the run was started again in the same folder")
    args = records[0]["args"]
    run = repr((dataset_label(records[0]), [args[name] for name in _NEEDED_ARGS]))
    first = folder_of_run.setdefault(run, path.parent)
    if first != path.parent:
        problems.append(
            f"{first} and {path.parent} hold the same run ({args['dataset']}, {args['algorithm']}, test_envs "
            f"{args['test_envs']}, hparams_seed {args['hparams_seed']}, trial_seed {args['trial_seed']}); "
            "their records are pooled: move one of the two away"
        )


def _note_domains(path: Path, record: Record, loaded: LoadedRecords) -> None:
    dataset = record["args"]["dataset"]
    if dataset in loaded.domains or not (path.parent / "run.json").exists():
        return
    try:
        run = read_json(path.parent / "run.json")
    except UserError as error:
        loaded.problems.append(f"{error}; the names of its domains are not used")
        return
    domains = run.get("domains") if isinstance(run, dict) else None
    if isinstance(domains, list) and domains:
        loaded.domains[dataset] = tuple(str(name) for name in domains)


def options_label(record: Record) -> str:
    """``''``, or ``'[name=value, …]'`` for a run that deviates from DomainBed's behaviour."""
    options = record.get("options")
    if not options:
        return ""
    parts = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items())
    return f"[{', '.join(sorted(parts))}]"


def dataset_label(record: Record) -> str:
    """The data set's name in tables: with the options, so that runs that differ in them are never averaged."""
    options = options_label(record)
    return f"{record['args']['dataset']} {options}" if options else str(record["args"]["dataset"])


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: if the file cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error.msg} in line {error.lineno}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not valid JSON: it is not UTF-8 text") from None


# ------------------------------------------------------------------------------------------------------- writing


def append_record(path: str | os.PathLike[str], record: Record) -> None:
    """Add one line to a results file, so that a killed run leaves whole lines and at most one broken one.

    Keys are sorted; NumPy numbers and arrays become JSON's; NaN is written as DomainBed writes it. A file that a
    killed run left without its last newline is continued on a line of its own.
    """
    line = json.dumps(record, sort_keys=True, default=_plain).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        with named_errors(path):
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = os.write(descriptor, line)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if written != len(line):
        raise OSError(f"{path}: only {written} of {len(line)} bytes of a record were written; is the disk full?")


def _plain(value: Any) -> Any:
    """NumPy's (or a tensor's) own types as Python's; asked by json for what it does not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a record holds {value!r} of type {type(value).__name__}, which JSON has no form for")


@contextlib.contextmanager
def named_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give errors of the file system that lack it (a full disk's, mostly) the name of the file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of ``path`` when the block ends, and vanishes if it raises.

    Readers see the old content or the whole new one, whenever the process dies.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with named_errors(target):
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a whole file or nothing; see ``atomic_file``."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
