"""The whole run, from embeddings to answers. Read this file first."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.answers import Candidate, Prediction, ScoreKind
from zsclip.answers.classifier import Classifier
from zsclip.answers.scores import (
    Matrix,
    Rule,
    cosines,
    grouped,
    over_groups,
    sigmoid_scores,
    softmax_scores,
    top_k,
    versus_neutral_scores,
)
from zsclip.models.embed import Embedded
from zsclip.pixels.skipped import Skipped


def classify(batches: Iterable[Embedded], classifier: Classifier, rule: Rule) -> Iterator[list[Prediction | Skipped]]:
    """Answer for every picture of every batch.

    Yields:
        One list a batch, one record a picture, in input order.
    """
    for batch in batches:
        paths = [row for row in batch.rows if not isinstance(row, Skipped)]
        predictions = iter(answers(paths, batch.embeddings, classifier, rule) if paths else ())
        yield [row if isinstance(row, Skipped) else next(predictions) for row in batch.rows]


def answers(paths: Sequence[str], image_embeddings: Matrix, classifier: Classifier, rule: Rule) -> list[Prediction]:
    """Answer for B pictures that are encoded already.

    Args:
        image_embeddings: (B, D) float32, rows of length 1.
    """
    similar = cosines(image_embeddings, classifier.class_embeddings)  # (B, C + K)
    scores, score_kind = _scores(similar, image_embeddings, classifier, rule)
    labels, names = len(classifier.labels), classifier.labels
    rivals = similar[:, labels:]  # (B, K)
    similar, ranked = similar[:, :labels], similar[:, :labels]
    if classifier.groups is not None:
        names, members = grouped(classifier.groups)
        rivals = scores[:, labels:]
        scores = ranked = over_groups(scores[:, :labels], members, best_only=rule.independent)  # (B, G)
        similar = over_groups(similar, members, best_only=True)
    best = top_k(ranked, _candidates_wanted(len(names), rule))  # (B, k)
    beaten_by = _winners(rivals, ranked.max(axis=1), classifier.distractors)
    best_scores, best_cosines = (np.take_along_axis(each, best, axis=1).tolist() for each in (scores, similar))
    return [
        _prediction(path, [names[i] for i in indices], some_scores, some_cosines, rival, score_kind, rule)
        for path, indices, some_scores, some_cosines, rival in zip(
            paths, best.tolist(), best_scores, best_cosines, beaten_by, strict=True
        )
    ]


def _winners(rivals: Matrix, best: NDArray[np.float32], names: Sequence[str]) -> list[str | None]:
    """Name the best distractor of every picture where it is better than the best label, else None.

    Args:
        rivals: (B, K) float32. best: (B,) float32, of labels. names: K names.
    """
    if not names:
        return [None] * len(rivals)
    better = (rivals.max(axis=1) > best).tolist()
    return [names[i] if won else None for i, won in zip(rivals.argmax(axis=1).tolist(), better, strict=True)]


def _scores(similar: Matrix, image_embeddings: Matrix, classifier: Classifier, rule: Rule) -> tuple[Matrix, ScoreKind]:
    if not rule.independent:
        scores = softmax_scores(similar, classifier.logit_scale / (rule.temperature or 1.0))
        return scores, "softmax" if rule.temperature is None else "calibrated"
    if classifier.logit_bias is not None:
        return sigmoid_scores(similar, classifier.logit_scale, classifier.logit_bias), "sigmoid"
    assert classifier.neutral_embedding is not None
    neutral = cosines(image_embeddings, classifier.neutral_embedding)  # (B, 1)
    return versus_neutral_scores(similar, neutral, classifier.logit_scale), "versus-neutral"


def _candidates_wanted(names: int, rule: Rule) -> int:
    if rule.k is not None:
        return rule.k
    return names if rule.independent else 1


def _prediction(
    path: str,
    labels: list[str],
    scores: list[float],
    cosines: list[float],
    beaten_by: str | None,
    score_kind: ScoreKind,
    rule: Rule,
) -> Prediction:
    candidates = [Candidate(*values) for values in zip(labels, scores, cosines, strict=True)]
    best = candidates[0]
    threshold = rule.thresholds.get(best.label, rule.threshold)
    if threshold is None:
        threshold = 0.5 if rule.independent else 0.0
    if rule.independent:
        candidates = [candidate for candidate in candidates if candidate.score >= threshold]
    label = best.label if best.score >= threshold and beaten_by is None else None
    return Prediction(path, label, best, tuple(candidates), score_kind, beaten_by=beaten_by)
