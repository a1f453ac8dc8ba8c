"""Embeddings -> probabilities -> the k best. Pure arithmetic: no files, no models, no torch, no printing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

# Pictures are always multiplied this many at once, as columns: with AVX2, OpenBLAS sums columns 7 to 12 of a tile of 12
# in another order than columns 1 to 6, and only in tiles of 16 columns does it treat all of them alike. Tiles of
# 32 to 1,024 were tried: at most a fifth faster, and not the same bits with 20 labels or more.
PICTURES = 16


@dataclass(frozen=True)
class Rule:
    """How scores become an answer.

    k: the number of candidates; None means one, or with independent scores all over the threshold.
    threshold: below it the best label is not an answer; None means no threshold, or 0.5 with independent scores.
    independent: score each label by itself ("does this apply") instead of against the others ("which of these").
    temperature: learnt by calibration; divides cosines besides the model's own scale. None without a calibration.
    thresholds: one per label, instead of the common threshold.
    """

    k: int | None = None
    threshold: float | None = None
    independent: bool = False
    temperature: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def lowest(self) -> float:
        """The common threshold, or what it is by default."""
        if self.threshold is not None:
            return self.threshold
        return 0.5 if self.independent else 0.0


def cosines(image_embeddings: Matrix, class_embeddings: Matrix) -> Matrix:
    """Compare every picture with every class.

    Args:
        image_embeddings: (B, D) float32, rows of length 1.
        class_embeddings: (C, D) float32, rows of length 1; or weights, of any length.

    Returns:
        (B, C) float32, cosines in [-1, 1]; a row has the same bits whatever rows are beside it.
    """
    count, width = image_embeddings.shape
    padded = image_embeddings
    if count % PICTURES:
        padded = np.zeros((-(-count // PICTURES) * PICTURES, width), np.float32)
        padded[:count] = image_embeddings
    blocks = padded.reshape(-1, PICTURES, width)
    products = class_embeddings @ blocks.transpose(0, 2, 1)  # (blocks, C, PICTURES)
    rows = np.ascontiguousarray(products.transpose(0, 2, 1))  # sums over a row depend on its memory layout
    return rows.reshape(-1, len(class_embeddings))[:count]


def softmax_scores(cosines: Matrix, logit_scale: float) -> Matrix:
    """Give the probability of each class, if one of them is right. A bias would cancel out.

    Args:
        cosines: (B, C) float32.
        logit_scale: the multiplier, 100 for OpenAI's CLIP.

    Returns:
        (B, C) float32, rows sum to 1.
    Source: Radford et al. 2021, section 3.1.2.
    """
    logits = np.float32(logit_scale) * cosines
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def softmax_of(best: NDArray[np.int64], cosines: Matrix, logit_scale: float) -> Matrix:
    """Give some columns of `softmax_scores`: the same bits for less work.

    Args:
        best: (B, k) int64 classes of each picture. cosines: (B, C) float32.

    Returns:
        (B, k) float32.
    """
    exponentials = np.float32(logit_scale) * cosines
    exponentials -= exponentials.max(axis=1, keepdims=True)
    np.exp(exponentials, out=exponentials)
    return np.take_along_axis(exponentials, best, axis=1) / exponentials.sum(axis=1, keepdims=True)


def sigmoid_scores(cosines: Matrix, logit_scale: float, logit_bias: float) -> Matrix:
    """Give the probability that a class applies, for each class by itself.

    Returns:
        (B, C) float32; rows need not sum to 1.
    Source: Zhai et al. 2023 (SigLIP), section 3.2.
    """
    return _sigmoid(np.float32(logit_scale) * cosines + np.float32(logit_bias))


def versus_neutral_scores(cosines: Matrix, neutral_cosines: Matrix, logit_scale: float) -> Matrix:
    """Give the two-way softmax of each class against a neutral word, for models without a bias. A heuristic.

    Args:
        cosines: (B, C) float32.
        neutral_cosines: (B, 1) float32, of the neutral word's embedding.

    Returns:
        (B, C) float32; rows need not sum to 1.
    """
    return _sigmoid(np.float32(logit_scale) * (cosines - neutral_cosines))


def _sigmoid(logits: Matrix) -> Matrix:
    return np.exp(-np.logaddexp(np.float32(0), -logits))  # 1 / (1 + exp(-x)) would overflow


def grouped(groups: Sequence[str]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Give the groups in order of first appearance, and the indices of their labels."""
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    return tuple(members), list(members.values())


def over_groups(values: Matrix, members: Sequence[Sequence[int]], *, best_only: bool) -> Matrix:
    """Sum the values of each group's labels, or take the highest.

    Args:
        values: (B, C) float32. members: for each of G groups, the indices of its labels.

    Returns:
        (B, G) float32.
    """
    reduce = np.max if best_only else np.sum
    return np.stack([reduce(values[:, places], axis=1) for places in members], axis=1)


def top_k(cosines: Matrix, k: int) -> NDArray[np.int64]:
    """Find the k best classes of every picture; ties go to the earlier class.

    Cosines are used because every score grows with its cosine, and float32 scores may all be 0 or 1.

    Args:
        cosines: (B, C) float32; for groups, their scores, as these alone give their order.
        k: at least 1; capped at C.

    Returns:
        (B, k) int64, best first.
    """
    if k == 1:
        return cosines.argmax(axis=1)[:, None]
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]
