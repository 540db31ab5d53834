"""Write torch files atomically, and read them without running code in them (``weights_only=True``)."""

from __future__ import annotations

import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import torch

from sfmoe_dg.foundation.files import atomic_file

_FOREIGN = (pickle.UnpicklingError, LookupError, AttributeError, TypeError, AssertionError, struct.error)
"""Further exceptions that torch's reader raises on files that torch did not write."""


def save_torch(path: Path, content: Any) -> None:
    """``torch.save``, atomically.

    Raises:
        OSError: with the name of the file; also for a full disk, for which torch raises a RuntimeError.
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
    """The content of a torch file, on the CPU. No code in it is run.

    Raises:
        ValueError: if it is not a torch file, or holds more than tensors, numbers, strings and containers of them.
        OSError, RuntimeError, EOFError: if it cannot be read or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the pickle protocol of files that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except _FOREIGN:
        raise ValueError("it is no torch file, or holds Python objects, which are never run") from None
