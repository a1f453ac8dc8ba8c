"""How a picture is known again: by what is in it, and without reading it by how its file looks from outside."""

import hashlib
import os
from dataclasses import dataclass
from typing import NamedTuple

GRAIN_NS = 2_000_000_000  # of the coarsest clock, FAT's: what was written a moment before may be written again unseen
LARGEST = 2**63 - 1  # SQLite's integers have 63 bits and a sign


class Look(NamedTuple):
    """How a file looked from outside when its content was read: size, times in nanoseconds, inode."""

    size: int
    mtime: int
    ctime: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Look":
        """Take from a status what changes with the content."""
        mtime, ctime = status.st_mtime_ns, status.st_ctime_ns
        if not (-LARGEST <= mtime <= LARGEST and -LARGEST <= ctime <= LARGEST):  # NTFS has times from the year 1601
            mtime, ctime = (max(-LARGEST, min(at, LARGEST)) for at in (mtime, ctime))
        return cls(status.st_size, mtime, ctime, status.st_ino & LARGEST)  # some inodes have 64 bits


@dataclass(frozen=True)
class Sight:
    """A content that was read, and the file it was read from.

    content: its BLAKE2b. look: of the file; None where it may be written again and look the same.
    """

    path: str
    content: bytes
    look: Look | None


def content_of(data: bytes) -> bytes:
    """Give the name of a content, 32 bytes."""
    return hashlib.blake2b(data, digest_size=32).digest()
