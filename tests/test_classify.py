from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from columns import encoded
from conftest import ColourModel, preprocess_for, words_of
from decoded import embedded

from zsclip.answers.answers import Prediction
from zsclip.answers.classifier import Classifier, build_classifier
from zsclip.answers.classify import answer, classify
from zsclip.answers.scores import Rule
from zsclip.pixels.skipped import Skipped

LABELS = ("blue", "green", "red")
WORDS = replace(words_of({label: [label] for label in LABELS}), neutral=("red green blue",))
PLAIN = Rule()


def answers(
    paths: list[Path],
    model: ColourModel,
    rule: Rule = PLAIN,
    batch_size: int = 2,
    classifier: Classifier | None = None,
) -> list[Prediction | Skipped]:
    classifier = classifier or build_classifier(WORDS, model, multi_label=True)
    batches = embedded(map(str, paths), preprocess_for(8), model, batch_size)
    return [row for answers in classify(batches, classifier, rule) for row in answers.rows()]


def test_a_red_picture_is_red(photos: Path, colour_model: ColourModel) -> None:
    paths = [photos / "red.png", photos / "green.png", photos / "blue.png"]

    rows = answers(paths, colour_model)

    assert [row.label for row in rows if isinstance(row, Prediction)] == ["red", "green", "blue"]
    assert [row.file_name for row in rows] == list(map(str, paths))


def test_a_bad_picture_takes_its_own_place_and_no_other(photos: Path, colour_model: ColourModel) -> None:
    (photos / "bad.jpg").write_bytes(b"nonsense")
    paths = [photos / name for name in ("bad.jpg", "red.png", "bad.jpg", "gone.png", "blue.png", "bad.jpg")]

    rows = answers(paths, colour_model)

    assert [getattr(row, "error", None) or row.label for row in rows] == [
        "unreadable", "red", "unreadable", "missing", "blue", "unreadable",
    ]  # fmt: skip


def test_scores_are_the_softmax_of_scaled_cosines(photos: Path, colour_model: ColourModel) -> None:
    (row,) = answers([photos / "red.png"], colour_model, Rule(k=3))

    assert isinstance(row, Prediction)
    assert row.score_kind == "softmax"
    assert row.predictions[0].label == "red"
    assert sum(candidate.score for candidate in row.predictions) == pytest.approx(1)
    cosines = torch.tensor([candidate.cosine for candidate in row.predictions])
    expected = torch.softmax(10.0 * cosines, dim=0).tolist()
    assert [candidate.score for candidate in row.predictions] == pytest.approx(expected, rel=1e-5)


def test_under_the_threshold_there_is_no_answer_but_still_a_best_candidate(
    photos: Path, colour_model: ColourModel
) -> None:
    (sure,) = answers([photos / "red.png"], colour_model, Rule(threshold=0.9))
    (unsure,) = answers([photos / "red.png"], colour_model, Rule(threshold=1.0))

    assert isinstance(sure, Prediction)
    assert isinstance(unsure, Prediction)
    assert (sure.label, unsure.label, unsure.best) == ("red", None, sure.best)


def test_independent_scores_of_a_softmax_model_are_against_the_neutral_word(
    photos: Path, colour_model: ColourModel
) -> None:
    (row,) = answers([photos / "red.png"], colour_model, Rule(independent=True))

    assert isinstance(row, Prediction)
    assert row.score_kind == "versus-neutral"
    assert [candidate.label for candidate in row.predictions] == ["red"]
    neutral = 3**-0.5  # red against an even mix of three colours
    expected = torch.sigmoid(torch.tensor(10.0 * (row.best.cosine - neutral))).item()
    assert row.best.score == pytest.approx(expected, abs=1e-3)


def test_independent_scores_of_a_sigmoid_model_use_its_bias(photos: Path, colour_model: ColourModel) -> None:
    colour_model.logit_bias = -5.0

    (row,) = answers([photos / "red.png"], colour_model, Rule(independent=True, threshold=0.0))

    assert isinstance(row, Prediction)
    assert row.score_kind == "sigmoid"
    assert len(row.predictions) == 3
    assert row.best.score == pytest.approx(torch.sigmoid(torch.tensor(10 * row.best.cosine - 5)).item(), rel=1e-5)


