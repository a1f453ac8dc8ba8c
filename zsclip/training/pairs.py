"""Picture-caption pairs from Parquet shards, class folders and lists, shuffled and augmented. No torch here.

The stream has no random state: seed, epoch and step alone decide which pairs a batch holds and how each is drawn.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsclip.errors import InputError, first_line
from zsclip.pictures.identity import Look
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.source import Names, Source, SourceCache
from zsclip.pictures.sources import check_inputs, find_sources
from zsclip.pixels.fit import Preprocess, fit
from zsclip.pixels.search_summary import passed_over_line
from zsclip.training.augment import PICTURE_DRAWS, augmented
from zsclip.training.decoding import Draws, Encoded, Numbers, decode_ahead, look_up
from zsclip.training.sampling import CAPTION_DRAWS, Sampling, draw_texts, pair_weights, positives

MEMORY_LIMIT = 1_000_000_000  # bytes of encoded pictures in memory: all of a small data set, else a window
HELD_OUT = 100  # labelled pictures; with this many, 95% of measured shares are within 10 points of the truth


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs to learn from.

    pictures: (B, 3, H, W) uint8 pixels, in memory in the order B, H, W, 3; or, where the image tower is locked, their
    (B, D) float32 embeddings. captions: T, the first B the pictures' own, then those that pictures are only compared
    with. positives: (B, T) bool, whether caption j is right for picture i. pair_weights: (B, T) float32, how much
    they count for each other.
    """

    pictures: NDArray[Any]
    captions: tuple[str, ...]
    positives: NDArray[np.bool_]
    pair_weights: NDArray[np.float32]


