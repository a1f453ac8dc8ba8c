"""What a run produces: the answers for a batch of pictures as columns, in input order, or as one record per picture."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from zsclip.pixels.skipped import Skipped

_COLUMNS = (
    "classes", "scores", "cosines", "answered", "applies", "beaten_by", "truth", "vectors", "first_answered",
    "first_scores",
)  # fmt: skip
_NAMED = 8  # labels in a repr
# "cosine" is that of a search.
ScoreKind = Literal["softmax", "sigmoid", "versus-neutral", "calibrated", "head", "expected", "transductive", "cosine"]


@dataclass(frozen=True)
class Candidate:
    """One label offered for an image.

    score: a probability in [0, 1]; cosine: the raw similarity in [-1, 1].
    """

    label: str
    score: float
    cosine: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image, with the names of the keys of a JSON line.

    file_name: as given, with undecodable bytes as surrogate escapes (`os.fsdecode`).
    label: the answer; None if the best score is under the threshold or a distractor is better.
    best: the best candidate, whether or not it is the answer.
    predictions: best first; the k best, or with independent scores those over the threshold (may be empty).
    labels: every label that applies, those among the predictions first, best first: the answer alone, or with
    independent scores perhaps several.
    truth: the true label, if pictures are labelled.
    beaten_by: the distractor that is better than every label, if any.
    first_label, first_score: the answer of the first pass, if there was a second.
    """

    file_name: str
    label: str | None
    best: Candidate
    predictions: tuple[Candidate, ...]
    score_kind: ScoreKind
    truth: str | None = None
    beaten_by: str | None = None
    labels: tuple[str, ...] = ()
    first_label: str | None = None
    first_score: float | None = None

    @property
    def score(self) -> float:
        """The score of the best candidate."""
        return self.best.score

    @property
    def cosine(self) -> float:
        """The cosine of the best candidate."""
        return self.best.cosine

    @property
    def error(self) -> None:
        """Nothing went wrong."""

    @property
    def message(self) -> None:
        """Nothing to say."""


