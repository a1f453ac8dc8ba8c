"""Pictures in zip archives, found by their directory and read where they lie. Nothing is unpacked."""

import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from zsclip.errors import first_line
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.shards import TOGETHER, Shard, Stream, Takes, check_not_empty, check_packed, failed

_LOCAL = struct.Struct("<4s3HI3L2H")  # the header of a member, before its name
_HEADER = b"PK\3\4"
_ENCRYPTED, _SIZES_FOLLOW, _UTF8, _UNIX = 0x1, 0x8, 0x800, 3
_IN_EXTRA = 0xFFFFFFFF  # in place of a size of 64 bits


def find_in_zip(path: str, takes: Takes, passed_over: PassedOver, network: Network) -> Iterator[Pictures]:
    """Yield the pictures of a zip archive in the order of its directory.

    If it is cut off, those that are complete are read, and a last row says so.

    Args:
        takes: whether a member of this name is a picture of the run; counts those that are not.
        network: fetches parts of an archive on a server.
    """
    try:
        shard = network.open(path)
        is_broken = False
        try:
            file: Any = Stream(shard.read, shard.size)
            members: Iterable[zipfile.ZipInfo] = zipfile.ZipFile(file).infolist()
        except zipfile.BadZipFile:
            members, is_broken = _complete_members(shard), True
        found: list[tuple[str, zipfile.ZipInfo]] = []
        for info in members:
            name = _name_in_zip(info)
            if info.is_dir() or not takes(name):
                continue
            if info.create_system == _UNIX and info.external_attr >> 28 not in (0, 8):  # a symbolic link, or a device
                passed_over.links += 1
                continue
            found.append((name, info))
            if len(found) == TOGETHER:
                yield _zipped(shard, found)
                found = []
        yield _zipped(shard, found)
        if is_broken:
            is_zip = shard.read(0, 4) == _HEADER
            what = "the archive is cut off or damaged: it has no directory" if is_zip else "not a ZIP archive"
            yield failed(path, Refused("unreadable", what))
    except Exception as e:
        yield failed(path, e)


def _complete_members(shard: Shard) -> Iterator[zipfile.ZipInfo]:
    """Yield the members of an archive without a directory, from its beginning, while they say how long they are."""
    place = 0
    while len(header := shard.read(place, _LOCAL.size)) == _LOCAL.size:
        signature, _, flags, method, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL.unpack(header)
        end = place + len(header) + name_bytes + extra_bytes + packed
        is_unknown = flags & _SIZES_FOLLOW or _IN_EXTRA in (packed, size)
        if signature != _HEADER or is_unknown or end > shard.size:
            return
        name = shard.read(place + len(header), name_bytes).decode("utf-8" if flags & _UTF8 else "cp437", "replace")
        info = zipfile.ZipInfo(name)
        info.create_system, info.header_offset, info.flag_bits, info.compress_type = _UNIX, place, flags, method
        info.CRC, info.compress_size, info.file_size = crc, packed, size
        yield info
        place = end


def _zipped(shard: Shard, found: list[tuple[str, zipfile.ZipInfo]]) -> Pictures:
    def read(place: int) -> bytes | BinaryIO:
        return _unzipped(shard, found[place][1])

    def key(place: int) -> bytes | None:
        return shard.key_of(found[place][1].header_offset, found[place][1].compress_size)

    return Pictures([f"{shard.path}#{name}" for name, _ in found], read, key)


def _unzipped(shard: Shard, info: zipfile.ZipInfo) -> bytes | BinaryIO:
    """Read a member of a zip archive.

    Raises:
        Refused: it is encrypted, compressed in an unknown way, too large or damaged.
    """
    if info.flag_bits & _ENCRYPTED:
        raise Refused("unsupported", "encrypted; unpack the archive with its password first")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(
            "unsupported", f"compressed with ZIP method {info.compress_type}, which is not supported; unpack it first"
        )
    is_packed = info.compress_type == zipfile.ZIP_DEFLATED
    check_not_empty(info.file_size)
    if is_packed:
        check_packed(info.file_size)
        check_packed(max(info.compress_size, 1))
    header = shard.read(info.header_offset, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(_HEADER):
        raise Refused("unreadable", "its header in the archive is damaged")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
    start = info.header_offset + len(header) + name_bytes + extra_bytes
    data = shard.picture(start, info.compress_size)
    if not isinstance(data, bytes):
        return data
    if is_packed:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflate.decompress(data, info.file_size + 1)
        except zlib.error as e:
            raise Refused("unreadable", f"damaged in the archive: {first_line(e)}") from e
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise Refused("unreadable", "damaged in the archive: its size or checksum is not what the archive says")
    return data


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
