"""``python -m sfmoe_dg`` is the ``sfmoe-dg`` command, and :func:`program` is what both call.

Its process ends without taking the interpreter apart: with torch loaded that takes as long as a few training steps, and
frees nothing that the end of a process does not free. Everything that is meant to happen at an exit happens before.
"""

from __future__ import annotations

import atexit
import os
import sys

_first_handler = getattr(atexit, "_ncallbacks", lambda: 1)() == 0
"""Handlers run in the reverse order of their registration. One that is older than ours would be skipped, so then the
interpreter ends as usual (coverage's, for example, where it measures sub-processes)."""
_status: int | None = None
"""The command's exit code, once it has returned one."""


def _leave() -> None:
    if _status is None:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        # What libraries in C have printed lies in a buffer of its own.
        import ctypes

        ctypes.CDLL(None).fflush(None)
    except Exception:  # a stream is closed or full: the interpreter knows what to say
        return
    os._exit(_status)


if _first_handler:
    atexit.register(_leave)

# Below the registration, so that handlers of everything imported from here on run before ours.
from sfmoe_dg.cli.main import main  # noqa: E402


def program() -> int:
    """Run the command given on the command line, and return its exit code for ``sys.exit``."""
    global _status
    status = main()
    _status = status
    return status


if __name__ == "__main__":
    sys.exit(program())
