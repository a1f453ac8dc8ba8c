"""Pictures, and files that hold many, by their URLs: read in parts and ahead, and never all in memory."""

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from zsclip.errors import InputError
from zsclip.pictures.fetch import CHANGED, About, BrokenOff, NoRanges, TooLong, server_of
from zsclip.pictures.identity import LOOK_BYTES, Kept
from zsclip.pictures.pictures import MAX_BYTES, Pictures, read_regular, with_members
from zsclip.pictures.refused import Refused
from zsclip.pictures.shards import TOGETHER, Descriptor, Shard, Stream, check_not_empty, failed, open_shard
from zsclip.pictures.urls import (
    can_be_listed,
    check_url,
    is_remote,
    name_in,
    without_file,
    without_password,
    without_user,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

_BLOCK_BYTES = 1 << 22  # of a file that are fetched together
_BLOCKS_KEPT = 64  # of all files; twice what is read ahead of the model
_BLOCKS_AHEAD = 4  # of a file that is read in order
_PICTURES_AHEAD = 32  # fetched before they are wanted; the time on the way is longer than that of decoding
_LARGEST_AHEAD = 1 << 22  # bytes of one of them
_LARGEST_COPY = 1 << 30  # bytes of a file that a server cannot send in parts; it is copied to the disk
_LINES_BYTES = 1 << 16  # of a list that are read together
_MOST_ASKED = 256  # URLs on the command line that are looked for before a run


@dataclass
class Network:
    """What a search for pictures may fetch, and what it has learnt of files on servers.

    offline: whether it may fetch nothing. members: where is kept what archives hold.
    """

    offline: bool = False
    members: Kept | None = None
    _abouts: dict[str, About] = field(default_factory=dict)
    _shards: dict[str, Shard] = field(default_factory=dict)

    def check(self, urls: Sequence[str]) -> None:
        """Check that URLs may be fetched, and that files are there as far as their servers say so.

        Raises:
            InputError: one is not. A server that is down is no reason; the row will say it.
        """
        for url in urls:
            check_url(url, offline=self.offline)
        wanted = list(islice((url for url in urls if url[-1:] != "/" and url not in self._abouts), _MOST_ASKED))
        for url, about in [(url, server_of(url).about(url, tries=2)) for url in wanted]:
            try:
                self._abouts[url] = about.result()
            except Refused as e:
                if e.kind == "not-a-file" and can_be_listed(url):
                    continue
                if e.kind in ("missing", "permission", "not-a-file"):
                    is_glob = e.kind == "missing" and "*" in name_in(url)
                    cure = "; only s3:// and gs:// have globs; use a range such as {000..127}" if is_glob else ""
                    raise InputError(f"cannot read {without_password(url)!r}: {e.message}{cure}") from e

    def learn(self, abouts: Mapping[str, About]) -> None:
        """Take what a listing says of files, which then need not be asked for."""
        self._abouts |= abouts

    def is_there(self, url: str) -> bool:
        """Whether there is a file or folder of exactly this name."""
        return self.is_folder(url) or url in self._abouts

    def is_folder(self, url: str) -> bool:
        """Whether a URL that was checked is one of many files."""
        if url.endswith("/") and can_be_listed(url):
            return True
        try:
            self._about(url)
        except Refused as e:
            return e.kind == "not-a-file"
        return False

    def open(self, path: str) -> Shard:
        """Open a file that holds many pictures, by its path or URL; one on a server only once."""
        if not is_remote(path):
            return open_shard(path)
        if path not in self._shards:
            while len(self._shards) > 1:
                del self._shards[next(iter(self._shards))]
            self._shards[path] = self.opened(path)
        return self._shards[path]

    def open_text(self, path: str, **options: Any) -> TextIO:
        """Open a text file by its path or URL, as `open` does."""
        if not is_remote(path):
            return open(path, **options)
        shard = self.open(path)
        file: Any = io.BufferedReader(Stream(shard.read, shard.size), _LINES_BYTES)
        return io.TextIOWrapper(file, **options)

    def opened(self, url: str) -> Shard:
        """Open a file on a server. Nothing of it is read yet, unless its server does not say how long it is."""
        self.refuse(url)
        about = self._about(url)
        look = _look_of(about) if about.tag else os.urandom(LOOK_BYTES)
        window = _Window(url, about, look)
        if about.size is None:
            window.copy()
        return Shard(url, window.size, look, key_of(url, about), window.read)

    def walk(self, url: str, wants: Callable[[str, bool], bool], is_alone: Callable[[str], bool]) -> Iterator[Pictures]:
        """Yield the files below a URL in the order of a local folder.

        Args:
            wants: whether a file of this path below the URL is a picture of the run, or a folder is to be entered.
            is_alone: whether the file of a URL is given in a group of its own.
        """
        root = url.rstrip("/")
        some: dict[str, About] = {}
        for path, about in self._below(root, "", wants):
            is_last = isinstance(about, Refused) or is_alone(path)
            if some and (is_last or len(some) == TOGETHER):
                yield self.pictures(list(some), list(some.values()))
                some = {}
            if isinstance(about, Refused):  # the pictures of a folder are lost; an error row makes that visible
                yield failed(path, about)
            elif is_last:
                yield self.pictures([path], [about])
            else:
                some[path] = about
        if some:
            yield self.pictures(list(some), list(some.values()))

    def with_urls(self, found: Iterable[Pictures]) -> Iterator[Pictures]:
        """Let the files among some pictures be fetched that are named by URLs."""
        for some in found:
            together = "\0".join(some.names)  # looking at each takes ten times as long
            if some.read is not None or not (":/" in together or "::" in together):
                yield some
                continue
            for is_far, alike in groupby(map(without_file, some.names), is_remote):
                names = list(alike)
                yield self.pictures(names) if is_far else Pictures(names)

    def pictures(self, urls: Sequence[str], abouts: Sequence[About] | None = None) -> Pictures:
        """Give the pictures of some URLs, fetched a little ahead if they are read in order.

        Args:
            abouts: what is known of each; None if each is yet to be asked for.
        """
        far = _Far(urls, self, abouts)
        return with_members(Pictures(urls, far.read, far.key))

    def read(self, path: str) -> bytes | BinaryIO:
        """Read one picture by its path or URL."""
        path = without_file(path)
        if not is_remote(path):
            return read_regular(path)
        return _Far([path], self, None).read(0)

    def refuse(self, url: str) -> None:
        """Refuse a URL in a row that may not be fetched.

        Raises:
            Refused: it may not.
        """
        try:
            check_url(url, offline=self.offline)
        except InputError as e:
            raise Refused("unsupported", str(e).removeprefix(f"{without_password(url)!r}: ")) from e

    def known(self, url: str) -> About | None:
        """Give what a server said of a file when it was looked for."""
        return self._abouts.get(url)

    def _about(self, url: str) -> About:
        if url not in self._abouts:
            self._abouts[url] = server_of(url).about(url).result()
        return self._abouts[url]

    def _below(
        self, root: str, folder: str, wants: Callable[[str, bool], bool]
    ) -> Iterator[tuple[str, About | Refused]]:
        """Yield the files below a folder with what is known of each, and folders that cannot be listed."""
        url = f"{root}/{folder}".rstrip("/")
        try:
            entries = server_of(url).listed(url).result()
        except Refused as e:
            yield url, e
            return
        for name, is_folder, about in sorted(entries, key=lambda each: os.fsencode(each[0] + "/" * each[1])):
            if not wants(folder + name, is_folder):
                continue
            if is_folder:
                yield from self._below(root, f"{folder}{name}/", wants)
            else:
                yield f"{root}/{folder}{name}", about


class _Window:
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


class _Far:
    """Some pictures on servers, read by any thread; those to come are fetched ahead while they are read in order."""

    def __init__(self, urls: Sequence[str], network: Network, abouts: Sequence[About] | None) -> None:
        self._urls, self._network, self._listed = urls, network, abouts
        self._lock = threading.Lock()
        self._asked: list[Future[About] | None] | None = None
        self._coming: dict[int, Future[tuple[bytes, About]]] = {}
        self._begun: set[int] = set()
        self._read: dict[int, About] = {}

    def key(self, place: int) -> bytes | None:
        """Give the key of a picture: of the bytes that were read, or of what its server has now."""
        if place in self._begun:
            return key_of(self._urls[place], self._read.get(place, About()))
        if self._listed is not None:
            return key_of(self._urls[place], self._listed[place])
        with self._lock:
            if self._asked is None:
                self._asked = [self._ask(url) for url in self._urls]
        asked = self._asked[place]
        try:
            return None if asked is None else key_of(self._urls[place], asked.result())
        except Refused:
            return None

    def read(self, place: int) -> bytes | BinaryIO:
        """Read a picture, or open it if it is too large to be held in memory.

        Raises:
            Refused: it cannot be fetched.
        """
        url = self._urls[place]
        self._network.refuse(url)
        with self._lock:
            coming = self._coming.pop(place, None)
            self._begun.add(place)
            if place == 0 or place - 1 in self._begun:
                for after in range(place + 1, min(place + 1 + _PICTURES_AHEAD, len(self._urls))):
                    if after not in self._begun and after not in self._coming and self._may_fetch(self._urls[after]):
                        self._coming[after] = self._fetch(after, _LARGEST_AHEAD)
        for each in (coming, None):
            try:
                data, about = (each or self._fetch(place, MAX_BYTES)).result()
                check_not_empty(len(data))
                self._read[place] = about
                return data
            except TooLong:
                continue
        shard = self._network.opened(url)
        return shard.picture(0, shard.size)

    def _ask(self, url: str) -> "Future[About] | None":
        if (known := self._network.known(url)) is not None:
            from concurrent.futures import Future

            asked: Future[About] = Future()
            asked.set_result(known)
            return asked
        return server_of(url).about(url, tries=1) if self._may_fetch(url) else None

    def _may_fetch(self, url: str) -> bool:
        try:
            self._network.refuse(url)
        except Refused:
            return False
        return True

    def _fetch(self, place: int, most: int) -> "Future[tuple[bytes, About]]":
        url, before = self._urls[place], None
        if self._listed is not None:
            before = self._listed[place]
        elif self._asked is not None:
            asked = self._asked[place]
            before = asked.result() if asked is not None and asked.done() and asked.exception() is None else About()
        return server_of(url).whole(url, most, before)


def key_of(url: str, about: About) -> bytes | None:
    """Give the key of a file on a server; None if nothing identifies its content, or not yet."""
    if not about.tag or not about.is_settled:
        return None
    return without_user(url).encode(errors="surrogateescape") + b"\0" + _look_of(about)


def _look_of(about: About) -> bytes:
    return hashlib.blake2b(b"%d\0" % (about.size or 0) + about.tag, digest_size=LOOK_BYTES - 1).digest()
