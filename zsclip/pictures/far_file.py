"""A file on a server, read in blocks: those to come are fetched ahead, and few are kept."""

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from zsclip.pictures.about import About
from zsclip.pictures.fetch import CHANGED, BrokenOff, NoRanges, TooLong, server_of
from zsclip.pictures.refused import Refused
from zsclip.pictures.shards import Descriptor

if TYPE_CHECKING:
    from concurrent.futures import Future

_BLOCK_BYTES = 1 << 22  # of a file that are fetched together
_BLOCKS_KEPT = 64  # of all files; twice what is read ahead of the model
_BLOCKS_AHEAD = 4  # of a file that is read in order
_LARGEST_COPY = 1 << 30  # bytes of a file that a server cannot send in parts; it is copied to the disk


class FarFile:
    """A file on a server, read in blocks by any thread; those to come are fetched ahead while it is read in order."""

    def __init__(self, url: str, about: About, look: bytes) -> None:
        self._url, self._about, self._look = url, about, look
        self._lock = threading.Lock()
        self._copy: Descriptor | None = None  # on the disk, of a server that cannot send a part of a file
        self._broken: Refused | None = None  # why the copy is not whole

    def read(self, offset: int, size: int) -> bytes:
        """Read some bytes, fewer at the end of the file.

        Raises:
            Refused: the server does not send them, or the file has changed.
        """
        stop = min(offset + size, self.size)
        if stop <= offset:
            return b""
        if self._copy is not None:
            data = os.pread(self._copy.number, stop - offset, offset)
            if self._broken is not None and len(data) < stop - offset:
                raise self._broken
            return data
        blocks = range(offset // _BLOCK_BYTES, -(-stop // _BLOCK_BYTES))
        coming = [_BLOCKS.ask(self._name(block), self._fetch) for block in blocks]
        if blocks[0] == 0 or _BLOCKS.has(self._name(blocks[0] - 1)):
            for block in range(blocks.stop, min(blocks.stop + _BLOCKS_AHEAD, -(-self.size // _BLOCK_BYTES))):
                _BLOCKS.ask(self._name(block), self._fetch)
        first = blocks[0] * _BLOCK_BYTES
        parts: list[bytes] = []
        try:
            for each in coming:
                parts.append(each.result())
        except NoRanges:
            self.copy()
            return self.read(offset, size)
        except BrokenOff as e:
            parts.append(e.received)
            if sum(map(len, parts)) < stop - first:
                raise
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        return whole[offset - first : stop - first]

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        assert self._about.size is not None
        return self._about.size

    def copy(self) -> None:
        """Copy the file to the disk, once; of one that breaks off, what was sent."""
        with self._lock:
            if self._copy is not None:
                return
            import tempfile

            with tempfile.TemporaryFile() as file:
                try:
                    about = server_of(self._url).copy(self._url, file, _LARGEST_COPY, self._about).result()
                except TooLong:
                    most = f"more than {_LARGEST_COPY:,} bytes"
                    what = f"{most}, and its server cannot send parts of it; download it first"
                    raise Refused("too-large", what) from None
                except Refused as e:
                    if self._about.size is None or not file.tell():
                        raise
                    about, self._broken = self._about, e
                if not about.is_same(self._about):
                    raise Refused("unreadable", CHANGED)
                file.flush()
                if self._broken is None:
                    self._about = about._replace(size=file.tell())
                self._copy = Descriptor(os.dup(file.fileno()))

    def _name(self, block: int) -> "_Name":
        return self._url, self._look, block

    def _fetch(self, name: "_Name") -> "Future[bytes]":
        start = name[2] * _BLOCK_BYTES
        return server_of(self._url).part(self._url, start, min(start + _BLOCK_BYTES, self.size), self._about)


_Name = tuple[str, bytes, int]  # of a block: the URL, what identifies its content, and a number


class _Kept:
    """The blocks of all files that were asked for last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: dict[_Name, Future[bytes]] = {}  # the most recently used last

    def ask(self, name: _Name, fetch: Callable[[_Name], "Future[bytes]"]) -> "Future[bytes]":
        """Give a block that is kept, or begin to fetch it."""
        with self._lock:
            found = self._blocks.pop(name, None) or fetch(name)
            while len(self._blocks) >= _BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[name] = found
            return found

    def has(self, name: _Name) -> bool:
        """Whether a block is kept, or is being fetched."""
        return name in self._blocks


_BLOCKS = _Kept()
