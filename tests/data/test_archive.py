"""Archives: members that would be written outside the target folder are refused, others are unpacked."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sfmoe_dg.data.builders.archive import _Unpacker, extract, gunzip, safe_path
from sfmoe_dg.foundation.errors import UserError

FILES = {"top/a/1.txt": b"one", "top/b/2.txt": b"two" * 1000, "top/empty.txt": b""}


def zipped(path: Path, files: dict[str, bytes], **modes: int) -> Path:
    """A zip file; ``modes`` are kinds of members (``stat.S_IFLNK``, …) by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = modes.get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return path


def tarred(path: Path, members: list[tuple[str, bytes, str] | tuple[str, bytes, str, str]], mode: str = "w:gz") -> Path:
    """A tar file of (type, content, name[, link])."""
    kinds = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "sym": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}
    kinds |= {"char": tarfile.CHRTYPE, "fifo": tarfile.FIFOTYPE}
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for kind, content, name, *link in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kinds[kind], len(content), "".join(link)
            archive.addfile(info, io.BytesIO(content))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:xz", "w:bz2"])
def test_unpacks(tmp_path: Path, kind: str) -> None:
    if kind == "zip":
        archive = zipped(tmp_path / "archive", FILES | {"top/c/": b""})
    else:
        members: Any = [("dir", b"", "top"), *(("file", content, name) for name, content in FILES.items())]
        archive = tarred(tmp_path / "archive", [*members, ("dir", b"", "top/c")], kind)
    target = extract(archive, tmp_path / "out")
    assert files_of(target) == FILES
    assert (target / "top/c").is_dir()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["archive", "out"]


def test_interrupted_unpacking_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".out.unpacking" / "old").mkdir(parents=True)
    assert files_of(extract(zipped(tmp_path / "z", FILES), tmp_path / "out")) == FILES
    with pytest.raises(UserError, match="out exists already"):
        extract(tmp_path / "z", tmp_path / "out")


OUTSIDE = "lies outside the folder"
TAR_ATTACKS = {
    "dots": ([("file", b"x", "a/../../evil")], OUTSIDE),
    "absolute": ([("file", b"x", "/tmp/evil")], OUTSIDE),
    "backslashes": ([("file", b"x", "..\\evil")], OUTSIDE),
    "drive": ([("file", b"x", "C:/evil")], OUTSIDE),
    "folder outside": ([("dir", b"", "../evil")], OUTSIDE),
    "symlink absolute": ([("sym", b"", "a", "/etc/passwd")], "is a link to '/etc/passwd'"),
    "symlink outside": ([("sym", b"", "a", "../evil")], "is a link to a place outside"),
    "symlink in a folder": ([("sym", b"", "a/b", "../../evil")], "is a link to a place outside"),
    "through a link": ([("dir", b"", "d"), ("sym", b"", "a", "d"), ("file", b"x", "a/evil")], "lies behind a link"),
    "over a link": ([("sym", b"", "a", "b"), ("file", b"x", "a")], "lies behind a link"),
    # b/c/up is the root itself, so b/c/up/.. is outside, although its text alone (b/c) is not.
    "links through links": (
        [("sym", b"", "out", "b/c/up/.."), ("sym", b"", "b/c/up", "../..")],
        "out is a link to a place outside",
    ),
    "hard link outside": ([("hard", b"", "a", "../evil")], "is a link to '../evil'"),
    "hard link absolute": ([("hard", b"", "a", "/etc/passwd")], "is a link to '/etc/passwd'"),
    "hard link to a link": ([("sym", b"", "a", "b"), ("hard", b"", "c", "a")], "is a link to 'a'"),
    "hard link to nothing": ([("hard", b"", "a", "later")], "is no file before it"),
    "device": ([("char", b"", "null")], "is a device"),
    "pipe": ([("fifo", b"", "pipe")], "is a device"),
    "twice": ([("file", b"x", "a"), ("file", b"y", "./a")], "has a name that occurs twice"),
    "folder over file": ([("file", b"x", "a"), ("dir", b"", "a")], "has a name that occurs twice"),
    "file as folder": ([("file", b"x", "a"), ("file", b"y", "a/b")], "has a name that occurs twice"),
}


