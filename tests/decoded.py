"""The pipeline's first folders in one call, for tests of what comes after them."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.models.embed import Embedded, Pixels, embed_images, look_ahead
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import DEFAULT_DECODING, Decoding
from zsclip.pixels.skipped import Skipped


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive paths of a run, decoded.

    rows: in input order; a path, whose pixels are the next row of `pixels`, or why there are none.
    pixels: (B, 3, H, W) uint8, B being the number of rows that are paths.
    """

    rows: tuple[str | Skipped, ...]
    pixels: NDArray[np.uint8]


def one_by_one(paths: Iterable[str]) -> Iterator[Pictures]:
    """Files that come one after the other."""
    return (Pictures((path,)) for path in paths)


def decode_batches(
    paths: Iterable[str],
    preprocess: Preprocess,
    *,
    batch_size: int,
    threads: int,
    decoding: Decoding = DEFAULT_DECODING,
) -> Generator[Batch, None, None]:
    """Decode paths on threads and yield them in order, in batches, without the empty ones."""
    with look_ahead(one_by_one(paths), preprocess, decoding, None, batch_size=batch_size, threads=threads) as ahead:
        for rows in filter(None, ahead.batches(batch_size)):
            good = [outcome.pixels for _, outcome in rows if isinstance(outcome, Pixels)]
            pixels = np.stack(good) if good else np.empty((0, 3, *preprocess.size), np.uint8)
            yield Batch(tuple(outcome if isinstance(outcome, Skipped) else path for path, outcome in rows), pixels)


def embedded(paths: Iterable[str], preprocess: Preprocess, model: Any, batch_size: int) -> list[Embedded]:
    """Decode and encode paths without any store."""
    with look_ahead(one_by_one(paths), preprocess, DEFAULT_DECODING, None, batch_size=batch_size, threads=2) as ahead:
        return list(embed_images(ahead.batches(batch_size), model, None))
