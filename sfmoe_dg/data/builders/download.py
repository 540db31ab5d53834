"""Download a file: resumed after an interruption, retried and checked; it gets its name only when it is complete.

An unfinished file is called ``NAME.part``; a file with the wrong size or checksum is kept as ``NAME.bad``.
``NAME.part.json`` beside it holds the address, the total size and the server's version mark (ETag or Last-Modified), so
that parts of two versions of a file are not joined (RFC 9110, sections 13.1.5 and 14). If the server sends no mark, a
new version of the same size is noticed only by its checksum.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import write_atomic

CHUNK = 1 << 20
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Digests:
    """What identifies a file's content."""

    size: int
    sha256: str
    md5: str


class _Cut(Exception):
    """The transfer failed or stopped; another attempt may continue it."""


def digests(path: Path, progress: bool = False) -> Digests:
    """Size and checksums of a file, read once."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file, _bar(f"checking {path.name}", path.stat().st_size, 0, progress) as bar:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            bar.update(len(chunk))
    return Digests(path.stat().st_size, sha256.hexdigest(), md5.hexdigest())


def mismatch(found: Digests, sha256: str | None, md5: str | None) -> str:
    """How a file differs from what is expected, as part of a sentence; empty if it does not. None: not known."""
    pairs = (("sha256", found.sha256, sha256), ("md5", found.md5, md5))
    return ", ".join(
        f"its {what} is {is_}, not {want}" for what, is_, want in pairs if want is not None and is_ != want.lower()
    )


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    by_hand: str = "get the file by hand",
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 60.0,
    progress: bool = False,
) -> Digests:
    """Download ``url`` to ``target``, continuing ``target.part`` if an earlier call left one.

    Args:
        sha256, md5: what the file must have; None: not known.
        by_hand: how to get the file without a program; error messages end with it.
        attempts: how many attempts in a row may bring nothing new; the pauses between them double.
        pause, timeout: in seconds; the first pause, and the longest silence of the server.
        progress: show a bar on stderr if that is a terminal.

    Raises:
        UserError: if the address is not http(s), the server refuses or answers with a web page, the connection keeps
            failing, the disk is full, or the file is not the expected one. What was received is kept.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url} is not an http or https address; {by_hand}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(target, url)
    _receive(part, _Transfer(part, by_hand, timeout, progress), attempts, pause)
    found = digests(part.path, progress)
    fault = mismatch(found, sha256, md5)
    if fault:
        bad = target.with_name(target.name + ".bad")
        part.leave(bad)
        raise UserError(
            f"{url} is not the expected file: {fault}; it is kept as {bad}; run the command again, {by_hand}, or, if "
            "the file was changed on purpose, give its new checksum"
        )
    part.leave(target)
    return found


def _receive(part: _Part, transfer: _Transfer, attempts: int, pause: float) -> None:
    best, failures = part.size, 0
    while True:
        try:
            return transfer.run()
        except _Cut as cut:
            failures = 1 if part.size > best else failures + 1
            best = max(best, part.size)
            if failures >= attempts:
                kept = f"{part.size} bytes are kept in {part.path}, so " if part.size else ""
                again = f"{kept}run the same command again to go on, or {transfer.by_hand}"
                raise UserError(f"{part.url} could not be received ({cut}); {again}") from None
            time.sleep(pause * 2 ** (failures - 1))


class _Part:
    """The unfinished file, and the facts about its origin."""

    def __init__(self, target: Path, url: str) -> None:
        self.path = target.with_name(target.name + ".part")
        self.url = url
        self._note = target.with_name(target.name + ".part.json")
        try:
            note: Any = json.loads(self._note.read_text())
        except (OSError, ValueError):
            note = {}
        self.validator: str = note.get("validator", "")
        self.total: int | None = note.get("size")
        if note.get("url") != url:
            self.discard()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.validator, self.total = "", None

    def begin(self, validator: str, total: int | None) -> None:
        """Start again, with the version mark and total size that the server tells, or "" and None."""
        self.discard()
        self.validator, self.total = validator, total
        write_atomic(self._note, json.dumps({"url": self.url, "validator": validator, "size": total}))

    def leave(self, target: Path) -> None:
        os.replace(self.path, target)
        self._note.unlink(missing_ok=True)


