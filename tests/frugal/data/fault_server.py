"""A local HTTP server whose files misbehave on purpose. Every test of a download talks to it and to nothing else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file and its faults; ``requests`` notes the Range header of each request (None: the whole file)."""

    body: bytes
    ranges: bool = True  # does the server know Range?
    cut_after: list[int] = field(default_factory=list)  # bytes sent before the line drops, one a request
    statuses: list[int] = field(default_factory=list)  # answered before anything else, one a request
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True  # is Content-Length sent?
    shift: int = 0  # a 206 answer that starts so many bytes late
    before_body: Callable[[], None] = lambda: None
    requests: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        served = self.server.files.get(self.path)  # type: ignore[attr-defined]
        if served is None:
            return self.send_error(404)
        asked = self.headers.get("Range")
        served.requests.append(asked)
        if served.statuses:
            return self.send_error(served.statuses.pop(0))
        body, status = served.body, 200
        extra = {}
        if asked and served.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first)
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            start += served.shift
            extra["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start : int(last) + 1 if last else None], 206
        self.send_response(status)
        if served.length:
            extra["Content-Length"] = str(len(body))
        for name, value in (extra | served.headers).items():
            self.send_header(name, value)
        self.end_headers()
        served.before_body()
        cut = served.cut_after.pop(0) if served.cut_after else None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body[:cut])
        self.close_connection = True
        return None

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Server:
    """``files`` maps a path to what is served there; ``url(name)`` is its address."""

    files: dict[str, Served]
    base: str

    def url(self, name: str) -> str:
        return f"{self.base}/{name}"

    def add(self, name: str, body: bytes, **faults: object) -> Served:
        self.files[f"/{name}"] = Served(body, **faults)  # type: ignore[arg-type]
        return self.files[f"/{name}"]


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.files = {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Server(httpd.files, f"http://127.0.0.1:{httpd.server_address[1]}")  # type: ignore[attr-defined]
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
