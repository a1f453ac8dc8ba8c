"""Examples -> multinomial logistic regression, the linear probe of Radford et al. 2021. No files, no models.

Newton's method: the loss is convex, and the product of its second derivative with a direction costs two products of
matrices, so the step is found by conjugate gradients.
"""

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.gaussians import Array, Linear

_ROUNDS = 60
_STEPS = 200  # of conjugate gradients in a round
_HALVINGS = 30
_SMALL = 1e-8  # slope of the mean loss at which the fit ends


def fit_logistic(
    vectors: NDArray[np.floating], truth: NDArray[np.int64], labels: int, strength: float, start: Linear | None = None
) -> Linear:
    """Fit weights and biases; those of labels without examples are zeros.

    Args:
        vectors: (N, D). truth: (N,) int64 in 0..labels-1.
        strength: the trust in the examples: the loss is `strength` times the sum of their losses, plus half the sum of
            the squared weights. Biases are free.
        start: a fit to begin with, such as that of another strength.

    Source: the minimum is that of scikit-learn's `LogisticRegression(C=strength)`.
    """
    present = np.flatnonzero(np.bincount(truth, minlength=labels))
    places = np.searchsorted(present, truth)
    rows = np.column_stack([vectors, np.ones(len(vectors))]).astype(np.float64)  # (N, D + 1)
    penalty = np.full(rows.shape[1], 1 / (strength * len(rows)))
    penalty[-1] = 0
    fitted = np.zeros((len(present), rows.shape[1]))  # (K, D + 1); its columns have a mean of 0, as has every step
    if start is not None:
        fitted = np.column_stack([start.weights, start.biases])[present]
    loss, chances = _loss(fitted, rows, places, penalty)
    for _ in range(_ROUNDS):
        wrong = chances.copy()
        wrong[np.arange(len(rows)), places] -= 1
        slope = wrong.T @ rows / len(rows) + fitted * penalty
        if np.abs(slope).max() < _SMALL:
            break
        step = _newton_step(slope, rows, chances, penalty)
        length = 1.0
        for _halving in range(_HALVINGS):
            tried = fitted - length * step
            new_loss, new_chances = _loss(tried, rows, places, penalty)
            if new_loss <= loss - 1e-4 * length * float((slope * step).sum()):
                break
            length /= 2
        else:
            break  # as near as floats allow
        fitted, loss, chances = tried, new_loss, new_chances
    whole = np.zeros((labels, rows.shape[1]))
    whole[present] = fitted
    return Linear(whole[:, :-1], whole[:, -1])


def _loss(fitted: Array, rows: Array, places: NDArray[np.int64], penalty: Array) -> tuple[float, Array]:
    """Give the mean loss with its penalty, and the (N, K) probabilities of labels."""
    logits = rows @ fitted.T
    logits -= logits.max(axis=1, keepdims=True)
    chances = np.exp(logits)
    sums = chances.sum(axis=1)
    loss = np.mean(np.log(sums) - logits[np.arange(len(rows)), places]) + (fitted**2 * penalty).sum() / 2
    return float(loss), chances / sums[:, None]


def _newton_step(slope: Array, rows: Array, chances: Array, penalty: Array) -> Array:
    """Solve `second derivative * step = slope` by conjugate gradients, as exactly as the slope is small."""

    def bent(direction: Array) -> Array:
        moved = rows @ direction.T
        moved -= (chances * moved).sum(axis=1, keepdims=True)
        return (chances * moved).T @ rows / len(rows) + direction * penalty

    step, left = np.zeros_like(slope), slope.copy()
    direction, size = left.copy(), float((left * left).sum())
    enough = size * min(0.25, np.sqrt(size)) ** 2
    for _ in range(_STEPS):
        curved = bent(direction)
        curvature = float((direction * curved).sum())
        if curvature <= 0:  # flat to the last digit, as along a bias common to all labels
            break
        length = size / curvature
        step += length * direction
        left -= length * curved
        size, before = float((left * left).sum()), size
        if size <= enough:
            break
        direction = left + size / before * direction
    return step
