"""Pictures in tar and zip archives, found by their headers and read where they lie. Nothing is unpacked."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zsclip.errors import first_line
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.ranges import Blocks, Inflated, Shard, Stream, check_size, failed, open_shard
from zsclip.pictures.refused import Refused

_TOGETHER = 512  # pictures handed on together
_BLOCK_BYTES = 1 << 25  # and so many bytes of a compressed archive, which are inflated together
_LARGEST_HEADER = 1 << 24  # bytes; of a tar, where one says how long the next is
_HEADER_BYTES = 30  # of a member of a zip, before its name
_ENCRYPTED, _UTF8, _UNIX = 0x1, 0x800, 3
_GZIP = b"\x1f\x8b"

Takes = Callable[[str], bool]
_BLOCKS: Blocks[bytes] = Blocks()


@dataclass(frozen=True)
class _Entry:
    """A picture in an archive: its name there, and where its bytes are."""

    name: str
    offset: int
    size: int


def find_in_tar(path: str, takes: Takes, passed_over: PassedOver) -> Iterator[Pictures]:
    """Yield the pictures of a tar archive in their order there, and at last one that says where it breaks off, if so.

    Args:
        takes: whether a member of this name is a picture of the run; counts those that are not.
    """
    try:
        shard = open_shard(path)
        walk = _Walk(shard, shard.read(0, 2) == _GZIP)
        for member in walk.members():
            if member.isdir() or not takes(member.name):
                continue
            entry = walk.entry(member)
            if isinstance(entry, Refused):
                yield from walk.group()
                yield failed(f"{path}#{member.name}", entry)
            elif entry is None:
                passed_over.links += 1
            elif walk.add(entry):
                yield from walk.group()
        yield from walk.group()
    except _BreaksOff as e:
        yield from walk.group()
        yield failed(path, Refused("unreadable", str(e)))
    except Exception as e:
        yield failed(path, e)


class _BreaksOff(Exception):
    """Raised where an archive cannot be read on, with the reason."""


class _Walk:
    """The way through a tar archive, and the pictures that were found since the last group."""

    def __init__(self, shard: Shard, is_gzip: bool) -> None:
        self._shard = shard
        self._inflated = Inflated(shard.read) if is_gzip else None
        self._mark: Inflated | None = None  # where a compressed archive can be read on for the next group
        self._found: list[_Entry] = []
        self._bytes = 0
        self._targets: dict[str, _Entry] | None = None  # of hard links; there are seldom any

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members whose bytes are all there.

        Raises:
            _BreaksOff: the archive is damaged, or was cut off.
        """
        read = self._shard.read if self._inflated is None else self._inflated.read
        headers = Stream(read, self._shard.size, most=_LARGEST_HEADER)
        place, archive = 0, None
        while True:
            if self._inflated is not None and not self._found:
                self._mark = self._inflated.copy()
            try:
                if archive is None:
                    archive = tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape")
                    member = archive.firstmember  # type: ignore[attr-defined]
                else:
                    headers.seek(place)
                    member = tarfile.TarInfo.fromtarfile(archive)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                return
            except tarfile.EmptyHeaderError as e:  # type: ignore[attr-defined]
                raise _BreaksOff(f"the archive ends at byte {place:,} without an end mark; it may be cut off") from e
            except Exception as e:  # tarfile raises anything at all on damaged headers
                if archive is None:
                    raise _BreaksOff(f"not a tar archive, or a damaged one: {first_line(e)}") from e
                raise _BreaksOff(f"the archive breaks off at byte {place:,}: {first_line(e)}; the rest is lost") from e
            if member is None:
                return
            end = member.offset_data + (member.size if member.isreg() else 0)
            end = archive.offset if member.issparse() else end
            if member.size < 0 or archive.offset <= place:
                raise _BreaksOff(f"the archive breaks off at byte {place:,}: a damaged header; the rest is lost")
            if not self._reaches(end):
                raise _BreaksOff(f"the archive breaks off at byte {place:,}, inside {member.name!r}; the rest is lost")
            yield member
            place = archive.offset

    def entry(self, member: tarfile.TarInfo) -> _Entry | Refused | None:
        """Give where the bytes of a member are; None for a link or a device."""
        name = member.name.partition("\0")[0]
        if member.issparse():
            return Refused("unsupported", "a sparse file in a tar archive; unpack it first")
        if member.isreg():
            return _Entry(name, member.offset_data, member.size)
        if not member.islnk() or self._inflated is not None:
            return None
        if self._targets is None:
            others = _Walk(self._shard, False)
            self._targets = {}
            try:
                for each in others.members():
                    if each.isreg() and not each.issparse():
                        self._targets[each.name] = _Entry(each.name, each.offset_data, each.size)
            except _BreaksOff:
                pass
        target = self._targets.get(member.linkname)
        return None if target is None else _Entry(name, target.offset, target.size)

    def add(self, entry: _Entry) -> bool:
        """Take a picture into the group; give whether the group is full."""
        self._found.append(entry)
        self._bytes += entry.size
        is_block = self._inflated is not None and self._bytes >= _BLOCK_BYTES
        return is_block or len(self._found) == _TOGETHER

    def group(self) -> Iterator[Pictures]:
        """Yield the pictures found since the last group, if there are any."""
        shard, mark, found = self._shard, self._mark, self._found
        self._found, self._bytes = [], 0
        if not found:
            return

        def inflated() -> list[bytes]:
            assert mark is not None
            source = mark.copy()
            return [source.read(each.offset, _readable(each.size)) for each in found]

        def read(place: int) -> bytes:
            entry = found[place]
            check_size(entry.size)
            return _whole(shard, entry) if mark is None else _BLOCKS.read(mark, inflated)[place]

        names = [f"{shard.path}#{each.name}" for each in found]
        yield Pictures(names, read, lambda place: shard.key_of(found[place].offset, found[place].size))

    def _reaches(self, end: int) -> bool:
        if self._inflated is None:
            return end <= self._shard.size
        try:
            return self._inflated.reaches(end)
        except (EOFError, zlib.error):
            return False


