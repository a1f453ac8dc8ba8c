"""Files on servers, through fsspec: what a server says of one, and its bytes. No request is waited for without end."""

import functools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from zsclip.errors import first_line
from zsclip.pictures.about import About, about_of, about_of_reply
from zsclip.pictures.refused import ErrorKind, Refused
from zsclip.pictures.urls import host_of, protocol_of

if TYPE_CHECKING:  # imported where it is used, as runs without URLs would start later by 30 ms
    from asyncio import Semaphore
    from concurrent.futures import Future

CONNECT_SECONDS, SILENT_SECONDS = 10, 30
_LONGEST_SECONDS = 300  # of one request, for a server that sends a byte now and then
_TRIES, _TRIES_IN_VAIN = 5, 2  # of a request, and of one after another ended in a time-out
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0
_GIVEN_UP = 3  # files in a row; then each further one of that server is tried once, and shortly, until one is read
_AT_ONCE = 32  # requests to one server
_CHUNK = 1 << 18
CHANGED = "the file that holds it has changed since this run began"
_LASTING = {  # names of errors that would come again, of libraries that may not be installed
    "FileNotFoundError", "PermissionError", "IsADirectoryError", "ClientConnectorCertificateError", "TooManyRedirects",
    "NoCredentialsError",
}  # fmt: skip
_IN_WORDS = {  # for errors whose own text is for programmers
    "ClientConnectorError": "nobody answers at this address",
    "ClientConnectorDNSError": "there is no server of this name",
    "InvalidURL": "that is not a URL",
    "TooManyRedirects": "the server redirects without end",
    "ClientPayloadError": "the connection broke off",
    "ServerDisconnectedError": "the connection broke off",
    "ClientConnectionResetError": "the connection broke off",
}

T = TypeVar("T")


class BrokenOff(Refused):
    """Raised for a reply that ended early each time.

    received: the bytes of the longest one.
    """

    def __init__(self, reason: Refused, received: bytes) -> None:
        super().__init__(reason.kind, reason.message)
        self.received = received


class NoRanges(Exception):
    """Raised for a server that cannot send a part of a file."""


class TooLong(Exception):
    """Raised for a file with more bytes than were wanted."""


class _Again(Exception):
    """Raised for a reply that may be another one later.

    seconds: to wait, as the server says. received: what came before a part broke off.
    """

    def __init__(self, message: str, seconds: float = 0.0, received: bytes = b"") -> None:
        super().__init__(message)
        self.seconds, self.received = seconds, received


