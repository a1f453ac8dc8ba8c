import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from columns import encoded
from conftest import make_class_folders, words_of

from zsclip.answers.classifier import Classifier, build_classifier
from zsclip.answers.classify import answer
from zsclip.answers.scores import Rule, softmax_scores
from zsclip.cli.main import main
from zsclip.errors import InputError
from zsclip.measure.calibrate import (
    Calibration,
    Promise,
    Wish,
    calibrate,
    check_made_with,
    cosines_of,
    fit_temperature,
    promise,
    promise_lines,
    read_calibration,
    threshold_for,
    to_json,
)
from zsclip.pixels.skipped import Skipped
from zsclip.words.labels import Label, read_distractors

MADE_WITH = {"model": "m", "label list": "l", "prompts": "p"}


def drawn(temperature: float, pictures: int = 4000, labels: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines, and truths drawn with the probabilities they give at a scale of 20 and a temperature."""
    random = np.random.default_rng(seed)
    similar = random.normal(0.3, 0.1, (pictures, labels)).astype(np.float32)
    chances = softmax_scores(similar, 20 / temperature).cumsum(axis=1)
    return similar, (random.random((pictures, 1)) > chances).sum(axis=1).clip(max=labels - 1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_one_the_truths_were_drawn_with(temperature):
    similar, truth = drawn(temperature)

    assert fit_temperature(similar, truth, 20) == pytest.approx(temperature, rel=0.1)


def test_no_other_temperature_makes_the_truth_likelier():
    similar, truth = drawn(2.0, pictures=300)

    def surprise(temperature: float) -> float:
        scores = softmax_scores(similar, 20 / temperature).astype(np.float64)
        return -sum(math.log(scores[i, place]) for i, place in enumerate(truth))

    tried = np.geomspace(0.5, 8, 400)
    assert fit_temperature(similar, truth, 20) == pytest.approx(min(tried, key=surprise), rel=0.02)


def test_answers_that_are_all_right_have_a_temperature_still():
    similar = np.eye(3, dtype=np.float32)

    assert 0 < fit_temperature(similar, np.arange(3), 20) < 2


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("wish", [Wish(precision=0.7), Wish(share=0.3), Wish(precision=1.0), Wish(share=1.0)])
def test_a_threshold_is_the_lowest_that_reaches_the_wish(wish, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 20, 60) / 20  # many are equal
    right = random.random(60) < scores

    found = threshold_for(scores, right, wish)

    reaching = []
    for threshold in scores:
        answered = [bool(is_right) for score, is_right in zip(scores, right, strict=True) if score >= threshold]
        if wish.precision is not None and sum(answered) / len(answered) >= wish.precision:
            reaching.append(float(threshold))
        if wish.share is not None and len(answered) / 60 >= wish.share:
            reaching.append(float(threshold))
    if wish.share is not None:
        assert found == max(reaching)  # the fewest answers that are enough
    else:
        assert found == min(reaching, default=math.inf)


def test_what_cannot_be_reached_is_never_answered_and_what_is_not_wished_always():
    wrong = np.zeros(3, bool)

    assert threshold_for(np.array([0.9, 0.8, 0.7]), wrong, Wish(precision=0.5)) == math.inf
    assert threshold_for(np.array([]), wrong[:0], Wish(precision=0.5)) == math.inf
    assert threshold_for(np.array([0.9, 0.8, 0.7]), wrong, Wish()) == 0
    with_none = np.array([-1.0, 0.8, -1.0])  # a distractor is better than all labels
    assert threshold_for(with_none, np.array([True, True, True]), Wish(share=1.0)) == 0.8


@pytest.mark.parametrize("per_label", [False, True])
def test_what_is_promised_is_what_other_pictures_give(per_label):
    wish = Wish(precision=0.8, per_label=per_label)
    labels = [str(i) for i in range(6)]
    similar, truth = drawn(1.0, pictures=6000)
    promised = promise(similar[:3000], truth[:3000], labels, 60, wish)  # a model three times as sure as it should be

    learnt = calibrate(similar[:3000], truth[:3000], labels, 60, wish, MADE_WITH)
    classifier = Classifier(tuple(labels), np.eye(6, dtype=np.float32), None, 60, None, ())
    rule = Rule(threshold=learnt.threshold, thresholds=learnt.thresholds, temperature=learnt.temperature)
    rows = list(
        answer(encoded(labels * 500, similar[3000:]), classifier, rule).rows()
    )  # the identity: vectors are cosines

    given = [(row.label, labels[place]) for row, place in zip(rows, truth[3000:], strict=True) if row.label]
    assert promised.precision == pytest.approx(0.8, abs=0.05)
    assert sum(label == true for label, true in given) / len(given) == pytest.approx(0.8, abs=0.05)
    assert promised.answered == pytest.approx(len(given) / 3000, abs=0.05)
    assert promised.error < 0.5 * promised.error_before
    assert {row.score_kind for row in rows} == {"calibrated"}


def test_a_promise_is_not_made_of_the_pictures_that_were_learnt_from():
    """Scores that tell nothing: some threshold looks perfect on what it was chosen by, and is not on the rest."""
    random = np.random.default_rng(0)
    similar = random.random((40, 2)).astype(np.float32)

    promised = promise(similar, random.integers(0, 2, 40), ["a", "b"], 10, Wish(precision=0.99))

    assert promised.precision is None or promised.precision < 0.9


def test_distractors_compete_and_are_never_the_answer(colour_model):
    rivals = {"mauve": ("red blue",), "lime": ("green",)}
    words = replace(words_of({"red": ["red"], "blue": ["blue"]}), distractors=rivals)
    classifier = build_classifier(words, colour_model)
    pictures = np.array([[1, 0, 0.1], [0.2, 1, 0], [0, 0.6, 0.8]], np.float32)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)

    rows = list(answer(encoded(["a", "b", "c"], pictures), classifier, Rule(5)).rows())

    assert classifier.labels == ("red", "blue")
    assert [row.label for row in rows] == ["red", None, "blue"]
    assert [row.beaten_by for row in rows] == [None, "lime", None]
    assert rows[1].best.label == "red"
    scores = softmax_scores(pictures @ classifier.class_embeddings.T, colour_model.logit_scale)  # (3, 4)
    for row, of_all in zip(rows, scores, strict=True):
        assert len(row.predictions) == 2
        for candidate in row.predictions:
            assert candidate.score == pytest.approx(of_all[["red", "blue"].index(candidate.label)], abs=1e-6)


def test_pictures_that_a_distractor_takes_are_learnt_from_but_not_answered():
    similar = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.2], [0.3, 0.1, 0.9], [0.2, 0.1, 0.9]], np.float32)
    truth = np.array([0, 1, 0, 0])

    learnt = calibrate(similar, truth, ["a", "b"], 10, Wish(share=1.0), MADE_WITH)

    scores = softmax_scores(similar, 10 / learnt.temperature)
    assert learnt.threshold == pytest.approx(min(scores[0, 0], scores[1, 1]))


def test_labels_have_thresholds_of_their_own():
    classifier = Classifier(("a", "b"), np.eye(2, dtype=np.float32), None, 1.0, None, ())
    pictures = np.array([[1, 0], [0, 1]], np.float32)  # each with a score of 0.731

    rule = Rule(threshold=0.5, thresholds={"b": 0.8})

    assert [row.label for row in answer(encoded(["x", "y"], pictures), classifier, rule).rows()] == ["a", None]


def test_cosines_are_those_of_the_pictures_that_could_be_read(colour_model):
    classifier = build_classifier(words_of({"red": ["red"], "blue": ["blue"]}), colour_model)
    rows = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    embedded = [
        encoded([Skipped("a", "missing", ""), "b"], rows[:1]),
        encoded([Skipped("c", "missing", "")], rows[:0]),
        encoded(["d"], rows[1:]),
    ] * 5

    similar, truth = cosines_of(embedded, ["red", "blue", "red", "red"] * 5, classifier)

    assert truth.tolist() == [1, 0] * 5
    np.testing.assert_allclose(similar, np.tile(rows, (5, 1)) @ classifier.class_embeddings.T, atol=1e-6)
    with pytest.raises(InputError, match="0 readable pictures are too few"):
        cosines_of(embedded[1:2], ["red"], classifier)


def test_a_calibration_reads_back_and_only_for_what_it_was_made_with(tmp_path):
    made = Calibration(
        MADE_WITH, 1.5, math.inf, {"a": 0.25, "ü": math.inf}, {"fog": ("fog", "dense fog"), "rain": ("rain",)}
    )
    file = tmp_path / "c.json"
    file.write_text(to_json(made), encoding="utf-8")

    assert read_calibration(str(file)) == made
    check_made_with(made, str(file), MADE_WITH)
    with pytest.raises(
        InputError, match=r"c\.json: changed since the calibration: prompts \(p, now q\); calibrate again"
    ):
        check_made_with(made, str(file), MADE_WITH | {"prompts": "q"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not a calibration; `zsclip calibrate -o "),
        ("[]", "not a calibration"),
        ('{"version": 1}', "not a calibration"),
        ('{"version": 2}', "written by another version of zsclip"),
        (
            '{"version": 1, "made_with": {}, "temperature": 0, "threshold": 0, "thresholds": {}, "distractors": []}',
            "temp",
        ),
    ],
)
def test_what_is_no_calibration_is_reported_in_a_line(tmp_path, text, told):
    (tmp_path / "c.json").write_text(text)

    with pytest.raises(InputError, match=told):
        read_calibration(str(tmp_path / "c.json"))
    with pytest.raises(InputError, match="cannot be read: no such file"):
        read_calibration(str(tmp_path / "gone.json"))


def test_a_distractor_that_is_a_labels_word_or_has_one_is_left_out(tmp_path):
    (tmp_path / "words.txt").write_text("cat\ndog\nsea lion\nhorse\nphoto of food\nbird\ncow\n")
    labels = [Label("tabby Cats"), Label("sea"), Label("pet", ("Dog",)), Label("food"), Label("owl", group="bird")]

    assert [word.name for word in read_distractors(labels, str(tmp_path / "words.txt"))] == ["horse", "cow"]
    common = [word.name for word in read_distractors(labels)]
    assert "person" in common
    assert "cat" not in common
    assert len(common) > 80


def test_the_report_names_a_threshold_that_is_never_reached():
    promised = Promise(None, 0.0, 0.2, 0.1)
    overall = promise_lines(Calibration(MADE_WITH, 2.0, math.inf, {}), promised)
    single = promise_lines(Calibration(MADE_WITH, 2.0, 0.0, {"a": 0.5, "b": math.inf}), promised)

    assert overall[1].split(maxsplit=1)[1] == "never sure enough"
    assert single[1].split(maxsplit=1)[1] == "0.500 to never sure enough"
    assert [line.split()[-1] for line in overall[3:5]] == ["0.0%", "none"]


Run = Callable[..., CompletedProcess[bytes]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_class_folders(tmp_path / "data", ("red", "green", "blue"), 8)


def test_what_was_learnt_is_what_classify_uses(run: Run, data: Path, tiny_model) -> None:
    common = ("--labels", "blue,green,red", "--model", f"local-dir:{tiny_model('plain')}")

    learnt = run("calibrate", "data", "-o", "c.json", "--target-share", "0.5", "--json", *common)
    plain, calibrated, other, own = (
        run("classify", "data", *arguments)
        for arguments in (
            common,
            (*common, "--calibration", "c.json"),
            (*common, "--calibration", "c.json", "--template", "no {}"),
            (*common, "--calibration", "c.json", "--threshold", "0"),
        )
    )

    assert learnt.returncode == 0, learnt.stderr
    written = json.loads((data.parent / "c.json").read_text())
    assert json.loads(learnt.stdout)["calibration"] == written
    rows, before, all_answered = (
        [json.loads(line) for line in done.stdout.splitlines()] for done in (calibrated, plain, own)
    )
    assert {row["score_kind"] for row in rows} == {"calibrated"}
    assert [row["cosine"] for row in rows] == [row["cosine"] for row in before]
    assert sum(row["label"] is not None for row in rows) == 12
    scores = {known: [row["score"] for row in rows if (row["label"] is not None) == known] for known in (True, False)}
    assert min(scores[True]) >= max(scores[False])
    assert [row["label"] for row in all_answered] == [row["label"] for row in before]
    assert (other.returncode, other.stdout) == (2, b"")
    assert b"c.json: changed since the calibration: prompts" in other.stderr


def test_distractors_are_kept_with_a_calibration(run: Run, data: Path, tiny_model) -> None:
    common = ("--labels", "blue,green,red", "--model", f"local-dir:{tiny_model('plain')}", "-k", "3")
    words = ["mauve: {synonyms: [pale purple]}", "blue:", *(f"word {i}:" for i in range(30))]
    (data.parent / "words.yaml").write_text("\n".join(words))

    learnt = run("calibrate", "data", "-o", "c.json", "--distractors", "words.yaml", *common[:4])
    direct = run("classify", "data", *common, "--distractors", "words.yaml")
    calibrated = run("classify", "data", *common, "--calibration", "c.json")

    assert learnt.returncode == 0, learnt.stderr
    learnt_with = json.loads((data.parent / "c.json").read_text())
    assert list(learnt_with["distractors"].items())[:2] == [
        ("mauve", ["a photo of a mauve.", "a photo of a pale purple."]),
        ("word 0", ["a photo of a word 0."]),
    ]
    rows = [json.loads(line) for line in direct.stdout.splitlines()]
    beaten_by = [row["beaten_by"] for row in rows]
    assert [row["label"] is None for row in rows] == [rival is not None for rival in beaten_by]
    assert {rival for rival in beaten_by if rival} <= learnt_with["distractors"].keys()
    assert any(beaten_by)
    assert [json.loads(line)["beaten_by"] for line in calibrated.stdout.splitlines()] == beaten_by
    nameless = learnt_with | {"distractors": list(learnt_with["distractors"].values())}  # as once written
    (data.parent / "c.json").write_text(json.dumps(nameless))
    old = [
        json.loads(line)["beaten_by"]
        for line in run("classify", "data", *common, "--calibration", "c.json").stdout.splitlines()
    ]
    assert old == [rival and learnt_with["distractors"][rival][0] for rival in beaten_by]
    scores = [sum(one["score"] for one in json.loads(line)["predictions"]) for line in direct.stdout.splitlines()]
    assert all(total < 0.99 for total in scores)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["classify", ".", "--labels", "a,b", "--multi-label", "--none-of-these"], "--multi-label: scores every label"),
        (
            ["classify", ".", "--labels", "a,b", "--none-of-these", "--calibration", "x"],
            "--calibration: brings its own distractors",
        ),
        (["classify", ".", "--labels", "a,b", "--distractors", "gone.txt"], "gone.txt: no such file"),
        (
            ["calibrate", ".", "--target-precision", "0.9", "--target-share", "0.9"],
            "--target-share: one threshold cannot",
        ),
        (["calibrate", "gone"], "no such file or folder: 'gone'"),
    ],
)
def test_a_mistake_is_found_before_a_model_is_looked_for(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--model", "nowhere"]) == 2
    assert told in capfd.readouterr().err
