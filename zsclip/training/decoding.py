"""Decode the pictures of pairs on threads, a little ahead of the training step. No torch here."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsclip.errors import first_line
from zsclip.pixels.decode import upright
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS
from zsclip.pixels.pillow_setup import set_up_pillow

LOOKAHEAD = 2  # batches that are decoded while one is trained on
_PICTURES_A_TASK = 32  # a future costs 20 us, a 64-px picture 500

Numbers = NDArray[np.int64]  # (B,) of pairs
Draws = NDArray[np.float64]  # (B, R) in [0, 1)


@dataclass(frozen=True)
class Encoded:
    """A picture to decode.

    where: its name in notes. content: its bytes, or the path of its file; None if a note was already written.
    """

    where: str
    content: bytes | str | None


def decode_ahead(
    parts: Iterator[tuple[Numbers, Draws]],
    encoded: Callable[[int], Encoded],
    picture: Callable[[Image.Image, Draws], NDArray[np.uint8]],
    *,
    size: tuple[int, int],
    threads: int,
    note: Callable[[int, str], None],
) -> Iterator[tuple[Numbers, Draws, NDArray[Any]]]:
    """Decode parts of the data on threads, LOOKAHEAD parts ahead.

    Args:
        parts: the pairs of each batch, and the random numbers of each pair.
        encoded: gives the encoded picture of a pair; called on the consumer's thread.
        picture: augments an upright picture with its row of random numbers; gives (H, W, 3) uint8.
        size: H and W, for a part in which no picture can be decoded.
        note: called with the number of a pair and one line, each time its picture cannot be decoded.

    Yields:
        For the pairs whose picture can be decoded: (B,) numbers, (B, R) draws, (B, 3, H, W) pixels.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="zsclip-pairs")
    ahead: deque[tuple[Numbers, Draws, list[Future[list[NDArray[np.uint8] | str]]]]] = deque()

    def start_next() -> None:
        part = next(parts, None)
        if part is None:
            return
        numbers, draws = part
        pictures = [encoded(number) for number in numbers]
        slices = [slice(start, start + _PICTURES_A_TASK) for start in range(0, len(numbers), _PICTURES_A_TASK)]
        tasks = [pool.submit(_decode_some, pictures[some], draws[some], picture) for some in slices]
        ahead.append((numbers, draws, tasks))

    with set_up_pillow(DEFAULT_MAX_PIXELS), ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for _ in range(LOOKAHEAD):
            start_next()
        while ahead:
            start_next()
            numbers, draws, tasks = ahead.popleft()
            outcomes = [outcome for task in tasks for outcome in task.result()]
            good = np.array([not isinstance(outcome, str) for outcome in outcomes])
            for number, outcome in zip(numbers, outcomes, strict=True):
                if isinstance(outcome, str) and outcome:
                    note(number, outcome)
            rows = [outcome for outcome in outcomes if not isinstance(outcome, str)]
            pixels = np.stack(rows) if rows else np.empty((0, *size, 3), np.uint8)  # (B, H, W, 3)
            yield numbers[good], draws[good], pixels.transpose(0, 3, 1, 2)


def look_up(
    parts: Iterator[tuple[Numbers, Draws]], embeddings: NDArray[np.float32]
) -> Iterator[tuple[Numbers, Draws, NDArray[Any]]]:
    """Do what `decode_ahead` does, with embeddings instead of pixels.

    Args:
        embeddings: (N, D) for all pairs; a row of NaN is a picture that cannot be read.
    """
    for numbers, draws in parts:
        rows = embeddings[numbers]  # (B, D)
        good = ~np.isnan(rows[:, 0])
        yield numbers[good], draws[good], rows[good]


def _decode_some(
    pictures: Sequence[Encoded], draws: Draws, picture: Callable[[Image.Image, Draws], NDArray[np.uint8]]
) -> list[NDArray[np.uint8] | str]:
    """Decode pictures to (H, W, 3) uint8, or give the reason in one line, empty if a note was already written."""
    return [_decode(one, row, picture) for one, row in zip(pictures, draws, strict=True)]


def _decode(
    one: Encoded, draws: NDArray[Any], picture: Callable[[Image.Image, Draws], NDArray[np.uint8]]
) -> NDArray[np.uint8] | str:
    content = one.content
    if content is None:
        return ""
    try:
        if isinstance(content, str) and os.path.exists(content) and not os.path.isfile(content):
            return f"{one.where}: image skipped: a folder, pipe or device"  # a pipe may block for ever
        with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file, upright(file) as image:
            return picture(image, draws)
    except Exception as e:  # decoders raise anything at all, and one bad file must not end the run
        return f"{one.where}: image skipped: {first_line(e)}"
