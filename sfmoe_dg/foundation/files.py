"""List, read JSON, write files atomically, make folders; errors name the file."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sfmoe_dg.foundation.errors import UserError


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: if the file cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error.msg} in line {error.lineno}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not valid JSON: it is not UTF-8 text") from None


def names_in(folder: str | os.PathLike[str]) -> set[str]:
    """The names of all that lies in a folder; none if there is no such folder, or no longer."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


@contextlib.contextmanager
def named_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the name of the file to errors of the file system that lack it, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, and its parents, unless it exists.

    Raises:
        UserError: if it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "A file, not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"{reason}: {folder}; choose a folder that can be written") from None
    return folder


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new binary file that replaces ``path`` when the block ends, and is deleted if the block raises.

    Readers see either the old content or the whole new content, even if the process dies.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with named_errors(target):
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file atomically; see :func:`atomic_file`."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