def test_independent_scores_may_find_that_nothing_applies(photos: Path, colour_model: ColourModel) -> None:
    colour_model.logit_bias = -50.0

    (row,) = answers([photos / "red.png"], colour_model, Rule(independent=True))

    assert isinstance(row, Prediction)
    assert (row.label, row.predictions, row.best.label) == (None, (), "red")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7])
def test_the_batch_size_changes_nothing(photos: Path, colour_model: ColourModel, batch_size: int) -> None:
    (photos / "bad.jpg").write_bytes(b"")
    paths = sorted(photos.iterdir())

    assert answers(paths, colour_model, batch_size=batch_size) == answers(paths, colour_model, batch_size=1)


def test_a_batch_of_nothing_but_bad_pictures_does_not_reach_the_model(
    tmp_path: Path, colour_model: ColourModel
) -> None:
    rows = answers([tmp_path / "gone.png"] * 3, colour_model)

    assert [getattr(row, "error", None) for row in rows] == ["missing"] * 3


@pytest.mark.parametrize("independent", [False, True])
def test_a_group_has_the_summed_probability_or_for_itself_the_highest(
    photos: Path, colour_model: ColourModel, independent: bool
) -> None:
    """Against the rows of single labels, added up by hand; blue and red are one group, green stands for itself."""
    paths = [photos / name for name in ("red.png", "green.png", "blue.png")]
    single = build_classifier(WORDS, colour_model, multi_label=independent)
    rule = Rule(k=3, threshold=0.0, independent=independent)
    groups = ("warm or cold", "green", "warm or cold")

    rows = answers(paths, colour_model, rule, classifier=replace(single, groups=groups))

    for row, twin in zip(rows, answers(paths, colour_model, rule, classifier=single), strict=True):
        assert isinstance(row, Prediction)
        assert isinstance(twin, Prediction)
        found = {candidate.label: candidate for candidate in row.predictions}
        assert set(found) == set(groups)
        for group in set(groups):
            members = [each for each in twin.predictions if groups[LABELS.index(each.label)] == group]
            scores = [each.score for each in members]
            assert found[group].score == pytest.approx(max(scores) if independent else sum(scores), abs=1e-6)
            assert found[group].cosine == pytest.approx(max(each.cosine for each in members), abs=1e-6)
        assert row.predictions[0].score == max(each.score for each in row.predictions)
        assert row.label == row.predictions[0].label


def test_a_group_of_many_may_win_where_the_best_label_is_another(colour_model: ColourModel) -> None:
    classifier = Classifier(
        ("a", "b", "c"), np.array([[1, 0, 0], [0.95, 0.3, 0], [0.95, 0, 0.3]], np.float32), None, 5.0, None, ()
    )
    picture = np.array([[1, 0, 0]], np.float32)

    (plain,) = answer(encoded(["x"], picture), classifier, PLAIN).rows()
    (by_group,) = answer(encoded(["x"], picture), replace(classifier, groups=("a", "both", "both")), PLAIN).rows()

    assert plain.label == "a"
    assert by_group.label == "both"


def test_a_distractor_is_held_against_the_sum_of_a_group(colour_model: ColourModel) -> None:
    rows = np.array([[0.9, 0], [0.9, 0.1], [1, 0]], np.float32)  # two labels of one group, and a better distractor
    classifier = Classifier(("a", "b"), rows, None, 1.0, None, (), distractors=("c",))
    picture = np.array([[1, 0]], np.float32)

    (plain,) = answer(encoded(["x"], picture), classifier, PLAIN).rows()
    (by_group,) = answer(encoded(["x"], picture), replace(classifier, groups=("both", "both")), PLAIN).rows()

    assert (plain.label, plain.beaten_by) == (None, "c")
    assert (by_group.label, by_group.beaten_by) == ("both", None)
