"""How good answers are, and how sure that figure is. Pure arithmetic: no files, no models, no printing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
FEW = 50  # pictures; with fewer, intervals are narrower than they should be
BINS = 15  # bins of the calibration error, as in Guo et al. 2017
_DEVIATIONS = 1.96  # standard deviations on either side that hold 95% of a normal distribution
_HALVINGS = 40
_TAIL = 2.5  # percent on either side of an interval


@dataclass(frozen=True, eq=False)
class Judged:
    """The answers to N pictures, and their true labels.

    truth, predicted: (N,) int64, indices of labels. among_five: (N,) bool, whether the truth is one of the
    five best. score: (N,) float64 in [0, 1], the score of the answer.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    among_five: NDArray[np.bool_]
    score: NDArray[np.float64]

    def taken(self, places: NDArray[np.int64]) -> "Judged":
        """Select some of the pictures, perhaps with repetitions."""
        return Judged(self.truth[places], self.predicted[places], self.among_five[places], self.score[places])


def joined(parts: Sequence[Judged]) -> Judged:
    """Concatenate parts, in order."""
    return Judged(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Judged)))


@dataclass(frozen=True)
class Figure:
    """A figure and its 95% confidence interval."""

    value: float
    low: float
    high: float


def top1(judged: Judged) -> float:
    """Give the share of right answers."""
    return float((judged.truth == judged.predicted).mean())


def top5(judged: Judged) -> float:
    """Give the share of pictures whose truth is among the five best labels."""
    return float(judged.among_five.mean())


def balanced_accuracy(judged: Judged) -> float:
    """Give the mean recall of the labels that have pictures; each counts the same, however many it has."""
    pictures = np.bincount(judged.truth)
    right = np.bincount(judged.truth[judged.truth == judged.predicted], minlength=len(pictures))
    return float((right / pictures.clip(1))[pictures > 0].mean())


def macro_f1(judged: Judged) -> float:
    """Give the mean, over labels that have pictures or were answered, of 2 * right / (pictures + answers)."""
    size = int(max(judged.truth.max(), judged.predicted.max())) + 1
    both = np.bincount(judged.truth, minlength=size) + np.bincount(judged.predicted, minlength=size)
    right = np.bincount(judged.truth[judged.truth == judged.predicted], minlength=size)
    return float((2 * right / both.clip(1))[both > 0].mean())


def calibration_error(judged: Judged) -> float:
    """Give the mean distance between scores and the share of right answers at those scores.

    Source: Guo et al. 2017, section 2 (expected calibration error, bins of equal width).
    """
    bins = np.ceil(judged.score * BINS).astype(np.int64).clip(1) - 1  # each holds its upper edge
    right = (judged.truth == judged.predicted).astype(np.float64)
    gaps = np.bincount(bins, weights=judged.score - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(judged.truth))


METRICS: dict[str, Callable[[Judged], float]] = {
    "top-1": top1,
    "top-5": top5,
    "balanced accuracy": balanced_accuracy,
    "macro-F1": macro_f1,
    "calibration error": calibration_error,
}


def figures(judged: Judged, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Figure]:
    """Give every metric of METRICS with its interval.

    If a metric is biased, like calibration error and means over rare labels, resampling adds the same bias again, and
    percentiles miss the truth. In simulations, intervals reflected about the estimate cover it as often as they should,
    or nearly: in 9 of 10 samples for calibration error, and for macro-F1 with many rare labels. Fewer than FEW pictures
    vary too little.

    Source: Davison and Hinkley 1997, section 5.2 (the basic bootstrap).
    """
    random = np.random.default_rng(seed)
    count = len(judged.truth)
    samples = (judged.taken(random.integers(0, count, count)) for _ in range(resamples))
    drawn = np.array([[metric(sample) for metric in METRICS.values()] for sample in samples])  # (resamples, metrics)
    low, high = np.percentile(drawn, [_TAIL, 100 - _TAIL], axis=0)
    values = np.array([metric(judged) for metric in METRICS.values()])
    lows, highs = (2 * values - high).clip(0, 1), (2 * values - low).clip(0, 1)
    return {
        name: Figure(*map(float, three))
        for name, three in zip(METRICS, zip(values, lows, highs, strict=True), strict=True)
    }


def share(count: int, total: int) -> Figure:
    """Give a share of pictures with its interval, which is valid for few pictures, and if all or none are right.

    Source: Wilson 1927 (the score interval).
    """
    value, wide = count / total, _DEVIATIONS**2 / total
    middle = value + wide / 2
    reach = math.sqrt(wide * (value * (1 - value) + wide / 4))
    low, high = (middle - reach) / (1 + wide), (middle + reach) / (1 + wide)
    return Figure(value, max(0.0, low), min(1.0, high))


def at_least(right: int, total: int, doubt: float) -> float:
    """Give the lower end of the exact one-sided interval of a share.

    Args:
        right, total: right answers, and all of them. doubt: the probability that the true
            share is below it, in (0, 1).

    Source: Clopper and Pearson 1934. The share at which as many right answers as these have the probability `doubt`.
    """
    if not right:
        return 0.0
    wrong = np.arange(total - right + 1)  # (W,) as many wrong answers or fewer
    ways = np.append(0.0, np.log((total - wrong[1:] + 1) / wrong[1:]).cumsum())  # logarithms of total over wrong

    def is_too_low(share: float) -> bool:
        chances = ways + (total - wrong) * math.log(share) + wrong * math.log1p(-share)
        return bool(np.exp(chances).sum() < doubt)

    return halved(0.0, 1.0, is_too_low)[0]


def halved(low: float, high: float, is_too_low: Callable[[float], bool]) -> tuple[float, float]:
    """Halve a range until its ends are as near as floats allow, keeping between them where `is_too_low` changes."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if is_too_low(middle):
            low = middle
        else:
            high = middle
    return low, high


def differs(gained: int, lost: int) -> bool:
    """Say whether answers to the same pictures became better or worse by more than chance.

    Args:
        gained, lost: pictures that only the later answers got right, and only the earlier ones.

    Source: McNemar 1947.
    """
    return abs(gained - lost) > _DEVIATIONS * math.sqrt(gained + lost)


def exceeds_chance(gains: NDArray[np.float64]) -> bool:
    """Say whether the mean of gains is above zero by more than chance.

    Args:
        gains: (N,), of each picture.
    """
    return float(gains.mean()) > _DEVIATIONS * float(gains.std()) / math.sqrt(len(gains))


def confusion_matrix(judged: Judged, labels: int) -> NDArray[np.int64]:
    """Count the pictures by truth and answer. (C, C) int64: row is the truth, column the answer."""
    cells = judged.truth * labels + judged.predicted
    return np.bincount(cells, minlength=labels * labels).reshape(labels, labels)


def gain(judged: Judged, first: Judged, *, resamples: int = RESAMPLES, seed: int = 0) -> Figure:
    """Give the gain in top-1 over other answers to the same pictures, with its interval.

    Resamples draw pictures with both answers, so pictures that are hard for both do not widen the interval.
    """
    random = np.random.default_rng(seed)
    right, before = (each.predicted == each.truth for each in (judged, first))
    differences = right.astype(np.float64) - before  # (N,)
    count = len(differences)
    drawn = [differences[random.integers(0, count, count)].mean() for _ in range(resamples)]
    low, high = np.percentile(drawn, [_TAIL, 100 - _TAIL])
    value = float(differences.mean())
    return Figure(value, max(-1.0, float(2 * value - high)), min(1.0, float(2 * value - low)))
