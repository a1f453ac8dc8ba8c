"""Pictures in tar archives, found by their headers and read where they lie. Nothing is unpacked."""

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from itertools import starmap
from typing import Any, BinaryIO, Literal, NamedTuple

from zsclip.errors import first_line
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.shards import TOGETHER, Blocks, Inflated, Shard, Stream, Takes, check_packed, failed

_BLOCK_BYTES = 1 << 25  # of pictures in a compressed archive or on a server that are read together
_LARGEST_INDEX = 1 << 22  # bytes that are kept of what an archive holds
_LARGEST_HEADER = 1 << 24  # bytes; a header may say how long the next one is
_TAIL_BYTES = 1 << 16  # behind the end marker that are looked at; zeros fill the last 10 KiB
_GZIP = b"\x1f\x8b"
_BLOCKS: Blocks[bytes] = Blocks()


class _Header(NamedTuple):
    """A member. offset, size: of its bytes. next: the place of the next header. target: a hard link's file."""

    name: str
    kind: Literal["file", "folder", "hard link", "sparse file", "other"]
    offset: int
    size: int
    next: int
    target: str = ""


class _CutOff(Exception):
    """Raised where the rest of an archive cannot be read, with the reason."""


def find_in_tar(path: str, takes: Takes, passed_over: PassedOver, network: Network) -> Iterator[Pictures]:
    """Yield the pictures of a tar archive in order. If it is cut off or damaged, a last row says where.

    Args:
        takes: whether a member of this name is a picture of the run; counts those that are not.
        passed_over: where to count links and devices.
        network: fetches an archive on a server, and knows what an archive holds if it was read before.
    """
    walk = None
    try:
        shard = network.open(path)
        known = _kept_members(shard, network)
        walk = _Walk(shard, is_gzip=known is None and shard.read(0, len(_GZIP)) == _GZIP)
        for member in _kept(walk, shard, network) if known is None else known:
            if member.kind == "folder" or not takes(member.name):
                continue
            if member.kind == "sparse file":
                yield from walk.group()
                what = "a sparse file in a tar archive; unpack it first"
                yield failed(f"{path}#{member.name}", Refused("unsupported", what))
            elif (file := walk.file(member)) is None:
                passed_over.links += 1
            elif walk.add(file):
                yield from walk.group()
        yield from walk.group()
        passed_over.tails += walk.has_tail
    except _CutOff as e:
        assert walk is not None
        yield from walk.group()
        yield failed(path, Refused("unreadable", str(e)))
    except Exception as e:
        if walk is not None:
            walk.drop_unsent()
            yield from walk.group()
        yield failed(path, e)


def _kept_members(shard: Shard, network: Network) -> list[_Header] | None:
    """Give what an archive holds, if it was read before and has not changed."""
    if network.members is None or shard.key is None:
        return None
    kept = network.members.find(shard.key)
    try:
        return None if kept is None else list(starmap(_Header, zip(*json.loads(zlib.decompress(kept)), strict=True)))
    except (zlib.error, ValueError, TypeError):
        return None


def _kept(walk: "_Walk", shard: Shard, network: Network) -> Iterator[_Header]:
    """Yield the members of an archive, and keep them if it is whole: its headers lie all over it."""
    if network.members is None or shard.key is None or walk.is_packed:
        yield from walk.members()
        return
    found = []
    for member in walk.members():
        found.append(member)
        yield member
    if found and not walk.has_tail:  # what has one must say so each time
        packed = zlib.compress(json.dumps(list(zip(*found, strict=True)), separators=(",", ":")).encode(), 1)
        if len(packed) <= _LARGEST_INDEX:
            network.members.keep(shard.key, packed)


