"""Paths -> batches of what is made of them, on threads a little ahead of the model."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

from zsclip.errors import InputError
from zsclip.pixels.limits import CPU_SECONDS, WALL_SECONDS

LOOKAHEAD = 2  # batches decoded or being decoded while the model works on one
FIRST_BATCH = 32  # so many, and LOOKAHEAD times more, while nobody has said how large batches will be
FOUND_BATCH = 1024  # rows that nothing was done for: answered a thousand at a time they cost less
IDLE_SECONDS = 0.05  # a source this long silent gets its answers without a full batch
WAKE_SECONDS = 0.5  # a signal that comes just before the main thread begins to wait is seen when it wakes

PATHS_AHEAD = 2048  # asked for beyond what was yielded: what is looked up needs no pixels, and is looked up together
LOOK_UP = 256  # paths at once: soon enough that nobody takes the source for a slow one
FIRST_SECONDS = 3  # to the first path; a folder of half a million files is listed in that time
MOMENT_SECONDS = 0.1  # from there to what is known of it
WATCH_SECONDS = 0.5  # how often what takes too long is looked for
MAX_GIVEN_UP = 100  # threads that hang, each with a picture in memory

_HAS_CPU_CLOCKS = hasattr(time, "pthread_getcpuclockid")  # not on macOS
_END, _IDLE, _UNKNOWN = object(), object(), object()
_NONE: dict[str, Any] = {}

T = TypeVar("T")
_Q = TypeVar("_Q")


class _Job(Generic[T]):
    """A path to be worked on, and where what was made of it is put: by the thread that works, or by who gives it up."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answer: SimpleQueue[tuple[str, T] | BaseException] = SimpleQueue()
        self.is_first = False
        self.given_up = False

    def begin(self) -> None:
        """Start the clocks, on the thread that works."""
        self.rounds = 0  # of the watch; a clock would run on while the process is stopped
        self._clock = time.pthread_getcpuclockid(threading.get_ident()) if _HAS_CPU_CLOCKS else None
        self._cpu_begun = time.clock_gettime(self._clock) if self._clock is not None else 0.0

    def takes_too_long(self) -> bool:
        """Tell whether it was computed, or waited, for too long. Seen by computing, a busy machine makes none late."""
        self.rounds += 1
        if self.rounds * WATCH_SECONDS > WALL_SECONDS:
            return True
        try:
            return self._clock is not None and time.clock_gettime(self._clock) - self._cpu_begun > CPU_SECONDS
        except OSError:  # the thread has just ended
            return False


