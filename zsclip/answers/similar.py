"""Embeddings -> groups of pictures that are nearly the same. Pure arithmetic: no files, no models."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.answers import Answers
from zsclip.answers.scores import Matrix

_AT_ONCE = 512  # rows that are compared together


def groups_of(vectors: Matrix, least: float) -> list[list[int]]:
    """Group pictures around the first of each group. Nothing is chained: all others are similar to that one.

    Args:
        vectors: (N, D) float32, rows of length 1. least: the lowest cosine of two similar pictures.

    Returns:
        Ascending indices, for each group of two or more. A picture that is similar to the first ones of several groups
        is in the group whose first one it is most similar to; of equals, in the earlier.
    """
    leaders: list[int] = []
    members: dict[int, list[int]] = {}
    for start in range(0, len(vectors), _AT_ONCE):
        block = vectors[start : start + _AT_ONCE]  # (b, D)
        nearest, alike = _nearest(block, vectors, leaders, least)
        among = block @ block.T  # (b, b)
        new: list[int] = []  # leaders in this block
        for row in range(len(block)):
            cosines = among[row, new]
            best = int(cosines.argmax()) if new else 0
            if new and cosines[best] >= least and cosines[best] > alike[row]:
                members[start + new[best]].append(start + row)
            elif nearest[row] >= 0:
                members[int(nearest[row])].append(start + row)
            else:
                new.append(row)
                members[start + row] = [start + row]
        leaders += [start + row for row in new]
    return [group for group in members.values() if len(group) > 1]


def similar(names: Sequence[str], vectors: Matrix, groups: Sequence[Sequence[int]]) -> list[Answers]:
    """Give the pictures of each group, the one that stands for it first, then those that are most similar to it.

    Args:
        names: N. vectors: (N, D) float32, rows of length 1. groups: indices, first the one that stands for the group.

    Returns:
        For each group its pictures; the label is the name of the first one, the score the cosine to it.
    """
    labels = tuple(str(names[group[0]]) for group in groups)
    found = []
    for place, (first, *others) in enumerate(groups):
        cosines = vectors[others] @ vectors[first]
        order = np.argsort(-cosines, kind="stable")
        scores = np.concatenate([[np.float32(1)], cosines[order]]).astype(np.float32)[:, None]  # (m, 1)
        classes = np.full(scores.shape, place, np.int32)
        some = [names[first], *(names[others[i]] for i in order.tolist())]
        found.append(Answers(some, labels, classes, scores, scores, classes[:, 0], "cosine"))
    return found


def _nearest(
    block: Matrix, vectors: Matrix, leaders: Sequence[int], least: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the most similar leader for each of b rows; (b,) its index, -1 if none is similar; (b,) its cosine."""
    nearest = np.full(len(block), -1, np.int64)
    alike = np.full(len(block), -np.inf, np.float32)
    for start in range(0, len(leaders), 8 * _AT_ONCE):
        some = np.array(leaders[start : start + 8 * _AT_ONCE])
        cosines = block @ vectors[some].T  # (b, l)
        best = cosines.argmax(axis=1)
        value = np.take_along_axis(cosines, best[:, None], axis=1)[:, 0]
        better = (value >= least) & (value > alike)
        nearest[better], alike[better] = some[best[better]], value[better]
    return nearest, alike
