"""Examples and words -> a classifier of both, and how good it is. Each example is judged by all the others.

What examples say is added to what words say, each with a weight. The weights, and how far the examples are trusted, are
those that make the true labels of left-out examples likeliest, given that examples may have been chosen because words
get them wrong. If that is not clearly better than words alone, it is words alone, so that few or wrong examples do no
harm.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.blends import WORDS_ALONE, Blend, fit_blend, how_chosen, surprises
from zsclip.answers.classifier import Classifier
from zsclip.answers.gaussians import Array, Gaussians, Linear
from zsclip.answers.logistic import fit_logistic
from zsclip.answers.scores import Matrix
from zsclip.errors import InputError
from zsclip.measure.learnt import Learnt, Method, Suspect
from zsclip.words.textfiles import listed

RIDGES = (300.0, 1000.0, 3000.0)
SHRINKS = (4.0, 16.0, 64.0)
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
_FOLDS = 5
_CELLS = 1 << 16  # examples times labels that decide; more would cost seconds and decide the same
_FEWEST = 256  # examples that decide, however many labels there are
_PATIENCE = 10.0
_DEVIATIONS = 1.0  # of the mean gain in likelihood, by which examples must help
_UNLIKELY, _LIKELY = 0.02, 0.6  # chances of an example's own label and of another, if it looks wrong
_MANY = 3  # examples of a label, so that two speak against one


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to learn from the examples.

    evidence: (J, C) float64, what it says about examples that it did not see. fit: learns from all of them. shape: its
    settings. blend: how much words and it count. weight: how much it counts among all candidates.
    """

    evidence: Array
    fit: Callable[[], Linear]
    shape: dict[str, float]
    blend: Blend = WORDS_ALONE
    weight: float = 1.0

    @property
    def settings(self) -> dict[str, float]:
        """What a head says about it."""
        return {"words": self.blend.words, "examples": self.blend.examples} | self.shape | {"weight": self.weight}


def learn(
    vectors: Matrix, truth: NDArray[np.int64], words: Classifier, has_words: Sequence[bool], method: Method = "gaussian"
) -> Learnt:
    """Learn from N examples of C labels.

    Args:
        vectors: (N, D) float32, rows of length 1. truth: (N,) indices of labels. words: the text matrix.
        has_words: whether the name of each label says something; if not, its words do not count.

    Raises:
        InputError: the embeddings hold NaN or infinity, or a label has neither words nor examples.
    """
    counts = np.bincount(truth, minlength=len(words.labels))
    known = np.array(has_words)
    _check(vectors, counts, known, words.labels)
    text = _rows_of_words(words.class_embeddings.astype(np.float64), known)
    directions = np.where(known[:, None], text - text.mean(axis=0), 0.0)
    rows = _deciding(truth, counts, known)
    own = truth[rows]
    logits = words.logit_scale * (vectors[rows] @ text.T)  # (J, C)
    chosen: list[Candidate] = []
    if len(rows) > 1:
        chosen = _chosen(
            _candidates(method, vectors, truth, directions, rows), logits, own, may_be_words=bool(known.all())
        )
    if not chosen and not known.all():
        chosen = [_untested(Gaussians(vectors, truth, directions), words.logit_scale, len(rows))]
    taught = _taught(words, text, chosen) if chosen else words
    if not known.all():
        means = Gaussians(vectors, truth, directions).means
        means /= np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
        embeddings = np.where(known[:, None], words.class_embeddings, means.astype(np.float32))
        taught = replace(taught, class_embeddings=embeddings)
    both = _together(chosen, logits) if chosen else logits
    return Learnt(
        logit_scale=taught.logit_scale,
        class_embeddings=taught.class_embeddings,
        weights=taught.class_embeddings if taught.weights is None else taught.weights,
        biases=np.zeros(len(counts), np.float32) if taught.biases is None else taught.biases,
        counts=dict(zip(words.labels, counts.tolist(), strict=True)),
        judged=len(rows),
        words=int((logits.argmax(axis=1) == own).sum()),
        both=int((both.argmax(axis=1) == own).sum()),
        method=method,
        mixture=tuple(each.settings for each in chosen),
        suspects=tuple(_suspects(both, own, rows, counts, words.labels)),
    )


def _taught(words: Classifier, text: Array, chosen: Sequence[Candidate]) -> Classifier:
    """Give the classifier of words and examples: a weighted mean of linear functions is one."""
    of_words = sum(each.weight * each.blend.words for each in chosen)
    weights, biases = np.zeros_like(text), np.zeros(len(text))
    for each in chosen:
        linear, share = each.fit(), each.weight * each.blend.examples / (of_words * words.logit_scale)
        weights += share * linear.weights
        biases += share * linear.biases
    return replace(
        words,
        logit_scale=float(of_words * words.logit_scale),
        weights=(text + weights).astype(np.float32),
        biases=biases.astype(np.float32),
    )


def _together(chosen: Sequence[Candidate], words: Array) -> Array:
    """Give the weighted mean of the logits of all candidates. (J, C) float64."""
    logits = np.zeros_like(words)
    for each in chosen:
        logits += each.weight * each.blend.of(words, each.evidence)
    return logits


def _check(vectors: Matrix, counts: NDArray[np.int64], known: NDArray[np.bool_], labels: Sequence[str]) -> None:
    if not np.isfinite(vectors).all():
        raise InputError("examples: their embeddings hold NaN or infinity; check the model")
    if (empty := np.flatnonzero(~known & (counts == 0))).size:
        raise InputError(
            f"labels: {listed([labels[place] for place in empty.tolist()])} have neither words nor examples; give some"
        )