class Server:
    """A kind of server, asked by any thread. All requests run on fsspec's own thread, some at a time.

    Args:
        fs: a file system of fsspec.
    """

    def __init__(self, fs: Any, *, is_http: bool) -> None:
        import asyncio

        self._fs, self._is_http = fs, is_http
        self._slots: Semaphore = asyncio.Semaphore(_AT_ONCE)
        self._given_up: Counter[str] = Counter()  # files in a row, by host

    def about(self, url: str, *, tries: int = _TRIES) -> "Future[About]":
        """Ask what a file is, without reading it."""
        return self._begin(lambda: self._about(url), url, tries)

    def part(self, url: str, start: int, stop: int, about: About) -> "Future[bytes]":
        """Read some bytes of a file that must not have changed.

        Raises (in the future):
            NoRanges: the server can only send all of it. BrokenOff: it sends less. Refused: it has changed, or cannot
                be read.
        """
        return self._begin(lambda: self._part(url, start, stop, about), url)

    def whole(self, url: str, most: int, before: About | None = None) -> "Future[tuple[bytes, About]]":
        """Read a whole file, and what identifies just these bytes.

        Args:
            before: what it was before; None if it need not be identified.

        Raises (in the future):
            TooLong: it has more bytes than that. Refused: it cannot be read.
        """
        return self._begin(lambda: self._whole(url, most, before), url)

    def copy(self, url: str, file: BinaryIO, most: int, about: About) -> "Future[About]":
        """Write a whole file, which must not have changed, to a local one, or as much as is sent before it breaks off.

        Raises (in the future):
            TooLong: it has more bytes than that. Refused: it has changed, or cannot be read.
        """
        return self._begin(lambda: self._copy(url, file, most, about), url)

    def listed(self, url: str) -> "Future[list[tuple[str, bool, About]]]":
        """List a folder: names, whether each is a folder, and what each is."""
        return self._begin(lambda: self._listed(url), url)

    def _begin(self, work: Callable[[], Awaitable[T]], url: str, tries: int = _TRIES) -> "Future[T]":
        import asyncio

        from fsspec.asyn import get_loop

        return asyncio.run_coroutine_threadsafe(self._retried(work, host_of(url), tries), get_loop())

    async def _retried(self, work: Callable[[], Awaitable[T]], host: str, tries: int) -> T:
        import asyncio

        failure, tried = Refused("unreadable", "was never asked for"), 0
        received = b""
        is_down = self._given_up[host] >= _GIVEN_UP  # asked once: parts of a file that fail together all try as often
        tries, longest = (1, CONNECT_SECONDS) if is_down else (tries, _LONGEST_SECONDS)
        while tried < tries:
            tried += 1
            wait = min(_FIRST_WAIT_SECONDS * 2 ** (tried - 1), _LONGEST_WAIT_SECONDS) * random.uniform(0.75, 1.25)
            try:
                async with self._slots, asyncio.timeout(longest):
                    found = await work()
                self._given_up[host] = 0
                return found
            except (NoRanges, TooLong, Refused):
                self._given_up[host] = 0
                raise
            except Exception as e:  # file systems raise anything at all
                received = max(received, getattr(e, "received", b""), key=len)
                failure, wait = _explained(e, tried), max(wait, min(getattr(e, "seconds", 0.0), _LONGEST_WAIT_SECONDS))
                if not _may_pass(e) or (failure.kind == "timeout" and tried >= _TRIES_IN_VAIN):
                    break
            if tried < tries:
                await asyncio.sleep(wait)
        if failure.kind in ("unreadable", "timeout"):
            self._given_up[host] += 1
        raise BrokenOff(failure, received) if received else failure

    async def _about(self, url: str) -> About:
        if not self._is_http:
            return about_of(await self._info(url))
        session = await self._fs.set_session()
        found = About()
        for method, headers in ((session.head, {}), (session.get, {"Range": "bytes=0-0"})):
            async with method(self._fs.encode_url(url), headers=_headers(headers), allow_redirects=True) as reply:
                if method == session.head and reply.status in (400, 403, 405, 501):  # a URL may be signed for GET only
                    continue
                _check(reply)
                found = about_of_reply(reply)
                if found.size is not None:
                    break
        return found

    async def _part(self, url: str, start: int, stop: int, about: About) -> bytes:
        if not self._is_http:
            data = await self._cat(url, start, stop)
            if not about.is_same(about_of(await self._info(url))):
                raise Refused("unreadable", CHANGED)
        else:
            session = await self._fs.set_session()
            headers = _headers({"Range": f"bytes={start}-{stop - 1}"})
            async with session.get(self._fs.encode_url(url), headers=headers) as reply:
                _check(reply)
                if not about.is_same(about_of_reply(reply)):
                    raise Refused("unreadable", CHANGED)
                if reply.status != 206:
                    raise NoRanges
                parts: list[bytes] = []
                try:
                    data = await _body(reply, stop - start, parts)
                except TooLong:
                    raise Refused("unreadable", "the server sent more than it was asked for") from None
                except Exception as e:  # its connection is closed, or silent
                    raise _Again(first_line(e), received=b"".join(parts)) from e
        if len(data) != stop - start:
            raise _Again(f"the server sent {len(data):,} of {stop - start:,} bytes", received=data)
        return data

    async def _whole(self, url: str, most: int, before: About | None) -> tuple[bytes, About]:
        if self._is_http:
            session = await self._fs.set_session()
            async with session.get(self._fs.encode_url(url), headers=_headers({})) as reply:
                _check(reply)
                return await _body(reply, most), about_of_reply(reply)
        first = before if before is not None and before.size is not None else about_of(await self._info(url))
        if first.size is not None and first.size > most:
            raise TooLong
        data = await self._cat(url, None, None)
        after = about_of(await self._info(url)) if before is not None else About()
        return data, after if after == first and after.size == len(data) else About()

    async def _copy(self, url: str, file: BinaryIO, most: int, before: About) -> About:
        file.seek(0)
        file.truncate()
        if not self._is_http:
            data, about = await self._whole(url, most, About())
            file.write(data)
            return about
        session = await self._fs.set_session()
        async with session.get(self._fs.encode_url(url), headers=_headers({})) as reply:
            _check(reply)
            about = about_of_reply(reply)
            if not about.is_same(before):
                raise Refused("unreadable", CHANGED)
            async for chunk in reply.content.iter_chunked(_CHUNK):
                file.write(chunk)
                if file.tell() > most:
                    raise TooLong
            return about

    async def _listed(self, url: str) -> list[tuple[str, bool, About]]:
        path = self._fs._strip_protocol(url)
        entries = await self._fs._ls(path, detail=True, refresh=True) if self._fs.async_impl else self._fs.ls(path)
        return [
            (each["name"].rstrip("/").rpartition("/")[2], each["type"] == "directory", about_of(each))
            for each in entries
            if each["name"].rstrip("/") != path.rstrip("/")
        ]

    async def _info(self, url: str) -> dict[str, Any]:
        path = self._fs._strip_protocol(url)
        self._fs.invalidate_cache()
        info: dict[str, Any] = await self._fs._info(path) if self._fs.async_impl else self._fs.info(path)
        if info.get("type") == "directory":
            raise Refused("not-a-file", "a folder")
        return info

    async def _cat(self, url: str, start: int | None, stop: int | None) -> bytes:
        path = self._fs._strip_protocol(url)
        cat = self._fs._cat_file if self._fs.async_impl else None
        return bytes(await cat(path, start=start, end=stop) if cat else self._fs.cat_file(path, start, stop))


