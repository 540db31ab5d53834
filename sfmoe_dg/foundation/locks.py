"""Locks on files and folders, held by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError


@contextlib.contextmanager
def file_lock(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock while the block runs. The kernel releases it when the process ends, even if it is killed.

    On a file system without locks nothing is locked, and two processes may enter at once.

    Args:
        path: an existing folder, or a file that is only a lock: it is made, with its folder, and never deleted.
        busy: the error message if another process holds the lock; if empty, wait for the lock.

    Raises:
        UserError: ``busy``, if another process holds the lock.
        OSError: if the file cannot be made.
    """
    is_folder = path.is_dir()
    if not is_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
