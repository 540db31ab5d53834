"""Build CUB-DG: first the pictures, each written atomically, then the table, then the manifest.

``manifest.json`` is written at the start, with ``complete: false``, and at the end, with ``complete: true``. The same
command continues an interrupted build. It keeps the files that are there and ends with the bytes of an uninterrupted
build, because a batch of pictures is always computed completely, with one thread, even if some of them are there. Other
machines or library versions may give other last bits.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfmoe_dg.data.builders.manifest import sha256_of
from sfmoe_dg.data.cub_dg.names import FOLDER, MANIFEST, TABLE
from sfmoe_dg.data.cub_dg.plan import BuildOptions, Plan, make_plan, split_name
from sfmoe_dg.data.cub_dg.table import BirdTable, pyarrow_module, read_table, write_table
from sfmoe_dg.data.cub_dg.work import StyleTask, run_tasks
from sfmoe_dg.foundation.cores import file_threads, usable_cores
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json, write_atomic
from sfmoe_dg.foundation.locks import file_lock

Progress = Callable[[int, int], None]
"""Called with the number of pictures so far and in all."""

MAX_GPU_JOBS = 4
_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]+\.tmp$")  # left behind by a killed files.atomic_file


@dataclass(frozen=True)
class BuildReport:
    """The result of a build: the folder ``CUB_DG``, pictures made now and in all, and the manifest."""

    folder: Path
    made: int
    total: int
    manifest: dict[str, Any]


def build(options: BuildOptions, progress: Progress | None = None) -> BuildReport:
    """Make ``options.out / "CUB_DG"``, or continue making it.

    Raises:
        UserError: on inputs that do not fit, a folder that holds something else or another build, a disk that is full
            or cannot be written to, processes that die, and without pyarrow. Finished work stays, and the same command
            continues it.
    """
    pyarrow_module("pyarrow.parquet")  # the table at the end needs it
    plan = make_plan(options)
    folder = Path(options.out) / FOLDER
    manifest = plan.manifest()
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Two builders would remove each other's temporary files.
        with file_lock(folder, busy=f"another build is writing to {folder}; wait for it or choose another folder"):
            if _open_folder(folder, manifest) and _remove_damaged(folder, plan) == 0 and not _missing(folder, plan):
                return BuildReport(folder, 0, len(plan.files), read_json(folder / MANIFEST))
            _write_manifest(folder, {**manifest, "complete": False})
            made = _make_pictures(folder, plan, options.jobs, progress or (lambda done, total: None))
            checksums = _check_files(folder, plan)
            write_table(folder / TABLE, _annotations(plan, checksums))
            manifest |= {"complete": True, "table": {"file": TABLE, "sha256": sha256_of(folder / TABLE)}}
            _write_manifest(folder, manifest)
    return BuildReport(folder, made, len(plan.files), manifest)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"the disk is full, {where} could not be written; free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"{where} cannot be written ({error.strerror}); check its permissions or choose another folder"
        else:
            what = f"{where} could not be written ({error.strerror or error}); check the disk"
        raise UserError(f"{what}, then give the same command again: it continues where it stopped") from None


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _open_folder(folder: Path, manifest: dict[str, Any]) -> bool:
    """Refuse a folder that holds another build or other files; True if this build is complete."""
    if not (folder / MANIFEST).is_file():
        found = sorted(path.name for path in folder.iterdir() if not _TEMPORARY.match(path.name))
        if found:
            raise UserError(f"{folder} holds {found[0]} but no {MANIFEST}, so no build made it; choose another folder")
        return False
    former = read_json(folder / MANIFEST)
    if not isinstance(former, dict):
        raise UserError(f"{folder / MANIFEST} is not a manifest of CUB-DG; choose another folder")
    planned = json.loads(json.dumps(manifest))
    # Counts follow from the other values; naming them would hide which value the user changed.
    different = sorted(key for key in planned if key != "counts" and former.get(key) != planned[key])
    if different:
        raise UserError(
            f"{folder} holds a build that differs in {', '.join(different)} (see {MANIFEST} there); delete the folder "
            "or choose another folder"
        )
    _remove_temporary(folder)
    return former.get("complete") is True


def _remove_temporary(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            if _TEMPORARY.match(name):
                os.unlink(os.path.join(parent, name))


def verify(folder: Path) -> list[str]:
    """One sentence per difference between a build's files and its manifest and table; empty if there is none.

    Every picture is read, so that a truncated one is found.

    Raises:
        UserError: if there is no complete build in ``folder``, or its table cannot be read.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("complete") is not True:
        raise UserError(f"{folder} is not built to the end; give the command that builds it again")
    table = read_table(folder / TABLE)
    problems = []
    if sha256_of(folder / TABLE) != manifest["table"]["sha256"]:
        problems.append(f"{TABLE} has changed since it was built")
    there = {file: digest for file, digest in zip(table.file, table.sha256, strict=True) if (folder / file).is_file()}
    problems += [f"{file} is missing" for file in table.file if file not in there]
    now = _checksums(folder / file for file in there)
    problems += [
        f"{file} has changed since it was built" for file, new in zip(there, now, strict=True) if new != there[file]
    ]
    return problems + [f"{file} is no part of CUB-DG" for file in _extra(folder, set(table.file))]


