"""Paths -> batches of pixels, decoded on threads a little ahead of the model."""

import contextlib
import math
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from zsclip.decode import DEFAULT_MAX_PIXELS, Preprocess, decode_image, set_up_pillow
from zsclip.results import Skipped

LOOKAHEAD = 2  # batches decoded or being decoded while the model works on one
IDLE_SECONDS = 0.05  # a source this long silent gets its answers without a full batch

Row = tuple[str, NDArray[np.uint8] | Skipped]


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive paths of a run, decoded.

    rows: in input order; a path, whose pixels are the next row of `pixels`, or why there are none.
    pixels: (B, 3, H, W) uint8, B being the number of rows that are paths.
    """

    rows: tuple[str | Skipped, ...]
    pixels: NDArray[np.uint8]


def decode_batches(
    paths: Iterable[str],
    preprocess: Preprocess,
    *,
    batch_size: int,
    threads: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Iterator[Batch]:
    """Decode paths on threads and yield them in order, in batches.

    `paths` is iterated on a thread of its own, which may wait for as long as it likes: after a moment without news the
    finished rows are yielded as a smaller batch. At most LOOKAHEAD batches beyond the one yielded are asked for.

    Raises:
        BaseException: what iterating `paths` raised, after the rows before it.
    """
    set_up_pillow(max_pixels)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="zsclip-decode")
    ahead: SimpleQueue[object] = SimpleQueue()  # rows being decoded, in order, then `end` or what went wrong
    end, idle = object(), object()
    room = threading.Semaphore((LOOKAHEAD + 1) * batch_size)
    closed = threading.Event()

    def decode_row(path: str) -> Row:
        return path, decode_image(path, preprocess, max_pixels)

    def feed() -> None:
        try:
            iterator = iter(paths)
            while room.acquire() and not closed.is_set():
                path = next(iterator, None)
                if path is None:
                    break
                ahead.put(pool.submit(decode_row, path))
            ahead.put(end)
        except BaseException as e:  # raised again by the consumer: nobody sees what a thread raises
            ahead.put(e)

    # A daemon, as it may be waiting in a read of stdin when the run ends.
    threading.Thread(target=feed, name="zsclip-paths", daemon=True).start()
    rows: list[Row] = []
    try:
        while True:
            try:
                item = ahead.get(timeout=IDLE_SECONDS if rows else None)
            except Empty:
                item = idle
            if isinstance(item, Future):
                rows.append(item.result())
            if rows and (len(rows) == batch_size or not isinstance(item, Future)):
                yield _batch(rows, preprocess)
                room.release(len(rows))
                rows = []
            if isinstance(item, BaseException):
                raise item
            if item is end:
                return
    finally:
        closed.set()
        room.release()
        pool.shutdown(wait=False, cancel_futures=True)


def _batch(rows: list[Row], preprocess: Preprocess) -> Batch:
    good = [outcome for _, outcome in rows if not isinstance(outcome, Skipped)]
    pixels = np.stack(good) if good else np.empty((0, 3, *preprocess.size), np.uint8)
    return Batch(tuple(outcome if isinstance(outcome, Skipped) else path for path, outcome in rows), pixels)


def available_cpus() -> int:
    """Count the processors this process may keep busy: its affinity and its cgroup's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpus(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(affinity, quota)))


def _cgroup_cpus(membership: Path, mount: Path) -> float:
    """Return the smallest CPU quota of the cgroup and those above it (v2 and v1), infinity without one."""
    quotas = [math.inf]
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            base = mount / controllers  # v2: no controllers, the mount itself
            own = base / group.lstrip("/")
            # Also the mount itself: in a container the path may be the host's.
            for folder in (own, *own.parents):
                if folder.is_relative_to(base):
                    quotas.append(_quota(folder))
    return min(quotas)


def _quota(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(quota) / float(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
