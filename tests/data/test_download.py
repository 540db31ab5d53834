"""Downloads from a local server that cuts connections, refuses requests, changes files and misreports them."""

from __future__ import annotations

import errno
import hashlib
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from file_server import Served, serving

from sfmoe_dg.data.builders import download as module
from sfmoe_dg.data.builders.download import Digests, digests, download
from sfmoe_dg.foundation.errors import UserError

BODY = bytes(range(256)) * 40  # 10,240 bytes
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
HAND = "get it by hand and give it with --archive FILE"


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@contextmanager
def one(**kwargs: Any) -> Iterator[tuple[str, Served]]:
    served = Served(**{"body": BODY} | kwargs)
    with serving({"/a.zip": served}) as address:
        yield f"{address}/a.zip", served


def get(url: str, target: Path, **kwargs: Any) -> Digests:
    return download(url, target, by_hand=HAND, pause=0.001, timeout=5, **kwargs)


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.zip"
    with one() as (url, served):
        found = get(url, target, sha256=SHA256.upper(), md5=MD5)
    assert found == Digests(10240, SHA256, MD5) == digests(target)
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["a.zip"]
    assert served.requests == [(None, None)]


@pytest.mark.parametrize("etag", ["", '"1"'])
def test_cut_connection_goes_on_where_it_stopped(tmp_path: Path, etag: str) -> None:
    with one(cuts=[4000, 0, 3000], etag=etag) as (url, served):
        get(url, tmp_path / "a.zip", sha256=SHA256)
    mark = etag or None
    assert served.requests == [(None, None), *[(f"bytes={n}-", mark) for n in (4000, 4000, 7000)]]
    assert names(tmp_path) == ["a.zip"]


def test_later_call_goes_on_where_an_earlier_one_gave_up(tmp_path: Path) -> None:
    with one(cuts=[4000, 0, 0]) as (url, served):
        with pytest.raises(UserError, match=r"could not be received \(.*4000 of 10240 bytes\); 4000 bytes are kept in"):
            get(url, tmp_path / "a.zip", attempts=3)
        assert names(tmp_path) == ["a.zip.part", "a.zip.part.json"]
        assert get(url, tmp_path / "a.zip").sha256 == SHA256
    assert served.requests[-1] == ("bytes=4000-", None)


def test_attempts_count_only_those_that_bring_nothing_new(tmp_path: Path) -> None:
    """Nine cuts with two attempts, since each brings something; a server without ranges that always cuts ends."""
    with one(cuts=[1000] * 9) as (url, served):
        get(url, tmp_path / "a.zip", attempts=2, sha256=SHA256)
    assert len(served.requests) == 10
    refused = pytest.raises(UserError, match=f"could not be received.*or {HAND}")
    with one(cuts=[1000] * 9, ranges=False) as (url, served), refused:
        get(url, tmp_path / "b.zip", attempts=3)
    assert len(served.requests) == 3


def test_server_without_ranges_starts_again(tmp_path: Path) -> None:
    with one(cuts=[4000], ranges=False) as (url, served):
        get(url, tmp_path / "a.zip", sha256=SHA256)
    assert served.requests == [(None, None), ("bytes=4000-", None)]


def test_two_versions_are_never_joined(tmp_path: Path) -> None:
    with one(cuts=[4000, 0], etag='"1"') as (url, served):
        with pytest.raises(UserError):
            get(url, tmp_path / "a.zip", attempts=2)
        served.body, served.etag = bytes(reversed(BODY)), '"2"'
        get(url, tmp_path / "a.zip")
    assert served.requests[-1] == ("bytes=4000-", '"1"')
    assert (tmp_path / "a.zip").read_bytes() == bytes(reversed(BODY))


@pytest.mark.parametrize("length", [4000, 9000])
def test_versions_of_other_sizes_are_not_joined_without_a_mark(tmp_path: Path, length: int) -> None:
    """The new version is longer than the 4000 bytes that are there, which 206 tells, or as long, which 416 tells."""
    with one(cuts=[4000, 0]) as (url, served):
        with pytest.raises(UserError):
            get(url, tmp_path / "a.zip", attempts=2)
        served.body = bytes(reversed(BODY[:length]))
        get(url, tmp_path / "a.zip")
    assert [asked for asked, _ in served.requests][2:] == ["bytes=4000-", None]
    assert (tmp_path / "a.zip").read_bytes() == served.body


