"""The weights with which two answers to the same question count. Pure arithmetic: no files, no models."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.gaussians import Array

_LEAST = 0.1  # of the weight of words: a lower one would be a temperature over 10
_ROUNDS = 30
# The prior, as if one more example said so: words count 1 and examples 0, and no example was chosen for its mistake or
# its label. The weight of mistakes has an exponential prior, which leaves it at 0 until words are right about one
# example fewer than they expect, and lets it grow where they are right about none. Its precision keeps steps finite.
_FIRST = np.array([1.0, 0.0, 0.0, 0.0])
_LOWEST = np.array([_LEAST, 0.0, 0.0, 0.0])
_PRECISION = np.array([1.0, 1.0, 1e-3, 1.0])
_RATE = np.array([0.0, 0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Blend:
    """How much words and examples count: logits are `words` times those of words plus `examples` times the evidence.

    mistakes, frequent: how the examples were chosen, which says nothing about other pictures: the logarithm of how much
    rather a picture became an example if words get it wrong, and the power of a label's number of examples to which it
    is likelier to be an example's.
    """

    words: float
    examples: float
    mistakes: float = 0.0
    frequent: float = 0.0

    def of(self, words: Array, evidence: Array) -> Array:
        """Blend logits of pictures."""
        return self.words * words + self.examples * evidence

    def of_examples(self, words: Array, evidence: Array, chosen: Array) -> Array:
        """Blend logits of examples; chosen: as `how_chosen` gives it."""
        return self.of(words, evidence) + self.mistakes * chosen[0] + self.frequent * chosen[1]


WORDS_ALONE = Blend(1.0, 0.0)


def how_chosen(words: Array, truth: NDArray[np.int64]) -> Array:
    """Give the logits that only examples have, for what they may have been chosen for. (2, J, C) float64.

    People correct the wrong answers that they see, and then words are right about no example, however good they are. An
    example's label has a probability of p(label | picture) times how readily pictures with that label were chosen, so
    what they were chosen for is one more term of the logits, to be fitted beside the others and then left out.

    Args:
        words: (J, C), logits. truth: (J,) indices of the true labels.

    Source: Manski and Lerman 1977 (choice-based samples); Scott and Wild 1986 (the term that is then left out).
    """
    best = words == words.max(axis=1, keepdims=True)  # all labels if words say nothing, which changes no probability
    others = np.tile(np.bincount(truth, minlength=words.shape[1]), (len(truth), 1))
    others[np.arange(len(truth)), truth] -= 1
    return np.stack([-best.astype(np.float64), np.log1p(others)])


def fit_blend(
    words: Array, evidence: Array, chosen: Array, truth: NDArray[np.int64], *, is_alone: bool = False
) -> Blend:
    """Find the weights that make the true labels likeliest.

    A weak prior draws them to those of words alone: if every answer is right, there is no best.

    Args:
        words, evidence: (J, C) float64 logits. chosen: as `how_chosen` gives it.
        truth: (J,) indices of the true labels.
        is_alone: keep the weight of the examples at 0.

    Source: Wolpert 1992 (stacking). The loss is convex in all weights, so Newton's method finds the minimum.
    """
    terms = np.stack([words, evidence, *chosen])  # (4, J, C)
    count = len(truth)
    of_truth = terms[:, np.arange(count), truth]  # (4, J)
    weights = _FIRST

    def loss(at: Array) -> tuple[float, Array]:
        logits = np.tensordot(at, terms, 1)
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        sums = chances.sum(axis=1)
        prior = (_PRECISION * (at - _FIRST) ** 2).sum() / 2 + _RATE @ at
        value = np.mean(np.log(sums) - logits[np.arange(count), truth]) + prior / count
        return float(value), chances / sums[:, None]

    value, chances = loss(weights)
    for _ in range(_ROUNDS):
        weighted = chances * terms
        means = weighted.sum(axis=2)  # (4, J)
        slope = (means - of_truth).mean(axis=1) + (_PRECISION * (weights - _FIRST) + _RATE) / count
        curve = np.tensordot(weighted, terms, ((1, 2), (1, 2))) - means @ means.T + np.diag(_PRECISION)
        free = np.array([True, not is_alone, True, True])
        free &= ~((weights <= _LOWEST) & (slope > 0))
        if not free.any() or np.abs(slope[free]).max() < 1e-7:
            break
        step = np.zeros(len(weights))
        step[free] = np.linalg.solve(curve[np.ix_(free, free)] / count, slope[free])
        length = 1.0
        while length > 1e-6:
            tried = np.maximum(weights - length * step, _LOWEST)
            new_value, new_chances = loss(tried)
            if new_value < value:
                break
            length /= 2
        else:
            break
        weights, value, chances = tried, new_value, new_chances
    return Blend(*weights.tolist())


def surprises(logits: Array, truth: NDArray[np.int64]) -> Array:
    """Give the negative logarithm of the probability of each true label. (J,) float64."""
    logits = logits - logits.max(axis=1, keepdims=True)
    surprises: Array = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(truth)), truth]
    return surprises
