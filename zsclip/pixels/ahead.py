"""Pictures -> batches of what is made of them, on threads a little ahead of the model."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from zsclip.errors import InputError
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.limits import CPU_SECONDS, WALL_SECONDS

LOOKAHEAD = 2  # batches decoded or being decoded while the model works on one
FIRST_BATCH = 32  # so many, and LOOKAHEAD times more, while nobody has said how large batches will be
FOUND_BATCH = 1024  # rows that nothing was done for: answered a thousand at a time they cost less
IDLE_SECONDS = 0.05  # a source this long silent gets its answers without a full batch
WAKE_SECONDS = 0.5  # a signal that comes just before the main thread begins to wait is seen when it wakes

PATHS_AHEAD = 2048  # asked for beyond what was yielded: what is looked up needs no pixels, and is looked up together
LOOK_UP = 512  # paths at once, as many as one query takes; nobody takes the source for a slow one meanwhile
FIRST_SECONDS = 3  # to the first path; a folder of half a million files is listed in that time
MOMENT_SECONDS = 0.1  # from there to what is known of it
WATCH_SECONDS = 0.5  # how often what takes too long is looked for
MAX_GIVEN_UP = 100  # threads that hang, each with a picture in memory

_HAS_CPU_CLOCKS = hasattr(time, "pthread_getcpuclockid")  # not on macOS
_END, _IDLE, _UNKNOWN = object(), object(), object()


class Found(Protocol):
    """What is known of some of the names that were asked for, in columns.

    places: of each among the names that were asked for, ascending.
    """

    @property
    def places(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> Self:
        """Take neighbouring ones."""


T = TypeVar("T")
F = TypeVar("F", bound=Found)
_Q = TypeVar("_Q")


class _Job(Generic[T]):
    """A picture to be worked on, and where what was made of it is put: by who works, or by who gives it up."""

    def __init__(self, pictures: Pictures, place: int) -> None:
        self.pictures, self.place = pictures, place
        self.path = pictures.names[place]
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


class Ahead(Generic[T, F]):
    """Does something with every picture on threads, from the moment it is made, while others still import torch.

    Leave it, as a context, when no more batches are wanted. Main and working threads meet in simple queues only: a
    signal that comes while the main thread is in Python's other locks, those of futures and semaphores, leaves them
    held or comes out as an error of theirs.

    Args:
        pictures: iterated on a thread of its own, which may wait for as long as it likes.
        work: what is to be done with the picture at a place.
        find: gives for some paths of files what the work would give, in columns; asked before the work.
        give_up: gives for a name and the thread that works on it what stands for it when that takes too long; None
            lets it have as much time again.
        batch_size: how far to look ahead from the start; None where it depends on a model that is not loaded yet.
    """

    def __init__(
        self,
        pictures: Iterable[Pictures],
        work: Callable[[Pictures, int], T],
        *,
        find: Callable[[Sequence[str]], F] | None = None,
        give_up: Callable[[str, int], T | None] | None = None,
        batch_size: int | None,
        threads: int,
    ) -> None:
        self._work = work
        self._give_up = give_up
        self._jobs: SimpleQueue[_Job[T] | None] = SimpleQueue()  # None: no more
        self._busy: dict[int, _Job[T]] = {}  # by thread
        self._threads = 0
        self._slots: SimpleQueue[int] = SimpleQueue()  # how many pictures more may be asked for
        self._places: SimpleQueue[None] = SimpleQueue()  # one for each picture that may be worked on
        self._pictures: SimpleQueue[object] = SimpleQueue()  # those not looked up yet, then _END or what went wrong
        self._ahead: SimpleQueue[object] = SimpleQueue()  # what is found or answers to come, in order, then _END or ...
        self._begins_with: SimpleQueue[object] = SimpleQueue()  # _UNKNOWN, what was made of the first one, or both
        self._slots.put(PATHS_AHEAD)
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
        """Tell what was made of the first picture, if that is known at once when there is one."""
        with contextlib.suppress(Empty):
            first: Any = self._begins_with.get(timeout=FIRST_SECONDS)
            if first is _UNKNOWN:
                first = self._begins_with.get(timeout=MOMENT_SECONDS)
            return cast("T | F", first)
        return None

    def batches(self, batch_size: int) -> Iterator[list[tuple[str, T] | F]]:
        """Yield names with what was made of them, in order, with LOOKAHEAD batches asked for beyond the one yielded.

        No more than batch_size pictures of a batch were worked on; of those that were found it may hold more. After a
        moment without news of a slow source what is finished is yielded as a smaller batch, then an empty one.

        Raises:
            BaseException: what iterating the pictures raised, after what came before it.
        """
        rows: list[tuple[str, T] | F] = []
        count, worked_on, most = 0, 0, max(batch_size, FOUND_BATCH)  # pictures in the rows
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
                self._slots.put(min(count, most))
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
        self._slots.put(1)
        self._allow(1)
        for _ in range(self._threads):
            self._jobs.put(None)

    def _ask(self, pictures: Iterable[Pictures]) -> None:
        try:
            allowed = self._slots.get()
            for some in pictures:
                if self._closed:
                    break
                self._pictures.put(some)
                allowed -= len(some)
                while allowed <= 0 and not self._closed:
                    allowed += self._slots.get()
            self._pictures.put(_END)
        except BaseException as e:  # raised again by the consumer: nobody sees what a thread raises
            self._pictures.put(e)

    def _look_up(self, find: Callable[[Sequence[str]], F] | None) -> None:
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
                    found = find(item.names[start:stop]) if find is not None and item.read is None else None
                    self._pass_on(item, start, stop, found)
            self._ahead.put(end)
        except BaseException as e:
            self._ahead.put(e)
        if self._is_first:
            self._begins_with.put(None)

    def _pass_on(self, pictures: Pictures, start: int, stop: int, found: F | None) -> None:
        """Put what was found where the consumer takes it, in runs, and what was not to where it is worked on."""
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
                    job.answer.put(
                        InputError(f"{job.path!r}: {MAX_GIVEN_UP} pictures were given up as too slow; leave them out")
                    )
                    continue
                job.answer.put((job.path, outcome))
                self._start_working()

    def _allow(self, rows: int) -> None:
        for _ in range(rows):
            self._places.put(None)


def _start(target: Callable[[], None], name: str) -> None:
    # A daemon: it may be waiting in a read of stdin, or hang in a decoder, when the run ends.
    threading.Thread(target=target, name=name, daemon=True).start()


def _cut(rows: list[tuple[str, T] | F], too_many: int) -> tuple[list[tuple[str, T] | F], list[tuple[str, T] | F]]:
    """Cut off the last pictures; they were found, and are in columns."""
    if too_many <= 0:
        return rows, []
    last = cast("F", rows[-1])
    kept = len(last) - too_many
    return [*rows[:-1], last.part(0, kept)], [last.part(kept, len(last))]


def _run(found: F, taken: int, place: int) -> F | None:
    """Take those that lie side by side from a place on; None where the picture there was not found."""
    places = found.places
    if not taken and len(places) and places[-1] == len(places) - 1:  # all, or the first ones
        return found
    stop = taken
    while stop < len(places) and places[stop] == place + stop - taken:
        stop += 1
    return found.part(taken, stop) if stop > taken else None


def _wait(queue: "SimpleQueue[_Q]") -> _Q:
    while True:
        with contextlib.suppress(Empty):
            return queue.get(timeout=WAKE_SECONDS)