def test_part_of_another_address_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"something else")
    with one() as (url, served):
        get(url, tmp_path / "a.zip", sha256=SHA256)
    assert served.requests == [(None, None)]


@pytest.mark.parametrize("ends_early", [False, True])
def test_part_that_is_already_whole_or_too_long(tmp_path: Path, ends_early: bool) -> None:
    """A 416 answer to a part as long as the file is success; to a longer one the file has changed."""
    with one(length=False, cuts=[None, None]) as (url, served):
        get(url, tmp_path / "a.zip")
        (tmp_path / "a.zip").rename(tmp_path / "a.zip.part")
        (tmp_path / "a.zip.part.json").write_text(f'{{"url": "{url}", "validator": ""}}')
        if ends_early:
            served.body = BODY[:5000]
        get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == served.body


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_failure_is_retried(tmp_path: Path, status: int) -> None:
    with one(statuses=[status, None]) as (url, _):
        assert get(url, tmp_path / "a.zip").sha256 == SHA256


@pytest.mark.parametrize("status", [404, 403])
def test_refusal_says_what_to_do(tmp_path: Path, status: int) -> None:
    refused = pytest.raises(UserError, match=rf"a.zip cannot be had: the server answered {status} .*; {HAND}")
    with one(statuses=[status] * 2) as (url, served), refused:
        get(url, tmp_path / "a.zip")
    assert len(served.requests) == 1
    assert names(tmp_path) == []


def test_web_page_instead_of_the_file(tmp_path: Path) -> None:
    page = one(body=b"<!DOCTYPE html><title>Virus scan warning", content_type="text/html; charset=utf-8")
    with page as (url, _), pytest.raises(UserError, match=f"returned a web page instead of the file .*; {HAND}"):
        get(url, tmp_path / "a.zip")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"sha256": "0" * 64}, f"its sha256 is {SHA256}, not 0000"),
        ({"md5": "0" * 32}, f"its md5 is {MD5}, not 0000"),
    ],
)
def test_wrong_file_is_refused_and_kept_aside(tmp_path: Path, expected: dict[str, Any], message: str) -> None:
    with one() as (url, _):
        with pytest.raises(UserError, match=rf"not the expected file: {message}.*it is kept as .*a\.zip\.bad"):
            get(url, tmp_path / "a.zip", **expected)
        assert names(tmp_path) == ["a.zip.bad"]
        assert (tmp_path / "a.zip.bad").read_bytes() == BODY
        get(url, tmp_path / "a.zip", sha256=SHA256)


class Full:
    """A file on a disk with ``room`` bytes left."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written: int = self.file.write(data[: self.room])
        self.room -= written
        return written


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits is kept, the sentence is clean, and the same command goes on once there is room."""
    real_open = open
    with one() as (url, served):
        with monkeypatch.context() as patch:
            patch.setattr(
                module, "open", lambda path, mode="r", **k: Full(real_open(path, mode, **k), 6000), raising=False
            )
            with pytest.raises(
                UserError, match=r"is full \(No space left on device\); .* goes on after the 6000 bytes"
            ):
                get(url, tmp_path / "a.zip")
        assert (tmp_path / "a.zip.part").stat().st_size == 6000
        get(url, tmp_path / "a.zip", sha256=SHA256)
    assert served.requests == [(None, None), ("bytes=6000-", None)]


def test_no_room_is_known_before_anything_is_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10239))
    with one() as (url, _), pytest.raises(UserError, match=r"is full \(10240 bytes are to come, 10239 are free\)"):
        get(url, tmp_path / "a.zip")


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.zip"
    with pytest.raises(UserError, match=r"could not be received \(.*refused.*\); run the same command again"):
        get(url, tmp_path / "a.zip", attempts=2)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "a.zip"])
def test_only_http(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="is not an http or https address"):
        get(url, tmp_path / "a.zip")
