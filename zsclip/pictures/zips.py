"""Pictures in zip archives, found by their directory and read where they lie. Nothing is unpacked."""

import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from zsclip.errors import first_line
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.ranges import TOGETHER, Shard, Stream, Takes, check_size, failed, open_shard
from zsclip.pictures.refused import Refused

_HEADER_BYTES = 30  # of a member, before its name
_ENCRYPTED, _UTF8, _UNIX = 0x1, 0x800, 3


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
            if len(found) == TOGETHER:
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
    data = shard.read_whole(start + int.from_bytes(header[28:30], "little"), info.compress_size)
    if info.compress_type == zipfile.ZIP_DEFLATED:
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
