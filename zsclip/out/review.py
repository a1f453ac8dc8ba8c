"""The page of a report, served on this machine from the pictures themselves; corrections go to a file as they are made.

Whoever knows the address, which holds a random token, may see the pictures of the rows and correct their labels, and
nothing else: pictures are asked for by the number of their row, never by a path.
"""

import hmac
import html
import io
import json
import os
import re
import secrets
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO

from zsclip.errors import InputError, OutputError
from zsclip.out.corrections import Corrections
from zsclip.out.reader import Answered
from zsclip.out.report import CANDIDATES, end_of_page, page_around_rows, row_of_page
from zsclip.out.text import decoded
from zsclip.out.thumbnails import as_jpeg, thumbnails
from zsclip.pictures.containers import archive_of
from zsclip.pictures.listed import Members
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.urls import is_remote
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

ADDRESS = "127.0.0.1"
_NAMES = (ADDRESS, "localhost")  # by which a browser may call it; any other is a name that leads here by a trick
_MOST_ASKED = 1 << 16  # bytes of a request
_MOST_ROWS = 10_000  # in one answer
_SENT_AT_ONCE = 1 << 16  # bytes
_FRAME_SECONDS = 30  # that a frame of a video may take, as all others wait for it
_MOST_LINES = 8  # of a placeholder
_START_SECONDS = 300  # in which a browser must have started
_LABEL = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,1000}")
_SHOWN_BY_BROWSERS = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb".{4}ftypavi[fs]", re.DOTALL), "image/avif"),
)
_START = 16  # bytes that tell these
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
}

Body = bytes | BinaryIO
Reply = tuple[str, Body]  # the media type, and what is sent


class NotFound(Exception):
    """Raised for a request that gets nothing, or with the reason why a picture cannot be read."""


class Moved(Exception):
    """Raised for a request that is sent on to the page."""


