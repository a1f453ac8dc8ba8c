"""Run work on pictures on threads, a little ahead of the model, and give the results in batches."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from zsclip.errors import InputError
from zsclip.pictures.decoding_thread import CPU_SECONDS, WALL_SECONDS
from zsclip.pictures.pictures import Pictures

LOOKAHEAD = 2  # batches decoded or being decoded while the model works on one
FIRST_BATCH = 32  # the batch size to expect until the real one is known
FOUND_BATCH = 1024  # rows found in the store; scoring 1,024 at a time is cheaper
IDLE_SECONDS = 0.05  # after a source has been silent this long, a batch goes out before it is full
WAKE_SECONDS = 0.5  # a signal that comes just before the main thread starts to wait is handled when it wakes

PATHS_AHEAD = 4096  # paths requested beyond those yielded; lookups need no pixels and are done together
BYTES_AHEAD = 1 << 27  # of pictures that lie in memory from the moment they are found, such as those on a server
LOOK_UP = 512  # paths per query; the source does not count as slow meanwhile
FIRST_SECONDS = 3  # allowed until the first path; listing a folder of half a million files takes less
MOMENT_SECONDS = 0.1  # allowed from there until it is looked up
WATCH_SECONDS = 0.5  # time between checks for pictures that take too long
MAX_GIVEN_UP = 100  # hanging threads, each with a picture in memory

_HAS_CPU_CLOCKS = hasattr(time, "pthread_getcpuclockid")  # not on macOS
_END, _IDLE, _UNKNOWN = object(), object(), object()


class Found(Protocol):
    """The results that a lookup found for some of the requested names, in columns.

    places: the index of each among the requested names, ascending.
    """

    @property
    def places(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Self:
        """Take a slice."""


T = TypeVar("T")
F = TypeVar("F", bound=Found)
_Q = TypeVar("_Q")
Find = Callable[[Sequence[str], Sequence[bytes | None]], F]


class _Job(Generic[T]):
    """A picture to work on, and a queue for its result, filled by the worker or by whoever gives it up."""

    def __init__(self, pictures: Pictures, place: int) -> None:
        self.pictures, self.place = pictures, place
        self.path = pictures.names[place]
        self.answer: SimpleQueue[tuple[str, T] | BaseException] = SimpleQueue()
        self.is_first = False
        self.given_up = False

    def begin(self) -> None:
        """Start the clocks; called on the working thread."""
        self.rounds = 0  # rounds of the watch; a clock would keep running while the process is stopped
        self._clock = time.pthread_getcpuclockid(threading.get_ident()) if _HAS_CPU_CLOCKS else None
        self._cpu_begun = time.clock_gettime(self._clock) if self._clock is not None else 0.0

    def takes_too_long(self, cpu_seconds: float) -> bool:
        """Whether it took too long. CPU time, not wall time: a busy machine must not cause time-outs."""
        self.rounds += 1
        if self.rounds * WATCH_SECONDS > WALL_SECONDS:
            return True
        try:
            return self._clock is not None and time.clock_gettime(self._clock) - self._cpu_begun > cpu_seconds
        except OSError:  # the thread has just ended
            return False


class _Waiting:
    """The bytes of pictures that were found and are not yet yielded."""

    def __init__(self) -> None:
        self.bytes = 0
        self._groups: deque[tuple[int, int]] = deque()  # pictures and bytes of each, in order

    def add(self, pictures: Pictures) -> None:
        """Count the pictures of a group."""
        self._groups.append((len(pictures), pictures.waiting))
        self.bytes += pictures.waiting

    def take(self, count: int) -> None:
        """Let some pictures go, the first ones; the bytes of a group go with its last picture."""
        while self._groups and count >= self._groups[0][0]:
            pictures, size = self._groups.popleft()
            count, self.bytes = count - pictures, self.bytes - size
        if count:
            pictures, size = self._groups[0]
            self._groups[0] = pictures - count, size


class Ahead(Generic[T, F]):
    """Works on pictures on threads from the moment it is created, while torch is still being imported.

    Use it as a context manager; leaving it stops the work. Threads communicate through simple queues only: a
    signal that arrives while the main thread is inside Python's other locks (futures, semaphores) leaves them
    held, or surfaces as one of their errors.

    Args:
        pictures: iterated on a thread of their own, so they may block as long as they like.
        work: computes the result for the picture at an index.
        find: looks up the results for some names with their keys, in columns; called before any work.
        give_up: gives, for a name and its working thread, the result to use if that takes too long; None
            gives it the same time again.
        cpu_seconds: gives how much CPU time a working thread may take; None: CPU_SECONDS.
        batch_size: sets the look-ahead from the start; None if it depends on a model that is not loaded yet.
        first: gets what `begins_with` gives; work puts None there if it knows early that it will take a while.
    """

    def __init__(
        self,
        pictures: Iterable[Pictures],
        work: Callable[[Pictures, int], T],
        *,
        find: Find[F] | None = None,
        give_up: Callable[[str, int], T | None] | None = None,
        cpu_seconds: Callable[[int], float] | None = None,
        batch_size: int | None,
        threads: int,
        first: SimpleQueue[object] | None = None,
    ) -> None:
        self._work = work
        self._give_up = give_up
        self._cpu_seconds = cpu_seconds
        self._jobs: SimpleQueue[_Job[T] | None] = SimpleQueue()  # None: no more
        self._busy: dict[int, _Job[T]] = {}  # by thread
        self._threads = 0
        self._slots: SimpleQueue[tuple[int, int]] = SimpleQueue()  # permission to request more, and those yielded
        self._places: SimpleQueue[None] = SimpleQueue()  # one for each picture that may be worked on now
        self._pictures: SimpleQueue[object] = SimpleQueue()  # pictures to look up, then _END or an error
        self._ahead: SimpleQueue[object] = SimpleQueue()  # found or pending results, in order, then _END or an error
        self._begins_with = SimpleQueue[object]() if first is None else first  # _UNKNOWN, the first result, or both
        self._slots.put((PATHS_AHEAD, 0))
        self._allowed = (LOOKAHEAD + 1) * (batch_size or FIRST_BATCH)
        self._allow(self._allowed)
        self._closed = False

        _start(partial(self._ask, pictures), "zsclip-paths")
        _start(partial(self._look_up, find), "zsclip-look-up")
        for _ in range(threads):
            self._start_working()
        if give_up is not None:
            _start(self._watch, "zsclip-watch")

    def begins_with(self) -> T | F | None:
        """Give the result for the first picture if it is known immediately."""
        with contextlib.suppress(Empty):
            first: Any = self._begins_with.get(timeout=FIRST_SECONDS)
            if first is _UNKNOWN:
                first = self._begins_with.get(timeout=MOMENT_SECONDS)
            return cast("T | F", first)
        return None

    def batches(self, batch_size: int) -> Iterator[list[tuple[str, T] | F]]:
        """Yield names with their results, in order, with LOOKAHEAD batches requested beyond the one yielded.

        At most batch_size pictures of a batch were worked on; it may hold more that were found in the store. After a
        slow source has been silent for a moment, what is finished is yielded as a smaller batch, then an empty one.

        Raises:
            BaseException: an error from iterating the pictures, after the results before it.
        """
        rows: list[tuple[str, T] | F] = []
        count, worked_on, most = 0, 0, max(batch_size, FOUND_BATCH)  # numbers of pictures
        is_pause = True  # the consumer knows that nothing more is ready
        if (more := (LOOKAHEAD + 1) * batch_size - self._allowed) > 0:
            self._allow(more)
            self._allowed += more
        if (more := (LOOKAHEAD + 1) * batch_size - PATHS_AHEAD) > 0:
            self._slots.put((more, 0))
        while True:
            try:
                item: Any = _wait(self._ahead) if is_pause and not rows else self._ahead.get(timeout=IDLE_SECONDS)
            except Empty:
                item = _IDLE
            is_answer = isinstance(item, SimpleQueue)
            if is_answer:
                item = _wait(item)
            has_more = item is not _END and item is not _IDLE and not isinstance(item, BaseException)
            if has_more:
                rows.append(item)
                count += 1 if is_answer else len(item)
                worked_on += is_answer
            while rows and (worked_on == batch_size or count >= most or not has_more):
                some, rows = _cut(rows, count - most)
                yield some
                self._slots.put((min(count, most), min(count, most)))
                self._allow(worked_on)
                count, worked_on, is_pause = max(count - most, 0), 0, False
            if item is _END:
                return
            if not has_more:
                yield []
                is_pause = True
            if isinstance(item, BaseException):
                raise item

    def __enter__(self) -> "Ahead[T, F]":
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True
        self._slots.put((1, 0))
        self._allow(1)
        for _ in range(self._threads):
            self._jobs.put(None)

    def _ask(self, pictures: Iterable[Pictures]) -> None:
        try:
            allowed, waiting = self._slots.get()[0], _Waiting()
            for some in pictures:
                if self._closed:
                    break
                self._pictures.put(some)
                allowed -= len(some)
                waiting.add(some)
                while (allowed <= 0 or waiting.bytes > BYTES_AHEAD) and not self._closed:
                    more, yielded = self._slots.get()
                    allowed += more
                    waiting.take(yielded)
            self._pictures.put(_END)
        except BaseException as e:  # raised again in the consumer, as nobody sees an error of a thread
            self._pictures.put(e)

    def _look_up(self, find: Find[F] | None) -> None:
        self._is_first = True
        end: object = None
        try:
            while end is None and not self._closed:
                item = self._pictures.get()
                if not isinstance(item, Pictures):
                    end = item
                    continue
                for start in range(0, len(item), LOOK_UP):
                    stop = min(start + LOOK_UP, len(item))
                    keys = item.keys(start, stop) if find is not None else None
                    found = find(item.names[start:stop], keys) if find is not None and keys is not None else None
                    if item.drop is not None and found is not None:
                        for place in found.places:
                            item.drop(start + place)
                    self._pass_on(item, start, stop, found)
            self._ahead.put(end)
        except BaseException as e:
            self._ahead.put(e)
        if self._is_first:
            self._begins_with.put(None)

    def _pass_on(self, pictures: Pictures, start: int, stop: int, found: F | None) -> None:
        """Hand found results to the consumer, in runs, and queue work for the other pictures."""
        taken, place = 0, start
        while place < stop and not self._closed:
            if found is not None and (run := _run(found, taken, place - start)):
                self._ahead.put(run)
                if self._is_first:
                    self._begins_with.put(run)
                place, taken = place + len(run), taken + len(run)
            else:
                self._places.get()
                if self._closed:
                    return
                job: _Job[T] = _Job(pictures, place)
                job.is_first = self._is_first
                if self._is_first:
                    self._begins_with.put(_UNKNOWN)
                self._jobs.put(job)
                self._ahead.put(job.answer)
                place += 1
            self._is_first = False

    def _start_working(self) -> None:
        self._threads += 1
        _start(self._work_on, f"zsclip-decode-{self._threads}")

    def _work_on(self) -> None:
        thread = threading.get_ident()
        while (job := self._jobs.get()) is not None and not self._closed:
            job.begin()
            self._busy[thread] = job
            try:
                outcome = self._work(job.pictures, job.place)
                if job.is_first:
                    self._begins_with.put(outcome)
                job.answer.put((job.path, outcome))
            except BaseException as e:  # raised again in the consumer, which waits for a result
                job.answer.put(e)
            del self._busy[thread]
            if job.given_up:  # another thread has replaced this one
                return

    def _watch(self) -> None:
        """Give up pictures that take too long; a thread cannot be stopped, but another can replace it."""
        assert self._give_up is not None
        given_up = 0
        while not self._closed:
            time.sleep(WATCH_SECONDS)
            for thread, job in list(self._busy.items()):
                allowed = CPU_SECONDS if self._cpu_seconds is None else self._cpu_seconds(thread)
                if job.given_up or not job.takes_too_long(allowed):
                    continue
                outcome = self._give_up(job.path, thread)
                if outcome is None:
                    job.rounds = 0
                    continue
                job.given_up = True
                given_up += 1
                if given_up > MAX_GIVEN_UP:
                    job.answer.put(
                        InputError(f"{job.path!r}: {MAX_GIVEN_UP} images were given up as too slow; leave them out")
                    )
                    continue
                job.answer.put((job.path, outcome))
                self._start_working()

    def _allow(self, rows: int) -> None:
        for _ in range(rows):
            self._places.put(None)


def _start(target: Callable[[], None], name: str) -> None:
    # A daemon, as it may still be reading stdin or hanging in a decoder when the run ends.
    threading.Thread(target=target, name=name, daemon=True).start()


def _cut(rows: list[tuple[str, T] | F], too_many: int) -> tuple[list[tuple[str, T] | F], list[tuple[str, T] | F]]:
    """Cut the last pictures off; they are columns of found results."""
    if too_many <= 0:
        return rows, []
    last = cast("F", rows[-1])
    kept = len(last) - too_many
    return [*rows[:-1], last.part(0, kept)], [last.part(kept, len(last))]


def _run(found: F, taken: int, place: int) -> F | None:
    """Take the run of found pictures that starts at an index; None if the picture there was not found."""
    places = found.places
    if not taken and len(places) and places[-1] == len(places) - 1:  # all of them, or the first ones
        return found
    stop = taken
    while stop < len(places) and places[stop] == place + stop - taken:
        stop += 1
    return found.part(taken, stop) if stop > taken else None


def _wait(queue: "SimpleQueue[_Q]") -> _Q:
    while True:
        with contextlib.suppress(Empty):
            return queue.get(timeout=WAKE_SECONDS)
