"""Pictures -> embeddings; only pictures that are not in the store are decoded and encoded.

Pillow is imported when the first one must be decoded.
"""

import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsclip.kept.store import EmbeddingStore, Stored
from zsclip.models.encoder import Encoder
from zsclip.pictures.identity import Sight, content_of
from zsclip.pictures.looks import looking_ahead
from zsclip.pictures.pictures import MAX_BYTES, Pictures
from zsclip.pixels.ahead import Ahead
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import Decoding
from zsclip.pixels.skipped import Skipped

if TYPE_CHECKING:
    from zsclip.pixels.workers import Elsewhere


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture to encode.

    pixels: (3, H, W) uint8. sight: the content they come from; None if the embedding will not be kept.
    """

    pixels: NDArray[np.uint8]
    sight: Sight | None


@dataclass(frozen=True, eq=False)
class Embedded:
    """Consecutive pictures of a run, encoded.

    names: n, in input order. places: (m,) int32, ascending indices of those that have an embedding.
    vectors: (m, D) float32, rows of length 1. skipped: why the others have none, by index.
    """

    names: Sequence[str]
    places: NDArray[np.int32]
    vectors: NDArray[np.float32]
    skipped: Mapping[int, Skipped]

    def __len__(self) -> int:
        return len(self.names)


Outcome = Pixels | Stored | Skipped
Batch = list[tuple[str, Outcome] | Stored]


@contextmanager
def look_ahead(
    pictures: Iterable[Pictures],
    preprocess: Preprocess,
    decoding: Decoding,
    store: EmbeddingStore | None,
    *,
    batch_size: int | None,
    threads: int,
) -> Iterator[Ahead[Outcome, Stored]]:
    """Start reading and decoding the pictures that are not in the store; see `Ahead`."""
    first: SimpleQueue[object] = SimpleQueue()
    with _Decoders(preprocess, decoding, threads, lambda: first.put(None)) as decoders, ExitStack() as stack:
        find = store.find if store is not None else None
        seconds = decoding.budget.cpu_seconds
        if store is not None and threads > 1:
            pictures = stack.enter_context(looking_ahead(pictures))
        with Ahead(
            pictures, _finder(decoders, preprocess, decoding, store), find=find, give_up=decoders.given_up,
            cpu_seconds=seconds, batch_size=batch_size, threads=threads, first=first,
        ) as ahead:  # fmt: skip
            yield ahead


class _Decoders:
    """What decodes pictures, set up when the first one must be decoded.

    Args:
        begins: called then.
    """

    def __init__(self, preprocess: Preprocess, decoding: Decoding, threads: int, begins: Callable[[], None]) -> None:
        self._settings = (preprocess, decoding, threads)
        self._begins = begins
        self._changing = threading.Lock()
        self._stack: ExitStack | None = ExitStack()
        self.elsewhere: Elsewhere | None = None  # what may decode a picture in another process

    def __enter__(self) -> "_Decoders":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changing:
            stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def set_up(self) -> None:
        """Set up Pillow and the processes, unless that is done."""
        if self.elsewhere is not None:
            return
        self._begins()
        from zsclip.pixels.pillow_setup import set_up_pillow
        from zsclip.pixels.workers import worker_pool

        preprocess, decoding, threads = self._settings
        with self._changing:
            if self.elsewhere is None and self._stack is not None:  # else the run has ended: nobody waits for a picture
                self._stack.enter_context(set_up_pillow(decoding.max_pixels))
                self.elsewhere = self._stack.enter_context(worker_pool(preprocess, decoding, threads))

    def given_up(self, name: str, thread: int) -> Skipped | None:
        """Say why a picture is given up that takes too long; see `reasons.given_up`."""
        from zsclip.pixels.reasons import given_up

        return given_up(name, thread, decoding=self._settings[1])


def embed_images(batches: Iterable[Batch], encoder: Encoder, store: EmbeddingStore | None) -> Iterator[Embedded]:
    """Encode pictures that are not in the store, keep them, and yield complete batches in input order.

    A GPU gets the next batch before the last one is finished. An empty batch means that the source is pausing: all that
    is under way is finished and yielded.
    """
    under_way: deque[tuple[Batch, Callable[[], NDArray[np.float32]] | None]] = deque()
    failure: Exception | None = None
    for batch in chain(batches, [[]]):
        if batch:
            fresh = [each[1].pixels for each in batch if isinstance(each, tuple) and isinstance(each[1], Pixels)]
            try:
                under_way.append((batch, encoder.begin_images(fresh) if fresh else None))
            except Exception as e:  # raised after the batches in flight are done
                failure = e
        while len(under_way) > (encoder.in_flight if batch and failure is None else 0):
            batch_done, finish = under_way.popleft()
            yield _embedded(batch_done, finish() if finish else None, encoder, store)
        if failure is not None:
            raise failure


def _embedded(
    batch: Batch, encoded: NDArray[np.float32] | None, encoder: Encoder, store: EmbeddingStore | None
) -> Embedded:
    """Put a batch into columns, and keep its new embeddings."""
    names: list[str] = []
    blocks: list[NDArray[np.float32]] = []  # of vectors, in order
    skipped: dict[int, Skipped] = {}
    stored: list[Stored] = []
    fresh: list[tuple[Sight, NDArray[np.float32]]] = []
    rows = iter(() if encoded is None else encoded)
    for each in batch:
        name, outcome = each if isinstance(each, tuple) else ("", each)
        if isinstance(outcome, Stored):
            stored.append(outcome)
            blocks.append(outcome.vectors)
            names += outcome.names
            continue
        if isinstance(outcome, Skipped):
            skipped[len(names)] = outcome
        else:
            vector = next(rows)
            blocks.append(vector[None])
            if outcome.sight is not None:
                fresh.append((outcome.sight, vector))
        names.append(name)
    if store is not None and (encoded is None or encoder.is_as_remembered):
        store.keep(fresh, stored)
    vectors = np.concatenate(blocks) if blocks else np.empty((0, encoder.embed_dim), np.float32)
    places = np.arange(len(names), dtype=np.int32)
    return Embedded(names, np.delete(places, list(skipped)) if skipped else places, vectors, skipped)


def _finder(
    decoders: _Decoders, preprocess: Preprocess, decoding: Decoding, store: EmbeddingStore | None
) -> Callable[[Pictures, int], Outcome]:
    def known_or_decoded(data: bytes, sight: Sight) -> Outcome:
        if (known := _known(sight, store)) is not None:
            return known
        from zsclip.pixels.decode import decode_file

        decoders.set_up()
        return Pixels(decode_file(io.BytesIO(data), preprocess, decoding), sight)

    def find_or_decode(pictures: Pictures, place: int) -> Outcome:
        name = pictures.names[place]
        try:
            from zsclip.pixels.decode import decode_file, decode_image
            from zsclip.pixels.reasons import START_BYTES, check_start
            from zsclip.pixels.workers import read_file

            if pictures.read is not None:
                data = pictures.read(place)
                if not isinstance(data, bytes):
                    with data:
                        decoders.set_up()
                        check_start(name, data.read(START_BYTES))
                        return Pixels(decode_file(data, preprocess, decoding), None)
                check_start(name, data)
                key = None if pictures.key is None else pictures.key(place)
                return known_or_decoded(data, Sight(name, content_of(data), key))
            if decoders.elsewhere is not None and (done := decoders.elsewhere(name)) is not None:
                pixels, sight = done
                return _known(sight, store) or Pixels(pixels, sight)
            if (file := read_file(name, MAX_BYTES)) is not None:
                return known_or_decoded(*file)
            decoders.set_up()
            outcome = decode_image(name, preprocess, decoding)
            return outcome if isinstance(outcome, Skipped) else Pixels(outcome, None)
        except Exception as e:  # decoders raise anything at all, and one bad file must not end the run
            from zsclip.pixels.reasons import skipped

            return skipped(e, name, decoding)

    return find_or_decode


def _known(sight: Sight, store: EmbeddingStore | None) -> Stored | None:
    return store.find_content(sight) if store is not None else None
