"""Append records to ``results.jsonl``, one JSON object per line."""

from __future__ import annotations

import json
import os
from typing import Any

from sfmoe_dg.foundation.files import named_errors


def append_record(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Append one record to a results file. A kill during the write can break no line but the last.

    Keys are sorted. NumPy numbers and arrays, and tensors, are written as JSON numbers and lists; NaN is written as
    ``NaN``, as DomainBed does. If a killed run left a broken last line, the record starts on a new line.

    Raises:
        OSError: if the record cannot be written completely.
    """
    line = json.dumps(record, sort_keys=True, default=_plain).encode() + b"\n"
    # os.write, not a buffered file: the line is on its way in one piece, and fsync makes it survive a crash.
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
    """Convert NumPy values and tensors to Python's types. ``json`` calls this for types that it does not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a record holds {value!r} of type {type(value).__name__}, which JSON has no form for")
