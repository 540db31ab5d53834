"""Reads the lines of a results.jsonl: checks that each is a record, and reads long files of like lines quickly.

A record is the JSON object that DomainBed's train script writes at every checkpoint: ``step``, ``env{i}_in_acc``,
``env{i}_out_acc``, ``hparams`` and ``args``. Ours may carry one more key, ``options``, where a run deviates from
DomainBed's behaviour.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from operator import attrgetter, eq
from typing import Any, NamedTuple

import msgspec

Record = dict[str, Any]

NEEDED_ARGS = {"algorithm": str, "dataset": str, "hparams_seed": int, "test_envs": list, "trial_seed": int}

_TOO_LARGE = 1000
"""A whole number of more bits is not accepted as a number: the largest float has 1024 bits."""


def read_lines(data: bytes) -> Iterator[tuple[int, Record | str]]:
    """For every line of a file its number (from 1) and its record; a string instead says what is wrong with the line,
    as the end of a sentence (``"is not valid JSON"``)."""
    lines = split_lines(data)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode())
            fault = _fault(record)
        except (ValueError, RecursionError):
            last = number == len(lines)
            fault = "is cut short or broken, as a killed run leaves it" if last else "is not valid JSON"
        yield number, record if fault is None else fault


def split_lines(data: bytes) -> list[bytes]:
    """The lines without their line ends; the last line may lack its end."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return lines


def _fault(record: Any) -> str | None:
    """Why a parsed line is not a record; None if it is one."""
    args = record.get("args") if isinstance(record, dict) else None
    if not isinstance(args, dict):
        return "has no 'args'"
    for name, kind in NEEDED_ARGS.items():
        if not isinstance(args.get(name), kind):
            return f"has no {name!r} of type {kind.__name__} in its 'args'"
    if not _is_number(record.get("step")):
        return "has no number 'step'"
    if not isinstance(record.get("options", {}), dict):
        return "has 'options' that are not an object"
    test_envs = args["test_envs"]
    if not test_envs or not all(isinstance(env, int) for env in test_envs):
        return "has 'test_envs' that are not a list of domain numbers"
    for name in accuracy_names(record, test_envs):
        if not _is_number(record.get(name)):
            return f"has no number {name!r}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _TOO_LARGE)


def accuracy_names(record: Mapping[str, Any], test_envs: Sequence[int]) -> list[str]:
    """The accuracies that a record must have: "in" and "out" of every held-out domain, "out" of all domains."""
    names = [f"env{env}_{split}_acc" for env in test_envs for split in ("in", "out")]
    return names + [f"env{env}_out_acc" for env in range(num_domains(record))]


def table_names(record: Mapping[str, Any], test_envs: Sequence[int]) -> list[str]:
    """The entries of a record that tables use: ``step`` and ``env{i}_in_acc`` of every held-out domain; if there is
    exactly one, also its ``env{i}_out_acc``, then that of all domains."""
    names = ["step", *(f"env{env}_in_acc" for env in test_envs)]
    if len(test_envs) == 1:
        names += [f"env{env}_out_acc" for env in (test_envs[0], *range(num_domains(record)))]
    return names


def num_domains(record: Mapping[str, Any]) -> int:
    """How many domains a record has accuracies of."""
    count = 0
    while f"env{count}_out_acc" in record:
        count += 1
    return count


def options_label(record: Record) -> str:
    """``'[name=value, …]'`` for a run with options that deviate from DomainBed's behaviour; ``''`` for others."""
    options = record.get("options")
    if not options:
        return ""
    parts = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items())
    return f"[{', '.join(sorted(parts))}]"


def dataset_label(record: Record) -> str:
    """The data set's name in tables, with the options, so that runs with different options are never averaged."""
    options = options_label(record)
    return f"{record['args']['dataset']} {options}" if options else str(record["args"]["dataset"])


# ------------------------------------------------------------------------------------------------ lines that are alike

_NUMBER_TYPES = (int, float)  # bool is left out: JSON writes it as true and false


def numbers_of_alike(data: bytes) -> tuple[Record, array[float]] | None:
    """The first record, and the ``table_names`` numbers of all lines, one line after the other.

    Returns None unless all lines are records with the same keys that differ only in finite numbers; such a file is for
    ``read_lines``. Otherwise the numbers equal those of ``read_lines`` to the last bit, in a fraction of its time,
    because values that are not numbers are compared as bytes and never parsed.
    """
    lines = split_lines(data)
    try:
        record = json.loads(lines[0].decode())
        if _fault(record) is not None:
            return None
        numbers = tuple([type(value) in _NUMBER_TYPES for value in record.values()])
        reader = _line_reader(tuple(record), numbers, tuple(record["args"]["test_envs"]))
        decoded = list(map(reader.decode, lines))
    except (ValueError, RecursionError, IndexError):  # msgspec's errors are ValueErrors
        return None
    first = reader.constants(decoded[0])
    if not all(map(eq, map(reader.constants, decoded), repeat(first))):
        return None
    return record, array("d", chain.from_iterable(map(reader.needed, decoded)))


class _LineReader(NamedTuple):
    """``decode`` parses a line; of the result, ``constants`` gives the values that must be equal in all lines and
    ``needed`` those that tables use."""

    decode: Callable[[bytes], Any]
    constants: attrgetter[Any]
    needed: attrgetter[Any]


@lru_cache(maxsize=4096)
def _line_reader(names: tuple[str, ...], numbers: tuple[bool, ...], test_envs: tuple[int, ...]) -> _LineReader:
    """A reader of records with these keys; ``numbers`` says of each key whether its value is a number.

    Raises:
        ValueError: if msgspec does not accept a key.
    """
    fields = {name: f"field{place}" for place, name in enumerate(names)}
    kinds = dict(zip(names, (float if number else msgspec.Raw for number in numbers), strict=True))
    line = msgspec.defstruct(
        "Line",
        [(field, kinds[name], msgspec.field(name=name)) for name, field in fields.items()],
        forbid_unknown_fields=True,
        gc=False,  # three times as fast; a line holds no reference to itself
    )
    constants = [fields[name] for name, kind in kinds.items() if kind is msgspec.Raw]
    needed = [fields[name] for name in table_names(dict.fromkeys(names), test_envs)]
    return _LineReader(msgspec.json.Decoder(line).decode, attrgetter(*constants), attrgetter(*needed))
