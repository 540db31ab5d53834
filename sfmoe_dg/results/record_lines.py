"""The lines of a results.jsonl: what makes one a record, what is wrong with it otherwise, and a quick way for many.

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
"""Bits of a whole number beyond which it is none for us: floating point ends at 1024."""


def read_lines(data: bytes) -> Iterator[tuple[int, Record | str]]:
    """The number, from 1, and the record of every line of a file, or a sentence's end about what is wrong with it."""
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
    """The lines without their ends; the last one may lack its end."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return lines


def _fault(record: Any) -> str | None:
    """What keeps a parsed line from being a record, or None."""
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
    """The accuracies that a record must have: both of every held-out domain, and ``env{i}_out_acc`` of all."""
    names = [f"env{env}_{split}_acc" for env in test_envs for split in ("in", "out")]
    return names + [f"env{env}_out_acc" for env in range(num_domains(record))]


def table_names(record: Mapping[str, Any], test_envs: Sequence[int]) -> list[str]:
    """What tables are made of: ``step``, ``env{i}_in_acc`` of every held-out domain, and where that is one alone, its
    ``env{i}_out_acc`` and then those of all."""
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


# ------------------------------------------------------------------------------------------------ lines that are alike

_NUMBER_TYPES = (int, float)  # and not bool, whose words are no numbers


def numbers_of_alike(data: bytes) -> tuple[Record, array[float]] | None:
    """The first record, and the ``table_names`` numbers of all lines, one line after the other.

    None unless every line is a record with the first one's keys that differs from it in finite numbers alone: then
    ``read_lines`` has to look. Where this answers, it gives what ``read_lines`` would, to the last bit, in a fraction
    of its time: what is no number is not taken apart but compared as bytes.
    """
    lines = split_lines(data)
    try:
        record = json.loads(lines[0].decode())
        if _fault(record) is not None:
            return None
        numbers = tuple([type(value) in _NUMBER_TYPES for value in record.values()])
        reader = _line_reader(tuple(record), numbers, tuple(record["args"]["test_envs"]))
        found = list(map(reader.decode, lines))
    except (ValueError, RecursionError, IndexError):  # msgspec's errors are ValueErrors
        return None
    first = reader.constants(found[0])
    if not all(map(eq, map(reader.constants, found), repeat(first))):
        return None
    return record, array("d", chain.from_iterable(map(reader.needed, found)))


class _LineReader(NamedTuple):
    """``decode`` takes a line apart, ``constants`` picks what must be the same in all, ``needed`` what tables need."""

    decode: Callable[[bytes], Any]
    constants: attrgetter[Any]
    needed: attrgetter[Any]


@lru_cache(maxsize=4096)
def _line_reader(names: tuple[str, ...], numbers: tuple[bool, ...], test_envs: tuple[int, ...]) -> _LineReader:
    """How records with these keys, some of whose values are numbers, are read.

    Raises:
        ValueError: if a key is one that msgspec cannot take.
    """
    fields = {name: f"field{place}" for place, name in enumerate(names)}
    kinds = dict(zip(names, (float if number else msgspec.Raw for number in numbers), strict=True))
    line = msgspec.defstruct(
        "Line",
        [(field, kinds[name], msgspec.field(name=name)) for name, field in fields.items()],
        forbid_unknown_fields=True,
        gc=False,  # a third of the time; nothing in a line refers to it
    )
    constants = [fields[name] for name, kind in kinds.items() if kind is msgspec.Raw]
    needed = [fields[name] for name in table_names(dict.fromkeys(names), test_envs)]
    return _LineReader(msgspec.json.Decoder(line).decode, attrgetter(*constants), attrgetter(*needed))
