"""What is doubtful about labels and their prompts, as one model reads them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from zsclip.answers.classifier import build_classifier, same_texts, shortened
from zsclip.answers.scores import Matrix
from zsclip.words.doubts import doubts
from zsclip.words.labels import in_other_scripts, read_distractors
from zsclip.words.wording import contained, negations, shared_names
from zsclip.words.words import Words, expand

if TYPE_CHECKING:
    from zsclip.models.encoder import Encoder

# With `tiny`, 0.85 and more is what 99% of 627 pairs of synonyms have that it learnt (median 0.996), but 5 of
# ImageNet's 499,500 pairs of labels, and none of CIFAR-100's 4,950.
NEAR = 0.85
_AT_ONCE = 1024  # rows of cosines in memory


@dataclass(frozen=True)
class Finding:
    """One thing to look at. kind: the check that found it, in a word or two with a hyphen."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def lint(
    words: Words, encoder: "Encoder", *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Finding]:
    """Yield what may not be meant, or may cost right answers; nothing is refused.

    Args:
        progress: called with the number of prompts encoded so far, and of all.
    """
    labels, name = words.labels, encoder.spec.name
    same = list(same_texts(words, encoder))
    for first, other, why in same:
        yield Finding(
            "same-text",
            f"{shortened(first)!r} and {shortened(other)!r} are the same text to {name}{why}; remove one of the two",
        )
    yield from (Finding("doubtful", doubt) for doubt in doubts(labels))
    yield from (Finding("other-script", message) for message in _other_scripts(words, encoder))
    yield from (Finding("shared-name", message) for message in shared_names(labels))
    yield from (Finding("contained", message) for message in contained(labels))
    yield from (Finding("negation", message) for message in negations(labels))
    common = expand(read_distractors([]), words.sentences)
    competing = replace(words, distractors=dict(zip(common.names, common.prompts, strict=True)))
    matrix = build_classifier(competing, encoder, progress=progress)
    own = {prompt for prompts in words.prompts for prompt in prompts}
    for prompt in matrix.cut:
        if prompt in own:
            limit = encoder.spec.tokenizer.context_length
            yield Finding(
                "cut", f"{shortened(prompt)!r} is longer than the {limit} tokens that {name} reads; shorten it"
            )
    known = {frozenset(pair[:2]) for pair in same}
    rows = matrix.class_embeddings  # (C + K, D)
    alone = centred_on(rows[len(labels) :], rows[: len(labels)])
    for i, j, cosine in near_duplicates(alone):
        pair = words.names[i], words.names[j]
        if frozenset(pair) not in known:
            shown = f"{shortened(pair[0])!r} and {shortened(pair[1])!r}"
            yield Finding("near-duplicate", f"{shown} are nearly the same to {name} ({cosine:.2f}); merge them?")


def near_duplicates(rows: Matrix, least: float = NEAR) -> Iterator[tuple[int, int, float]]:
    """Yield each row with the one that is most like it, if they are as alike as asked; each pair once.

    Args:
        rows: (C, D) float32, rows of length 1.
        least: the lowest cosine of a pair.

    Yields:
        The indices of both, in ascending order, and their cosine.
    """
    seen = set()
    for start in range(0, len(rows) if len(rows) > 1 else 0, _AT_ONCE):
        cosines = rows[start : start + _AT_ONCE] @ rows.T  # (B, C)
        places = np.arange(len(cosines))
        cosines[places, start + places] = -1
        for place, best in zip((start + places).tolist(), cosines.argmax(axis=1).tolist(), strict=True):
            pair = min(place, best), max(place, best)
            if cosines[place - start, best] >= least and pair not in seen:
                seen.add(pair)
                yield *pair, float(cosines[place - start, best])


def centred_on(reference: Matrix, rows: Matrix) -> Matrix:
    """Take away what all words have in common, which in most models is much: any two have a high cosine there.

    Args:
        reference: (K, D), common words in the same sentences. rows: (C, D).

    Returns:
        (C, D) float32, rows of length 1.
    """
    centred = rows - reference.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-12)


def _other_scripts(words: Words, encoder: "Encoder") -> Iterator[str]:
    """Yield a line about each label in letters that an English model has hardly seen."""
    if encoder.spec.reads_any_script:
        return
    unread: Sequence[str] = in_other_scripts(words.names)
    if not unread:
        return
    from zsclip.models.tokens import load_tokens

    bare, *counts = load_tokens(encoder.spec).counts(["", *unread])  # first the marks at both ends
    for name, count in zip(unread, counts, strict=True):
        letters = sum(letter.isalpha() for letter in name)
        yield (
            f"{name!r} is not in Latin letters: {encoder.spec.name} was trained on English, and makes {count - bare} "
            f"tokens of {letters} letters; translate it, or use --model multilingual"
        )
