"""Labelled answers -> the temperature that makes scores probabilities, and the threshold that reaches a target."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier
from zsclip.answers.scores import Matrix, cosines, softmax_scores
from zsclip.errors import InputError
from zsclip.measure.metrics import Judged, calibration_error, joined
from zsclip.models.embed import Embedded

VERSION = 1
FEWEST = 10  # pictures to learn from
_FOLDS = 5
_SHARPEST = 1000.0  # search temperatures within this factor; if all answers are right, there is no best one
_HALVINGS = 40


@dataclass(frozen=True)
class Calibration:
    """What calibration learnt: how to turn scores into probabilities, and when to answer.

    made_with: what it is valid for, in words for messages: model, labels, prompts. temperature: cosines are divided by
    it, besides the model's own scale. threshold: a best score below it is not an answer. thresholds: one per label
    instead; infinite if no score is sure enough. distractors: the prompts of words that compete with
    the labels, by name.
    """

    made_with: Mapping[str, str]
    temperature: float
    threshold: float
    thresholds: Mapping[str, float]
    distractors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Promise:
    """What to expect on new pictures, by cross-validation.

    precision: share of the given answers that are right, None if none was given; answered: share of pictures that get
    one; error_before, error: calibration error of plain and calibrated scores, None if distractors always win.
    """

    precision: float | None
    answered: float
    error_before: float | None
    error: float | None


@dataclass(frozen=True)
class Wish:
    """The target of a threshold: a precision, or a share of answers; without either there is no threshold.

    per_label: find a threshold for each label.
    """

    precision: float | None = None
    share: float | None = None
    per_label: bool = False


def fit_temperature(similar: Matrix, truth: NDArray[np.int64], logit_scale: float) -> float:
    """Find the temperature that makes the true labels most likely.

    Args:
        similar: (N, C + K) float32 cosines. truth: (N,) indices of the true classes.

    Source: Guo et al. 2017, section 4.2 (temperature scaling). The likelihood is concave in 1 / temperature, so the
    sign of its slope halves the range.
    """
    low, high = -math.log(_SHARPEST), math.log(_SHARPEST)  # bounds of log(1 / temperature)
    of_truth = similar[np.arange(len(truth)), truth]  # (N,)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = (softmax_scores(similar, logit_scale * math.exp(middle)) * similar).sum(axis=1)  # (N,)
        if (of_truth - expected).mean() > 0:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)


def threshold_for(scores: NDArray[np.float64], right: NDArray[np.bool_], wish: Wish) -> float:
    """Find the lowest threshold that reaches the target; infinite if none does, 0 without a target.

    Args:
        scores: (N,) of the best labels; -1 where no label is the answer. right: (N,) whether the best label is right.
    """
    if not len(scores):
        return 0.0 if wish.precision is None else math.inf
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) < 0, True))  # a threshold cannot separate equal scores
    ends = ends[scores[order[ends]] >= 0]
    if wish.precision is not None:
        precision = right[order].cumsum()[ends] / (ends + 1)
        enough = ends[precision >= wish.precision]
    elif wish.share is not None:
        enough = ends[: 1 + int(np.searchsorted(ends + 1, wish.share * len(scores)))]
    else:
        return 0.0
    return float(scores[order[enough[-1]]]) if len(enough) else math.inf


def cosines_of(
    embedded: Iterable[Embedded], truths: Iterable[str], classifier: Classifier
) -> tuple[Matrix, NDArray[np.int64]]:
    """Compare the N labelled pictures that could be read with a classifier's labels and distractors.

    Args:
        truths: the true label of each picture, failed ones included.

    Returns:
        (N, C + K) float32 cosines, and (N,) indices of the true labels.

    Raises:
        InputError: too few pictures could be read.
    """
    places = {label: place for place, label in enumerate(classifier.labels)}
    truth = iter(truths)
    true, similar = [], []
    for batch in embedded:
        labels = list(islice(truth, len(batch)))
        true += [places[labels[place]] for place in batch.places.tolist()]
        similar.append(cosines(batch.vectors, classifier.class_embeddings))
    if len(true) < FEWEST:
        raise InputError(f"data: {len(true)} readable pictures are too few to learn from; give {FEWEST} or more")
    return np.concatenate([block for block in similar if len(block)]), np.array(true, np.int64)


def calibrate(
    similar: Matrix,
    truth: NDArray[np.int64],
    labels: Sequence[str],
    logit_scale: float,
    wish: Wish,
    made_with: Mapping[str, str],
) -> Calibration:
    """Learn from N labelled pictures.

    Args:
        similar: (N, C + K) float32 cosines, first with the labels, then with distractors. truth: (N,) indices of the
            true labels.
    """
    temperature = fit_temperature(similar, truth, logit_scale)
    judged = _judged(similar, truth, len(labels), logit_scale / temperature)
    right = judged.predicted == truth
    if not wish.per_label:
        return Calibration(made_with, temperature, threshold_for(judged.score, right, wish), {})
    thresholds = {}
    for place, label in enumerate(labels):
        its = judged.predicted == place
        thresholds[label] = threshold_for(judged.score[its], right[its], wish)
    return Calibration(made_with, temperature, 0.0, thresholds)


def promise(
    similar: Matrix, truth: NDArray[np.int64], labels: Sequence[str], logit_scale: float, wish: Wish, *, seed: int = 0
) -> Promise:
    """Estimate what to expect on new pictures: learn from four fifths, judge the other, five times."""
    order = np.random.default_rng(seed).permutation(len(truth))
    parts, given = [], []
    for fold in range(_FOLDS):
        kept = np.zeros(len(truth), bool)
        kept[order[fold::_FOLDS]] = True
        learnt = calibrate(similar[~kept], truth[~kept], labels, logit_scale, wish, {})
        part = _judged(similar[kept], truth[kept], len(labels), logit_scale / learnt.temperature)
        limits = np.array([learnt.thresholds.get(label, learnt.threshold) for label in labels])
        parts.append(part)
        given.append(part.score >= limits[part.predicted])
    judged, answered = joined(parts), np.concatenate(given)
    before = _judged(similar, truth, len(labels), logit_scale)
    right = judged.predicted == judged.truth
    return Promise(
        precision=float(right[answered].mean()) if answered.any() else None,
        answered=float(answered.mean()),
        error_before=_error(before),
        error=_error(judged),
    )


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


def to_json(calibration: Calibration) -> str:
    """Write a calibration as JSON; an infinite threshold is null."""
    values = asdict(calibration) | {"version": VERSION}
    values["threshold"] = _finite(calibration.threshold)
    values["thresholds"] = {label: _finite(value) for label, value in calibration.thresholds.items()}
    return json.dumps(values, ensure_ascii=False, indent=1)


def read_calibration(file: str) -> Calibration:
    """Read a calibration; `check_made_with` checks what it is valid for.

    Raises:
        InputError: it cannot be read, or is not a calibration.
    """
    try:
        with open(file, encoding="utf-8") as stream:
            values = json.load(stream)
        if values["version"] != VERSION:
            raise InputError(f"{file}: written by another version of zsclip; calibrate again")
        found = Calibration(
            made_with={str(key): str(value) for key, value in values["made_with"].items()},
            temperature=float(values["temperature"]),
            threshold=_infinite(values["threshold"]),
            thresholds={str(label): _infinite(value) for label, value in values["thresholds"].items()},
            distractors=_distractors(values["distractors"]),
        )
    except OSError as e:
        raise InputError(f"{file}: cannot be read: {(e.strerror or str(e)).lower()}; check the path") from e
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise InputError(f"{file}: not a calibration; `zsclip calibrate -o {file}` makes one") from e
    if not 0 < found.temperature < math.inf:
        raise InputError(f"{file}: not a calibration: its temperature is {found.temperature}")
    return found


def _distractors(value: Any) -> dict[str, tuple[str, ...]]:
    """Read prompts by name; in files of older versions, which have no names, the first prompt serves as the name."""
    named = value.items() if isinstance(value, dict) else [(prompts[0], prompts) for prompts in value if prompts]
    return {str(name): tuple(map(str, prompts)) for name, prompts in named}


def check_made_with(calibration: Calibration, file: str, made_with: Mapping[str, str]) -> None:
    """Refuse a calibration that would give wrong numbers.

    Raises:
        InputError: it was made with another model, other labels or other prompts.
    """
    others = [key for key in made_with if calibration.made_with.get(key) != made_with[key]]
    if others:
        what = ", ".join(f"{key} ({calibration.made_with.get(key)}, now {made_with[key]})" for key in others)
        raise InputError(f"{file}: changed since the calibration: {what}; calibrate again")


def promise_lines(calibration: Calibration, promised: Promise) -> list[str]:
    """Format what was learnt, and what to expect."""
    limits = calibration.thresholds
    low, high = min(limits.values(), default=0.0), max(limits.values(), default=0.0)
    threshold = f"{_or_never(low)} to {_or_never(high)}" if limits else _or_never(calibration.threshold)
    precision, error, before = (
        "none" if share is None else f"{share:.1%}"
        for share in (promised.precision, promised.error, promised.error_before)
    )
    return [
        f"temperature          {calibration.temperature:.3f}",
        f"threshold            {threshold}",
        "on held-out pictures (five-fold cross-validation):",
        f"  answered           {promised.answered:.1%}",
        f"  precision          {precision}",
        f"  calibration error  {error}, plain scores {before}",
    ]


def _or_never(threshold: float) -> str:
    return f"{threshold:.3f}" if math.isfinite(threshold) else "never sure enough"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _infinite(value: float | None) -> float:
    return math.inf if value is None else float(value)
