"""Folders in which several processes write: one process at a time, and on the disk for certain."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Let no other process that asks for the same folder in this way go on while the block runs.

    Raises:
        OSError: there is no such folder. A file system without locks is no reason.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def flush_folder(folder: str) -> None:
    """Put names that were just made or replaced on the disk, so that a crash of the machine does not undo that."""
    with suppress(OSError):  # file systems that cannot flush folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
