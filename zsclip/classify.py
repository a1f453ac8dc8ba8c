"""The whole run, from decoded batches to answers. Read this file first."""

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from zsclip.batches import Batch
from zsclip.classifier import Classifier
from zsclip.model import ClipModel
from zsclip.results import Candidate, Prediction, ScoreKind, Skipped
from zsclip.score import Rule, cosines, sigmoid_scores, softmax_scores, top_k, versus_neutral_scores


def classify(
    batches: Iterable[Batch], model: ClipModel, classifier: Classifier, rule: Rule
) -> Iterator[list[Prediction | Skipped]]:
    """Answer for every picture of every batch.

    Yields:
        One list a batch, one record a picture, in input order.
    """
    for batch in batches:
        paths = [row for row in batch.rows if not isinstance(row, Skipped)]
        predictions = iter(answers(paths, model.encode_images(batch.pixels), classifier, rule) if paths else ())
        yield [row if isinstance(row, Skipped) else next(predictions) for row in batch.rows]


def answers(paths: Sequence[str], image_embeddings: Tensor, classifier: Classifier, rule: Rule) -> list[Prediction]:
    """Answer for B pictures that are encoded already.

    Args:
        image_embeddings: (B, D) float32, rows of length 1, on the classifier's device.
    """
    similar = cosines(image_embeddings, classifier.class_embeddings)  # (B, C)
    scores, score_kind = _scores(similar, image_embeddings, classifier, rule)
    best = top_k(similar, _candidates_wanted(classifier, rule))  # (B, k)
    return [
        _prediction(path, [classifier.labels[i] for i in indices], best_scores, best_cosines, score_kind, rule)
        for path, indices, best_scores, best_cosines in zip(
            paths, best.tolist(), scores.gather(1, best).tolist(), similar.gather(1, best).tolist(), strict=True
        )
    ]


def _scores(similar: Tensor, image_embeddings: Tensor, classifier: Classifier, rule: Rule) -> tuple[Tensor, ScoreKind]:
    if not rule.independent:
        return softmax_scores(similar, classifier.logit_scale), "softmax"
    if classifier.logit_bias is not None:
        return sigmoid_scores(similar, classifier.logit_scale, classifier.logit_bias), "sigmoid"
    assert classifier.neutral_embedding is not None
    neutral = cosines(image_embeddings, classifier.neutral_embedding)  # (B, 1)
    return versus_neutral_scores(similar, neutral, classifier.logit_scale), "versus-neutral"


def _candidates_wanted(classifier: Classifier, rule: Rule) -> int:
    if rule.k is not None:
        return rule.k
    return len(classifier.labels) if rule.independent else 1


def _prediction(
    path: str, labels: list[str], scores: list[float], cosines: list[float], score_kind: ScoreKind, rule: Rule
) -> Prediction:
    candidates = [Candidate(*values) for values in zip(labels, scores, cosines, strict=True)]
    best = candidates[0]
    threshold = rule.threshold if rule.threshold is not None else 0.5 if rule.independent else 0.0
    if rule.independent:
        candidates = [candidate for candidate in candidates if candidate.score >= threshold]
    label = best.label if best.score >= threshold else None
    return Prediction(path, label, best, tuple(candidates), score_kind)