class Ahead(Generic[T]):
    """Does something with every path on threads, from the moment it is made, while others still import torch.

    Leave it, as a context, when no more batches are wanted. Main and working threads meet in simple queues only: a
    signal that comes while the main thread is in Python's other locks, those of futures and semaphores, leaves them
    held or comes out as an error of theirs.

    Args:
        paths: iterated on a thread of its own, which may wait for as long as it likes.
        work: what is to be done with a path.
        find: gives for some of these paths what the work would give; asked for as many as are there, before the work.
        give_up: gives for a path and the thread that works on it what stands for it when that takes too long; None
            lets it have as much time again.
        batch_size: how far to look ahead from the start; None where it depends on a model that is not loaded yet.
    """

    def __init__(
        self,
        paths: Iterable[str],
        work: Callable[[str], T],
        *,
        find: Callable[[list[str]], Mapping[str, T]] | None = None,
        give_up: Callable[[str, int], T | None] | None = None,
        batch_size: int | None,
        threads: int,
    ) -> None:
        self._work = work
        self._give_up = give_up
        self._jobs: SimpleQueue[_Job[T] | None] = SimpleQueue()  # None: no more
        self._busy: dict[int, _Job[T]] = {}  # by thread
        self._threads = 0
        self._slots: SimpleQueue[int] = SimpleQueue()  # how many paths more may be asked for
        self._places: SimpleQueue[None] = SimpleQueue()  # one for each path that may be worked on
        self._paths: SimpleQueue[object] = SimpleQueue()  # those not looked up yet, then _END or what went wrong
        self._ahead: SimpleQueue[object] = SimpleQueue()  # rows found or answers to come, in order, then _END or ...
        self._begins_with: SimpleQueue[T | object] = SimpleQueue()  # _UNKNOWN, what was made of the first path, or both
        self._slots.put(PATHS_AHEAD)
        self._allowed = (LOOKAHEAD + 1) * (batch_size or FIRST_BATCH)
        self._allow(self._allowed)
        self._closed = False

        _start(partial(self._ask, paths), "zsclip-paths")
        _start(partial(self._look_up, find), "zsclip-look-up")
        for _ in range(threads):
            self._start_working()
        if give_up is not None:
            _start(self._watch, "zsclip-watch")

    def begins_with(self) -> T | None:
        """Tell what was made of the first path, if that is known at once when there is one."""
        with contextlib.suppress(Empty):
            first: Any = self._begins_with.get(timeout=FIRST_SECONDS)
            if first is _UNKNOWN:
                first = self._begins_with.get(timeout=MOMENT_SECONDS)
            return cast("T", first)
        return None

    def batches(self, batch_size: int) -> Iterator[list[tuple[str, T]]]:
        """Yield paths with what was made of them, in order, with LOOKAHEAD batches asked for beyond the one yielded.

        No more than batch_size of a batch's rows were worked on; of those that were found it may hold more. After a
        moment without news of a slow source the finished rows are yielded as a smaller batch, then an empty one.

        Raises:
            BaseException: what iterating the paths raised, after the rows before it.
        """
        rows: list[tuple[str, T]] = []
        worked_on, most = 0, max(batch_size, FOUND_BATCH)  # of the rows
        is_pause = True  # the consumer knows that there is nothing more for the moment
        if (more := (LOOKAHEAD + 1) * batch_size - self._allowed) > 0:
            self._allow(more)
            self._allowed += more
        if (more := (LOOKAHEAD + 1) * batch_size - PATHS_AHEAD) > 0:
            self._slots.put(more)
        while True:
            try:
                item: Any = _wait(self._ahead) if is_pause and not rows else self._ahead.get(timeout=IDLE_SECONDS)
            except Empty:
                item = _IDLE
            if isinstance(item, SimpleQueue):
                item = _wait(item)
                if not isinstance(item, BaseException):
                    item, worked_on = [item], worked_on + 1
            has_more = isinstance(item, list)
            if has_more:
                rows += item
            while rows and (worked_on == batch_size or len(rows) >= most or not has_more):
                some, rows = rows[:most], rows[most:]  # what is left was found
                yield some
                self._slots.put(len(some))
                self._allow(worked_on)
                worked_on, is_pause = 0, False
            if item is _END:
                return
            if not has_more:
                yield []
                is_pause = True
            if isinstance(item, BaseException):
                raise item

    def __enter__(self) -> "Ahead[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        self._slots.put(1)
        self._allow(1)
        for _ in range(self._threads):
            self._jobs.put(None)

    def _ask(self, paths: Iterable[str]) -> None:
        try:
            allowed = self._slots.get()
            for path in paths:
                if self._closed:
                    break
                self._paths.put(path)
                allowed -= 1
                while not allowed:
                    allowed = self._slots.get()
            self._paths.put(_END)
        except BaseException as e:  # raised again by the consumer: nobody sees what a thread raises
            self._paths.put(e)

    def _look_up(self, find: Callable[[list[str]], Mapping[str, T]] | None) -> None:
        rows: list[tuple[str, T]] = []
        is_first, end = True, None
        try:
            while end is None and not self._closed:
                some, end = _waiting(self._paths)
                found = find(some) if some and find is not None else _NONE
                for path in some:
                    if path in found:
                        rows.append((path, found[path]))
                        if is_first:
                            self._begins_with.put(found[path])
                    else:
                        if rows:
                            self._ahead.put(rows)
                            rows = []
                        self._places.get()
                        if self._closed:
                            break
                        job: _Job[T] = _Job(path)
                        job.is_first = is_first
                        if is_first:
                            self._begins_with.put(_UNKNOWN)
                        self._jobs.put(job)
                        self._ahead.put(job.answer)
                    is_first = False
                if rows:
                    self._ahead.put(rows)
                    rows = []
            self._ahead.put(end)
        except BaseException as e:
            self._ahead.put(e)
        if is_first:
            self._begins_with.put(None)

    def _start_working(self) -> None:
        self._threads += 1
        _start(self._work_on, f"zsclip-decode-{self._threads}")

    def _work_on(self) -> None:
        thread = threading.get_ident()
        while (job := self._jobs.get()) is not None and not self._closed:
            job.begin()
            self._busy[thread] = job
            try:
                outcome = self._work(job.path)
                if job.is_first:
                    self._begins_with.put(outcome)
                job.answer.put((job.path, outcome))
            except BaseException as e:  # raised again by the consumer, who waits for an answer
                job.answer.put(e)
            del self._busy[thread]
            if job.given_up:  # another works in this one's place
                return

    def _watch(self) -> None:
        """Give up what takes too long: a thread cannot be stopped, but another can take its place."""
        assert self._give_up is not None
        given_up = 0
        while not self._closed:
            time.sleep(WATCH_SECONDS)
            for thread, job in list(self._busy.items()):
                if job.given_up or not job.takes_too_long():
                    continue
                outcome = self._give_up(job.path, thread)
                if outcome is None:
                    job.rounds = 0
                    continue
                job.given_up = True
                given_up += 1
                if given_up > MAX_GIVEN_UP:
                    job.answer.put(InputError(f"{job.path!r}: {MAX_GIVEN_UP} pictures were given up; leave such out"))
                    continue
                job.answer.put((job.path, outcome))
                self._start_working()

    def _allow(self, rows: int) -> None:
        for _ in range(rows):
            self._places.put(None)


def _start(target: Callable[[], None], name: str) -> None:
    # A daemon: it may be waiting in a read of stdin, or hang in a decoder, when the run ends.
    threading.Thread(target=target, name=name, daemon=True).start()


def _waiting(paths: "SimpleQueue[object]") -> tuple[list[str], object]:
    """Wait for a path and take those that are there, and what ends them if it is there."""
    some: list[str] = []
    while len(some) < LOOK_UP:
        try:
            item = paths.get(block=not some)
        except Empty:
            return some, None
        if not isinstance(item, str):
            return some, item
        some.append(item)
    return some, None


def _wait(queue: "SimpleQueue[_Q]") -> _Q:
    while True:
        with contextlib.suppress(Empty):
            return queue.get(timeout=WAKE_SECONDS)
