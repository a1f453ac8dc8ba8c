"""Paths -> batches of pixels, decoded on threads a little ahead of the model."""

import contextlib
import math
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from zsclip.decode import DEFAULT_DECODING, Decoding, Preprocess, decode_image, set_up_pillow
from zsclip.results import Skipped

LOOKAHEAD = 2  # batches decoded or being decoded while the model works on one
FIRST_BATCH = 32  # so many, and LOOKAHEAD times more, while nobody has said how large batches will be
IDLE_SECONDS = 0.05  # a source this long silent gets its answers without a full batch
WAKE_SECONDS = 0.5  # a signal that comes just before the main thread begins to wait is seen when it wakes

_END, _IDLE = object(), object()

_T = TypeVar("_T")
Row = tuple[str, NDArray[np.uint8] | Skipped]
# Main and decoding threads meet in simple queues only. A signal that comes while the main thread is in Python's other
# locks, those of futures and semaphores, leaves them held or comes out as an error of theirs.
Answer = SimpleQueue[Row | BaseException]


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive paths of a run, decoded.

    rows: in input order; a path, whose pixels are the next row of `pixels`, or why there are none.
    pixels: (B, 3, H, W) uint8, B being the number of rows that are paths.
    """

    rows: tuple[str | Skipped, ...]
    pixels: NDArray[np.uint8]


class Decoder:
    """Reads and decodes pictures on threads from the moment it is made, while others still import torch.

    Leave it, as a context, when no more batches are wanted.

    Args:
        paths: iterated on a thread of its own, which may wait for as long as it likes.
        batch_size: how far to look ahead from the start; None where it depends on a model that is not loaded yet.
    """

    def __init__(
        self,
        paths: Iterable[str],
        preprocess: Preprocess,
        *,
        batch_size: int | None,
        threads: int,
        decoding: Decoding = DEFAULT_DECODING,
    ) -> None:
        set_up_pillow(decoding.max_pixels)
        self._preprocess = preprocess
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="zsclip-decode")
        self._ahead: SimpleQueue[object] = SimpleQueue()  # rows being decoded, in order, then _END or what went wrong
        self._slots: SimpleQueue[None] = SimpleQueue()  # one for each row that may be begun
        self._allowed = (LOOKAHEAD + 1) * (batch_size or FIRST_BATCH)
        self._allow(self._allowed)
        self._closed = False

        def decode_row(path: str, answer: Answer) -> None:
            try:
                answer.put((path, decode_image(path, preprocess, decoding)))
            except BaseException as e:  # raised again by the consumer, who waits for an answer
                answer.put(e)

        def feed() -> None:
            try:
                iterator = iter(paths)
                while True:
                    self._slots.get()
                    path = None if self._closed else next(iterator, None)
                    if path is None:
                        break
                    answer = Answer()
                    self._pool.submit(decode_row, path, answer)
                    self._ahead.put(answer)
                self._ahead.put(_END)
            except BaseException as e:  # raised again by the consumer: nobody sees what a thread raises
                self._ahead.put(e)

        # A daemon, as it may be waiting in a read of stdin when the run ends.
        threading.Thread(target=feed, name="zsclip-paths", daemon=True).start()

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the pictures in order, in batches, with LOOKAHEAD batches asked for beyond the one yielded.

        After a moment without news of a slow source the finished rows are yielded as a smaller batch.

        Raises:
            BaseException: what iterating the paths raised, after the rows before it.
        """
        rows: list[Row] = []
        if (more := (LOOKAHEAD + 1) * batch_size - self._allowed) > 0:
            self._allow(more)
            self._allowed += more
        while True:
            try:
                item = self._ahead.get(timeout=IDLE_SECONDS) if rows else _wait(self._ahead)
            except Empty:
                item = _IDLE
            if isinstance(item, SimpleQueue):
                row = _wait(item)
                if isinstance(row, BaseException):
                    raise row
                rows.append(row)
            if rows and (len(rows) == batch_size or not isinstance(item, SimpleQueue)):
                yield _batch(rows, self._preprocess)
                self._allow(len(rows))
                rows = []
            if isinstance(item, BaseException):
                raise item
            if item is _END:
                return

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        self._allow(1)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _allow(self, rows: int) -> None:
        for _ in range(rows):
            self._slots.put(None)


def decode_batches(
    paths: Iterable[str],
    preprocess: Preprocess,
    *,
    batch_size: int,
    threads: int,
    decoding: Decoding = DEFAULT_DECODING,
) -> Iterator[Batch]:
    """Decode paths on threads and yield them in order, in batches: a `Decoder` that begins when it is first asked."""
    with Decoder(paths, preprocess, batch_size=batch_size, threads=threads, decoding=decoding) as decoder:
        yield from decoder.batches(batch_size)


def _wait(queue: SimpleQueue[_T]) -> _T:
    while True:
        with contextlib.suppress(Empty):
            return queue.get(timeout=WAKE_SECONDS)


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
