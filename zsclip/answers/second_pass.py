"""The answers of a first pass -> a classifier by which all pictures of a folder inform each other. Pure arithmetic.

Each label gets a Gaussian around the pictures that probably have it, all with one covariance. What the Gaussians say is
linear in a picture, as are the words, so the second pass is a classifier with other weights. A label's mean is drawn
towards that of all pictures, where its Gaussian says nothing: a label that few pictures have stays with its words. The
fewer labels the folder seems to have, the more strongly means are drawn, and the more their shares count.

Source: Zanella et al. 2024 (TransCLIP), and 2025 (StatA, arXiv 2501.03729), whose anchors keep labels safe that do not
occur. Unlike theirs, the anchor here is the mean of all pictures, and its weight is estimated from the folder.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier
from zsclip.answers.gaussians import Array
from zsclip.answers.scores import Matrix, softmax_scores
from zsclip.models.embed import Embedded

# Each was varied alone with `tiny` on five sets, whole and with pictures of 2, 5 and 25 of their labels: no mean over
# draws falls below words with 4 to 8 rounds, a weight of 0.2 or 0.3, a ridge of 300 or 1,000, and means drawn by 10 to
# 100. A weight of 0.5 costs 1 point with 2 of 10 labels, a ridge of 100 costs 1.5 on 200 photographs of 200 labels.
# Without doubt, 30 to 120 pictures of all labels lose up to 1.7 points, with it 0.6; a doubt of 30 takes more than half
# of the gain with 2 labels.
_ROUNDS = 5
_WEIGHT = 0.3  # of the Gaussians, beside the words
_RIDGE = 300  # pictures that the round covariance counts as
_DRAWN = 30.0  # pictures that the mean of all counts as, in the mean of a label, if few labels occur; 1 if all do
_SPREAD = 0.7  # of the labels, which count as few at or below it
_DOUBT = 10  # pictures at which the spread, and so whether labels are few, counts half
_BLOCK = 4096  # pictures at once
_CELLS = 1 << 21  # scores that the temperature is measured with
_STEPS = 30


@dataclass(frozen=True, eq=False)
class Line:
    """Logits that are linear in a picture: x @ weights.T + biases. weights: (C, D). biases: (C,)."""

    weights: NDArray[np.floating]
    biases: NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Shares:
    """How N pictures are shared among the labels, by their probabilities.

    sums: (C, D), of all pictures, by probability. counts: (C,), the sums of probabilities. squares: (C,), of theirs.
    """

    sums: Array
    counts: Array
    squares: Array


def informed(classifier: Classifier, batches: Iterable[Embedded]) -> Classifier:
    """Let all pictures of a folder inform each other.

    Args:
        classifier: without distractors. batches: all pictures.

    Returns:
        A classifier that remembers the first one.
    """
    vectors = [batch.vectors for batch in batches if len(batch.vectors)]
    scale = classifier.logit_scale
    is_learnt = classifier.weights is not None and classifier.biases is not None
    weights = classifier.weights if is_learnt else classifier.class_embeddings
    biases = classifier.biases if is_learnt else np.zeros(len(classifier.labels), np.float32)
    assert weights is not None
    assert biases is not None
    if sum(map(len, vectors)) > 1:
        second = second_pass(np.concatenate(vectors), Line(scale * weights, scale * biases))
        weights, biases = (second.weights / scale).astype(np.float32), (second.biases / scale).astype(np.float32)
    return replace(classifier, weights=weights, biases=biases, first=classifier)


def second_pass(vectors: Matrix, first: Line) -> Line:
    """Fit Gaussians to the answers, answer with both, and repeat.

    Args:
        vectors: (N, D), rows of length 1; N is 2 or more.

    Returns:
        Logits that are on average as sure as the first ones.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)  # (D,)
    scatter = sum(block.T @ block for block in _blocks(vectors)) - len(vectors) * np.outer(mean, mean)  # (D, D)
    shares = shared(vectors, first)
    few = min((1 - spread(shares, len(vectors))) / (1 - _SPREAD), 1.0) * len(vectors) / (len(vectors) + _DOUBT)
    line = first
    for _ in range(_ROUNDS):
        line = _with_gaussians(first, shares, mean, scatter, few)
        shares = shared(vectors, line)
    temperature = _temperature(vectors, first, line)
    return Line(line.weights / temperature, line.biases / temperature)


