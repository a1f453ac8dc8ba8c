"""Labelled pictures -> how good the answers are, label by label."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from zsclip.answers import answers
from zsclip.answers.answers import Answers
from zsclip.errors import InputError
from zsclip.measure.metrics import Figure, Judged, confusion_matrix, figures, joined, share
from zsclip.out.text import escaped
from zsclip.words.labels import Label
from zsclip.words.textfiles import comparable

BEST = 5  # candidates per picture, for top-5


@dataclass(frozen=True)
class LabelResult:
    """The results of one label.

    precision: share of the answers with this label that are right; None if it was never the answer. recall: share of
    its pictures that got this label; None if it has none. taken_for: what its pictures were most often taken for
    instead, and how often; None if that never happened. unknown: how many of its pictures got no answer.
    """

    label: str
    images: int
    precision: float | None
    recall: float | None
    taken_for: str | None
    times_taken: int
    unknown: int = 0


@dataclass(frozen=True, eq=False)
class Scorecard:
    """How good the answers to labelled pictures are.

    figures: by metric; None for the precision of no answers. confusion: (C, C) int64, row is the truth, column the
    answer; where pictures may have no answer, (C, C + 1), and the last column counts those.
    """

    pictures: int
    figures: Mapping[str, Figure | None]
    labels: tuple[LabelResult, ...]
    confusion: NDArray[np.int64]

    @property
    def may_be_unknown(self) -> bool:
        """Whether pictures may have no answer."""
        return self.confusion.shape[1] > len(self.labels)


def found_labels(
    words: Iterable[str], *, alone: bool = False, meanings: Mapping[str, str] | None = None
) -> list[Label]:
    """Make sorted labels of the words in a data set; an underscore is read as a space.

    Args:
        alone: whether one label is enough. meanings: the names of words that are ids.
    """
    spelt: dict[str, tuple[str, str]] = {}  # by what is compared: the name, and the word that it was made of
    for word in dict.fromkeys(words):
        name = _spelt((meanings or {}).get(word, word))
        spelt.setdefault(comparable(name), (name, word))
    if len(spelt) < 2 and not alone:
        raise InputError(
            f"labels: {', '.join(map(repr, spelt))} is the only label in the data; add images with another label"
        )
    return [Label(name, found_as=word) for name, word in sorted(spelt.values())]


def truths_of(words: Sequence[str], labels: Sequence[Label], meanings: Mapping[str, str] | None = None) -> list[str]:
    """Give, for each word of the data, the name of the label that has it as its name, key or synonym.

    Args:
        meanings: the names of words that are ids, which are searched for as well.

    Raises:
        InputError: a word matches no label.
    """
    found_by = _finder(labels, meanings)
    found = {word: found_by(word) for word in dict.fromkeys(words)}
    lost = [word for word, label in found.items() if label is None]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise InputError(
            f"labels: the data have labels that are not in your list: {', '.join(map(repr, lost[:3]))}{more}; "
            "add them as labels or synonyms, or as keys with `name:` in a --labels-file"
        )
    return [found[word] or "" for word in words]


def is_label(labels: Sequence[Label], meanings: Mapping[str, str] | None = None) -> Callable[[str], bool]:
    """Give a function: a word of the data -> whether one of the labels has it; see `truths_of`."""
    found_by = _finder(labels, meanings)
    return lambda word: found_by(word) is not None


def _finder(labels: Sequence[Label], meanings: Mapping[str, str] | None) -> Callable[[str], str | None]:
    """Give a function: a word of the data -> the name of its label, or None."""
    meant = {comparable(synonym): label.name for label in labels for synonym in label.synonyms}
    meant |= {comparable(label.name): label.name for label in labels}
    meant |= {comparable(label.found_as): label.name for label in labels if label.found_as}
    return lambda word: meant.get(comparable(word)) or meant.get(comparable(_spelt((meanings or {}).get(word, word))))


def judge(
    batches: Iterable[Answers],
    truths: Iterable[str],
    labels: Sequence[str],
    judged: list[Judged],
    counts: NDArray[np.int64] | None = None,
) -> Iterator[Answers]:
    """Pass batches on with the true label of every picture, and append the judged answers of each.

    Args:
        batches: of answers with their BEST candidates or more, in the order of the truths.
        truths: the true label of each picture, failed ones included. labels: those that were answered with.
        counts: (C, C + 1) int64, to which every answer is added: row is the truth, column the answer, and the last
            column is for pictures without one. With independent scores every label that applies is an answer.
    """
    places = {label: place for place, label in enumerate(labels)}
    truth = iter(truths)
    for batch in batches:
        true = np.array([places[label] for label in islice(truth, len(batch))], np.int32)
        good = batch.was_read()
        best = batch.classes[good]
        judged.append(
            Judged(
                truth=true[good].astype(np.int64),
                predicted=best[:, 0].astype(np.int64),
                among_five=(best[:, :BEST] == true[good, None]).any(axis=1),
                score=batch.scores[good, 0].astype(np.float64),
            )
        )
        if counts is not None and batch.applies is None:
            np.add.at(counts, (true[good], batch.answered[good]), 1)  # -1 is the last column
        elif counts is not None and batch.applies is not None:
            applies = batch.applies[good]
            np.add.at(counts, true[good], np.column_stack([applies, ~applies.any(axis=1)]))
        yield replace(batch, truth=true)


def wrong_among(batches: Iterable[Answers], wrong: list[Answers]) -> Iterator[Answers]:
    """Pass judged batches on, and append to `wrong` the pictures of each whose answer is not their true label.

    A picture without an answer is not wrong. Of the candidates only the best is kept.
    """
    for batch in batches:
        assert batch.truth is not None
        some = batch.take(np.flatnonzero((batch.answered >= 0) & (batch.answered != batch.truth)))
        best = {name: getattr(some, name)[:, :1] for name in ("classes", "scores", "cosines")}
        wrong.append(replace(some, **best))
        yield batch


def most_confident_first(parts: Sequence[Answers]) -> Answers:
    """Put answers together, those with the highest score first; parts: one at least."""
    whole = answers.joined(parts)
    return whole.take(np.argsort(-whole.scores[:, 0], kind="stable"))


def evaluate(
    judged: Sequence[Judged], labels: Sequence[str], counts: NDArray[np.int64] | None = None, *, several: bool = False
) -> Scorecard:
    """Compute the metrics of the judged answers.

    Args:
        counts: as `judge` fills it; None if the best label is always the answer.
        several: whether a picture may be given several labels; each one that is not its true label counts as wrong.

    Raises:
        InputError: none of the pictures could be read.
    """
    if not any(len(part.truth) for part in judged):
        raise InputError("data: none of the images could be read; --rows FILE says why")
    whole = joined(judged)
    confusion = confusion_matrix(whole, len(labels)) if counts is None else counts
    pictures = np.bincount(whole.truth, minlength=len(labels)).tolist()
    of_answers = {} if counts is None else _answer_figures(counts, len(whole.truth), several)
    return Scorecard(
        pictures=len(whole.truth),
        figures=of_answers | figures(whole),
        labels=tuple(_of_label(place, labels, count, confusion) for place, count in enumerate(pictures)),
        confusion=confusion,
    )


def _answer_figures(counts: NDArray[np.int64], pictures: int, several: bool) -> dict[str, Figure | None]:
    """Give the share of pictures with an answer, the share of answers that are right, and for several labels recall."""
    answers, right = int(counts[:, :-1].sum()), int(counts.diagonal().sum())
    found: dict[str, Figure | None] = {
        "answered": share(pictures - int(counts[:, -1].sum()), pictures),
        "precision": share(right, answers) if answers else None,
    }
    return found | ({"recall": share(right, pictures)} if several else {})


def _spelt(word: str) -> str:
    return " ".join(word.replace("_", " ").split()) or word


def _of_label(place: int, labels: Sequence[str], pictures: int, confusion: NDArray[np.int64]) -> LabelResult:
    right, answers = confusion[place, place], confusion[:, place].sum()
    others = confusion[place, : len(labels)].copy()
    others[place] = 0
    worst = int(others.argmax())
    return LabelResult(
        label=labels[place],
        images=pictures,
        precision=float(right / answers) if answers else None,
        recall=float(right / pictures) if pictures else None,
        taken_for=labels[worst] if others[worst] else None,
        times_taken=int(others[worst]),
        unknown=int(confusion[place, len(labels) :].sum()),
    )


def report_lines(scorecard: Scorecard, most: int | None = None) -> list[str]:
    """Format the metrics with their intervals, then the labels, lowest recall first.

    Args:
        most: labels to list; None lists all.
    """
    lines = [
        f"{name:<18}{_percent(figure.value)}   {_percent(figure.low)} to {_percent(figure.high)}"
        if figure is not None
        else f"{name:<18}{_percent(None)}"
        for name, figure in scorecard.figures.items()
    ]
    names = {each.label: escaped(each.label) for each in scorecard.labels}
    width = max(map(len, [*names.values(), "label"]))
    unknown = "  unknown" if scorecard.may_be_unknown else ""
    lines += ["", f"{'label':<{width}}    images   recall  precision{unknown}  most often taken for"]
    with_images = sorted((each for each in scorecard.labels if each.images), key=lambda each: each.recall or 0.0)
    for each in with_images[:most]:
        taken_for = f"{names[each.taken_for]} ({each.times_taken:,})" if each.taken_for else ""
        numbers = f"{each.images:>8,}  {_percent(each.recall)}     {_percent(each.precision)}"
        numbers += f"  {each.unknown:>6,}" if unknown else ""
        lines.append(f"{names[each.label]:<{width}}  {numbers}  {taken_for}".rstrip())
    hidden = len(with_images) - len(with_images[:most])
    if hidden:
        lines.append(f"and {hidden:,} labels with a higher recall; --all-labels shows them")
    return lines


def _percent(share: float | None) -> str:
    return f"{share:>7.1%}" if share is not None else "      -"
