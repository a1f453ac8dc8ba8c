"""Paths -> embeddings, asking the store first: only what it does not know is decoded, and only that is encoded."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsclip.kept.store import EmbeddingStore, Stored
from zsclip.models.encoder import Encoder
from zsclip.pictures.identity import Sight, content_of
from zsclip.pixels.ahead import Ahead
from zsclip.pixels.decode import decode_file, decode_image
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.formats import set_up_pillow
from zsclip.pixels.limits import Decoding
from zsclip.pixels.reasons import given_up, skipped
from zsclip.pixels.skipped import Skipped
from zsclip.pixels.workers import Elsewhere, read_file, worker_pool

if TYPE_CHECKING:
    from torch import Tensor

MAX_FILE_BYTES = 64_000_000  # a larger file is not held in memory, so not known by its content, and encoded every time


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture to be encoded.

    pixels: (3, H, W) uint8. sight: the content they are of; None where that is not to be kept.
    """

    pixels: NDArray[np.uint8]
    sight: Sight | None


@dataclass(frozen=True, eq=False)
class Embedded:
    """Consecutive paths of a run, encoded.

    rows: in input order; a path, whose embedding is the next row, or why there is none.
    embeddings: (B, D) float32, rows of length 1, B being the number of rows that are paths.
    """

    rows: tuple[str | Skipped, ...]
    embeddings: NDArray[np.float32]


Outcome = Pixels | Stored | Skipped


@contextmanager
def look_ahead(
    paths: Iterable[str],
    preprocess: Preprocess,
    decoding: Decoding,
    store: EmbeddingStore | None,
    *,
    batch_size: int | None,
    threads: int,
    read: Callable[[str], bytes] | None = None,
) -> Iterator[Ahead[Outcome]]:
    """Begin to read and decode the pictures that the store does not know; see `Ahead`.

    Args:
        read: gives the encoded picture where the paths are names of pictures that are in no file of their own.
    """
    give_up = partial(given_up, decoding=decoding)
    with set_up_pillow(decoding.max_pixels), worker_pool(preprocess, decoding, threads) as elsewhere:
        if read is not None:
            work = _reader(read, preprocess, decoding, store)
        else:
            work = _finder(elsewhere, preprocess, decoding, store)
        find = store.find if store is not None and read is None else None
        with Ahead(paths, work, find=find, give_up=give_up, batch_size=batch_size, threads=threads) as ahead:
            yield ahead


def embed_images(
    batches: Iterable[list[tuple[str, Outcome]]], encoder: Encoder, store: EmbeddingStore | None
) -> Iterator[Embedded]:
    """Encode what is not known, keep it, and yield every batch whole, in input order.

    A GPU is given the next batch before the last is waited for. An empty batch is a pause: nothing is held back in it.
    """
    under_way: deque[tuple[list[tuple[str, Outcome]], Callable[[], Tensor] | None]] = deque()
    failure: Exception | None = None
    for batch in chain(batches, [[]]):
        if batch:
            fresh = [outcome.pixels for _, outcome in batch if isinstance(outcome, Pixels)]
            try:
                under_way.append((batch, encoder.begin_images(fresh) if fresh else None))
            except Exception as e:  # told when what is under way is done
                failure = e
        while len(under_way) > (encoder.in_flight if batch and failure is None else 0):
            batch_done, finish = under_way.popleft()
            yield _embedded(batch_done, finish().numpy() if finish else None, encoder, store)
        if failure is not None:
            raise failure


def _embedded(
    batch: list[tuple[str, Outcome]],
    encoded: NDArray[np.float32] | None,
    encoder: Encoder,
    store: EmbeddingStore | None,
) -> Embedded:
    if store is not None and (encoded is None or encoder.is_as_remembered):
        stored = [outcome for _, outcome in batch if isinstance(outcome, Stored)]
        fresh = [outcome for _, outcome in batch if isinstance(outcome, Pixels)]
        kept = [] if encoded is None else zip(fresh, encoded, strict=True)
        store.keep([(each.sight, row) for each, row in kept if each.sight is not None], stored)
    return Embedded(
        tuple(outcome if isinstance(outcome, Skipped) else path for path, outcome in batch),
        _in_order(batch, iter(() if encoded is None else encoded), encoder.embed_dim),
    )


def _in_order(
    batch: list[tuple[str, Outcome]], encoded: Iterator[NDArray[np.float32]], embed_dim: int
) -> NDArray[np.float32]:
    rows = [
        outcome.embedding if isinstance(outcome, Stored) else next(encoded)
        for _, outcome in batch
        if not isinstance(outcome, Skipped)
    ]
    return np.concatenate(rows).reshape(len(rows), -1) if rows else np.empty((0, embed_dim), np.float32)


def _finder(
    elsewhere: Elsewhere, preprocess: Preprocess, decoding: Decoding, store: EmbeddingStore | None
) -> Callable[[str], Outcome]:
    def find_or_decode(path: str) -> Outcome:
        try:
            if (done := elsewhere(path)) is not None:
                pixels, sight = done
                return _known(sight, store) or Pixels(pixels, sight)
            if (file := read_file(path, MAX_FILE_BYTES)) is None:
                outcome = decode_image(path, preprocess, decoding)
                return outcome if isinstance(outcome, Skipped) else Pixels(outcome, None)
            data, sight = file
            return _known(sight, store) or Pixels(decode_file(io.BytesIO(data), preprocess, decoding), sight)
        except Exception as e:  # decoders raise anything at all, and one bad file must not end the run
            return skipped(e, path, decoding)

    return find_or_decode


def _reader(
    read: Callable[[str], bytes], preprocess: Preprocess, decoding: Decoding, store: EmbeddingStore | None
) -> Callable[[str], Outcome]:
    def find_or_decode(name: str) -> Outcome:
        try:
            data = read(name)
            sight = Sight(name, content_of(data), None)
            return _known(sight, store) or Pixels(decode_file(io.BytesIO(data), preprocess, decoding), sight)
        except Exception as e:  # as above
            return skipped(e, name, decoding)

    return find_or_decode


def _known(sight: Sight, store: EmbeddingStore | None) -> Stored | None:
    return store.find_content(sight) if store is not None else None