@dataclass(eq=False)
class Pairs:
    """All pairs of a data set: their words are in memory, their pictures are read when needed.

    Attributes:
        names: by number of the pair; None if it has none and is skipped.
        train, held_out: (N,) int64 numbers of the pairs to learn from, and of those held out.
        labels: every label, sorted.
        digest: of all ids and words; identifies the data.
    """

    names: list[Names | None]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    labels: tuple[str, ...]
    digest: str
    note: Callable[[str], None]
    memory_limit: int
    _sources: list[Source]  # without words, which are in `names`
    _firsts: NDArray[np.int64]  # (S,) the number of each source's first pair
    _cache: SourceCache
    _broken: set[int] = field(default_factory=set)  # sources that cannot be read
    _unreadable: set[int] = field(default_factory=set)  # pairs whose picture cannot be decoded

    def steps(self, batch_size: int) -> int:
        """Count the batches of an epoch; pairs that do not fill the last batch wait for another epoch."""
        return max(1, len(self.train) // batch_size)

    @property
    def usable(self) -> NDArray[np.int64]:
        """The numbers of all pairs that have words, sorted. (N,) int64."""
        return np.sort(np.concatenate([self.train, self.held_out]))

    def stamp(self) -> str:
        """Fingerprint the size, times and inode of every file that holds pictures; it changes when the pictures do."""
        total = blake2b(digest_size=16)
        for path in dict.fromkeys(path for source in self._sources for path in source.files):
            try:
                total.update(f"{tuple(Look.of(os.stat(path)))}\0".encode())
            except OSError:  # noted when the file is read
                total.update(b"gone\0")
        return total.hexdigest()

    def batches(
        self,
        sampling: Sampling,
        *,
        epoch: int,
        step: int = 0,
        threads: int = 1,
        embeddings: NDArray[np.float32] | None = None,
    ) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting at a step, decoded on threads a little ahead.

        A picture that cannot be read is noted once and left out of its batch, so that all others stay in theirs.

        Args:
            embeddings: (N, D) for all pairs, from `features`: batches then hold these, and no picture is read.

        Raises:
            InputError: no picture of a whole epoch can be read.
        """
        order = self._order(sampling.seed, epoch)
        data_sets, labels = self._data_sets(), self._label_names() if sampling.against_all_labels else []
        parts = (
            (place, order[place * sampling.batch_size : (place + 1) * sampling.batch_size])
            for place in range(step, self.steps(sampling.batch_size))
        )

        of_labels: deque[NDArray[np.float64]] = deque()  # draws for the captions of labels, for the batches ahead

        def with_draws() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
            for place, numbers in parts:
                random = np.random.default_rng((sampling.seed, epoch, place))
                draws = random.random((len(numbers), CAPTION_DRAWS + PICTURE_DRAWS))
                of_labels.append(random.random((len(labels), CAPTION_DRAWS)))
                yield numbers, draws

        def picture(image: Image.Image, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
            return augmented(image, draws[CAPTION_DRAWS:], sampling)

        if embeddings is None:
            parts_read = self._decoded(with_draws(), picture, sampling.preprocess.size, threads)
        else:
            parts_read = look_up(with_draws(), embeddings)
        readable = step > 0
        for numbers, draws, pictures in parts_read:
            readable = readable or len(pictures) > 0
            names = [self._names_of(number) for number in numbers]
            draws = np.concatenate([draws[:, :CAPTION_DRAWS], of_labels.popleft()])
            texts = draw_texts(names, labels, sampling, draws)
            positive = positives(names, texts)  # (B, T)
            weights = pair_weights(names, texts, positive, sampling, data_sets)  # (B, T)
            yield Batch(pictures, tuple(text.caption for text in texts), positive, weights)
        if not readable:
            raise InputError("data: none of the images can be read; the notes above say why")

    def held_out_batches(
        self,
        preprocess: Preprocess,
        *,
        batch_size: int,
        threads: int = 1,
        embeddings: NDArray[np.float32] | None = None,
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Yield the held-out labelled pictures as a model sees them in use, and the indices of their labels.

        Args:
            embeddings: as for `batches`.

        Yields:
            (B, 3, H, W) uint8 or (B, D) float32, and (B,) int64 indices in `labels`.
        """
        places = {label: place for place, label in enumerate(self.labels)}
        labelled = np.array([number for number in self.held_out if self._names_of(number).label], np.int64)
        for numbers, pictures in self.pictures(
            labelled, preprocess, batch_size=batch_size, threads=threads, embeddings=embeddings
        ):
            yield pictures, np.array([places[self._names_of(number).label] for number in numbers], dtype=np.int64)

    def pictures(
        self,
        numbers: NDArray[np.int64],
        preprocess: Preprocess,
        *,
        batch_size: int,
        threads: int = 1,
        embeddings: NDArray[np.float32] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Yield batches of pictures as a model sees them in use, without those that cannot be read.

        Args:
            numbers: (N,) int64 numbers of pairs.
            embeddings: as for `batches`.

        Yields:
            (B,) int64 numbers, and (B, 3, H, W) uint8 or (B, D) float32.
        """
        starts = range(0, len(numbers), batch_size)
        some = (numbers[start : start + batch_size] for start in starts)
        parts = ((part, np.zeros((len(part), 0))) for part in some)

        def picture(image: Image.Image, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
            return np.asarray(fit(image, preprocess).convert("RGB"))

        if embeddings is None:
            parts_read = self._decoded(parts, picture, preprocess.size, threads)
        else:
            parts_read = look_up(parts, embeddings)
        for good, _, pictures in parts_read:
            yield good, pictures

    def _label_names(self) -> list[Names]:
        """Give each label with all its synonyms, without kinds, in the order of `labels`."""
        synonyms: dict[str, dict[str, None]] = {label: {} for label in self.labels}
        for one in dict.fromkeys(self.names):
            if one is not None and one.label:
                synonyms[one.label].update(dict.fromkeys(one.synonyms))
        return [Names(label, tuple(more)) for label, more in synonyms.items()]

    def _data_sets(self) -> dict[str, set[str]]:
        """Give the data sets in which each name or free caption occurs."""
        found: dict[str, set[str]] = {}
        for one in {one for one in self.names if one is not None}:
            for name in (one.label, *one.synonyms, *one.kinds, *one.captions):
                found.setdefault(name, set()).add(one.source)
        return found

    def _names_of(self, number: int) -> Names:
        names = self.names[number]
        assert names is not None
        return names

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Shuffle sources into windows that fit in memory, and all pairs within a window. (N,) int64."""
        random = np.random.default_rng((seed, epoch))
        by_source = np.split(self.train, np.searchsorted(self.train, self._firsts[1:]))
        windows: list[list[NDArray[np.int64]]] = []
        filled = 0
        everything_fits = sum(source.size for source in self._sources) <= self.memory_limit
        limit = self.memory_limit if everything_fits else self.memory_limit // 2  # a batch may span two windows
        for number in random.permutation(len(self._sources)):
            if not windows or filled + self._sources[number].size > limit:
                windows.append([])
                filled = 0
            windows[-1].append(by_source[number])
            filled += self._sources[number].size
        return np.concatenate([random.permutation(np.concatenate(window)) for window in windows])

    def _decoded(
        self,
        parts: Iterator[tuple[Numbers, Draws]],
        picture: Callable[[Image.Image, Draws], NDArray[np.uint8]],
        size: tuple[int, int],
        threads: int,
    ) -> Iterator[tuple[Numbers, Draws, NDArray[Any]]]:
        return decode_ahead(parts, self._encoded, picture, size=size, threads=threads, note=self._note_once)

    def _note_once(self, number: int, message: str) -> None:
        if number not in self._unreadable:
            self._unreadable.add(number)
            self.note(message)

    def _encoded(self, number: int) -> Encoded:
        place = int(np.searchsorted(self._firsts, number, side="right")) - 1
        source = self._sources[place]
        row = int(number) - int(self._firsts[place])
        if place in self._broken:
            return Encoded(source.where, None)
        try:
            content = self._cache.read(source, row)
        except Exception as e:  # pyarrow raises anything on damaged pages
            if source.members is not None:  # of which each is read by itself
                self._note_once(int(number), f"{source.members.names[row]}: image skipped: {first_line(e)}")
                return Encoded(source.where, None)
            self._broken.add(place)
            self.note(f"{source.where}: cannot be read; its pairs are skipped: {first_line(e)}")
            return Encoded(source.where, None)
        return Encoded(content if isinstance(content, str) else f"{source.where}, row {row}", content)


def read_pairs(
    inputs: Sequence[str],
    *,
    holdout: int | None = 0,
    note: Callable[[str], None] = lambda message: None,
    memory_limit: int = MEMORY_LIMIT,
) -> Pairs:
    """Find and check all pairs; their words are read now, their pictures when needed.

    Args:
        inputs: `.parquet` files or folders of them, folders of class folders, or `.csv` or `.tsv` files.
        holdout: hold out every Nth pair, chosen by a hash of its id; 0 holds out none. None holds out about a 50th of
            the labelled pairs: HELD_OUT or more if the data allow, and never more than a fifth.
        note: called with one line about everything that is skipped, now and while pictures are read.
        memory_limit: bytes of encoded pictures to keep in memory.

    Raises:
        InputError: an input does not exist or is none of these, or no pair can be used.
    """
    check_inputs(inputs)
    passed_over = PassedOver()
    names: list[Names | None] = []
    ids: list[str] = []
    sources: list[Source] = []
    firsts: list[int] = []
    known: dict[Names, Names] = {}  # 230,000 pictures share 600 labels; each is stored once
    for text in inputs:
        for source in find_sources(text, note, passed_over):
            sources.append(replace(source, pictures=[]))
            firsts.append(len(names))
            for identity, one in source.pictures:
                ids.append(identity)
                names.append(None if one is None else known.setdefault(one, one))
    if line := passed_over_line(passed_over, can_try=False):
        note(line)
    known = _with_synonyms_of_kinds(known)
    names = [None if one is None else known[one] for one in names]
    usable = np.array([number for number, one in enumerate(names) if one is not None], dtype=np.int64)
    if not len(usable):
        raise InputError(f"{', '.join(inputs) or 'data'}: no usable pair; give images with labels or captions")
    is_labelled = np.array([bool((names[number] or Names("")).label) for number in usable])
    labels = tuple(sorted({one.label for one in known if one.label}))
    held_out = _held_out([ids[number] for number in usable], is_labelled & (len(labels) > 1), holdout)
    if held_out.all():
        raise InputError(f"--holdout {holdout}: holds out all {len(usable)} pairs; use a larger number, or 0")
    total = blake2b(digest_size=16)
    for identity, one in zip(ids, names, strict=True):
        total.update(f"{identity}\0{one}\0".encode(errors="surrogateescape"))
    return Pairs(
        names=names,
        train=usable[~held_out],
        held_out=usable[held_out],
        labels=labels,
        digest=total.hexdigest(),
        note=note,
        memory_limit=memory_limit,
        _sources=sources,
        _firsts=np.array(firsts, dtype=np.int64),
        _cache=SourceCache(max_bytes=memory_limit),
    )


def _held_out(ids: Sequence[str], is_labelled: NDArray[np.bool_], holdout: int | None) -> NDArray[np.bool_]:
    """Choose held-out pairs by a hash of their ids; pairs with the same id (picture) stay together. (N,) bool."""
    hashes = np.array([_hash(identity) for identity in ids], np.uint64)
    if holdout is not None:
        return hashes % np.uint64(holdout) == 0 if holdout else np.zeros(len(ids), bool)
    distinct = np.unique(hashes[is_labelled])  # sorted
    count = min(max(HELD_OUT, len(distinct) // 50), len(distinct) // 5)
    return np.isin(hashes, distinct[:count])


def _with_synonyms_of_kinds(distinct: Iterable[Names]) -> dict[Names, Names]:
    """Add the synonyms of broader words: a convertible is a car, and so an automobile."""
    synonyms: dict[str, dict[str, None]] = {}  # by label, in order of first appearance
    for one in distinct:
        synonyms.setdefault(one.label, {}).update(dict.fromkeys(one.synonyms))
    longer = {}
    for one in distinct:
        kinds = [word for kind in one.kinds for word in (kind, *synonyms.get(kind, ()))]
        longer[one] = replace(one, kinds=tuple(dict.fromkeys(kinds)))
    return longer


def _hash(identity: str) -> int:
    return int.from_bytes(blake2b(identity.encode(errors="surrogateescape"), digest_size=8).digest(), "big")
