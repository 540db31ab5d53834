"""The lines of a results.jsonl: what makes one a record, what is wrong with it otherwise, and a quick way for many.

A record is the JSON object that DomainBed's train script writes at every checkpoint: ``step``, ``env{i}_in_acc``,
``env{i}_out_acc``, ``hparams`` and ``args``. Ours may carry one more key, ``options``, where a run deviates from
DomainBed's behaviour.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

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

_DECODER = json.JSONDecoder()
# What JSON calls a number, and the three words that Python's json adds. The first form is the usual one, and is there
# for speed; no text has two of the forms, or a line that does not match would be tried in every mixture of them. Whole
# numbers of more than 18 digits, and -0, which is 0 as a whole number, are left to the parser.
_NUMBER = (
    r"(?:[0-9]\.[0-9]+(?:[eE][-+]?[0-9]+)?"
    r"|(?![0-9]\.|-0[,}])-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
    r"|NaN|-?Infinity)"
)
_NUMBER_TYPES = (int, float)  # and not bool, whose words are no numbers


def numbers_of_alike(data: bytes) -> tuple[Record, array[float]] | None:
    """The first record, and the ``table_names`` numbers of all lines, one line after the other.

    None unless every line is a record with the same keys in the same order as the first, differs from it in numbers
    alone, and has the form that ``json.dumps`` gives it: then ``read_lines`` has to look. Where this answers, it gives
    what ``read_lines`` would, to the last bit, in a fraction of its time: what is alike is compared as bytes, and the
    rest of a line is checked, number by number, by one regular expression.
    """
    lines = split_lines(data)
    try:
        first = lines[0].decode()
        record = json.loads(first)
        if _fault(record) is not None:
            return None
        short = _without(lines, _constant_texts(first, record))
    except (ValueError, RecursionError, IndexError):
        return None
    numbers = tuple([type(value) in _NUMBER_TYPES for value in record.values()])
    reader = _line_reader(tuple(record), numbers, tuple(record["args"]["test_envs"]))
    found = reader.pattern.findall(short) if reader is not None else ()
    if reader is None or len(found) != len(lines):
        return None
    return record, array("d", map(float, chain.from_iterable(map(reader.needed, found))))


def _constant_texts(line: str, record: Record) -> list[tuple[bytes, bytes]]:
    """Of every value that is not a number, in the line's order: its key as it is written, and key and value.

    Raises:
        ValueError: if they are written in another form than ``json.dumps`` gives them.
    """
    texts, start = [], 0
    for name, value in record.items():
        if type(value) not in _NUMBER_TYPES:
            key = f"{json.dumps(name)}: "
            start = line.index(key, start)
            end = _DECODER.raw_decode(line, start + len(key))[1]
            texts.append((key.encode(), line[start:end].encode()))
            start = end
    return texts


def _without(lines: list[bytes], constants: list[tuple[bytes, bytes]]) -> str:
    """The lines with a mark in place of each constant.

    Raises:
        ValueError: if one of them lacks a constant, or is not UTF-8.
    """
    parts: list[bytes] = []
    for line in lines:
        start = 0
        for key, text in constants:
            end = line.index(key, start)
            if not line.startswith(text, end):
                raise ValueError("not alike")
            parts += (line[start:end], b"\2")
            start = end + len(text)
        parts += (line[start:], b"\n")
    return b"".join(parts).decode()


class _LineReader(NamedTuple):
    """``pattern`` finds numbers in a line without its constants, ``needed`` picks those that are wanted of them."""

    pattern: re.Pattern[str]
    needed: itemgetter[Any]


@lru_cache(maxsize=4096)
def _line_reader(names: tuple[str, ...], numbers: tuple[bool, ...], test_envs: tuple[int, ...]) -> _LineReader | None:
    """How lines with these keys, some of whose values are numbers, are read; None if an accuracy is no number."""
    pattern, captured = _line_pattern(names, numbers)
    record = dict.fromkeys(names)
    if not {"step", *accuracy_names(record, test_envs)} <= set(captured):
        return None
    return _LineReader(pattern, itemgetter(*(captured.index(name) for name in table_names(record, test_envs))))


@lru_cache(maxsize=1024)
def _line_pattern(names: tuple[str, ...], numbers: tuple[bool, ...]) -> tuple[re.Pattern[str], list[str]]:
    """The pattern, and the names of what it captures."""
    parts, captured = [], []
    for name, number in zip(names, numbers, strict=True):
        wanted = number and re.fullmatch(r"step|env-?\d+_(in|out)_acc", name) is not None
        captured += [name] if wanted else []
        value = f"({_NUMBER})" if wanted else _NUMBER
        parts.append(f"{re.escape(json.dumps(name))}: {value}" if number else "\2")
    return re.compile(rf"^\{{{', '.join(parts)}\}}$", re.MULTILINE), captured
