"""Limits of decoding: pixels and time for one picture, and memory for all."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

DEFAULT_MAX_PIXELS = 178_956_970  # Pillow's own limit
CPU_SECONDS = 60  # a picture that takes more CPU time is given up
WALL_SECONDS = 600  # and so is one that takes this long on the clock


class PixelBudget:
    """The decoded pixels that all threads may hold at once; a picture larger than the budget goes alone."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._held: dict[int, int] = {}  # by thread
        self._waiting: set[int] = set()  # threads
        self._changed = threading.Condition()

    @contextmanager
    def held(self, pixels: int) -> Iterator[None]:
        """Wait until this many pixels are free, and take them."""
        pixels, thread = min(pixels, self._all), threading.get_ident()
        with self._changed:
            self._waiting.add(thread)
            try:
                self._changed.wait_for(lambda: self._free >= pixels)
            finally:
                self._waiting.discard(thread)
            self._free -= pixels
            self._held[thread] = pixels
        try:
            yield
        finally:
            self.give_back(thread)

    def is_waited_for(self, thread: int) -> bool:
        """Whether a thread is only waiting for pixels."""
        return thread in self._waiting

    def give_back(self, thread: int) -> None:
        """Release the pixels of a thread that is done or was given up."""
        with self._changed:
            self._free += self._held.pop(thread, 0)
            self._changed.notify_all()


PIXEL_BUDGET = PixelBudget(200_000_000)  # 16 camera photos of 12 megapixels: 0.6 GB in RGB


@dataclass(frozen=True)
class Decoding:
    """How files are decoded.

    max_pixels: refuse larger pictures. fast_jpeg: let the JPEG decoder reduce large photos itself, to no less than
    three times the size they are resized to. budget: shared by all threads.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    fast_jpeg: bool = False
    budget: PixelBudget = PIXEL_BUDGET


DEFAULT_DECODING = Decoding()
