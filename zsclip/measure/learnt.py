"""What was learnt from examples, how good it is, and the lines that say so."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier
from zsclip.answers.scores import Matrix
from zsclip.measure.metrics import share
from zsclip.out.text import escaped

Method = Literal["gaussian", "logistic"]
_LABELS = 8  # in a line


@dataclass(frozen=True)
class Suspect:
    """An example that looks as if it had another label. place: its index. chance: of the label that it looks like."""

    place: int
    label: str
    looks_like: str
    chance: float
    name: str = ""


@dataclass(frozen=True, eq=False)
class Learnt:
    """What was learnt from N examples of C labels.

    logit_scale, class_embeddings, weights, biases: as in `Head`. counts: examples of each label, by name.
    judged: examples that were left out in turn. words, both: how many of those words alone, and words and examples, got
    right. method, mixture: how it was learnt: the candidates that were averaged, with their settings and weights.
    """

    logit_scale: float
    class_embeddings: Matrix
    weights: Matrix
    biases: NDArray[np.float32]
    counts: dict[str, int]
    judged: int
    words: int
    both: int
    method: Method
    mixture: tuple[dict[str, float], ...]
    suspects: tuple[Suspect, ...]

    @property
    def is_words_alone(self) -> bool:
        """Whether the examples did not clearly help, so that words alone answer."""
        return not self.mixture

    def classifier(self, labels: tuple[str, ...]) -> Classifier:
        """Give what answers, for labels in the order in which they were learnt."""
        arrays = (self.class_embeddings, None, self.logit_scale, None, ())
        return Classifier(labels, *arrays, weights=self.weights, biases=self.biases)

    @property
    def about(self) -> dict[str, Any]:
        """What the file of a head says about it, as JSON-like values."""
        return {
            "method": self.method, "mixture": list(self.mixture), "judged": self.judged,
            "right by words": self.words, "right by words and examples": self.both,
        }  # fmt: skip

    def suspects_as_json(self) -> list[dict[str, Any]]:
        """Give the examples that look wrong as JSON-like values."""
        return [
            {"file_name": each.name, "label": each.label, "looks_like": each.looks_like, "chance": each.chance}
            for each in self.suspects
        ]


def short_lines(learnt: Learnt) -> Iterator[str]:
    """Say in a line how good it is, and in another which examples look wrong."""
    count = f"{sum(learnt.counts.values()):,} example" + "s" * (sum(learnt.counts.values()) != 1)
    if learnt.is_words_alone:
        yield f"{count} did not clearly help, so words alone answer"
    elif learnt.judged:
        words, both = (f"{value / learnt.judged:.1%}" for value in (learnt.words, learnt.both))
        yield f"learnt from {count}; each answered without it: {both} right, {words} by words alone"
    else:
        yield f"learnt from {count}, which are too few to say how good that is"
    yield from _wrong(learnt)


def learnt_lines(learnt: Learnt) -> Iterator[str]:
    """Format what was learnt, how good it is, and which examples look wrong."""
    counts = [count for count in learnt.counts.values() if count]
    each = f"{min(counts)} of each" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)} of each"
    yield f"learnt from {sum(counts):,} images of {len(counts):,} labels, {each}"
    if without := [label for label, count in learnt.counts.items() if not count]:
        yield f"by words alone: {', '.join(map(escaped, without[:_LABELS]))}" + (
            f" and {len(without) - _LABELS:,} more" if len(without) > _LABELS else ""
        )
    yield ""
    if not learnt.judged:
        yield "how good it is cannot be said from one example; `zsclip eval --head` measures it"
        return
    yield "top-1 on these images, each answered without it"
    for name, right in (("words", learnt.words), ("words and examples", learnt.both)):
        figure = share(right, learnt.judged)
        yield f"{name:<18}{figure.value:>7.1%}   {figure.low:>7.1%} to {figure.high:>7.1%}"
    if learnt.is_words_alone:
        yield "the examples did not clearly help, so the head goes by words alone; give more"
    yield from _wrong(learnt)


def _wrong(learnt: Learnt) -> Iterator[str]:
    if learnt.suspects:
        first, count = learnt.suspects[0], len(learnt.suspects)
        about = f"{escaped(first.name) or 'one'}, given as {first.label!r}, looks like {first.looks_like!r}"
        some = (
            "1 example may have a wrong label:" if count == 1 else f"{count:,} examples may have a wrong label, such as"
        )
        yield f"{some} {about} ({first.chance:.0%})"
