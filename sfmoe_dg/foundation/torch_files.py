"""torch's files: written atomically, read with ``weights_only=True``."""

from __future__ import annotations

import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import torch

from sfmoe_dg.foundation.files import atomic_file

_FOREIGN = (pickle.UnpicklingError, LookupError, AttributeError, TypeError, AssertionError, struct.error)
"""What torch's reader raises, beside what :func:`load_torch` names, on bytes that it did not write."""


def save_torch(path: Path, content: Any) -> None:
    """``torch.save``, atomically.

    Raises:
        OSError: with the file's name, also for a full disk, which torch reports as an error of its archive.
    """
    with atomic_file(path) as file:
        try:
            torch.save(content, file)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(path)) from None
            raise


def load_torch(path: Path) -> Any:
    """The content of a torch file, on the CPU: tensors, numbers, texts and containers; nothing in it is ever run.

    Raises:
        ValueError: if the file is none, or holds anything else.
        OSError, RuntimeError, EOFError: if it cannot be read or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are refused right after
            return torch.load(path, map_location="cpu", weights_only=True)
    except _FOREIGN:
        raise ValueError("it is no torch file, or holds Python objects, which are never run") from None
