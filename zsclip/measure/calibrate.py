"""Labelled answers -> the temperature that turns scores into probabilities, and the threshold that reaches a target."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier
from zsclip.answers.classify import decisive
from zsclip.answers.scores import Matrix, softmax_scores
from zsclip.errors import InputError
from zsclip.measure.calibration import Calibration, finite
from zsclip.measure.metrics import Figure, Judged, at_least, calibration_error, exceeds_chance, halved, joined, share
from zsclip.models.embed import Embedded
from zsclip.out.text import escaped

FEWEST = 10  # pictures to learn from
CERTAINTY = 0.95  # that every precision in the table is reached
STEPS = 20  # thresholds to choose from: those that answer 5% of the pictures, 10%, and so on
_DOUBT = (1 - CERTAINTY) / STEPS  # for each of them (Bonferroni): otherwise the best would just be the luckiest
_FOLDS = 5
_SHARPEST = 1000.0  # search temperatures within this factor; if all answers are right, there is no best one


@dataclass(frozen=True)
class Temperature:
    """The temperature that was fitted, and the calibration error on pictures that it was not fitted on.

    plain, fitted: the error without and with it; None if distractors always win. is_chance: whether the
    gain in likelihood of the true labels of those pictures could be chance.
    """

    value: float
    plain: float | None
    fitted: float | None
    is_chance: bool

    @property
    def helps(self) -> bool:
        """Whether scores are nearer to probabilities with it."""
        is_better = self.plain is not None and self.fitted is not None and self.fitted < self.plain
        return is_better and not self.is_chance


@dataclass(frozen=True)
class Threshold:
    """The results at one threshold.

    answered: share of the pictures with an answer. precision: share of those answers that are right, None without any.
    at_least: the precision on new pictures, with a certainty of CERTAINTY for all thresholds of a table together.
    label: the label that it is for; None if it is for all.
    """

    value: float
    answered: Figure
    precision: float | None
    at_least: float
    label: str | None = None


@dataclass(frozen=True)
class Target:
    """The target of a threshold: a precision, or a share of answers; without either there is no threshold.

    per_label: find a threshold for each label.
    """

    precision: float | None = None
    share: float | None = None
    per_label: bool = False

    @property
    def is_any(self) -> bool:
        """Whether there is a target."""
        return self.precision is not None or self.share is not None


@dataclass(frozen=True)
class Learnt:
    """The temperature and thresholds learnt from N labelled pictures.

    table: the thresholds to choose from, the lowest first. chosen: those that reach the target, one or one per label;
    a label that cannot reach it has an infinite one. overall: the results of all of them together on these pictures.
    """

    images: int
    temperature: Temperature
    table: tuple[Threshold, ...]
    chosen: tuple[Threshold, ...]
    overall: Threshold
    target: Target

    def calibration(self, made_with: Mapping[str, str]) -> Calibration:
        """Give what is written to a file.

        Raises:
            InputError: the data guarantee nothing.
        """
        self._check()
        temperature = self.temperature.value if self.temperature.helps else None
        if self.target.per_label:
            return Calibration(made_with, temperature, 0.0, {each.label or "": each.value for each in self.chosen})
        return Calibration(made_with, temperature, self.chosen[0].value if self.chosen else 0.0, {})

    def _check(self) -> None:
        precision, best = self.target.precision, max((each.at_least for each in self.table), default=0.0)
        if precision is None:
            if self.target.is_any or self.temperature.helps:
                return
            raise InputError(
                "no file is written: rescaling the scores would not help, and no threshold was asked for; "
                "add --target-precision or --target-share"
            )
        if any(math.isfinite(each.value) for each in self.chosen):
            return
        is_provable = 0 < precision < 1
        needed = math.ceil(math.log(_DOUBT) / math.log(precision)) if is_provable else math.inf  # if all are right
        if needed == math.inf:
            why = "no number of images can prove that all answers are right; lower --target-precision"
        elif self.images < needed:
            why = f"{self.images:,} images are too few; give {needed:,} or more, or lower --target-precision"
        elif self.target.per_label:
            why = "no label has enough right answers; give more images, or leave out --per-label"
        else:
            why = f"the best threshold guarantees only {best:.1%}; lower --target-precision, or give more images"
        raise InputError(f"no file is written, as a precision of {precision:.1%} cannot be guaranteed: {why}")


def fit_temperature(similar: Matrix, truth: NDArray[np.int64], logit_scale: float) -> float:
    """Find the temperature that makes the true labels most likely.

    Args:
        similar: (N, C + K) float32 cosines. truth: (N,) indices of the true classes.

    Source: Guo et al. 2017, section 4.2 (temperature scaling). The likelihood is concave in 1 / temperature, so the
    sign of its slope halves the range.
    """
    of_truth = similar[np.arange(len(truth)), truth]  # (N,)

    def is_too_soft(sharpness: float) -> bool:  # the logarithm of 1 / temperature
        expected = (softmax_scores(similar, logit_scale * math.exp(sharpness)) * similar).sum(axis=1)  # (N,)
        return bool((of_truth - expected).mean() > 0)

    low, high = halved(-math.log(_SHARPEST), math.log(_SHARPEST), is_too_soft)
    return math.exp(-(low + high) / 2)


def checked_temperature(
    similar: Matrix, truth: NDArray[np.int64], labels: int, logit_scale: float, *, seed: int = 0
) -> Temperature:
    """Fit the temperature, and check the fit where it can fail: fit on four fifths, judge the other, five times.

    The calibration error of few pictures is itself uncertain: in simulations with 50, and scores that needed no
    temperature, every second fit seemed to lower it. So the true labels must become likelier too, beyond chance.
    """
    order = np.random.default_rng(seed).permutation(len(truth))
    parts, gains = [], []
    for fold in range(_FOLDS):
        kept = np.zeros(len(truth), bool)
        kept[order[fold::_FOLDS]] = True
        temperature = fit_temperature(similar[~kept], truth[~kept], logit_scale)
        some = (similar[kept], truth[kept])
        parts.append(_judged(*some, labels, logit_scale / temperature))
        gains.append(_likelihoods(*some, logit_scale / temperature) - _likelihoods(*some, logit_scale))
    plain = _error(_judged(similar, truth, labels, logit_scale))
    is_chance = not exceeds_chance(np.concatenate(gains))
    return Temperature(fit_temperature(similar, truth, logit_scale), plain, _error(joined(parts)), is_chance)


def _likelihoods(similar: Matrix, truth: NDArray[np.int64], logit_scale: float) -> NDArray[np.float64]:
    """Give the logarithm of the probability of each true label. (N,) float64."""
    logits = logit_scale * similar.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    of_truth: NDArray[np.float64] = logits[np.arange(len(truth)), truth] - np.log(np.exp(logits).sum(axis=1))
    return of_truth


def threshold_for(scores: NDArray[np.float64], share: float) -> float:
    """Find the highest threshold that answers at least this share of the pictures; the lowest one if none does.

    Args:
        scores: (N,) of the best labels; -1 where no label is the answer.
    """
    if not len(scores):
        return 0.0
    order = np.sort(scores)[::-1]
    ends = np.flatnonzero(np.append(np.diff(order) < 0, True))  # a threshold cannot separate equal scores
    ends = ends[order[ends] >= 0]
    enough = ends[: 1 + int(np.searchsorted(ends + 1, share * len(scores)))]
    return float(order[enough[-1]]) if len(enough) else math.inf


def table_of(scores: NDArray[np.float64], right: NDArray[np.bool_], label: str | None = None) -> tuple[Threshold, ...]:
    """Give the results at STEPS thresholds, the lowest first.

    Args:
        scores: (N,) of the best labels; -1 where no label is the answer. right: (N,) whether the best label is right.
    """
    values = (threshold_for(scores, step / STEPS) for step in range(STEPS, 0, -1))
    return tuple(_given(scores, right, value, label) for value in dict.fromkeys(values) if math.isfinite(value))


def cosines_of(
    embedded: Iterable[Embedded], truths: Iterable[str], classifier: Classifier
) -> tuple[Matrix, NDArray[np.int64]]:
    """Compare the N labelled pictures that could be read with a classifier's labels and distractors.

    Args:
        truths: the true label of each picture, failed ones included.

    Returns:
        (N, C + K) float32 cosines, or what a head gives instead, and (N,) indices of the true labels.

    Raises:
        InputError: too few pictures could be read.
    """
    places = {label: place for place, label in enumerate(classifier.labels)}
    truth = iter(truths)
    true, similar = [], []
    for batch in embedded:
        labels = list(islice(truth, len(batch)))
        true += [places[labels[place]] for place in batch.places.tolist()]
        similar.append(decisive(batch.vectors, classifier))
    if len(true) < FEWEST:
        some = f"{len(true)} readable image{' is' if len(true) == 1 else 's are'}"
        raise InputError(f"data: {some} too few to learn from; give {FEWEST} or more")
    return np.concatenate([block for block in similar if len(block)]), np.array(true, np.int64)


def learn(
    similar: Matrix, truth: NDArray[np.int64], labels: Sequence[str], logit_scale: float, target: Target
) -> Learnt:
    """Learn from N labelled pictures.

    The temperature is fitted on the same pictures that thresholds are judged on. That is one number, which
    hardly biases the result.

    Args:
        similar: (N, C + K) float32 cosines, first with the labels, then with distractors. truth: (N,) indices of the
            true labels.
    """
    temperature = checked_temperature(similar, truth, len(labels), logit_scale)
    scale = logit_scale / temperature.value if temperature.helps else logit_scale
    judged = _judged(similar, truth, len(labels), scale)
    right = judged.predicted == truth
    chosen: tuple[Threshold, ...] = ()
    if target.per_label:
        parts = [(label, judged.predicted == place) for place, label in enumerate(labels)]
        chosen = tuple(_chosen(judged.score[its], right[its], target, label) for label, its in parts)
    elif target.is_any:
        chosen = (_chosen(judged.score, right, target, None),)
    limits = np.array([each.value for each in chosen] or [0.0])
    is_given = judged.score >= (limits[judged.predicted] if target.per_label else limits)
    overall = _given(np.where(is_given, 1.0, -1.0), right, 0.0, None)
    return Learnt(len(truth), temperature, table_of(judged.score, right), chosen, overall, target)


def _chosen(scores: NDArray[np.float64], right: NDArray[np.bool_], target: Target, label: str | None) -> Threshold:
    """Choose the lowest threshold that guarantees the precision, or the one that answers the share; else none."""
    if target.precision is None:
        return _given(scores, right, threshold_for(scores, target.share or 0.0), label)
    reaching = [each for each in table_of(scores, right, label) if each.at_least >= target.precision]
    return reaching[0] if reaching else _given(scores, right, math.inf, label)


def _given(scores: NDArray[np.float64], right: NDArray[np.bool_], threshold: float, label: str | None) -> Threshold:
    is_given = (scores >= 0) & (scores >= threshold)
    count, total = int(is_given.sum()), len(scores)
    good = int(right[is_given].sum())
    answered = share(count, total) if total else Figure(0.0, 0.0, 1.0)
    return Threshold(threshold, answered, good / count if count else None, at_least(good, count, _DOUBT), label)


def _error(judged: Judged) -> float | None:
    answered = np.flatnonzero(judged.score >= 0)
    return calibration_error(judged.taken(answered)) if len(answered) else None


def _judged(similar: Matrix, truth: NDArray[np.int64], labels: int, logit_scale: float) -> Judged:
    """Judge answers as `classify` gives them; the score is -1 where a distractor is better than all labels."""
    scores = softmax_scores(similar, logit_scale)
    predicted = similar[:, :labels].argmax(axis=1)
    best = scores[np.arange(len(truth)), predicted].astype(np.float64)
    best[similar.argmax(axis=1) >= labels] = -1
    return Judged(truth, predicted, predicted == truth, best)


def as_json(learnt: Learnt) -> dict[str, Any]:
    """Give what was learnt for JSON; an infinite threshold is null."""
    values = asdict(learnt)
    del values["target"]
    for each in (*values["table"], *values["chosen"], values["overall"]):
        each["value"] = finite(each["value"])
    values["temperature"]["helps"] = learnt.temperature.helps
    return values


def learnt_lines(learnt: Learnt) -> Iterator[str]:
    """Format what was learnt: the temperature, the thresholds to choose from, and what they guarantee."""
    yield from _temperature_lines(learnt.temperature)
    yield ""
    chosen, rows, names = learnt.chosen, learnt.chosen, [escaped(each.label or "") for each in learnt.chosen]
    if not learnt.target.per_label:
        found = {each.value: each for each in (*learnt.table, *chosen) if math.isfinite(each.value)}
        rows, names = tuple(found[value] for value in sorted(found)), []
    width = max(map(len, [*names, "label"]))
    left = [f"{name:<{width}}  " for name in names] or [""] * len(rows)
    yield f"{'label':<{width}}  " * bool(names) + "threshold  answered                      precision  at least"
    for name, each in zip(left, rows, strict=True):
        mark = "  <- chosen" if not names and any(each.value == one.value for one in chosen) else ""
        yield f"{name}{_line(each)}{mark}"
    yield ""
    certain = f"at least: precision on new images, with {CERTAINTY:.0%} certainty"
    yield f"{certain} for each label by itself" if names else f"{certain} for all rows jointly"
    if not chosen:
        yield "threshold: none; --target-precision or --target-share chooses one"
    elif learnt.overall.precision is not None:
        answered, precision = learnt.overall.answered.value, learnt.overall.precision
        yield f"answered: {answered:.1%} of these images, {precision:.1%} of them right"


def _temperature_lines(temperature: Temperature) -> Iterator[str]:
    if temperature.plain is None or temperature.fitted is None:
        yield "temperature: unchanged, as a distractor fits every image better than all labels"
        return
    effect = f"calibration error on held-out images from {temperature.plain:.1%} to {temperature.fitted:.1%}"
    if temperature.helps:
        yield f"temperature: {temperature.value:.3f}, which brings the {effect}"
    else:
        chance = ", which may be chance" if temperature.fitted < temperature.plain else ""
        yield f"temperature: unchanged, as {temperature.value:.3f} would bring the {effect}{chance}"


def _line(each: Threshold) -> str:
    value = f"{each.value:>9.3f}" if math.isfinite(each.value) else "    never"
    low, high = f"{each.answered.low:.1%}", f"{each.answered.high:.1%}"
    precision = "        -" if each.precision is None else f"{each.precision:>9.1%}"
    return f"{value}  {each.answered.value:>8.1%}  ({low:>6} to {high:>6})  {precision}  {each.at_least:>8.1%}"
