"""Columns of answers against the records of single pictures."""

from dataclasses import replace

import numpy as np
import pytest
from columns import columns, encoded

from zsclip.answers.answers import Answers, Prediction, Row
from zsclip.answers.classifier import Classifier
from zsclip.answers.classify import answer
from zsclip.answers.scores import Rule
from zsclip.cli.held_signals import HeldSignals
from zsclip.cli.rows import only_wanted
from zsclip.cli.tally import Tally
from zsclip.models.embed import Embedded
from zsclip.pixels.skipped import Skipped

CLASSES = 1500  # more than are scored for many pictures at once
RULES = {
    "one": Rule(),
    "five": Rule(5, threshold=0.3),
    "calibrated": Rule(2, temperature=3.0, thresholds={"7": 0.9, "8": 0.0}, threshold=0.2),
    "independent": Rule(independent=True),
    "independent, two": Rule(2, threshold=0.4, independent=True),
}


def unit_rows(count: int, seed: int, width: int = 16) -> "np.ndarray":
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def classifier_of(classes: int, groups: int = 0, distractors: int = 0) -> Classifier:
    return Classifier(
        labels=tuple(map(str, range(classes))),
        class_embeddings=unit_rows(classes + distractors, 1),
        neutral_embedding=unit_rows(1, 2),
        logit_scale=20.0,
        logit_bias=None,
        cut=(),
        groups=tuple(f"group {i % groups}" for i in range(classes)) if groups else None,
        distractors=tuple(f"other {i}" for i in range(distractors)),
    )


def some_skipped(count: int) -> Embedded:
    names = [Skipped(f"{i}", "missing", "gone") if i % 7 == 3 else f"{i}" for i in range(count)]
    return encoded(names, unit_rows(sum(isinstance(name, str) for name in names), 0))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(("classes", "groups", "distractors"), [(3, 0, 0), (9, 4, 2), (20, 0, 3), (CLASSES, 0, 0)])
def test_a_batch_is_answered_as_each_picture_by_itself(rule, classes, groups, distractors) -> None:
    classifier = classifier_of(classes, groups, 0 if rule.independent else distractors)
    batch = some_skipped(300)

    rows = list(answer(batch, classifier, rule).rows())

    vectors = dict(zip(batch.places.tolist(), batch.vectors, strict=True))
    for place, row in enumerate(rows):
        if place in batch.skipped:
            assert row == batch.skipped[place]
        else:
            (alone,) = answer(encoded([str(place)], vectors[place][None]), classifier, rule).rows()
            assert row == alone
    assert len(rows) == 300


def test_a_batch_of_skipped_pictures_has_columns_too() -> None:
    answers = answer(encoded([Skipped("a", "missing", "gone")], unit_rows(0, 0)), classifier_of(3), Rule(2))

    assert answers.classes.shape == answers.scores.shape == (1, 2)
    assert answers.answered.tolist() == [-1]
    assert answers.was_read().tolist() == [False]
    assert list(answers.rows()) == [Skipped("a", "missing", "gone")]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_taken_are_the_rows_at_those_places(rule) -> None:
    answers = answer(some_skipped(40), classifier_of(9, 0, 0 if rule.independent else 2), rule)
    answers = replace(answers, truth=np.arange(40, dtype=np.int32) % 9)
    places = np.random.default_rng(0).permutation(40)[:25]
    rows = list(answers.rows())

    assert list(answers.take(places).rows()) == [rows[place] for place in places]
    assert len(answers.take(places[:0])) == 0
    assert [row.truth for row in rows] == [str(i % 9) for i in range(40)]


def any_rows() -> list[list[Row]]:
    rows = list(answer(some_skipped(60), classifier_of(5), Rule(threshold=0.5)).rows())
    assert {None, "0", "1", "2", "3", "4"} == {row.label for row in rows if isinstance(row, Prediction)}
    return [rows[:20], rows[20:21], rows[21:]]


@pytest.mark.parametrize("most", [None, 1, 7, 40])
def test_a_tally_counts_rows_in_the_order_in_which_labels_are_met(most: int | None) -> None:
    batches = any_rows()
    tally, expected = Tally(), Tally()

    assert sum(map(len, tally.count((columns(batch) for batch in batches), HeldSignals(), most))) == 60

    for row in (row for batch in batches for row in batch):
        if isinstance(row, Skipped):
            expected.errors[row.error] += 1
        elif row.label is None:
            expected.unknown += 1
        else:
            expected.labels[row.label] += 1
    assert list(tally.labels.items()) == list(expected.labels.items())
    assert (tally.errors, tally.unknown, tally.images) == (expected.errors, expected.unknown, 60)


@pytest.mark.parametrize("wanted", [{"0"}, {"1", "3"}, {None}, {None, "2"}, {"none of them"}])
def test_only_keeps_the_rows_with_these_answers(wanted: set[str | None]) -> None:
    batches = any_rows()

    kept: list[Answers] = list(only_wanted((columns(batch) for batch in batches), wanted))

    expected = [row for batch in batches for row in columns(batch).rows()]
    assert [row for answers in kept for row in answers.rows()] == [
        row for row in expected if isinstance(row, Prediction) and row.label in wanted
    ]
    assert len(kept) == 3
