"""Queries -> the pictures that fit them best. Pure arithmetic on embeddings: no files, no models."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.answers import Answers
from zsclip.answers.scores import Matrix, cosines
from zsclip.models.embed import Embedded

_FEWEST = 4096  # pictures that wait before the worst of them are dropped


def combined(bases: Matrix, plus: Matrix, minus: Matrix) -> Matrix:
    """Add and subtract directions from every query.

    Args:
        bases: (Q, D) float32, rows of length 1. plus: (P, D), minus: (M, D), likewise; both may have no rows.

    Returns:
        (Q, D) float32, rows of length 1; a row is zero if nothing is left of a query.
    """
    sums = bases + plus.sum(axis=0) - minus.sum(axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, sums / lengths.clip(1e-12), np.float32(0)).astype(np.float32)


def search(
    batches: Iterable[Embedded],
    queries: Matrix,
    named: Sequence[str],
    *,
    most: int | None = None,
    least: float | None = None,
) -> list[Answers]:
    """Find the pictures that fit each query best.

    Args:
        queries: (Q, D) float32, rows of length 1. named: Q names, the labels of the answers.
        most: pictures for each query; None takes all. least: the lowest cosine; None takes any.

    Returns:
        For each query its pictures, best first; ties go to the earlier picture. The score is the cosine.
    """
    best = [_Best(most, least) for _ in named]
    for batch in batches:
        read = batch.names if len(batch.places) == len(batch) else [batch.names[place] for place in batch.places]
        columns = cosines(batch.vectors, queries).T  # (Q, m)
        for each, column in zip(best, columns, strict=True):
            each.add(read, column)
    return [each.answers(place, tuple(named)) for place, each in enumerate(best)]


class _Best:
    """The best pictures so far for one query."""

    def __init__(self, most: int | None, least: float | None) -> None:
        self._most = most
        self._floor = np.float32(-np.inf if least is None else least)
        self._names: list[str] = []
        self._cosines: list[NDArray[np.float32]] = []

    def add(self, names: Sequence[str], column: NDArray[np.float32]) -> None:
        """Take the pictures of a batch that are among the best so far.

        Args:
            names: m. column: (m,) float32.
        """
        places = np.flatnonzero(column >= self._floor)
        if not len(places):
            return
        self._names += [names[place] for place in places.tolist()]
        self._cosines.append(column[places])
        if self._most is not None and len(self._names) > max(2 * self._most, _FEWEST):
            self._drop(self._most)

    def answers(self, query: int, named: tuple[str, ...]) -> Answers:
        """Give what was found, best first.

        Args:
            query: the index of the query among all that are named.
        """
        self._drop(len(self._names) if self._most is None else self._most)
        found = self._cosines[0][:, None]  # (m, 1)
        classes = np.full(found.shape, query, np.int32)
        return Answers(self._names, named, classes, found, found, classes[:, 0], "cosine")

    def _drop(self, most: int) -> None:
        """Keep only the best, and put them in order; from then on, others must be better than the last of them."""
        everything = np.concatenate([*self._cosines, np.empty(0, np.float32)])
        order = np.argsort(-everything, kind="stable")[:most]
        self._names = [self._names[place] for place in order.tolist()]
        self._cosines = [everything[order]]
        if len(order) == most and self._most is not None:
            self._floor = np.nextafter(self._cosines[0][-1], np.float32(np.inf))
