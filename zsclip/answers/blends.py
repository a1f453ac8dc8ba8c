"""The weights with which two answers to the same question count. Pure arithmetic: no files, no models."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.gaussians import Array

_LEAST = 0.1  # of the weight of words: a lower one would be a temperature over 10
_ROUNDS = 30


@dataclass(frozen=True)
class Blend:
    """How much words and examples count: logits are `words` times those of words plus `examples` times the evidence."""

    words: float
    examples: float

    def of(self, words: Array, evidence: Array) -> Array:
        """Blend logits."""
        return self.words * words + self.examples * evidence


WORDS_ALONE = Blend(1.0, 0.0)


def fit_blend(words: Array, evidence: Array, truth: NDArray[np.int64], *, is_alone: bool = False) -> Blend:
    """Find the weights that make the true labels likeliest.

    A weak prior draws them to 1 and 0, as if one more example said so: if every answer is right, there is no best.

    Args:
        words, evidence: (J, C) float64 logits. truth: (J,) indices of the true labels.
        is_alone: keep the weight of the examples at 0.

    Source: Wolpert 1992 (stacking). The loss is convex in both weights, so Newton's method finds the minimum.
    """
    terms = np.stack([words, evidence])  # (2, J, C)
    count = len(truth)
    of_truth = terms[:, np.arange(count), truth]  # (2, J)
    first, weights = np.array([1.0, 0.0]), np.array([1.0, 0.0])

    def loss(at: Array) -> tuple[float, Array]:
        logits = np.tensordot(at, terms, 1)
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        sums = chances.sum(axis=1)
        value = np.mean(np.log(sums) - logits[np.arange(count), truth]) + ((at - first) ** 2).sum() / 2 / count
        return float(value), chances / sums[:, None]

    value, chances = loss(weights)
    for _ in range(_ROUNDS):
        means = (chances * terms).sum(axis=2)  # (2, J)
        slope = (means - of_truth).mean(axis=1) + (weights - first) / count
        curve = np.einsum("jc,ajc,bjc->ab", chances, terms, terms) / count - means @ means.T / count
        curve += np.eye(2) / count
        free = np.array([True, not is_alone])
        free &= ~((weights <= (_LEAST, 0.0)) & (slope > 0))
        if not free.any() or np.abs(slope[free]).max() < 1e-7:
            break
        step = np.zeros(2)
        step[free] = np.linalg.solve(curve[np.ix_(free, free)], slope[free])
        length = 1.0
        while length > 1e-6:
            tried = np.maximum(weights - length * step, (_LEAST, 0.0))
            new_value, new_chances = loss(tried)
            if new_value < value:
                break
            length /= 2
        else:
            break
        weights, value, chances = tried, new_value, new_chances
    return Blend(float(weights[0]), float(weights[1]))


def surprises(logits: Array, truth: NDArray[np.int64]) -> Array:
    """Give the negative logarithm of the probability of each true label. (J,) float64."""
    logits = logits - logits.max(axis=1, keepdims=True)
    surprises: Array = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(truth)), truth]
    return surprises