def server_of(url: str) -> Server:
    """Give what reads a URL."""
    protocol = protocol_of(url)
    return _server({"https": "http", "s3a": "s3", "gcs": "gs"}.get(protocol, protocol))


@functools.cache
def _server(protocol: str) -> Server:
    import fsspec

    options: dict[str, Any] = {}
    if protocol == "http":
        import aiohttp

        waits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        options["client_kwargs"] = {"timeout": waits, "trust_env": True}  # proxies
    elif protocol == "s3":
        waiting = {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENT_SECONDS}
        options["config_kwargs"] = {"retries": {"max_attempts": 0}, **waiting}  # trying again is done here
    fs = fsspec.filesystem(protocol, **options, skip_instance_cache=protocol != "memory")
    if protocol == "s3":
        fs.retries = 1
        if _has_no_credentials():
            fs.anon = True
    return Server(fs, is_http=protocol == "http")


def _has_no_credentials() -> bool:
    """Whether nothing is set up for S3; public buckets can be read all the same."""
    from botocore.session import Session

    return Session().get_credentials() is None


def _headers(headers: dict[str, str]) -> dict[str, str]:
    return {"Accept-Encoding": "identity", **headers}  # the bytes as they are, and so their number


def _check(reply: Any) -> None:
    """Refuse a reply that is an error.

    Raises:
        Refused: it would be the same another time. _Again: it may not be.
    """
    said = f"HTTP {reply.status} {reply.reason or ''}".strip()
    if reply.status in (408, 425, 429) or reply.status >= 500:
        waits = reply.headers.get("Retry-After", "")
        raise _Again(said, float(waits) if waits.isdigit() else 0.0)
    if reply.status >= 400:
        kind: ErrorKind = "missing" if reply.status in (404, 410) else "unreadable"
        raise Refused("permission" if reply.status in (401, 403, 407, 451) else kind, said)


async def _body(reply: Any, most: int, parts: list[bytes] | None = None) -> bytes:
    """Read a reply.

    Args:
        parts: where to put its bytes as they come.

    Raises:
        TooLong: it has more bytes than that.
    """
    parts = [] if parts is None else parts
    size = reply.content_length or 0
    if size <= most:
        size = 0
        async for chunk in reply.content.iter_chunked(_CHUNK):
            parts.append(chunk)
            size += len(chunk)
            if size > most:
                break
    if size > most:
        reply.close()  # and read no more of it
        raise TooLong
    return b"".join(parts)


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed."""
    names = {each.__name__ for each in type(error).__mro__}
    return not names & _LASTING and not isinstance(error, ValueError | TypeError | ImportError | NotImplementedError)


def _explained(error: Exception, tried: int) -> Refused:
    """Say why a file cannot be read, without its URL, which may have a password or a signature in it."""
    again = f", {tried} times" if tried > 1 else ""
    if isinstance(error, _Again) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return Refused("timeout", f"the server was silent for {SILENT_SECONDS} s{again}")
    if isinstance(error, FileNotFoundError):
        return Refused("missing", "no such file on the server")
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return Refused("permission", f"the server refuses it: {first_line(error)}")
    said = getattr(error, "strerror", None) or first_line(error)
    said = _IN_WORDS.get(type(error).__name__, said)
    return Refused("unreadable", f"cannot be fetched: {said}{again}")