Row = Prediction | Skipped


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """The answers for n pictures, as columns; row i belongs to names[i].

    names: n, as they were given, undecodable bytes as surrogate escapes (`os.fsdecode`).
    vocabulary: G names that answers are chosen from: labels, or their groups.
    classes: (n, k) int32, indices of the k best labels, best first. scores: (n, k) float32, their probabilities in
    [0, 1]. cosines: (n, k) float32, their raw similarities in [-1, 1]. Both are NaN where the picture was skipped.
    answered: (n,) int32, index of the answer; -1 where the best score is under the threshold, where a
    distractor is better, and where the picture was skipped.
    applies: (n, G) bool, with independent scores whether each label reaches its threshold, whatever k is; None: only
    the answer applies.
    skipped: why a picture has no answer, by its index, ascending.
    distractors: K names. beaten_by: (n,) int32, index of the one that is better than every label, -1 where none is;
    None: nothing competed.
    truth: (n,) int32, index of the true label; None if pictures are not labelled.
    vectors: (n, D) float32, rows of length 1, NaN where the picture was skipped; None unless they are wanted.
    first_answered: (n,) int32, the answer of the first pass, like `answered`. first_scores: (n,) float32, the best
    score then. Both are None unless there was a second pass.
    """

    names: Sequence[str]
    vocabulary: tuple[str, ...]
    classes: NDArray[np.int32]
    scores: NDArray[np.float32]
    cosines: NDArray[np.float32]
    answered: NDArray[np.int32]
    score_kind: ScoreKind
    applies: NDArray[np.bool_] | None = None
    skipped: Mapping[int, Skipped] = field(default_factory=dict)
    distractors: tuple[str, ...] = ()
    beaten_by: NDArray[np.int32] | None = None
    truth: NDArray[np.int32] | None = None
    vectors: NDArray[np.float32] | None = None
    first_answered: NDArray[np.int32] | None = None
    first_scores: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def is_candidate(self) -> NDArray[np.bool_]:
        """Whether each of the k best labels is a candidate; independent scores: only if it applies. (n, k) bool."""
        if self.applies is None:
            return np.ones_like(self.classes, bool)
        return np.take_along_axis(self.applies, self.classes, axis=1)

    def __repr__(self) -> str:
        named = ", ".join(self.vocabulary[:_NAMED])
        more = f" and {len(self.vocabulary) - _NAMED:,} more" if len(self.vocabulary) > _NAMED else ""
        failed = f"{len(self.skipped):,} failed, " if self.skipped else ""
        images = f"{len(self):,} image{'' if len(self) == 1 else 's'}"
        return f"{type(self).__name__}({images}, {failed}among {named}{more})"

    def was_read(self) -> NDArray[np.bool_]:
        """Whether each picture could be read, even if its answer is unknown. (n,) bool."""
        good = np.ones(len(self), bool)
        good[list(self.skipped)] = False
        return good

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice | Sequence[int] | NDArray[Any]) -> Self: ...

    def __getitem__(self, place: Any) -> Row | Self:
        places = np.arange(len(self))[place]
        return self.take(places) if places.ndim else next(self.take(places[None]).rows())

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    @property
    def labels(self) -> list[str | None]:
        """The answer for each picture; None where nothing is known, or it failed."""
        return [None if place < 0 else self.vocabulary[place] for place in self.answered.tolist()]

    def take(self, places: NDArray[np.int64]) -> Self:
        """Take some of the pictures, in the order of the places."""
        taken = places.tolist()
        columns: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[places] for name in _COLUMNS
        }
        skipped = {i: self.skipped[place] for i, place in enumerate(taken) if place in self.skipped}
        return replace(self, names=[self.names[place] for place in taken], skipped=skipped, **columns)

    def with_best(self, k: int) -> Self:
        """Give at most k candidates for each picture."""
        if self.classes.shape[1] <= k:
            return self
        return replace(self, classes=self.classes[:, :k], scores=self.scores[:, :k], cosines=self.cosines[:, :k])

    def rows(self) -> Iterator[Row]:
        """Give one record per picture."""
        truths = [None] * len(self) if self.truth is None else [self.vocabulary[place] for place in self.truth.tolist()]
        beaten_by = [-1] * len(self) if self.beaten_by is None else self.beaten_by.tolist()
        firsts: Sequence[tuple[int, float | None]] = [(-1, None)] * len(self)
        if self.first_answered is not None and self.first_scores is not None:
            firsts = list(zip(self.first_answered.tolist(), self.first_scores.tolist(), strict=True))
        columns = (self.classes, self.scores, self.cosines, self.is_candidate(), self.answered)
        for place, (classes, scores, cosines, shown, answer) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            if place in self.skipped:
                yield replace(self.skipped[place], truth=truths[place])
                continue
            label = None if answer < 0 else self.vocabulary[answer]
            first, first_score = firsts[place]
            each = [Candidate(self.vocabulary[c], *both) for c, *both in zip(classes, scores, cosines, strict=True)]
            yield Prediction(
                file_name=self.names[place],
                label=label,
                best=each[0],
                predictions=tuple(one for one, is_shown in zip(each, shown, strict=True) if is_shown),
                score_kind=self.score_kind,
                truth=truths[place],
                beaten_by=None if beaten_by[place] < 0 else self.distractors[beaten_by[place]],
                labels=self._that_apply(place, classes) if self.applies is not None else (label,) if label else (),
                first_label=None if first < 0 else self.vocabulary[first],
                first_score=first_score,
            )

    def _that_apply(self, place: int, best: Sequence[int]) -> tuple[str, ...]:
        """Give the labels that apply to one picture: first those of the k best, then the others."""
        assert self.applies is not None
        found = set(np.flatnonzero(self.applies[place]).tolist())
        return tuple(self.vocabulary[class_] for class_ in dict.fromkeys([*best, *sorted(found)]) if class_ in found)


def joined(parts: Sequence[Answers]) -> Answers:
    """Put the answers of one run together, in order.

    Args:
        parts: one at least.
    """
    columns: dict[str, Any] = {
        name: None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
        for name in _COLUMNS
    }
    starts = accumulate(map(len, parts), initial=0)
    skipped = {start + i: why for start, part in zip(starts, parts, strict=False) for i, why in part.skipped.items()}
    return replace(parts[0], names=[name for part in parts for name in part.names], skipped=skipped, **columns)


def only_wanted(batches: Iterable[Answers], wanted: set[str | None]) -> Iterable[Answers]:
    """Keep pictures with these answers; with independent scores, those to which one of these labels applies.

    All are kept if none is named. A failed picture has no answer, not even unknown.

    Args:
        wanted: None stands for unknown.
    """
    return (batch.take(np.flatnonzero(is_wanted(batch, wanted))) for batch in batches) if wanted else batches


def is_wanted(batch: Answers, wanted: set[str | None]) -> NDArray[np.bool_]:
    """Whether each picture has one of these answers, see `only_wanted`. (n,) bool."""
    if not wanted:
        return np.ones(len(batch), bool)
    places = [place for place, label in enumerate(batch.vocabulary) if label in wanted]
    found = np.isin(batch.answered, places) if batch.applies is None else batch.applies[:, places].any(axis=1)
    if None in wanted:
        found |= batch.answered < 0
    return found & batch.was_read()