def shared(vectors: Matrix, line: Line) -> Shares:
    """Share all pictures among the labels."""
    labels, width = line.weights.shape
    sums, counts, squares = np.zeros((labels, width)), np.zeros(labels), np.zeros(labels)
    for block in _blocks(vectors):
        chances = _chances(block, line)  # (B, C)
        sums += chances.T @ block
        counts += chances.sum(axis=0)
        squares += np.einsum("ij,ij->j", chances, chances)
    return Shares(sums, counts, squares)


def spread(shares: Shares, pictures: int) -> float:
    """Estimate the share of the labels that a folder has, from 0 to 1.

    Of E labels with as many pictures each, two pictures have the same one with a probability of 1 / E. Whatever the
    number of pictures is, this probability is estimated without bias, as no picture is paired with itself.
    """
    pairs = float((shares.counts**2).sum() - shares.squares.sum())
    alike = pairs / (pictures * (pictures - 1))
    return min(1 / max(alike * len(shares.counts), 1e-12), 1.0)


def _with_gaussians(first: Line, shares: Shares, mean: Array, scatter: Array, few: float) -> Line:
    """Fit a Gaussian to each label, and add what they say to what was said first.

    Args:
        mean: (D,), of all N pictures. scatter: (D, D), of all around it. few: from 0, if all labels occur, to 1.
    """
    pictures, width = shares.counts.sum(), len(mean)
    counts = np.maximum(shares.counts, 1e-9)
    offsets = shares.sums / counts[:, None] - mean  # (C, D)
    variance = max(1 - float(mean @ mean), 1e-6) / width  # of the round covariance, in every direction
    within = scatter - (offsets * counts[:, None]).T @ offsets + _RIDGE * variance * np.eye(width)
    kept = counts / (counts + _DRAWN**few)
    means = kept[:, None] * offsets
    weights = (pictures + _RIDGE) * np.linalg.solve(within, means.T).T
    # A mean of few pictures is farther from the mean of all than what it estimates; see `Gaussians`.
    noise = kept**2 * (shares.squares / counts**2) * width * pictures / (pictures + _RIDGE)
    biases = -weights @ mean - (weights * means).sum(axis=1) / 2 + noise / 2
    occurs = np.log((shares.counts + 1) / (pictures + len(counts)))
    return Line(first.weights + _WEIGHT * weights, first.biases + _WEIGHT * biases + few * occurs)


def _temperature(vectors: Matrix, first: Line, second: Line) -> float:
    """Find what to divide the second logits by, so that they are as sure as the first: Gaussians are far too sure."""
    step = -(-len(vectors) * len(first.biases) // _CELLS)
    some = vectors[::step]
    wanted = float(_chances(some, first).max(axis=1).mean())
    logits = some @ second.weights.T.astype(np.float32) + second.biases.astype(np.float32)

    def is_surer(temperature: float) -> bool:
        return float(softmax_scores(logits, 1 / temperature).max(axis=1).mean()) > wanted

    low, high = -3.0, 5.0  # logarithms
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_surer(float(np.exp(middle))) else (low, middle)
    return float(np.exp(high))


def _chances(vectors: Matrix, line: Line) -> Matrix:
    """Give the probability of each label. (B, C) float32."""
    return softmax_scores(vectors @ line.weights.T.astype(np.float32) + line.biases.astype(np.float32), 1.0)


def _blocks(vectors: Matrix) -> Iterator[Matrix]:
    return (vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK))
