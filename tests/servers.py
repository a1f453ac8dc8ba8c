"""Servers that tests start: one over HTTP that may lack, delay, damage or refuse, and one that speaks S3."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote_to_bytes


@dataclass
class Served:
    """A server and what it was asked.

    fault: for a path and the number of earlier requests for it, a status to answer with; "silent", "half", or None.
    behind: the URL of another server that really answers.
    """

    root: Path
    has_ranges: bool = True
    has_tags: bool = True
    has_heads: bool = True
    latency: float = 0.0
    fault: Callable[[str, int], int | str | None] = lambda path, count: None
    behind: str = ""
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def count(self, method: str) -> int:
        """The number of requests of a kind so far."""
        return sum(each == method for each, _ in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        served, path = self.served, os.fsdecode(unquote_to_bytes(self.path.partition("?")[0].lstrip("/")))
        count = sum(each == path for _, each in served.asked)
        served.asked.append((self.command, path))
        time.sleep(served.latency)
        fault = served.fault(path, count)
        if fault == "silent":
            served.stopped.wait()
            self.close_connection = True
            return
        if self.command == "HEAD" and not served.has_heads:
            fault = 403
        if served.behind and fault is None:
            self._pass_on(served.behind)
            return
        if not (served.root / path).is_file():
            fault = fault or 404
        if isinstance(fault, int):
            self.send_response(fault)
            if fault == 302:
                self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = (served.root / path).read_bytes()
        ranged, body = self.headers.get("Range") if served.has_ranges else None, whole
        if ranged:
            first, last = ranged.removeprefix("bytes=").split("-")
            body = whole[int(first) : int(last) + 1]
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(whole)}")
        if served.has_tags:
            self.send_header("ETag", f'"{hashlib.md5(whole).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if fault == "half" else body)
            served.sent += len(body)
            self.close_connection = fault == "half"

    def _pass_on(self, url: str) -> None:
        """Let the other server answer."""
        other = HTTPConnection(url.partition("//")[2])
        other.request(self.command, self.path, headers=dict(self.headers))
        reply = other.getresponse()
        body = reply.read()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("server", "date", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        other.close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client may leave."""


@contextmanager
def serving(root: Path, **options: object) -> Iterator[Served]:
    """Serve a folder."""
    served = Served(root, **options)  # type: ignore[arg-type]
    handler = type("Handler", (_Handler,), {"served": served})
    with _Server(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        served.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served
        served.stopped.set()
        server.shutdown()