@pytest.mark.parametrize("attack", TAR_ATTACKS)
def test_hostile_tar(tmp_path: Path, attack: str) -> None:
    members, message = TAR_ATTACKS[attack]
    inside = tmp_path / "in"
    inside.mkdir()
    archive = tarred(inside / "evil.tar.gz", [("file", b"good", "good"), *members])
    with pytest.raises(UserError, match=f"evil.tar.gz is refused: its member .*{message}"):
        extract(archive, inside / "out")
    assert [item.name for item in inside.iterdir()] == ["evil.tar.gz"], "nothing is left"
    assert [item.name for item in tmp_path.iterdir()] == ["in"], "nothing got out"


ZIP_ATTACKS = {
    "dots": ({"../evil": b"x"}, {}, OUTSIDE),
    "absolute": ({"/tmp/evil": b"x"}, {}, OUTSIDE),
    "symlink": ({"a": b"../../evil"}, {"a": stat.S_IFLNK}, "is a link to a place outside"),
    "symlink absolute": ({"a": b"/etc"}, {"a": stat.S_IFLNK}, "is a link to '/etc'"),
    "device": ({"a": b""}, {"a": stat.S_IFBLK}, "is a device"),
}


@pytest.mark.parametrize("attack", ZIP_ATTACKS)
def test_hostile_zip(tmp_path: Path, attack: str) -> None:
    files, modes, message = ZIP_ATTACKS[attack]
    archive = zipped(tmp_path / "evil.zip", files, **modes)
    with pytest.raises(UserError, match=f"evil.zip is refused: its member .*{message}"):
        extract(archive, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["evil.zip"]


def test_links_that_stay_inside(tmp_path: Path) -> None:
    archive = tarred(
        tmp_path / "a.tar",
        [("file", b"x", "d/a"), ("hard", b"", "b", "d/a"), ("sym", b"", "d/c", "../b"), ("sym", b"", "e", "nowhere")],
    )
    target = extract(archive, tmp_path / "out")
    assert (target / "b").read_bytes() == (target / "d/c").read_bytes() == b"x"
    assert os.readlink(target / "e") == "nowhere"


def test_modes_are_not_taken_over(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "z", {"run": b"x"}, run=stat.S_IFREG | stat.S_ISUID | 0o777)
    assert not (extract(archive, tmp_path / "out") / "run").stat().st_mode & 0o7111


def test_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says it will need is compared with what is free, before it is written."""
    archive = zipped(tmp_path / "bomb.zip", {"a": bytes(10_000), "b": bytes(10_000)})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=15_000))
    with pytest.raises(UserError, match="needs more than 20000 bytes unpacked, and 15000 are free"):
        extract(archive, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["bomb.zip"]


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tmp_path / "z", FILES)

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_Unpacker, "_write", no_room)
        with pytest.raises(UserError, match=r"the disk is full while .* is unpacked; free some space and run"):
            extract(archive, tmp_path / "out")
    assert files_of(extract(archive, tmp_path / "out")) == FILES


@pytest.mark.parametrize("kind", ["zip", "w:gz", "w:xz", "w"])
def test_truncated(tmp_path: Path, kind: str) -> None:
    content = os.urandom(50_000)
    path = tmp_path / "archive"
    zipped(path, {"a": content}) if kind == "zip" else tarred(path, [("file", content, "a")], kind)
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(UserError, match=r"is damaged or not whole \(.*\); get it again"):
        extract(path, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html>", "is a web page, not an archive"),
        (b"just text", "is neither a zip nor a tar file"),
        (b"", "is neither a zip nor a tar file"),
    ],
)
def test_not_an_archive(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=message):
        extract(tmp_path / "a", tmp_path / "out")


def test_gunzip(tmp_path: Path) -> None:
    archive = tmp_path / "a.gz"
    archive.write_bytes(gzip.compress(b"digits"))
    assert gunzip(archive, tmp_path / "a").read_bytes() == b"digits"
    with pytest.raises(UserError, match="holds more than 5 bytes"):
        gunzip(archive, tmp_path / "b", max_size=5)
    archive.write_bytes(gzip.compress(os.urandom(1000))[:500])
    with pytest.raises(UserError, match="is damaged or not whole"):
        gunzip(archive, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_safe_path() -> None:
    assert str(safe_path("a/./b\\c")) == "a/b/c"
    assert [safe_path(name) for name in ("/a", "..", "a/../b", "\\a", "c:\\a", "a\0b")] == [None] * 6