def find_in_zip(path: str, takes: Takes, passed_over: PassedOver) -> Iterator[Pictures]:
    """Yield the pictures of a zip archive in the order of its directory, or one that says why it cannot be read.

    Args:
        takes: whether a member of this name is a picture of the run; counts those that are not.
    """
    try:
        shard = open_shard(path)
        file: Any = Stream(shard.read, shard.size)
        found: list[tuple[str, zipfile.ZipInfo]] = []
        for info in zipfile.ZipFile(file).infolist():
            name = _name_in_zip(info)
            if info.is_dir() or not takes(name):
                continue
            if info.create_system == _UNIX and info.external_attr >> 28 not in (0, 8):  # a symbolic link, or a device
                passed_over.links += 1
                continue
            found.append((name, info))
            if len(found) == _TOGETHER:
                yield _zipped(shard, found)
                found = []
        yield _zipped(shard, found)
    except zipfile.BadZipFile as e:
        what = f"the archive has no directory at its end, so it is cut off or not a ZIP archive: {first_line(e)}"
        yield failed(path, Refused("unreadable", what))
    except Exception as e:
        yield failed(path, e)


def _zipped(shard: Shard, found: list[tuple[str, zipfile.ZipInfo]]) -> Pictures:
    def read(place: int) -> bytes:
        return _unzipped(shard, found[place][1])

    def key(place: int) -> bytes | None:
        return shard.key_of(found[place][1].header_offset, found[place][1].compress_size)

    return Pictures([f"{shard.path}#{name}" for name, _ in found], read, key)


def _unzipped(shard: Shard, info: zipfile.ZipInfo) -> bytes:
    """Read a member of a zip archive.

    Raises:
        Refused: it is encrypted, compressed in an unknown way, too large or damaged.
    """
    if info.flag_bits & _ENCRYPTED:
        raise Refused("unsupported", "encrypted; unpack the archive with its password first")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused("unsupported", f"compressed by method {info.compress_type} of ZIP; unpack the archive first")
    check_size(info.file_size)
    check_size(max(info.compress_size, 1))
    header = shard.read(info.header_offset, _HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(b"PK\3\4"):
        raise Refused("unreadable", "its header in the archive is damaged")
    start = info.header_offset + len(header) + int.from_bytes(header[26:28], "little")
    data = _whole(shard, _Entry("", start + int.from_bytes(header[28:30], "little"), info.compress_size))
    if info.compress_type == zipfile.ZIP_DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflate.decompress(data, info.file_size + 1)
        except zlib.error as e:
            raise Refused("unreadable", f"damaged in the archive: {first_line(e)}") from e
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise Refused("unreadable", "damaged in the archive: its size or checksum is not what the archive says")
    return data


def _whole(shard: Shard, entry: _Entry) -> bytes:
    data = shard.read(entry.offset, entry.size)
    if len(data) < entry.size:
        raise Refused("unreadable", "the archive ends before it does")
    return data


def _readable(size: int) -> int:
    """Give the bytes to read of a member: none of one that will be refused."""
    try:
        check_size(size)
    except Refused:
        return 0
    return size


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    """Give the name of a member by its bytes: many programs write UTF-8 and do not say so."""
    name = info.filename
    if name.isascii() or info.flag_bits & _UTF8:
        return name
    raw = name.encode("cp437")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if info.create_system == _UNIX else name