def _remove_damaged(folder: Path, plan: Plan) -> int:
    """Delete pictures of a complete build that were changed, so that they are made again; returns their number.

    If the table is missing or changed, nothing tells which pictures changed, and all are deleted.
    """
    known = _built_checksums(folder)
    there = [file for file in plan.files if (folder / file).is_file()]
    now = _checksums(folder / file for file in there)
    damaged = [file for file, digest in zip(there, now, strict=True) if known.get(file) != digest]
    for file in damaged:
        (folder / file).unlink()
    return len(damaged)


def _built_checksums(folder: Path) -> dict[str, str]:
    """The table's checksum of every picture; empty if it is not the table of the manifest."""
    try:
        if sha256_of(folder / TABLE) != read_json(folder / MANIFEST)["table"]["sha256"]:
            return {}
        table = read_table(folder / TABLE)
    except (FileNotFoundError, KeyError, TypeError, UserError):
        return {}
    return dict(zip(table.file, table.sha256, strict=True))


def _extra(folder: Path, expected: set[str]) -> list[str]:
    """Files in the domains' folders that are not expected there."""
    found = []
    for parent, _, names in os.walk(folder):
        below = Path(parent).relative_to(folder)
        found += [(below / name).as_posix() for name in names if below.parts]
    return sorted(set(found) - expected)


def _checksums(paths: Iterable[Path]) -> list[str]:
    with ThreadPoolExecutor(max_workers=file_threads()) as pool:
        return list(pool.map(sha256_of, paths))


def _missing(folder: Path, plan: Plan) -> list[str]:
    return [file for file in plan.files if not (folder / file).is_file()]


def _check_files(folder: Path, plan: Plan) -> list[str]:
    """Check that the domains' folders hold the planned files and no others; returns checksums in the plan's order."""
    _remove_temporary(folder)
    extra = _extra(folder, set(plan.files))
    if extra:
        raise UserError(
            f"{folder / extra[0]} is no part of CUB-DG ({len(extra)} such files); move it away and give the same "
            "command again"
        )
    return _checksums(folder / file for file in plan.files)


def _make_pictures(folder: Path, plan: Plan, jobs: int | None, progress: Progress) -> int:
    """Make the missing pictures; returns their number."""
    missing = set(_missing(folder, plan))
    for parent in {os.path.dirname(file) for file in plan.files}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    tasks = [
        StyleTask(plan.birds.root / "images", folder, batch, domains, plan.styles, str(plan.device))
        for batch in plan.batches
        if (domains := tuple(d for d in plan.domains if any(s.file(d) in missing for s in batch)))
    ]
    total = len(plan.files)
    done = total - sum(task.num_pictures for task in tasks)
    progress(done, total)
    for number in run_tasks(tasks, min(jobs or _auto_jobs(plan.device), max(1, len(tasks)))):
        done += number
        progress(done, total)
    return len(missing)


def _auto_jobs(device: torch.device) -> int:
    cores = usable_cores()
    return cores if device.type == "cpu" else min(MAX_GPU_JOBS, cores)


def _annotations(plan: Plan, checksums: list[str]) -> BirdTable:
    """One row per image and domain, by image, then by domain: the same picture geometry in every domain."""
    birds, sources, domains = plan.birds, plan.sources, plan.domains
    rows = np.repeat([source.row for source in sources], len(domains))
    each = [source for source in sources for _ in domains]
    return BirdTable(
        file=plan.files,
        sha256=checksums,
        domain=list(domains) * len(sources),
        class_name=[birds.classes[birds.labels[row]] for row in rows],
        name=[source.name for source in each],
        image_id=birds.ids[rows],
        split=[split_name(birds, row) for row in rows],
        size=np.array([source.placement.size for source in each]),
        box=np.stack([source.placement.boxes(birds.boxes[source.row]) for source in each]),
        parts=np.stack([source.placement.parts(birds.parts[source.row]) for source in each]),
        present=birds.attributes.present[rows],
        certainty=birds.attributes.certainty[rows],
        attribute_source=[birds.attributes.source] * len(rows),
        part_names=birds.part_names,
        attribute_names=birds.attributes.names,
    )
