"""The manifest of a built folder, ``FOLDER/.manifest.jsonl``: one line per file with its path, size and SHA-256.

Hidden files and folders are not listed; the readers ignore them too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import atomic_file

NAME = ".manifest.jsonl"

Manifest = Mapping[str, tuple[int, str]]
"""Path below the folder, with ``/`` → size and SHA-256."""


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder that are not hidden, sorted, with ``/``."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(parent).relative_to(folder)
        yield from ((below / name).as_posix() for name in sorted(names) if not name.startswith("."))


def write_manifest(folder: Path, progress: bool = False) -> Path:
    """Write a folder's manifest; every file is read once."""
    with atomic_file(folder / NAME) as out:
        for path in _with_bar(list(files_below(folder)), "listing", progress):
            file = folder / path
            line = {"path": path, "size": file.stat().st_size, "sha256": sha256_of(file)}
            out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return folder / NAME


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none.

    Raises:
        UserError: if it is damaged.
    """
    try:
        with open(folder / NAME, encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
            return {line["path"]: (line["size"], line["sha256"]) for line in found}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / NAME} is damaged; delete it to check {folder} without it") from None


def differences(folder: Path, manifest: Manifest, *, checksums: bool = True, progress: bool = False) -> list[str]:
    """One sentence per file that is missing, extra, cut off or changed."""
    present = set(files_below(folder))
    problems = [f"missing: {path}" for path in sorted(manifest.keys() - present)]
    problems += [f"extra: {path}" for path in sorted(present - manifest.keys())]
    for path in _with_bar(sorted(present & manifest.keys()), "checking", progress):
        size, sha256 = manifest[path]
        found = (folder / path).stat().st_size
        if found != size:
            what = "truncated" if found < size else "changed"
            problems.append(f"{what}: {path} has {found} bytes, not {size}")
        elif checksums and sha256_of(folder / path) != sha256:
            problems.append(f"changed: {path} has another SHA-256 than when it was built")
    return problems


def sha256_of(path: Path) -> str:
    """The checksum of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _with_bar(paths: list[str], what: str, progress: bool) -> Iterator[str]:
    yield from tqdm(paths, desc=what, unit=" files", disable=None if progress else True, leave=False)
