"""How a picture is recognised: by its content, or, without reading it, by its file's path, size, times and inode."""

import hashlib
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

GRAIN_NS = 2_000_000_000  # the coarsest clock, FAT's: a file changed within this time may keep its timestamp
LARGEST = 2**63 - 1  # SQLite's integers have 63 bits and a sign

LOOK_FORMAT = ">x4q"  # a NUL, which no path contains, then size, times and inode
_LOOK = struct.Struct(LOOK_FORMAT)
LOOK_BYTES = _LOOK.size


class Kept(Protocol):
    """What earlier runs found in files, by their keys."""

    def find(self, key: bytes) -> bytes | None:
        """Give what was kept under a key; None if nothing was."""

    def keep(self, key: bytes, value: bytes) -> None:
        """Keep a value under a key."""


class Look(NamedTuple):
    """The size, times in nanoseconds and inode of a file when its content was read."""

    size: int
    mtime: int
    ctime: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Look":
        """Take the fields of a status that change with the content."""
        # NTFS has times from the year 1601, and some inodes have 64 bits.
        mtime, ctime = (max(-LARGEST, min(at, LARGEST)) for at in (status.st_mtime_ns, status.st_ctime_ns))
        return cls(status.st_size, mtime, ctime, status.st_ino & LARGEST)


@dataclass(frozen=True)
class Sight:
    """A picture that was read.

    content: its BLAKE2b digest. key: identifies it without reading it; None if nothing does, or if a further change
    might leave the key the same.
    """

    name: str
    content: bytes
    key: bytes | None


def content_of(data: bytes) -> bytes:
    """Give the 32-byte digest of a picture's content."""
    return hashlib.blake2b(data, digest_size=32).digest()


def look_of(status: os.stat_result) -> bytes:
    """Give the look of a file as bytes."""
    try:
        return _LOOK.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    except struct.error:  # they do not fit
        return _LOOK.pack(*Look.of(status))


def key_of(path: bytes, size: int, mtime: int, ctime: int, inode: int) -> bytes:
    """Give the key of a file that had this absolute path and look."""
    return path + _LOOK.pack(size, mtime, ctime, inode)


def file_key(path: str, look: bytes) -> bytes | None:
    """Give the key of a file: its absolute path and its look."""
    (absolute,) = absolute_paths([path])
    return None if absolute is None else absolute + look


def settled_key(path: str, status: os.stat_result, now: int) -> bytes | None:
    """Give the key of a file that was opened; None if it was changed a moment ago, and may change again unnoticed.

    Args:
        now: in nanoseconds, when the status was taken.
    """
    is_settled = max(status.st_mtime_ns, status.st_ctime_ns) + GRAIN_NS < now
    return file_key(path, look_of(status)) if is_settled else None


def file_keys(paths: Sequence[str], looks: Sequence[bytes | None] | None = None) -> list[bytes | None]:
    """Give the key of each file; None if it cannot be found.

    Args:
        looks: of the files; None in place of one that is not known yet, or of all.
    """
    keys: list[bytes | None] = []
    looks = [None] * len(paths) if looks is None else looks
    for path, absolute, known in zip(paths, absolute_paths(paths), looks, strict=True):
        try:
            look = known or look_of(os.stat(path))
            keys.append(None if absolute is None else absolute + look)
        except (OSError, ValueError):  # ValueError: there is a NUL in the path
            keys.append(None)
    return keys


def absolute_paths(paths: Sequence[str]) -> Sequence[bytes | None]:
    """Give the absolute paths as bytes; None for a relative one if the working directory was deleted."""
    together = "\0".join(paths)
    breaks = together.count("\0")
    is_plain = breaks == len(paths) - 1 and all(paths) and together[-1] != "/"
    # With none of these, abspath would only put the working directory before a relative path; it takes 8 times as long.
    if is_plain and not any(part in together for part in ("//", "/.", "/\0")):
        names = os.fsencode(together).split(b"\0")
        if together[0] == "/" and together.count("\0/") == breaks:
            return names
        if together[0] not in "/." and "\0/" not in together and "\0." not in together:
            with suppress(OSError):
                folder = os.getcwdb().rstrip(b"/") + b"/"  # in containers it is often "/"
                return [folder + name for name in names]
    return list(map(_absolute_one, paths))


def _absolute_one(path: str) -> bytes | None:
    with suppress(OSError):
        return os.fsencode(os.path.abspath(path))
    return None
