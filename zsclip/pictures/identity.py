"""How a picture is recognised: by its content, or, without reading it, by its file's size, times and inode."""

import hashlib
import os
from dataclasses import dataclass
from typing import NamedTuple

GRAIN_NS = 2_000_000_000  # the coarsest clock, FAT's: a file changed within this time may keep its timestamp
LARGEST = 2**63 - 1  # SQLite's integers have 63 bits and a sign


class Look(NamedTuple):
    """The size, times in nanoseconds and inode of a file when its content was read."""

    size: int
    mtime: int
    ctime: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Look":
        """Take the fields of a status that change with the content."""
        mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
        if not (-LARGEST <= mtime <= LARGEST and -LARGEST <= ctime <= LARGEST):  # NTFS has times from the year 1601
            mtime, ctime = (max(-LARGEST, min(at, LARGEST)) for at in (mtime, ctime))
        return cls(status.st_size, mtime, ctime, status.st_ino & LARGEST)  # some inodes have 64 bits


@dataclass(frozen=True)
class Sight:
    """The content of a picture, and the state of the file it was read from.

    content: its BLAKE2b digest. look: of the file; None if the file may change again and look the same.
    """

    path: str
    content: bytes
    look: Look | None


def content_of(data: bytes) -> bytes:
    """Give the 32-byte digest of a content."""
    return hashlib.blake2b(data, digest_size=32).digest()
