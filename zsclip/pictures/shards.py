"""Files that hold many pictures, read piece by piece. This is the only place that opens a tar or zip archive."""

import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO, Generic, TypeVar, cast

from zsclip.pictures.identity import look_of, settled_key
from zsclip.pictures.pictures import MAX_BYTES, Pictures
from zsclip.pictures.refused import Refused

TOGETHER = 512  # pictures that are handed on together
_LARGEST_PACKED = 1 << 27  # bytes of one picture that is compressed, so that it must be held in memory
_OPEN_FILES = 8  # descriptors that stay open; a run may have thousands of shards
_BLOCKS = 3  # decoding threads still need one when others have begun the next
_CHUNK = 1 << 16
_PLACE = struct.Struct(">qq")  # big-endian, so that the keys of neighbours are neighbours

Takes = Callable[[str], bool]  # whether a member of this name is a picture of the run

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """A file that holds many pictures, as it was when it was opened.

    key: what the keys of its pictures begin with; None if it was changed a moment ago, and may be once more unnoticed.
    fetch: reads bytes at an offset where the file is not on this machine.
    """

    path: str
    size: int
    look: bytes
    key: bytes | None
    fetch: Callable[[int, int], bytes] | None = field(default=None, compare=False)

    def read(self, offset: int, size: int) -> bytes:
        """Read some bytes, fewer at the end of the file; threads may call it."""
        if self.fetch is not None:
            return self.fetch(offset, size)
        descriptor = _opened(self.path, self.look)
        parts = []
        while size > 0 and (some := os.pread(descriptor.number, size, offset)):
            parts.append(some)
            offset, size = offset + len(some), size - len(some)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def picture(self, offset: int, size: int) -> "bytes | BinaryIO":
        """Read a picture, or open it if it is too large to be held in memory.

        Raises:
            Refused: its bytes are not all there, or there are none.
        """
        check_not_empty(size)
        if size > MAX_BYTES:
            return cast(
                BinaryIO, Stream(lambda place, count: self.read(offset + place, min(count, size - place)), size)
            )
        data = self.read(offset, size)
        if len(data) < size:
            raise Refused("unreadable", "the archive ends before this image does")
        return data

    def key_of(self, place: int, size: int = 0) -> bytes | None:
        """Give the key of the picture at a place in the file, in bytes or rows."""
        return None if self.key is None else self.key + _PLACE.pack(place, size)


def open_shard(path: str) -> Shard:
    """Open a file that holds many pictures."""
    status, now = os.stat(path), time.time_ns()
    look = look_of(status)
    _opened(path, look)  # raises what forbids it
    return Shard(path, status.st_size, look, settled_key(path, status, now))