class _Walk:
    """Walks through an archive, and collects the pictures found since the last group."""

    def __init__(self, shard: Shard, *, is_gzip: bool) -> None:
        self._shard = shard
        self._inflated = Inflated(shard.read) if is_gzip else None
        self._mark: Inflated | None = None  # where a compressed archive can be read on for the next group
        self._found: list[_Header] = []
        self._bytes = 0
        self.has_tail = False  # whether data follow the end marker, as in archives joined by cat
        self._files: dict[str, _Header] | None = None  # for hard links; there are seldom any

    @property
    def is_packed(self) -> bool:
        """Whether the archive is compressed as a whole."""
        return self._inflated is not None

    def members(self) -> Iterator[_Header]:
        """Yield the members whose bytes are all there.

        Raises:
            _CutOff: the archive is damaged, or was cut off.
        """
        headers = _Headers(self._shard.read if self._inflated is None else self._inflated.read, self._shard.size)
        place = 0
        while True:
            if self._inflated is not None and not self._found:
                self._mark = self._inflated.copy()
            try:
                member = headers.at(place)
            except tarfile.EmptyHeaderError as e:  # type: ignore[attr-defined]
                end = place if self._inflated is not None else min(place, self._shard.size)
                raise _CutOff(f"the archive ends at byte {end:,} without an end marker; it may be cut off") from e
            except Refused:  # its server does not send it, or it has changed
                raise
            except Exception as e:  # tarfile raises anything at all on damaged headers
                where = f"the archive is damaged at byte {place:,}" if place else "not a tar archive, or a damaged one"
                raise _CutOff(f"{where}: {first_line(e)}{'; what follows is lost' if place else ''}") from e
            if member is None:
                self._finish(place)
                return
            if not self._reaches(member.offset + member.size):
                raise _CutOff(f"the archive is cut off inside {member.name!r}, which starts at byte {place:,}")
            yield member
            place = member.next

    def _finish(self, place: int) -> None:
        """Look at what follows the end marker; a compressed archive is read to its end, where its checksum is.

        Raises:
            _CutOff: it is damaged anywhere, or has no checksum.
        """
        try:
            if self._inflated is not None:
                self.has_tail = self._inflated.finish()
            else:
                self.has_tail = bool(self._shard.read(place, _TAIL_BYTES).strip(b"\0"))
        except Refused:  # the archive itself is complete
            pass
        except zlib.error as e:
            raise _CutOff("damaged: its checksum does not match; images may be wrong") from e
        except EOFError as e:
            raise _CutOff("the archive is cut off before its checksum; images may be wrong") from e

    def file(self, member: _Header) -> _Header | None:
        """Give the member, with the bytes of another file if it is a hard link to one; None for other links."""
        if member.kind == "file":
            return member
        if member.kind != "hard link" or self._inflated is not None:
            return None
        if self._files is None:
            self._files = {}
            try:
                for each in _Walk(self._shard, is_gzip=False).members():
                    if each.kind == "file":
                        self._files[each.name] = each
            except _CutOff:
                pass
        target = self._files.get(member.target)
        return None if target is None else target._replace(name=member.name)

    def add(self, file: _Header) -> bool:
        """Take a picture into the group; give whether the group is full."""
        self._found.append(file)
        self._bytes += file.size
        is_block = (self._inflated is not None or self._shard.fetch is not None) and self._bytes >= _BLOCK_BYTES
        return is_block or len(self._found) == TOGETHER

    def drop_unsent(self) -> None:
        """Drop the last picture if its server did not send all of it; the row of the archive will say so."""
        if self._found and self._shard.fetch is not None and self._inflated is None:
            last = self._found[-1]
            try:
                self._shard.read(last.offset + last.size - 1, 1)
            except Refused:
                self._found.pop()
                self._bytes -= last.size

    def group(self) -> Iterator[Pictures]:
        """Yield the pictures found since the last group, if there are any."""
        shard, mark, found = self._shard, self._mark, self._found
        waiting = self._bytes if shard.fetch is not None else 0
        self._found, self._bytes = [], 0
        if not found:
            return

        def inflated() -> list[bytes]:
            assert mark is not None
            source = mark.copy()
            return [source.read(each.offset, _readable(each.size)) for each in found]

        def read(place: int) -> bytes | BinaryIO:
            file = found[place]
            if mark is None:
                return shard.picture(file.offset, file.size)
            check_packed(file.size)
            return _BLOCKS.read(mark, inflated)[place]

        names = [f"{shard.path}#{each.name}" for each in found]
        yield Pictures(names, read, lambda place: shard.key_of(found[place].offset, found[place].size), waiting=waiting)

    def _reaches(self, end: int) -> bool:
        if self._inflated is None:
            return end <= self._shard.size
        try:
            return self._inflated.reaches(end)
        except (EOFError, zlib.error):
            return False


class _Headers:
    """The headers of an archive, each read once and in order, as from a compressed one nothing is read twice."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._read = read
        self._last: tuple[tuple[int, int], bytes] = ((0, 0), b"")
        self._stream = Stream(self._read_on, size, most=_LARGEST_HEADER)
        empty: Any = io.BytesIO(bytes(tarfile.RECORDSIZE))
        self._archive = tarfile.TarFile(fileobj=empty, encoding="utf-8", errors="surrogateescape")
        self._archive.fileobj = self._stream

    def at(self, place: int) -> _Header | None:
        """Give the member whose header is at a place; None at the end mark.

        Raises:
            Exception: of any type, where there is no header.
        """
        block = self._read(place, tarfile.BLOCKSIZE)
        if not self._archive.pax_headers and (plain := _plain_file(block, place)):
            return plain
        self._last = (place, tarfile.BLOCKSIZE), block
        self._stream.seek(place)
        try:
            member = tarfile.TarInfo.fromtarfile(self._archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return None
        kind: Literal["file", "folder", "hard link", "sparse file", "other"]
        kind = "sparse file" if member.issparse() else "file" if member.isreg() else "other"
        kind = "folder" if member.isdir() else "hard link" if member.islnk() else kind
        name, next_one = member.name.partition("\0")[0], int(self._archive.offset)
        if member.size < 0 or next_one <= place:
            raise ValueError("a negative size")
        return _Header(name, kind, member.offset_data, member.size * (kind == "file"), next_one, member.linkname)

    def _read_on(self, offset: int, size: int) -> bytes:
        where, block = self._last
        return block if where == (offset, size) else self._read(offset, size)


def _plain_file(block: bytes, place: int) -> _Header | None:
    """Read the header of a file with a short name in a tenth of tarfile's time; None for everything else."""
    if block[156:157] not in (b"0", b"\0") or block[135:136] not in (b" ", b"\0") or len(block) < tarfile.BLOCKSIZE:
        return None
    try:
        size, total = int(block[124:135], 8), int(block[148:154], 8)
    except ValueError:
        return None
    if size < 0 or total != sum(block[:148]) + sum(block[156:]) + 8 * ord(" ") or block[154:155] not in (b" ", b"\0"):
        return None
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    if name.endswith(b"/"):
        return None
    name = prefix + b"/" + name if prefix else name
    offset = place + tarfile.BLOCKSIZE
    next_one = offset + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return _Header(name.decode("utf-8", "surrogateescape"), "file", offset, size, next_one)


def _readable(size: int) -> int:
    """Give the bytes to read of a member: none of one that will be refused."""
    try:
        check_packed(size)
    except Refused:
        return 0
    return size
