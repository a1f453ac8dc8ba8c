"""Example pictures -> a head, for the command line and for Python."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import build_classifier
from zsclip.answers.heads import Head
from zsclip.answers.scores import Matrix
from zsclip.engine.question import Question, made_with
from zsclip.errors import InputError
from zsclip.measure.evaluate import truths_of
from zsclip.measure.examples import has_words
from zsclip.measure.learn import learn
from zsclip.measure.learnt import Learnt, Method
from zsclip.models.embed import Embedded
from zsclip.models.encoder import Encoder
from zsclip.words.words import Words


@dataclass(frozen=True, eq=False)
class Encoded:
    """N examples that could be read.

    names: N, of the pictures; empty for those of an older head. vectors: (N, D) float32, rows of length 1.
    truth: (N,) int64, indices of their labels.
    """

    names: tuple[str, ...]
    vectors: Matrix
    truth: NDArray[np.int64]


def learn_from(
    question: Question,
    embedded: Iterable[Embedded],
    encoder: Encoder,
    model: str,
    *,
    method: Method = "gaussian",
    older: Head | None = None,
    by_words: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda message: None,
) -> tuple[Question, Learnt]:
    """Learn from the examples of a question; give the question with the head that answers it, and what was learnt.

    Args:
        embedded: the examples, encoded. model: the name that finds the model again.
        older: a head whose examples are learnt from, too; its labels are the first of the question's.
        by_words: whether words count; if not, as if the name of no label said anything.
        progress: see `build_classifier`. note: called with one line if some examples could not be read.

    Raises:
        InputError: none of the examples could be read, or a label has neither words nor examples.
    """
    assert question.examples is not None
    words = question.words
    truths = truths_of(question.examples.words, words.labels, question.examples.meanings)
    found = _without_repeats(_together(_encoded(embedded, truths, words, note), older))
    classifier = build_classifier(words, encoder, progress=progress)
    known = [by_words and has_words(label) for label in words.labels]
    learnt = learn(found.vectors, found.truth, classifier, known, method)
    head = Head(
        words=words.labels,
        sentences=words.sentences,
        model=model,
        made_with=made_with(words, encoder),
        logit_scale=learnt.logit_scale,
        class_embeddings=learnt.class_embeddings,
        weights=learnt.weights,
        biases=learnt.biases,
        vectors=found.vectors,
        truth=found.truth.astype(np.int32),
        about=_about(learnt, found, words),
    )
    named = replace(learnt, suspects=tuple(replace(each, name=found.names[each.place]) for each in learnt.suspects))
    return replace(question, head=head, examples=None), named


def _encoded(embedded: Iterable[Embedded], truths: Sequence[str], words: Words, note: Callable[[str], None]) -> Encoded:
    places = {label: place for place, label in enumerate(words.names)}
    truth, unread = iter(truths), dict[str, str]()
    names, true, vectors = [], [], []
    for batch in embedded:
        labels = list(islice(truth, len(batch)))
        for place in batch.places.tolist():
            names.append(str(batch.names[place]))
            true.append(places[labels[place]])
        vectors.append(batch.vectors)
        unread |= {each.file_name: each.message for each in batch.skipped.values()}
    if unread and true:
        file, why = next(iter(unread.items()))
        note(f"examples: {len(unread):,} could not be read; the first is {file!r}: {why}")
    if not true:
        raise InputError("examples: none of the images could be read; `zsclip classify` says why")
    return Encoded(tuple(names), np.concatenate(vectors), np.array(true, np.int64))


def _together(new: Encoded, older: Head | None) -> Encoded:
    """Add the examples of an older head, but not those that are given again, perhaps with another label."""
    if older is None:
        return new
    given = {vector.tobytes() for vector in new.vectors}
    kept = [place for place, vector in enumerate(older.vectors) if vector.tobytes() not in given]
    return Encoded(
        ("",) * len(kept) + new.names,
        np.concatenate([older.vectors[kept], new.vectors]),
        np.concatenate([older.truth[kept].astype(np.int64), new.truth]),
    )


def _without_repeats(found: Encoded) -> Encoded:
    """Leave out an image that is an example of the same label already: it would speak for itself when it is judged."""
    seen: set[tuple[bytes, int]] = set()
    kept = []
    for place, (vector, label) in enumerate(zip(found.vectors, found.truth.tolist(), strict=True)):
        if (key := (vector.tobytes(), label)) not in seen:
            seen.add(key)
            kept.append(place)
    return Encoded(tuple(found.names[place] for place in kept), found.vectors[kept], found.truth[kept])


def _about(learnt: Learnt, found: Encoded, words: Words) -> dict[str, object]:
    """Say where a head comes from, for its file."""
    counts = np.bincount(found.truth, minlength=len(words.names)).tolist()
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version of zsclip": version("zsclip"),
        "examples": dict(zip(words.names, counts, strict=True)),
    } | learnt.about