class _Transfer:
    """One attempt to receive what is missing."""

    def __init__(self, part: _Part, by_hand: str, timeout: float, progress: bool) -> None:
        self.part, self.by_hand, self.timeout, self.progress = part, by_hand, timeout, progress

    def run(self) -> None:
        try:
            with self._open() as response:
                self._refuse_web_page(response)
                total = self._position(response)
                self._check_room(total)
                self._copy(response, total)
        except urllib.error.HTTPError as error:
            self._handle_status(error)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise self._full(f"{error.strerror}") from None

    def _open(self) -> Any:
        request = urllib.request.Request(
            self.part.url, headers={"User-Agent": "sfmoe-dg", "Accept-Encoding": "identity"}
        )
        if self.part.size:
            request.add_header("Range", f"bytes={self.part.size}-")
            if self.part.validator:
                request.add_header("If-Range", self.part.validator)
        try:
            return urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError as error:
            raise _Cut(str(error.reason)) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(str(error) or type(error).__name__) from None

    def _handle_status(self, error: urllib.error.HTTPError) -> None:
        if error.code == 416 and self.part.size:  # no byte after ours: complete, or another version
            whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if whole and int(whole[1]) == self.part.size and self.part.total in (None, self.part.size):
                return
            self.part.discard()
            raise _Cut("the file changed on the server")
        if error.code in _TRANSIENT:
            raise _Cut(f"the server answered {error.code} {error.reason}")
        raise UserError(
            f"{self.part.url} cannot be had: the server answered {error.code} {error.reason}; {self.by_hand}"
        )

    def _refuse_web_page(self, response: Any) -> None:
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise UserError(
                f"{self.part.url} returned a web page instead of the file (a form to agree to, a quota, or a moved "
                f"file); {self.by_hand}"
            )

    def _position(self, response: Any) -> int | None:
        """Prepare the unfinished file for the bytes that follow; returns the total size if the server tells it."""
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if response.status == 206 and span and int(span[1]) == self.part.size:
            total = None if span[2] == "*" else int(span[2])
            if None not in (total, self.part.total) and total != self.part.total:
                self.part.discard()
                raise _Cut("the file changed on the server")
            return total
        if response.status == 206:
            self.part.discard()
            raise _Cut("the server sent another part than was asked for")
        validator = response.headers.get("ETag", "")
        if not validator or validator.startswith("W/"):  # a weak mark is not allowed in If-Range
            validator = response.headers.get("Last-Modified", "")
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        self.part.begin(validator, total)
        return total

    def _check_room(self, total: int | None) -> None:
        needed = (total or 0) - self.part.size
        free = shutil.disk_usage(self.part.path.parent).free
        if needed > free:
            raise self._full(f"{needed} bytes are to come, {free} are free")

    def _copy(self, response: Any, total: int | None) -> None:
        with (
            open(self.part.path, "ab", buffering=0) as file,
            _bar(self.part.path.stem, total, self.part.size, self.progress) as bar,
        ):
            for chunk in _chunks(response):
                view = memoryview(chunk)
                while view:  # on a nearly full disk, fewer bytes may be written than were given
                    written = file.write(view)
                    bar.update(written)
                    view = view[written:]
        if total is not None and self.part.size < total:
            raise _Cut(f"the connection ended after {self.part.size} of {total} bytes")

    def _full(self, why: str) -> UserError:
        return UserError(
            f"the disk of {self.part.path.parent} is full ({why}); free some space and run the same command again: it "
            f"goes on after the {self.part.size} bytes in {self.part.path.name}"
        )


def _chunks(response: Any) -> Iterator[bytes]:
    """The bytes that the server sends. Any exception of the connection becomes the one that is retried."""
    while True:
        try:
            chunk = response.read(CHUNK)
        except http.client.IncompleteRead as error:
            if error.partial:
                yield error.partial
            raise _Cut("the connection ended early") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(str(error) or type(error).__name__) from None
        if not chunk:
            return
        yield chunk


@contextlib.contextmanager
def _bar(what: str, total: int | None, initial: int, progress: bool) -> Iterator[Any]:
    disable = None if progress else True  # None: on only if stderr is a terminal
    with tqdm(desc=what, total=total, initial=initial, unit="B", unit_scale=True, disable=disable, leave=False) as bar:
        yield bar
