"""Unpack zip and tar archives that may be damaged or malicious.

The folder gets its name only when it is complete. Owners, modes and times of members are ignored.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import atomic_file

CHUNK = 1 << 20
MAX_LINK = 4096
"""Longest target of a symbolic link, in bytes."""

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    RuntimeError,  # an encrypted member
    NotImplementedError,  # a compression that Python does not know
)


class BadArchiveError(UserError):
    """The file is not a complete archive, or a member leads out of the target folder."""


class _Member(NamedTuple):
    """One entry of an archive. ``kind``: file, folder, symlink, hardlink, or another word."""

    name: str
    kind: str
    size: int
    link: str
    open: Callable[[], IO[bytes]]


def safe_path(name: str) -> PurePosixPath | None:
    """A name from an archive or a list as a path below a root; None if it leads out of the root or is not valid."""
    name = name.replace("\\", "/")
    path = PurePosixPath(name)
    is_drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
    if path.is_absolute() or ".." in path.parts or "\0" in name or is_drive:
        return None
    return path


def extract(archive: Path, target: Path, *, progress: bool = False) -> Path:
    """Unpack a zip or tar(.gz, .bz2, .xz) file to the new folder ``target``, completely or not at all.

    Members are first written to a hidden folder beside ``target``. An interrupted call leaves it behind; the next one
    removes it.

    Args:
        progress: show a bar on stderr if that is a terminal.

    Raises:
        BadArchiveError: if the file is not an archive or damaged, or has a member that is outside the target (absolute,
            ``..``, through a link), a link to the outside, a device, or a name that occurs twice.
        UserError: if ``target`` exists or there is not enough space.
    """
    if target.exists():
        raise UserError(f"{target} exists already; move it away to unpack {archive} there")
    temporary = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with tqdm(
            desc=f"unpacking {archive.name}", unit=" files", disable=None if progress else True, leave=False
        ) as bar:
            unpacker = _Unpacker(archive, temporary)
            for member in _members(archive):
                unpacker.add(member)
                bar.update()
        unpacker.check_links()
        os.replace(temporary, target)
    except _DAMAGE as error:
        raise BadArchiveError(f"{archive} is damaged or not whole ({_reason(error)}); get it again") from None
    except OSError as error:
        raise _os_error(archive, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def gunzip(archive: Path, target: Path, max_size: int = 1 << 30) -> Path:
    """Uncompress one gzip file to ``target``.

    Raises:
        BadArchiveError: if the file is damaged or larger than ``max_size`` bytes.
    """
    size = 0
    try:
        with gzip.open(archive) as packed, atomic_file(target) as file:
            while chunk := packed.read(CHUNK):
                size += len(chunk)
                if size > max_size:
                    raise BadArchiveError(f"{archive} holds more than {max_size} bytes, which is not what it should be")
                file.write(chunk)
    except _DAMAGE as error:
        raise BadArchiveError(f"{archive} is damaged or not whole ({_reason(error)}); get it again") from None
    except OSError as error:
        raise _os_error(archive, error) from None
    return target


def _members(archive: Path) -> Iterator[_Member]:
    with open(archive, "rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"pk\x03\x04", b"pk\x05\x06")):
        with zipfile.ZipFile(archive) as zipped:
            yield from _zip_members(zipped)
        return
    if head.startswith((b"<!doctype html", b"<html")):
        raise BadArchiveError(f"{archive} is a web page, not an archive; get the file itself")
    with _open_tar(archive) as tar:
        yield from _tar_members(tar)


def _open_tar(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r:*")
    except tarfile.ReadError:
        raise BadArchiveError(
            f"{archive} is neither a zip nor a tar file, or damaged from the start; get it again"
        ) from None


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        kind = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink"}.get(mode, "a device")
        if info.is_dir():
            kind = "folder"
        link = ""
        if kind == "symlink":
            link = os.fsdecode(archive.open(info).read(MAX_LINK))
        yield _Member(info.filename, kind, info.file_size, link, partial(archive.open, info))


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    opened: Any = archive
    while (info := archive.next()) is not None:
        opened.members.clear()  # otherwise tarfile keeps every header, a kilobyte each
        if info.isreg():
            kind = "file"
        elif info.isdir():
            kind = "folder"
        elif info.issym() or info.islnk():
            kind = "symlink" if info.issym() else "hardlink"
        else:
            kind = "a device"
        yield _Member(info.name, kind, info.size, info.linkname, partial(opened.extractfile, info))


class _Unpacker:
    """Writes members below ``root``, and never through a link."""

    def __init__(self, archive: Path, root: Path) -> None:
        self.archive, self.root = archive, root
        self.free = shutil.disk_usage(root).free
        self.total = 0
        self.symlinks: set[PurePosixPath] = set()

    def add(self, member: _Member) -> None:
        path = safe_path(member.name)
        if path is None:
            raise self._refuse(member, "lies outside the folder it is unpacked to")
        if path == PurePosixPath(".") and member.kind == "folder":
            return
        if any(parent in self.symlinks for parent in (path, *path.parents)):
            raise self._refuse(member, "lies behind a link")
        self.total += member.size
        if self.total > self.free:
            raise UserError(
                f"{self.archive} needs more than {self.total} bytes unpacked, and {self.free} are free; free some space"
            )
        place = self.root / path
        try:
            self._place(member, path, place)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise self._refuse(member, "has a name that occurs twice") from None

    def _place(self, member: _Member, path: PurePosixPath, place: Path) -> None:
        if member.kind == "folder":
            place.mkdir(parents=True, exist_ok=True)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if member.kind == "file":
            self._write(member, place)
        elif member.kind == "symlink":
            if member.link.startswith(("/", "\\")) or not member.link:
                raise self._refuse(member, f"is a link to {member.link!r}, outside the folder")
            place.symlink_to(member.link)
            self.symlinks.add(path)
        elif member.kind == "hardlink":
            self._link(member, place)
        else:
            raise self._refuse(member, f"is {member.kind}")

    def _write(self, member: _Member, place: Path) -> None:
        left = member.size
        with member.open() as source, open(place, "xb") as file:
            while left and (chunk := source.read(min(CHUNK, left))):
                file.write(chunk)
                left -= len(chunk)
            if left or source.read(1):
                raise EOFError(f"{member.name} has another size than it should")

    def _link(self, member: _Member, place: Path) -> None:
        source = safe_path(member.link)
        if source is None or any(parent in self.symlinks for parent in (source, *source.parents)):
            raise self._refuse(member, f"is a link to {member.link!r}, outside the folder or through a link")
        if not (self.root / source).is_file():
            raise self._refuse(member, f"is a link to {member.link!r}, which is no file before it")
        os.link(self.root / source, place)

    def check_links(self) -> None:
        """A link may lead through other links, so they are checked when all are there."""
        root = os.path.realpath(self.root)
        for path in sorted(self.symlinks):
            end = os.path.realpath(self.root / path)
            if end != root and not end.startswith(root + os.sep):
                raise BadArchiveError(
                    f"{self.archive} is refused: its member {path} is a link to a place outside the folder"
                )

    def _refuse(self, member: _Member, why: str) -> UserError:
        return BadArchiveError(
            f"{self.archive} is refused: its member {member.name!r} {why}; get the archive from its authors"
        )


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _os_error(archive: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk is full while {archive} is unpacked; free some space and run the command again")
    if error.errno is None:  # gzip raises these for a wrong checksum or header
        return BadArchiveError(f"{archive} is damaged or not whole ({_reason(error)}); get it again")
    return UserError(
        f"{archive} cannot be unpacked ({error.strerror}: {error.filename}); check the disk and permissions"
    )
