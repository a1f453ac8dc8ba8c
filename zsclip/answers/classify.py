"""The whole run, from embeddings to answers. Read this file first."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.answers import Answers, ScoreKind
from zsclip.answers.classifier import Classifier
from zsclip.answers.scores import (
    PICTURES,
    Matrix,
    Rule,
    cosines,
    grouped,
    over_groups,
    sigmoid_scores,
    softmax_of,
    softmax_scores,
    top_k,
    versus_neutral_scores,
)
from zsclip.models.embed import Embedded

_CELLS = 1 << 17  # of a score matrix: it is read several times, and this much fits a processor's cache
_FEWEST = 128  # pictures at once


def classify(
    batches: Iterable[Embedded], classifier: Classifier, rule: Rule, *, with_vectors: bool = False
) -> Iterator[Answers]:
    """Answer for every picture of every batch, in input order."""
    return map(answer, batches, repeat(classifier), repeat(rule), repeat(with_vectors))


def answer(batch: Embedded, classifier: Classifier, rule: Rule, with_vectors: bool = False) -> Answers:
    """Answer for the pictures of a batch."""
    together = max(_FEWEST, _CELLS // len(classifier.class_embeddings) // PICTURES * PICTURES)
    starts = range(0, max(len(batch.vectors), 1), together)  # one round even for no pictures, to get empty columns
    labels = classifier.labels if classifier.groups is None else grouped(classifier.groups)[0]
    limits = _limits(labels, rule)
    parts = [_best(batch.vectors[start : start + together], classifier, rule, limits) for start in starts]
    classes, scores, similar, beaten_by, applies = (np.concatenate(columns) for columns in zip(*parts, strict=True))

    is_sure = (scores[:, 0] >= limits[classes[:, 0]]) & (beaten_by < 0)
    first = None if classifier.first is None else answer(batch, classifier.first, replace(rule, k=1))
    return Answers(
        names=batch.names,
        vocabulary=labels,
        classes=_spread(classes, batch),
        scores=_spread(scores, batch, fill=np.nan),
        cosines=_spread(similar, batch, fill=np.nan),
        answered=_spread(np.where(is_sure, classes[:, 0], -1).astype(np.int32), batch, fill=-1),
        score_kind=_score_kind(classifier, rule),
        applies=_spread(applies, batch) if rule.independent else None,
        skipped=batch.skipped,
        distractors=classifier.distractors,
        beaten_by=_spread(beaten_by, batch, fill=-1) if classifier.distractors else None,
        vectors=_spread(batch.vectors, batch, fill=np.nan) if with_vectors else None,
        first_answered=None if first is None else first.answered,
        first_scores=None if first is None else first.scores[:, 0],
    )


def _best(
    vectors: Matrix, classifier: Classifier, rule: Rule, limits: NDArray[np.float64]
) -> tuple[NDArray[np.int32], Matrix, Matrix, NDArray[np.int32], NDArray[np.bool_]]:
    """Find the k best labels of B pictures, the best distractor, and with independent scores all labels that apply.

    Args:
        vectors: (B, D) float32, rows of length 1. limits: (G,), as `_limits` gives them.

    Returns:
        (B, k) int32 indices of labels, best first, with their (B, k) float32 scores and cosines; (B,) int32 indices
        of distractors that are better than every label, -1 where none is; and (B, G) bool, whether each label reaches
        its limit, or (B, 0) where labels compete.
    """
    similar = decisive(vectors, classifier)  # (B, C + K)
    of_words = cosines(vectors, classifier.class_embeddings) if classifier.is_learnt else similar  # (B, C + K)
    count = len(classifier.labels)
    distractors, ranked = similar[:, count:], similar[:, :count]  # (B, K), (B, C)
    applies = np.empty((len(vectors), 0), bool)
    if classifier.groups is None:
        best = top_k(ranked, _candidates_wanted(count, rule))  # (B, k)
        best_cosines = np.take_along_axis(of_words, best, axis=1)
        if rule.independent:
            scores = _scores(similar, vectors, classifier, rule)
            best_scores = np.take_along_axis(scores, best, axis=1)
            applies = scores >= limits
        else:
            best_scores = softmax_of(best, similar, _logit_scale(classifier, rule))
    else:
        labels, members = grouped(classifier.groups)
        scores = _scores(similar, vectors, classifier, rule)
        distractors = scores[:, count:]
        ranked = over_groups(scores[:, :count], members, best_only=rule.independent)  # (B, G)
        best = top_k(ranked, _candidates_wanted(len(labels), rule))
        best_cosines = np.take_along_axis(over_groups(of_words, members, best_only=True), best, axis=1)
        best_scores = np.take_along_axis(ranked, best, axis=1)
        if rule.independent:
            applies = ranked >= limits
    return best.astype(np.int32), best_scores, best_cosines, _winners(distractors, ranked), applies


def decisive(vectors: Matrix, classifier: Classifier) -> Matrix:
    """Give what decides between classes: cosines, or what a head gives instead, on the same scale.

    Args:
        vectors: (B, D) float32, rows of length 1.

    Returns:
        (B, C + K) float32.
    """
    if classifier.weights is None or classifier.biases is None:
        return cosines(vectors, classifier.class_embeddings)
    return cosines(vectors, classifier.weights) + classifier.biases


def _winners(distractors: Matrix, ranked: Matrix) -> NDArray[np.int32]:
    """Give, for every picture, the best distractor if it is better than the best label, else -1.

    Args:
        distractors: (B, K) float32, scores of distractors. ranked: (B, G) float32, scores of labels.
    """
    if not distractors.shape[1]:
        return np.full(len(distractors), -1, np.int32)
    return np.where(distractors.max(axis=1) > ranked.max(axis=1), distractors.argmax(axis=1), -1).astype(np.int32)


def _scores(similar: Matrix, vectors: Matrix, classifier: Classifier, rule: Rule) -> Matrix:
    if not rule.independent:
        return softmax_scores(similar, _logit_scale(classifier, rule))
    if classifier.logit_bias is not None:
        return sigmoid_scores(similar, classifier.logit_scale, classifier.logit_bias)
    assert classifier.neutral_embedding is not None
    neutral = cosines(vectors, classifier.neutral_embedding)  # (B, 1)
    return versus_neutral_scores(similar, neutral, classifier.logit_scale)


def _logit_scale(classifier: Classifier, rule: Rule) -> float:
    return classifier.logit_scale / (rule.temperature or 1.0)


def _score_kind(classifier: Classifier, rule: Rule) -> ScoreKind:
    if not rule.independent:
        plain: ScoreKind = "expected" if classifier.is_corrected else "head" if classifier.is_learnt else "softmax"
        plain = plain if classifier.first is None else "transductive"
        return plain if rule.temperature is None else "calibrated"
    return "sigmoid" if classifier.logit_bias is not None else "versus-neutral"


def _candidates_wanted(names: int, rule: Rule) -> int:
    if rule.k is not None:
        return rule.k
    return names if rule.independent else 1


def _limits(labels: tuple[str, ...], rule: Rule) -> NDArray[np.float64]:
    """Give the lowest score at which each label is an answer; (G,) float64, as float32 would round it."""
    lowest = rule.lowest
    return np.array([rule.thresholds.get(label, lowest) for label in labels], np.float64)


def _spread(column: NDArray[Any], batch: Embedded, fill: float = 0) -> NDArray[Any]:
    """Add rows for the pictures that were skipped. (m, ...) -> (n, ...)"""
    if not batch.skipped:
        return column
    spread = np.full((len(batch), *column.shape[1:]), fill, column.dtype)
    spread[batch.places] = column
    return spread
