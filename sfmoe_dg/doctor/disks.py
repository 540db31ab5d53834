"""Check the disk that runs are written to: free space, the abilities of its file system; and shared memory."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from sfmoe_dg.doctor.findings import Finding, Probe, ok, problem, warning

GIB = 2**30
TOO_LITTLE, LITTLE = 1 * GIB, 10 * GIB
"""A checkpoint of a base-size ViT with its optimiser takes 1 GiB, a sweep that keeps its models many times that."""
FEW_INODES = 10_000
"""A run leaves some ten files."""
SHARED_MEMORY = Path("/dev/shm")
LITTLE_SHARED = GIB // 2
"""Four loader processes, each two updates of 5 × 32 images ahead, keep 4 · 2 · 160 · 3 · 224² bytes there, 0.18 GiB."""


def probes(output_dir: Path) -> list[Probe]:
    late = problem("disk", f"the file system of {output_dir} does not answer; choose another folder for results")
    return [
        Probe("disk", lambda: room(output_dir), seconds=10.0, late=late),
        Probe("disk", lambda: abilities(output_dir), seconds=10.0, late=late),
        Probe("shared memory", shared_memory, seconds=10.0),
    ]


def existing(folder: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    folder = folder.absolute()
    return next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))


def room(output_dir: Path) -> Iterator[Finding]:
    place = existing(output_dir)
    try:
        free = shutil.disk_usage(place).free
        inodes = os.statvfs(place)
    except OSError as error:
        yield problem("disk", f"{place} cannot be asked for room ({error.strerror}); choose another folder")
        return
    text = f"{free / GIB:.1f} GiB free for {output_dir}"
    if free < TOO_LITTLE:
        yield problem("disk", f"{text}: checkpoints will not fit; make room or choose another disk")
    elif free < LITTLE:
        yield warning("disk", f"{text}: a sweep that keeps its models needs more; set skip_model_save or make room")
    else:
        yield ok("disk", text)
    # Some file systems (btrfs, most network disks) make inodes as needed and report zero.
    if inodes.f_files and inodes.f_favail < FEW_INODES:
        yield problem(
            "disk", f"only {inodes.f_favail} more files fit on the disk of {place}; delete files or choose another"
        )


def abilities(output_dir: Path) -> Iterator[Finding]:
    """Try writing, exclusive creation (which leases need), atomic renaming and locks in a temporary folder."""
    place = existing(output_dir)
    folder = place / f".sfmoe_dg_doctor.{secrets.token_hex(4)}"
    try:
        folder.mkdir()
    except OSError as error:
        yield problem("disk", f"{place} cannot be written to ({error.strerror}); choose another folder")
        return
    try:
        failed = [
            name
            for name, works in (("exclusive creation", _creates), ("atomic renaming", _renames))
            if not works(folder)
        ]
        locks = _locks(folder)
    except OSError as error:
        yield problem("disk", f"{place} fails while it is written to ({error.strerror}); choose another folder")
        return
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        yield problem(
            "disk",
            f"{' and '.join(failed)} does not work in {place}, so two processes may train one run; choose another disk",
        )
    elif not locks:
        yield warning(
            "disk", f"file locks do not work in {place}; runs do without, but build data sets on another disk"
        )
    else:
        yield ok("disk", f"{place} can be written to; exclusive creation, atomic renaming and file locks work")


def _creates(folder: Path) -> bool:
    with open(folder / "lease", "xb"):
        pass
    try:
        with open(folder / "lease", "xb"):
            return False
    except FileExistsError:
        return True


def _renames(folder: Path) -> bool:
    (folder / "old").write_text("old")
    (folder / "new").write_text("new")
    os.replace(folder / "new", folder / "old")
    return (folder / "old").read_text() == "new" and not (folder / "new").exists()


def _locks(folder: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    with open(folder / "lock", "wb") as one, open(folder / "lock", "wb") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                return False
            raise
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    return True


def shared_memory() -> Iterator[Finding]:
    if not SHARED_MEMORY.is_dir():
        return
    try:
        size = shutil.disk_usage(SHARED_MEMORY).total
    except OSError as error:
        yield warning("shared memory", f"{SHARED_MEMORY} cannot be asked for its size ({error.strerror}); see df")
        return
    text = f"{size / GIB:.2g} GiB in {SHARED_MEMORY}"
    if size < LITTLE_SHARED:
        yield warning(
            "shared memory",
            f"{text}: loader processes may be killed; give the container more (shm-size), or set num_workers to 0",
        )
    else:
        yield ok("shared memory", text)
