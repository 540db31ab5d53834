"""Writing ``results.jsonl``: one record a line, whole lines whatever happens."""

from __future__ import annotations

import json
import os
from typing import Any

from sfmoe_dg.foundation.files import named_errors


def append_record(path: str | os.PathLike[str], record: dict[str, Any]) -> None:
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
