"""Limits of decoding: pixels and time for one picture, and memory for all."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zsclip.pictures.decoding_thread import CPU_SECONDS
from zsclip.pixels.available_memory import available_memory, return_freed_memory

DEFAULT_MAX_PIXELS = 178_956_970  # Pillow's own limit
MAX_SCANS = 500  # of a JPEG; libjpeg-turbo advises it against files that keep a decoder busy
BYTES_A_SECOND = 8_000_000  # a picture gets one second more for every 8 MB that it holds: 12 megapixels get 10 s more
MOST_MEMORY = 1_500_000_000  # bytes for all pictures being decoded
MEMORY_SHARE = 2  # and at most 1 / MEMORY_SHARE of the memory available to this process
_LARGE = MOST_MEMORY // 8  # a picture from here on leaves more behind, in a thread's own heap, than may be ignored


class MemoryBudget:
    """The bytes that pictures may take on all threads at once; a picture that takes more goes alone."""

    def __init__(self, most: int | None = None) -> None:
        """Set the limit; None means MOST_MEMORY, or less on a smaller machine, checked on first use."""
        self._all = self._free = most
        self._held: dict[int, int] = {}  # by thread
        self._waiting: set[int] = set()  # threads
        self._changed = threading.Condition()

    @contextmanager
    def held(self, count: int) -> Iterator[None]:
        """Wait until this many bytes are free, and take them."""
        thread = threading.get_ident()
        with self._changed:
            if self._all is None or self._free is None:
                self._all = self._free = min(MOST_MEMORY, available_memory() // MEMORY_SHARE)
            taken = min(count, self._all)
            self._waiting.add(thread)
            try:
                self._changed.wait_for(lambda: (self._free or 0) >= taken)
            finally:
                self._waiting.discard(thread)
            self._free -= taken
            self._held[thread] = taken
        try:
            yield
        finally:
            if taken >= _LARGE:
                return_freed_memory()
            self.give_back(thread)

    def cpu_seconds(self, thread: int) -> float:
        """How long the picture that a thread is decoding may take."""
        return CPU_SECONDS + self._held.get(thread, 0) / BYTES_A_SECOND

    def is_waiting_for_memory(self, thread: int) -> bool:
        """Whether a thread is only waiting for memory."""
        return thread in self._waiting

    def give_back(self, thread: int) -> None:
        """Release the bytes of a thread that is done or was given up."""
        with self._changed:
            self._free = (self._free or 0) + self._held.pop(thread, 0)
            self._changed.notify_all()


MEMORY_BUDGET = MemoryBudget()


@dataclass(frozen=True)
class Decoding:
    """How files are decoded.

    max_pixels: refuse larger pictures. fast_jpeg: let the JPEG decoder reduce large photos itself, to no less than
    three times the size they are resized to. budget: shared by all threads.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    fast_jpeg: bool = False
    budget: MemoryBudget = MEMORY_BUDGET


DEFAULT_DECODING = Decoding()
