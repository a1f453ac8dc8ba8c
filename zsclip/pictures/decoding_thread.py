"""Decode on a thread of its own, a little ahead, and stop waiting for a decoder that hangs."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from zsclip.pictures.refused import Refused

CPU_SECONDS = 10  # a picture that takes more CPU time is given up
WALL_SECONDS = 600  # a picture that takes longer than this by the clock is given up, too

_AHEAD = 2  # items that may wait for the consumer
_WATCH_SECONDS = 0.5
_HAS_CPU_CLOCKS = hasattr(time, "pthread_getcpuclockid")  # not on macOS
_waiting: set[int] = set()  # threads

T = TypeVar("T")


@contextmanager
def waiting() -> Iterator[None]:
    """Mark a thread that only waits for a decoder, which has limits of its own."""
    thread = threading.get_ident()
    is_inside = thread in _waiting  # another such block
    _waiting.add(thread)
    try:
        yield
    finally:
        if not is_inside:
            _waiting.discard(thread)


def is_waiting(thread: int) -> bool:
    """Whether a thread only waits for a decoder."""
    return thread in _waiting


class _State:
    """What the two threads share. steps: counts up while the decoder works."""

    steps = 0
    is_closed = False


class DecodingThread(Iterator[T]):
    """Takes items from an iterator on a thread, a few ahead of the consumer.

    The thread does not know this object, so it ends when the consumer throws this away.

    Args:
        items: None is a step without an item, which shows that the decoder does not hang.
    """

    def __init__(self, items: Iterable[T | None]) -> None:
        self._out: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(_AHEAD):
            self._room.put(None)
        self._state = _State()
        take = partial(_take, items, self._out, self._room, self._state)
        self._thread = threading.Thread(target=take, name="zsclip-video", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        """Give the next item.

        Raises:
            Refused: a step takes too long. BaseException: whatever the iterator raised.
        """
        with waiting():
            item = self._wait()
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        self._room.put(None)
        return item[0]

    def close(self) -> None:
        """Let the thread end after the step that it is at."""
        self._state.is_closed = True
        self._room.put(None)

    def __del__(self) -> None:
        if hasattr(self, "_state"):
            self.close()

    def _wait(self) -> tuple[T] | BaseException | None:
        steps, rounds, begun = -1, 0, 0.0
        while True:
            with suppress(Empty):
                return self._out.get(timeout=_WATCH_SECONDS)
            rounds += 1  # a clock would keep running while the process is stopped
            if steps != self._state.steps:
                steps, rounds, begun = self._state.steps, 0, self._cpu_seconds()
            elif rounds * _WATCH_SECONDS > WALL_SECONDS or self._cpu_seconds() - begun > CPU_SECONDS:
                self.close()
                limits = f"{CPU_SECONDS} s of CPU time or {WALL_SECONDS} s of waiting"
                raise Refused("timeout", f"a frame was not decoded within {limits}; convert the video first")

    def _cpu_seconds(self) -> float:
        try:
            assert self._thread.ident is not None
            return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident)) if _HAS_CPU_CLOCKS else 0.0
        except OSError:  # the thread has just ended
            return 0.0


def _take(
    items: Iterable[T | None],
    out: "SimpleQueue[tuple[T] | BaseException | None]",
    room: "SimpleQueue[None]",
    state: _State,
) -> None:
    try:
        for item in items:
            state.steps += 1
            if item is not None:
                room.get()
            if state.is_closed:
                return
            if item is not None:
                out.put((item,))
        out.put(None)
    except BaseException as e:  # raised again in the consumer
        out.put(e)
