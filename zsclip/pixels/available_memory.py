"""How much memory this process may use, and how it returns some."""

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path

from zsclip.pixels.processors import cgroup_folders


def available_memory() -> int:
    """Count the bytes this process may use, by the machine's memory and its cgroup's limit."""
    machine = 1 << 62
    with contextlib.suppress(ValueError, OSError, AttributeError):
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, _cgroup_memory(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def _cgroup_memory(membership: Path, mount: Path) -> int:
    """Return the smallest limit of the cgroup and its parents (v2 and v1), or a number that no machine has."""
    limits = [1 << 62]
    for folder in cgroup_folders(membership, mount, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # "max" is not a number
                limits.append(int((folder / name).read_text()))
    return min(limits)


def return_freed_memory() -> None:
    """Return to the system what has been freed: glibc would keep the blocks of a large picture for its thread alone."""
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    import ctypes

    return getattr(ctypes.CDLL(None), "malloc_trim", lambda kept: None)  # only glibc has it