class Review:
    """The rows that are reviewed, and what the page may ask about them.

    Args:
        threads: pictures that are decoded at the same time. network: fetches pictures that rows name by URLs.
    """

    def __init__(
        self, rows: Sequence[Answered], corrections: Corrections, *, title: str, threads: int, network: Network
    ) -> None:
        self._rows, self._corrections, self._title = rows, corrections, title
        self._network = network
        self._members = Members(network, max_pixels=DEFAULT_MAX_PIXELS, frame_seconds=_FRAME_SECONDS)
        self._decoders = threading.Semaphore(threads)
        offered = (row.candidates + row.labels for row in rows)
        truths = {row.truth for row in rows if row.truth}
        self._labels = sorted({label for some in offered for label, _ in some} | truths)
        self._numbers: dict[str, list[int]] = {}  # of the rows of each picture
        for number, row in enumerate(rows):
            self._numbers.setdefault(corrections.key(row.name), []).append(number)

    def page(self) -> Reply:
        """Give the page, without rows, for which its script asks."""
        before, after = page_around_rows({"rows": self._title, "corrections": self._corrections.path})
        text = before + "null" + end_of_page(after, self._labels, count=len(self._rows), file=self._corrections.path)
        return "text/html; charset=utf-8", text.encode("utf-8", "replace")

    def rows(self, start: int) -> Reply:
        """Give the rows from a number on, as many as one answer holds; the first answer is short, and comes sooner."""
        stop = start + (_MOST_ROWS if start else _MOST_ROWS // 10)
        return _json([_row(each) for each in self._rows[start:stop]])

    def corrections(self) -> Reply:
        """Give all corrections: label by number of row."""
        labels = self._corrections.labels()
        return _json({number: label for key, label in labels.items() for number in self._numbers.get(key, ())})

    def correct(self, asked: bytes) -> Reply:
        """Write down a correction: the number of a row and a label; an empty label, or null to take it back."""
        try:
            wanted = json.loads(asked)
            number, label = wanted["row"], wanted["label"]
            row = self._rows[number]
            is_valid = type(number) is int and number >= 0 and row.error is None
        except (ValueError, TypeError, LookupError, RecursionError) as e:
            raise NotFound from e
        if not is_valid or not (label is None or label == "" or (isinstance(label, str) and _LABEL.fullmatch(label))):
            raise NotFound
        self._corrections.set(row.name, label)
        return _json(dict.fromkeys(self._numbers[self._corrections.key(row.name)], label))

    def thumbnail(self, number: int) -> Reply:
        """Give a small picture."""
        with self._decoders, self._opened(number) as file:
            (small,) = thumbnails(Pictures([self._rows[number].name], lambda _: file), [0], threads=1)
        if small is None:
            raise NotFound
        return "image/webp", small

    def picture(self, number: int) -> Reply:
        """Give a whole picture: its file if a browser shows it, else a JPEG."""
        file = self._opened(number)
        try:
            start = file.read(_START)
            file.seek(0)
        except (OSError, Refused) as e:
            file.close()
            raise NotFound from e
        for signature, kind in _SHOWN_BY_BROWSERS:
            if signature.match(start):
                return kind, file
        with self._decoders, file:
            whole = as_jpeg(Pictures([self._rows[number].name], lambda _: file), 0)
        if whole is None:
            raise NotFound
        return "image/jpeg", whole

    def _opened(self, number: int) -> BinaryIO:
        if number >= len(self._rows):
            raise NotFound
        name = self._rows[number].name
        try:
            if archive_of(name):
                return self._members.open(name)
            if is_remote(name):
                return Pictures([name], lambda _: self._network.read(name)).open(0)
            if not os.path.isfile(name):
                raise NotFound
            return open(name, "rb")
        except Refused as e:
            raise NotFound(e.message) from e
        except Exception as e:  # decoders raise anything at all, and the row is useful without its picture
            raise NotFound from e


class Server(ThreadingHTTPServer):
    """Answers requests with the token in their path that come from its own page.

    Args:
        port: 0 takes any free one.

    Raises:
        OutputError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, review: Review, port: int = 0) -> None:
        self.review, self.token = review, secrets.token_urlsafe(24)
        self._ticket, self._asking = "", threading.Lock()
        self._ends = 0.0  # when the ticket does
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as e:
            raise OutputError(
                f"--port {port}: {(e.strerror or str(e)).lower()}; leave it out to take a free one"
            ) from e

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def url_to_start(self) -> str:
        """Give an address that leads to the page once: everybody here can see what a browser is started with."""
        self._ticket, self._ends = secrets.token_urlsafe(24), time.monotonic() + _START_SECONDS
        return f"http://{ADDRESS}:{self.server_port}/{self._ticket}/"

    def takes_ticket(self, token: str) -> bool:
        """Whether this is what `url_to_start` gave, and nobody has used it before."""
        with self._asking:
            wanted = self._ticket
            if not wanted or time.monotonic() > self._ends or not _are_same(token, wanted):
                return False
            self._ticket = ""
            return True

    def server_bind(self) -> None:
        """Bind the port, without asking a name server for the name of this machine."""
        # Or connections to an earlier server would keep its port for a minute. It is still refused to two at a time.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser, or a picture, that has gone; anything else is a defect of ours."""
        if not isinstance(sys.exception(), OSError | Refused):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 600  # seconds, after which a connection without requests is closed

    def do_GET(self) -> None:
        """Answer with the page, or a part of it."""
        self._answer()

    def do_POST(self) -> None:
        """Take a correction."""
        self._answer()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is not understood."""
        self.close_connection = True
        self._send(HTTPStatus(code), None)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def version_string(self) -> str:
        """Say nothing of what answers."""
        return "zsclip"

    def _answer(self) -> None:
        try:
            reply = self._reply()
        except NotFound as e:
            self._send(HTTPStatus.NOT_FOUND, _placeholder(str(e)) if str(e) else None)
        except Moved:
            self._send(HTTPStatus.SEE_OTHER, None, {"Location": f"/{self.server.token}/"})
        except (InputError, OutputError) as e:
            self._send(HTTPStatus.INSUFFICIENT_STORAGE, _json({"error": str(e)}))
        else:
            self._send(HTTPStatus.OK, reply)

    def _reply(self) -> Reply:
        body, asked, review = self._body(), self._asked(), self.server.review
        if self.command == "POST":
            if asked != "corrections" or self.headers.get_content_type() != "application/json":
                raise NotFound
            return review.correct(body)
        if asked == "":
            return review.page()
        if asked == "corrections":
            return review.corrections()
        what, _, number = asked.partition("/")
        answers = {"rows": review.rows, "thumbnail": review.thumbnail, "picture": review.picture}
        if what not in answers or not re.fullmatch(r"[0-9]{1,9}", number):
            raise NotFound
        return answers[what](int(number))

    def _asked(self) -> str:
        """Give what follows the token in the path of a request from our own page."""
        headers, port = self.headers, self.server.server_port
        hosts = [f"{name}:{port}" for name in _NAMES]
        origins = headers.get_all("Origin", [])
        before, token, asked = path if len(path := self.path.split("/", 2)) == 3 else ("?", "", "")
        if (
            [headers.get("Host")] != headers.get_all("Host")
            or headers["Host"] not in hosts
            or any(origin != f"http://{headers['Host']}" for origin in origins)
            or not (headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin") or self._is_link(asked))
            or before
        ):
            raise NotFound
        if _are_same(token, self.server.token):
            return asked
        raise Moved if self.command == "GET" and not asked and self.server.takes_ticket(token) else NotFound

    def _is_link(self, asked: str) -> bool:
        """Whether somebody follows a link to the page: a terminal in a browser makes one of the address."""
        mode, to = self.headers.get("Sec-Fetch-Mode"), self.headers.get("Sec-Fetch-Dest")
        return (self.command, asked, mode, to) == ("GET", "", "navigate", "document")

    def _body(self) -> bytes:
        """Read what comes with a request; of one that is too long nothing, and the connection ends."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > _MOST_ASKED:
            self.close_connection = True
            raise NotFound
        return self.rfile.read(int(length))

    def _send(self, status: HTTPStatus, reply: Reply | None, headers: Mapping[str, str] | None = None) -> None:
        kind, body = reply or ("text/plain", b"")
        file = io.BytesIO(body) if isinstance(body, bytes) else body
        with file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(size))
            is_picture = status == HTTPStatus.OK and kind.startswith("image/")
            self.send_header("Cache-Control", "private, max-age=3600" if is_picture else "no-store")
            for name, value in {**_HEADERS, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            while size and (some := file.read(min(size, _SENT_AT_ONCE))):
                self.wfile.write(some)
                size -= len(some)
            self.close_connection |= size > 0  # the file has become shorter


def _are_same(token: str, wanted: str) -> bool:
    return hmac.compare_digest(token.encode(), wanted.encode())


def _placeholder(why: str) -> Reply:
    """Draw the reason why there is no picture; browsers show it in its place."""
    lines = textwrap.wrap(why, 26)[:_MOST_LINES]
    spans = "".join(f'<tspan x="80" dy="1.2em">{html.escape(line)}</tspan>' for line in lines)
    top = 62 - 8 * len(lines)
    text = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="160" height="130" viewBox="0 0 160 130">'
        '<rect x="1" y="1" width="158" height="128" fill="none" stroke="#888" stroke-dasharray="4"/>'
        f'<text y="{top}" font-family="sans-serif" font-size="11" text-anchor="middle" fill="#888">{spans}</text></svg>'
    )
    return "image/svg+xml", text.encode("utf-8", "replace")


def _row(row: Answered) -> list[Any]:
    return row_of_page(
        decoded(row.name),
        link=None,
        labels=[label for label, _ in row.labels],
        score=row.score,
        failure=(row.error, row.message or row.error),
        truth=row.truth,
        thumbnail=None,
        candidates=row.candidates[:CANDIDATES],
        beaten_by=row.beaten_by,
    )


def _json(value: object) -> Reply:
    return "application/json", json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
