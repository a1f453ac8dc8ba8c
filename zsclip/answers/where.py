"""Cells of pictures -> where in a picture each label is seen. Pure arithmetic: no files, no models, no drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.answers import Answers, ScoreKind
from zsclip.answers.classifier import Classifier
from zsclip.answers.classify import answer
from zsclip.answers.scores import Matrix, Rule, grouped, over_groups, softmax_scores
from zsclip.models.embed import Embedded
from zsclip.pixels.fit import Area

if TYPE_CHECKING:
    from zsclip.models.patches import Patches

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the upright picture
_FINER = 8  # times; a box is found in a map that is enlarged like this
_FAINT = 0.15  # of the highest value of any label: one that stays below this is not there, and gets no box


@dataclass(frozen=True, eq=False)
class Where:
    """Where in one picture its k best labels are seen.

    labels, scores, cosines: k, best first, as `zsclip classify` gives them.
    is_exact: whether the cells of a grid average to the cosine; else each has the cosine of that cell by itself.
    grids: (k, h, w) float32. heats: (k, h, w) float32, at least 0: what of the grid speaks for this label and no other.
    """

    file_name: str
    area: Area
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    cosines: tuple[float, ...]
    score_kind: ScoreKind
    is_exact: bool
    grids: Matrix
    heats: Matrix

    @cached_property
    def boxes(self) -> tuple[Box | None, ...]:
        """The box around the strongest region of each label; None where little or nothing speaks for it."""
        least = _FAINT * self.heats.max()
        return tuple(box_of(heat, self.area) if heat.max() >= least else None for heat in self.heats)


def where(
    patches: "Patches", names: Sequence[str], areas: Sequence[Area], classifier: Classifier, k: int | None = None
) -> list[Where]:
    """Find the k best labels of B pictures, and where each of them is seen.

    A label alone is scored by itself, as nothing competes with it.

    Args:
        names, areas: B, of the pictures. k: None gives all labels.
    """
    count = len(classifier.labels)
    places = np.arange(len(names), dtype=np.int32)
    rule = Rule(k or count, independent=count == 1)
    assert patches.embeddings is not None
    answers = answer(Embedded(names, places, patches.embeddings, {}), classifier, rule)
    return where_answered(patches, areas, answers, np.ones_like(answers.classes, bool), classifier)


def where_answered(
    patches: "Patches", areas: Sequence[Area], answers: Answers, shown: NDArray[np.bool_], classifier: Classifier
) -> list[Where]:
    """Find where in B pictures those labels are seen that are known to fit best.

    Of a head, the grids are what decides, without its biases: they average to that, not to the cosines.

    Args:
        areas: B, of the pictures. answers: of the pictures. shown: (B, k) bool, which of the k best labels to look for.
        classifier: what has answered.
    """
    directions = classifier.class_embeddings if classifier.weights is None else classifier.weights  # (C + K, D)
    every = np.moveaxis(patches.cells @ directions.T, 3, 1)  # (B, C + K, h, w)
    members = None if classifier.groups is None else grouped(classifier.groups)[1]
    found = []
    for place, area in enumerate(areas):
        grids = every[place]
        hot = heats(grids, classifier.logit_scale, is_exact=patches.is_exact, biases=classifier.biases)
        if members is not None:
            grids = over_groups(grids[None], members, best_only=True)[0]  # (G, h, w)
            hot = over_groups(hot[None], members, best_only=False)[0]
        best, is_shown = answers.classes[place][shown[place]], shown[place]
        found.append(
            Where(
                answers.names[place], area, tuple(answers.vocabulary[class_] for class_ in best.tolist()),
                tuple(answers.scores[place][is_shown].tolist()), tuple(answers.cosines[place][is_shown].tolist()),
                answers.score_kind, patches.is_exact, grids[best], hot[best],
            )
        )  # fmt: skip
    return found


def heats(grids: Matrix, logit_scale: float, *, is_exact: bool, biases: Matrix | None = None) -> Matrix:
    """Give what speaks for each label: the part of its grid above zero, times the label's probability in that cell.

    Cosines have no zero of their own, as all of them are high: there the mean of the grid is taken for it.

    Args:
        grids: (C, h, w) float32. is_exact: whether they are parts of a cosine, see `Where`. biases: (C,) float32, of
            a head.

    Returns:
        (C, h, w) float32, at least 0.
    """
    count, *grid = grids.shape
    cells = grids.reshape(count, -1).T  # (h w, C)
    zero = 0 if is_exact else cells.mean(axis=0)
    decisive = cells if biases is None else cells + biases
    above: Matrix = np.maximum(cells - zero, 0) * softmax_scores(decisive, logit_scale)
    return above.T.reshape(count, *grid)


def box_of(heat: Matrix, area: Area) -> Box | None:
    """Give the box around the region of at least half the maximum that holds it; a crude detector of one object.

    Args:
        heat: (h, w) float32, over the part of the picture that is seen.

    Returns:
        None if the map is empty, or the region lies in the margin beside the picture.
    """
    fine = enlarged(heat, _FINER)
    if not fine.max() > 0:
        return None
    rows, columns = _region(fine >= fine.max() / 2, np.unravel_index(fine.argmax(), fine.shape))
    left, top, right, bottom = area.seen
    across, down = (right - left) / fine.shape[1], (bottom - top) / fine.shape[0]
    width, height = area.size
    x0, x1 = (min(max(round(left + across * x), 0), width) for x in (columns.min(), columns.max() + 1))
    y0, y1 = (min(max(round(top + down * y), 0), height) for y in (rows.min(), rows.max() + 1))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def enlarged(values: Matrix, factor: int) -> Matrix:
    """Enlarge a map by linear interpolation between the centres of its cells. (h, w) -> (factor h, factor w)"""
    height, width = values.shape
    return (_parts(height, factor).T @ values @ _parts(width, factor)).astype(np.float32)


def _parts(count: int, factor: int) -> Matrix:
    """Give the part that each of N cells has in each of the finer ones. (N, factor N)"""
    places = (np.arange(count * factor) + 0.5) / factor - 0.5
    return np.stack([np.interp(places, np.arange(count), alone) for alone in np.eye(count)]).astype(np.float32)


def _region(mask: NDArray[np.bool_], start: Sequence[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give the rows and columns of what is connected with a place, sideways or up and down."""
    reached = np.zeros_like(mask)
    reached[start[0], start[1]] = True
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= mask
        if (grown == reached).all():
            rows, columns = np.nonzero(reached)
            return rows, columns
        reached = grown
