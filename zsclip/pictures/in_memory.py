"""Pictures that a program has in memory, handed on no faster than they are read. No picture is decoded here."""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from zsclip.pictures.pictures import Pictures


class InMemory:
    """Hands on pictures, and waits while many are unread: pixels are large and may be produced on demand.

    Args:
        most: pictures that may wait to be read.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.Semaphore(most)

    def hand_on(self, name: str, encode: Callable[[], bytes]) -> Pictures:
        """Give one picture; its pixels can be read once, and are released then."""
        self._free.acquire()
        waiting = [encode]

        def read(_: int) -> bytes:
            try:
                return waiting.pop()()
            finally:
                self._free.release()

        return Pictures((name,), read)

    def close(self) -> None:
        """Release a waiting thread: nothing more will be read."""
        self._free.release()


def as_ppm(pixels: NDArray[np.uint8]) -> bytes:
    """Write pixels as a file that any decoder reads back to the bit.

    Args:
        pixels: (H, W) grey, or (H, W, 3) RGB.
    """
    height, width = pixels.shape[:2]
    kind = b"P5" if pixels.ndim == 2 else b"P6"
    return b"%s %d %d 255\n" % (kind, width, height) + pixels.tobytes()
