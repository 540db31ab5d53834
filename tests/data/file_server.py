"""A small local file server that can imitate the faults of real servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


@dataclass
class Served:
    """One file and the way it is served. Each request takes the first item of every list.

    Attributes:
        cuts: the number of bytes of the body after which the connection is cut; None: it is not cut.
        statuses: status codes to answer with instead of 200; None: a normal answer.
        ranges: whether the server supports the header Range.
        length: whether it sends the length.
        etag: the value of the header ETag.
        requests: the headers Range and If-Range of the requests so far.
    """

    body: bytes
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    ranges: bool = True
    length: bool = True
    etag: str = ""
    content_type: str = "application/zip"
    requests: list[tuple[str | None, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    files: ClassVar[dict[str, Served]]

    def do_GET(self) -> None:
        served = self.files.get(self.path)
        if served is None:
            self.send_error(404)
            return
        served.requests.append((self.headers["Range"], self.headers["If-Range"]))
        status = served.statuses.pop(0) if served.statuses else None
        if status is not None:
            self.send_error(status)
            return
        self.send_file(served)

    def send_file(self, served: Served) -> None:
        start, total = self.first_byte(served), len(served.body)
        if start >= total and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if served.length:
            self.send_header("Content-Length", str(total - start))
        if served.etag:
            self.send_header("ETag", served.etag)
        self.send_header("Content-Type", served.content_type)
        self.end_headers()
        cut = served.cuts.pop(0) if served.cuts else None
        self.wfile.write(served.body[start:] if cut is None else served.body[start : start + cut])

    def first_byte(self, served: Served) -> int:
        wanted, if_range = self.headers["Range"], self.headers["If-Range"]
        if not wanted or not served.ranges or (if_range and if_range != served.etag):
            return 0
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(files: dict[str, Served]) -> Iterator[str]:
    """Serve files by their paths; yields the address."""
    handler = type("HandlerOfFiles", (Handler,), {"files": files})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
