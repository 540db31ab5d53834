"""One process at a time: locks on files and folders."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sfmoe_dg.foundation.errors import UserError


@contextlib.contextmanager
def file_lock(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock while the block runs. It is the kernel's, so it ends with its process, however that ends.

    On a file system without locks nothing is held and two processes may go on at once.

    Args:
        path: a folder that is there, or a file that serves for nothing else; it is made, with its folder, and stays.
        busy: what to say if another process holds the lock; without it, wait until it does not.

    Raises:
        UserError: ``busy``.
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