class Descriptor:
    """An open file, closed when nobody needs it: a thread may still read what another one no longer keeps open."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@lru_cache(maxsize=_OPEN_FILES)
def _opened(path: str, look: bytes) -> Descriptor:
    descriptor = Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    if look_of(os.fstat(descriptor.number)) != look:
        raise Refused("unreadable", "the file that holds it has changed since this run began")
    return descriptor


class Inflated:
    """A gzip file, read forward; a copy of it can be read on from the place where it was taken."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._source = 0  # bytes of the file that were taken
        self._place = 0  # bytes that were inflated
        self._waiting = b""  # bytes of the file that were not inflated yet
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._is_inside = False  # a gzip stream that has begun

    def copy(self) -> "Inflated":
        """Make a copy, which takes 40 kB."""
        copy = Inflated(self._read)
        copy.__dict__ |= self.__dict__ | {"_inflate": self._inflate.copy()}
        return copy

    def read(self, offset: int, size: int) -> bytes:
        """Read some bytes at or after the place where the last ones ended; fewer at the end.

        Raises:
            zlib.error: the file is damaged. EOFError: it breaks off.
        """
        if offset < self._place:
            raise ValueError("that was read before")
        while self._place < offset and self._some(min(offset - self._place, _CHUNK)):
            pass
        parts = []
        while size > 0 and (some := self._some(size)):
            parts.append(some)
            size -= len(some)
        return b"".join(parts)

    def reaches(self, offset: int) -> bool:
        """Go on to a place; give whether there is one."""
        self.read(offset, 0)
        return self._place >= offset

    def finish(self) -> bool:
        """Inflate the rest, which checks the checksum at the end; give whether anything but zeros was left.

        What follows the last stream is no part of it, as for gzip.

        Raises:
            zlib.error: the file is damaged. EOFError: it breaks off.
        """
        is_empty = True
        try:
            while some := self._some(_CHUNK):
                is_empty = is_empty and not some.strip(b"\0")
        except zlib.error as e:
            if "incorrect header check" not in str(e):
                raise
        return not is_empty

    def _some(self, most: int) -> bytes:
        """Inflate some bytes, none at the end."""
        while True:
            if self._inflate.eof:  # another stream may follow, after zeros
                self._waiting = self._inflate.unused_data.lstrip(b"\0")
                self._inflate, self._is_inside = zlib.decompressobj(zlib.MAX_WBITS | 16), False
            is_at_end = False
            if not self._waiting:
                self._waiting = self._read(self._source, _CHUNK)
                self._source += len(self._waiting)
                is_at_end = not self._waiting
                if is_at_end and not self._is_inside:
                    return b""
                if not self._is_inside:
                    self._waiting = self._waiting.lstrip(b"\0")
            self._is_inside = self._is_inside or bool(self._waiting)
            some = self._inflate.decompress(self._waiting, most)
            self._waiting = self._inflate.unconsumed_tail
            if some:
                self._place += len(some)
                return some
            if is_at_end and not self._inflate.eof:
                raise EOFError("the gzip stream breaks off")


class Stream(io.RawIOBase):
    """A file object, for readers that need one.

    Args:
        most: bytes of one read, as a hostile archive may claim to have a header of any length.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int, *, most: int | None = None) -> None:
        self._read, self._size, self._most = read, size, most
        self._at = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read some bytes, or all that are left."""
        size = self._size - self._at if size is None or size < 0 else size
        if self._most is not None and size > self._most:
            raise ValueError(f"a header of {size:,} bytes")
        data = self._read(self._at, size)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as fit, as a buffered reader asks."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        self._at = max(0, place + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        """Give the place of the next read."""
        return self._at

    def seekable(self) -> bool:
        """Whether `seek` works."""
        return True

    def readable(self) -> bool:
        """Whether `read` works."""
        return True


class Blocks(Generic[T]):
    """Pictures that are read together, kept while their neighbours are wanted; threads may share them."""

    def __init__(self) -> None:
        self._kept: dict[object, Sequence[T] | Exception] = {}  # the most recently used last
        self._lock = threading.Lock()

    def read(self, block: object, read: Callable[[], Sequence[T]]) -> Sequence[T]:
        """Give a block, which is read if it is not kept.

        Raises:
            Exception: whatever reading it raised, each time.
        """
        with self._lock:
            found = self._kept.pop(block, None)
            if found is None:
                while len(self._kept) >= _BLOCKS:
                    del self._kept[next(iter(self._kept))]
                try:
                    found = read()
                except Exception as e:  # decoders raise anything at all; the other pictures need not try again
                    found = e
            self._kept[block] = found
        if isinstance(found, Exception):
            raise Refused("unreadable", str(found)) if not isinstance(found, Refused) else found
        return found


def check_packed(size: int) -> None:
    """Refuse a compressed picture that is too large to be held in memory, or empty.

    Raises:
        Refused: it is.
    """
    check_not_empty(size)
    if size > _LARGEST_PACKED:
        raise Refused("too-large", f"{size:,} bytes, too large for a compressed archive; unpack it first")


def check_not_empty(size: int) -> None:
    """Refuse an empty picture in the words for an empty file.

    Raises:
        Refused: it is empty.
    """
    if size == 0:
        raise Refused("unreadable", "the file is empty")


def failed(name: str, error: Exception) -> Pictures:
    """Give the row of a container, or of a part of it, that cannot be read."""

    def read(_: int) -> bytes:
        raise error

    return Pictures((name,), read)