def _rows_of_words(text: Array, known: NDArray[np.bool_]) -> Array:
    """Give a label whose name says nothing the mean of the others', so that words say nothing about it."""
    if known.all() or not known.any():
        return text if known.any() else np.zeros_like(text)
    return np.where(known[:, None], text, text[known].mean(axis=0))


def _deciding(truth: NDArray[np.int64], counts: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Choose the examples that decide: those of labels that still have something without them, at most a few cells."""
    rows = np.flatnonzero(known[truth] | (counts[truth] > 1))
    most = max(_FEWEST, _CELLS // len(counts))
    if len(rows) <= most:
        return rows
    by_label = rows[np.argsort(truth[rows], kind="stable")]  # so that every label gets its share
    return np.sort(by_label[np.arange(most) * len(rows) // most])


def _chosen(
    candidates: Iterable[Candidate], words: Array, truth: NDArray[np.int64], *, may_be_words: bool
) -> list[Candidate]:
    """Blend every candidate with words, and weigh it by how likely it makes the truths.

    With few examples the likeliest candidate owes much to chance: on four data sets with four examples of each label,
    the mean of all was right more often by a third of a point. So it takes a likelihood of e^_PATIENCE times another's
    to count e times as much.

    Args:
        words: (J, C) logits. may_be_words: whether words alone can answer.

    Returns:
        The candidates with blends and weights; none if together they are not clearly better than words alone.
    """
    chosen = how_chosen(words, truth)
    blended = [replace(each, blend=fit_blend(words, each.evidence, chosen, truth)) for each in candidates]
    found = [each for each in blended if each.blend.examples > 0]
    if not found:
        return []
    of_examples = [each.blend.of_examples(words, each.evidence, chosen) for each in found]
    totals = np.array([surprises(logits, truth).sum() for logits in of_examples])
    weights = np.exp((totals.min() - totals) / _PATIENCE)
    weights /= weights.sum()
    found = [replace(each, weight=float(weight)) for each, weight in zip(found, weights, strict=True)]
    if not may_be_words:
        return found
    both = np.tensordot(weights, of_examples, 1)
    nothing = np.zeros_like(words)
    alone = fit_blend(words, nothing, chosen, truth, is_alone=True).of_examples(words, nothing, chosen)
    gains = surprises(alone, truth) - surprises(both, truth)
    return found if gains.mean() > _DEVIATIONS * gains.std() / np.sqrt(len(gains)) else []


def _untested(examples: Gaussians, logit_scale: float, rows: int) -> Candidate:
    """Give what nothing could be tried for: compare with the means of labels, at the model's own scale."""
    shape = examples.shape(RIDGES[-1], 0.0)
    blend = Blend(1.0, logit_scale * shape.variance)
    return Candidate(np.zeros((rows, len(examples.counts))), partial(examples.evidence, shape), asdict(shape), blend)


def _candidates(
    method: Method, vectors: Matrix, truth: NDArray[np.int64], directions: Array, rows: NDArray[np.int64]
) -> Iterator[Candidate]:
    return (_gaussians if method == "gaussian" else _logistics)(vectors, truth, directions, rows)


def _gaussians(
    vectors: Matrix, truth: NDArray[np.int64], directions: Array, rows: NDArray[np.int64]
) -> Iterator[Candidate]:
    """Leave each example out in turn."""
    examples = Gaussians(vectors, truth, directions)
    turned = examples.turned(rows)
    for ridge in RIDGES:
        products = examples.products(examples.shape(ridge, 0.0), turned)
        for shrink in SHRINKS:
            shape = examples.shape(ridge, shrink)
            evidence = examples.left_out(shape, products, rows)
            yield Candidate(evidence, partial(examples.evidence, shape), asdict(shape))


def _logistics(
    vectors: Matrix, truth: NDArray[np.int64], directions: Array, rows: NDArray[np.int64]
) -> Iterator[Candidate]:
    """Hold out a fifth of the examples, five times."""
    labels = len(directions)
    order = np.argsort(truth, kind="stable")
    fold = np.empty(len(truth), np.int64)
    fold[order] = np.arange(len(truth)) % _FOLDS
    starts: list[Linear | None] = [None] * _FOLDS
    for strength in STRENGTHS:
        evidence = np.zeros((len(rows), labels))
        for number in range(_FOLDS):
            kept, held = fold != number, fold[rows] == number
            if not held.any() or not kept.any():
                continue
            linear = starts[number] = fit_logistic(vectors[kept], truth[kept], labels, strength, starts[number])
            evidence[held] = vectors[rows[held]] @ linear.weights.T + linear.biases
        yield Candidate(evidence, partial(fit_logistic, vectors, truth, labels, strength), {"strength": strength})


def _suspects(
    logits: Array, truth: NDArray[np.int64], rows: NDArray[np.int64], counts: NDArray[np.int64], labels: Sequence[str]
) -> Iterator[Suspect]:
    """Yield the examples that all others contradict, most certain first."""
    chances = np.exp(-surprises(logits, truth))
    surprise = surprises(logits, logits.argmax(axis=1))  # of the best label
    found = np.flatnonzero((chances < _UNLIKELY) & (np.exp(-surprise) > _LIKELY) & (counts[truth] >= _MANY))
    for place in found[np.argsort(surprise[found], kind="stable")].tolist():
        looks_like = labels[int(logits[place].argmax())]
        yield Suspect(int(rows[place]), labels[truth[place]], looks_like, float(np.exp(-surprise[place])))
