"""How many processors this process may use."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus() -> int:
    """Count the processors this process may use, by its affinity and its cgroup's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpus(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(affinity, quota)))


def _cgroup_cpus(membership: Path, mount: Path) -> float:
    """Return the smallest CPU quota of the cgroup and its parents (v2 and v1), or infinity."""
    return min((_quota(folder) for folder in cgroup_folders(membership, mount, "cpu")), default=math.inf)


def cgroup_folders(membership: Path, mount: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and its parents that may limit a controller (v2 and v1)."""
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            base = mount / controllers  # v2: no controllers, the mount itself
            own = base / group.lstrip("/")
            # Also the mount itself: in a container the path may be the host's.
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(base))


def _quota(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(quota) / float(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
