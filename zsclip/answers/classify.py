"""The whole run, from embeddings to answers. Read this file first."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

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
    is_none = (rivals > ranked.max(axis=1, keepdims=True)).any(axis=1)  # (B,), a distractor is better
    best_scores, best_cosines = (np.take_along_axis(each, best, axis=1).tolist() for each in (scores, similar))
    return [
        _prediction(path, [names[i] for i in indices], some_scores, some_cosines, none, score_kind, rule)
        for path, indices, some_scores, some_cosines, none in zip(
            paths, best.tolist(), best_scores, best_cosines, is_none.tolist(), strict=True
        )
    ]


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
    is_none: bool,
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
    label = best.label if best.score >= threshold and not is_none else None
    return Prediction(path, label, best, tuple(candidates), score_kind)
