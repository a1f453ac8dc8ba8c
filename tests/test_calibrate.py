import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from columns import encoded
from conftest import make_class_folders, words_of

from zsclip import api
from zsclip.answers.classifier import Classifier, build_classifier
from zsclip.answers.classify import answer
from zsclip.answers.scores import Rule, softmax_scores
from zsclip.cli.main import main
from zsclip.errors import InputError
from zsclip.measure.calibrate import (
    STEPS,
    Target,
    cosines_of,
    fit_temperature,
    learn,
    learnt_lines,
    table_of,
    threshold_for,
)
from zsclip.measure.calibration import Calibration, check_made_with, read_calibration, to_json
from zsclip.measure.metrics import Judged, at_least, calibration_error, share
from zsclip.pixels.skipped import Skipped
from zsclip.words.labels import Label, read_distractors
from zsclip.words.prompts import PromptSet

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
@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_a_threshold_answers_the_fewest_pictures_that_are_enough(share, seed):
    scores = np.random.default_rng(seed).integers(0, 20, 60) / 20  # many are equal

    found = threshold_for(scores, share)

    assert found == max(one for one in scores if np.mean(scores >= one) >= share)


def test_an_unreachable_share_answers_as_many_as_possible():
    assert threshold_for(np.array([]), 0.5) == 0
    assert threshold_for(np.array([-1.0, 0.8, -1.0]), 1.0) == 0.8
    assert threshold_for(np.array([-1.0, -1.0]), 1.0) == math.inf


@pytest.mark.parametrize(("right", "total"), [(0, 5), (1, 1), (5, 5), (3, 5), (19, 20), (180, 200), (1, 400)])
@pytest.mark.parametrize("doubt", [0.05, 0.0025])
def test_the_lower_bound_is_the_clopper_pearson_bound(right, total, doubt):
    """Against whole binomial sums, added up term by term."""

    def chance(share: float) -> float:
        return sum(math.comb(total, n) * share**n * (1 - share) ** (total - n) for n in range(right, total + 1))

    found = at_least(right, total, doubt)

    assert found == 0 if right == 0 else chance(found) == pytest.approx(doubt, rel=1e-6)


def test_the_table_holds_what_each_threshold_gives():
    random = np.random.default_rng(0)
    scores = random.integers(1, 50, 300) / 50
    right = random.random(300) < scores

    table = table_of(scores, right)

    assert [each.value for each in table] == sorted({each.value for each in table})
    assert len(table) == STEPS
    for each in table:
        given = [bool(is_right) for score, is_right in zip(scores, right, strict=True) if score >= each.value]
        assert each.precision == sum(given) / len(given)
        assert each.answered == share(len(given), 300)
        assert each.at_least == at_least(sum(given), len(given), 0.05 / STEPS)
    assert table[0].answered.value == 1


def test_a_table_guarantees_too_much_at_most_once_in_twenty_times():
    """Scores that say nothing: every threshold has the same precision, and one of many will always look the best."""
    broken = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        table = table_of(random.random(200), random.random(200) < 0.8)
        broken += any(each.at_least > 0.8 for each in table)

    assert broken <= 0.05 * 200


@pytest.mark.parametrize("per_label", [False, True])
def test_what_is_learnt_is_what_classify_gives(per_label):
    target = Target(precision=0.8, per_label=per_label)
    labels = [str(i) for i in range(6)]
    similar, truth = drawn(1.0, pictures=6000)

    learnt = learn(similar, truth, labels, 60, target)  # a model three times as sure as it should be

    made = learnt.calibration(MADE_WITH)
    classifier = Classifier(tuple(labels), np.eye(6, dtype=np.float32), None, 60, None, ())
    rule = Rule(threshold=made.threshold, thresholds=made.thresholds, temperature=made.temperature)
    rows = list(answer(encoded(labels * 1000, similar), classifier, rule).rows())  # identity: vectors are cosines
    given = [(row.label, labels[place]) for row, place in zip(rows, truth, strict=True) if row.label]
    assert {row.score_kind for row in rows} == {"calibrated"}
    assert learnt.overall.answered.value == len(given) / 6000
    assert learnt.overall.precision == sum(label == true for label, true in given) / len(given) > 0.8
    for each in learnt.chosen:
        its = [label == true for label, true in given if each.label in (None, label)]
        assert each.precision == sum(its) / len(its)
        assert each.precision > each.at_least >= 0.8
    assert len(learnt.chosen) == (6 if per_label else 1)
    assert learnt.temperature.value == pytest.approx(3, rel=0.1)
    assert learnt.temperature.fitted < 0.5 * learnt.temperature.plain


def test_scores_that_say_nothing_guarantee_nothing():
    """Some threshold looks perfect on the pictures that it was chosen by."""
    random = np.random.default_rng(0)
    similar = random.random((400, 2)).astype(np.float32)

    learnt = learn(similar, random.integers(0, 2, 400), ["a", "b"], 10, Target(precision=0.8))

    assert learnt.chosen[0].value == math.inf
    with pytest.raises(InputError, match=r"80\.0% cannot be guaranteed: the best threshold"):
        learnt.calibration(MADE_WITH)


@pytest.mark.parametrize(
    ("target", "why"),
    [(0.99, "40 images are too few; give 597 or more, or lower"), (1.0, "no number of images can prove")],
)
def test_few_pictures_guarantee_nothing_even_if_all_answers_are_right(target, why):
    similar = np.tile(np.eye(2, dtype=np.float32), (20, 1))

    learnt = learn(similar, np.tile([0, 1], 20), ["a", "b"], 10, Target(precision=target))

    assert learnt.overall.answered.value == 0
    with pytest.raises(InputError, match=why):
        learnt.calibration(MADE_WITH)


@pytest.mark.parametrize("seed", range(5))
def test_a_temperature_that_makes_held_out_scores_worse_is_not_used(seed):
    """Scores that are probabilities already, and as many labels as pictures: a fit can only learn noise."""
    similar, truth = drawn(1.0, pictures=40, labels=40, seed=seed)
    labels = [str(i) for i in range(40)]

    learnt = learn(similar, truth, labels, 20, Target(share=0.5))

    found = learnt.temperature
    used = found.fitted < found.plain and not found.is_chance
    assert learnt.calibration(MADE_WITH).temperature == (found.value if used else None)
    scores = softmax_scores(similar, 20 / found.value if found.helps else 20)
    assert learnt.table[0].value == pytest.approx(scores.max(axis=1).min())
    line = next(learnt_lines(learnt))
    assert line.startswith("temperature: unchanged, as ") is not found.helps
    if not found.helps and seed == 0:
        with pytest.raises(InputError, match="no file is written: rescaling the scores would not help"):
            learn(similar, truth, labels, 20, Target()).calibration(MADE_WITH)


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

    learnt = learn(np.tile(similar, (3, 1)), np.tile(truth, 3), ["a", "b"], 10, Target(share=1.0))

    assert not learnt.temperature.helps  # it is for the pictures that are not answered
    scores = softmax_scores(similar, 10)
    assert learnt.chosen[0].value == pytest.approx(min(scores[0, 0], scores[1, 1]))
    assert learnt.overall.answered.value == 0.5


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
    with pytest.raises(InputError, match="0 readable images are too few"):
        cosines_of(embedded[1:2], ["red"], classifier)


@pytest.mark.parametrize(
    ("now", "words", "model", "said"),
    [
        ({"model": "n, 1"}, (), "m", "another model (m); leave out --model to use the file's, or calibrate again"),
        ({"model": "m, 2"}, (), "m", "other weights or settings of the model m; calibrate again"),
        ({"label list": "2 labels, 9", "prompts": "q"}, (), "m", "other labels (10 of them); calibrate again"),
        (
            {"model": "n, 1", "label list": "2 labels, 9", "prompts": "q"},
            (Label("a"), Label("b")),
            "m",
            "another model (m) and other labels (10 of them); "
            "leave out --model and your labels to use the file's, or calibrate again",
        ),
        ({"model": "n, 1"}, (), None, "another model (m); calibrate again"),
    ],
)
def test_a_calibration_for_others_says_what_differs_and_what_helps(now, words, model, said):
    made_with = {"model": "m, 1", "label list": "10 labels, 7", "prompts": "p"}
    made = Calibration(made_with, 1.5, 0.0, {}, words=words, model=model)

    with pytest.raises(InputError, match=f"^{re.escape(f'c.json: was made for {said}')}$"):
        check_made_with(made, "c.json", made_with | now)


def test_a_calibration_reads_back_and_only_for_what_it_was_made_with(tmp_path):
    made = Calibration(
        MADE_WITH, 1.5, math.inf, {"a": 0.25, "ü": math.inf}, {"fog": ("fog", "dense fog"), "rain": ("rain",)},
        (Label("a", ("b",), ("a {}",), "n1", "g"), Label("ü")), PromptSet("p", "x", "y", ("{}!",), {"a": ("q",)}), "m",
    )  # fmt: skip
    file = tmp_path / "c.json"
    file.write_text(to_json(made), encoding="utf-8")

    assert read_calibration(str(file)) == made
    check_made_with(made, str(file), MADE_WITH)
    with pytest.raises(
        InputError,
        match=r"c\.json: was made for other prompts; leave out your prompts to use the file's, or calibrate again$",
    ):
        check_made_with(made, str(file), MADE_WITH | {"prompts": "q"})


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_a_file_that_is_not_a_calibration_is_reported_in_a_line(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)

    with pytest.raises(InputError, match=message):
        read_calibration(str(tmp_path / "c.json"))
    with pytest.raises(InputError, match="cannot be read: no such file"):
        read_calibration(str(tmp_path / "gone.json"))


@pytest.mark.parametrize("threshold", ["7", "-0.1", "NaN", "Infinity", '"0.5"', '"high"', "true", "[0.5]"])
def test_a_threshold_that_is_no_probability_is_refused_with_the_reason(tmp_path, threshold):
    file = tmp_path / "c.json"
    text = '{"version": 1, "made_with": {}, "temperature": null, "threshold": %s, "thresholds": %s, "distractors": {}}'
    message = f"not a calibration: its threshold%s is {json.loads(threshold)!r}, not a number from 0 to 1"

    for written, of in (((threshold, "{}"), ""), (("0.5", f'{{"cat": {threshold}}}'), " of 'cat'")):
        file.write_text(text % written)
        with pytest.raises(InputError, match=re.escape(message % of)):
            read_calibration(str(file))
    file.write_text(text % ("null", '{"cat": 0, "dog": 1, "owl": 0.5, "ox": null}'))
    assert read_calibration(str(file)).thresholds == {"cat": 0, "dog": 1, "owl": 0.5, "ox": math.inf}


def test_a_distractor_that_contains_a_label_is_left_out(tmp_path):
    (tmp_path / "words.txt").write_text("cat\ndog\nsea lion\nhorse\nphoto of food\nbird\ncow\n")
    labels = [Label("tabby Cats"), Label("sea"), Label("pet", ("Dog",)), Label("food"), Label("owl", group="bird")]

    assert [word.name for word in read_distractors(labels, str(tmp_path / "words.txt"))] == ["horse", "cow"]
    common = [word.name for word in read_distractors(labels)]
    assert "person" in common
    assert "cat" not in common
    assert len(common) > 80


def test_the_table_of_labels_names_those_that_are_never_answered():
    similar, truth = drawn(0.1, pictures=2000, labels=3)
    similar[:, 2] -= 0.25  # so it is rarely the best

    learnt = learn(similar, np.where(truth == 2, 0, truth), ["a", "b\x1b", "c"], 20, Target(0.9, per_label=True))

    lines = list(learnt_lines(learnt))
    rows = [line.split() for line in lines[3:6]]
    assert [row[0] for row in rows] == ["a", r"b\x1b", "c"]
    assert [row[1] == "never" for row in rows] == [False, False, True]
    assert rows[2][-2:] == ["-", "0.0%"]
    assert lines[-1].startswith("answered: ")


def test_scores_that_are_probabilities_already_are_rarely_changed_and_others_nearly_always():
    """Judged on many new pictures: a temperature that is used never makes the calibration error much worse."""
    labels = [str(i) for i in range(10)]
    used = {1.0: 0, 2.0: 0}
    for true in used:
        new, truths = drawn(true, pictures=3000, labels=10, seed=999)

        def error(temperature: float, new: np.ndarray = new, truths: np.ndarray = truths) -> float:
            scores = softmax_scores(new, 20 / temperature)
            best = scores.argmax(axis=1)
            return calibration_error(Judged(truths, best, best == truths, scores.max(axis=1).astype(float)))

        for seed in range(20):
            found = learn(*drawn(true, pictures=50, labels=10, seed=seed), labels, 20, Target()).temperature
            if found.helps:
                used[true] += 1
                assert error(found.value) < error(1.0) + 0.03

    assert used[1.0] <= 3
    assert used[2.0] >= 10


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
    assert {row["score_kind"] for row in rows} == {"softmax" if written["temperature"] is None else "calibrated"}
    assert [row["cosine"] for row in rows] == [row["cosine"] for row in before]
    assert sum(row["label"] is not None for row in rows) == 12
    scores = {known: [row["score"] for row in rows if (row["label"] is not None) == known] for known in (True, False)}
    assert min(scores[True]) >= max(scores[False])
    assert [row["label"] for row in all_answered] == [row["label"] for row in before]
    assert (other.returncode, other.stdout) == (2, b"")
    assert b"c.json: was made for other prompts; " in other.stderr


def test_distractors_are_kept_with_a_calibration(run: Run, data: Path, tiny_model) -> None:
    common = ("--labels", "blue,green,red", "--model", f"local-dir:{tiny_model('plain')}", "-k", "3")
    words = ["mauve: {synonyms: [pale purple]}", "blue:", *(f"word {i}:" for i in range(30))]
    (data.parent / "words.yaml").write_text("\n".join(words))

    learnt = run("calibrate", "data", "-o", "c.json", "--distractors", "words.yaml", "--target-share", "1", *common[:4])
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


def test_a_calibration_file_alone_reproduces_the_answers(run: Run, data: Path, tiny_model) -> None:
    (data.parent / "labels.yaml").write_text("red: {synonyms: [scarlet]}\ngreen: [no green]\nblue:\n")
    own = ("--labels-file", "labels.yaml", "--template", "my {}", "--model", f"local-dir:{tiny_model('plain')}")

    assert run("calibrate", "data", "-o", "c.json", "--target-share", "0.5", *own).returncode == 0
    again = run("calibrate", "data", "-o", "c.json", "--target-share", "0.7", *own)
    (data.parent / "labels.yaml").rename(data.parent / "moved.yaml")
    whole = run("classify", "data", "--calibration", "c.json", "--labels-file", "moved.yaml", *own[2:])
    alone, fewer, other = (
        run("classify", "data", "--calibration", "c.json", *arguments)
        for arguments in ((), ("-l", "red,blue"), ("--prompts", "general"))
    )
    measured = run("eval", "data", "--calibration", "c.json", "--json")

    assert (again.returncode, again.stdout) == (2, b"")
    assert b"c.json: already exists; add --overwrite to replace it" in again.stderr
    assert whole.returncode == alone.returncode == 0, alone.stderr
    assert alone.stdout == whole.stdout != b""
    assert fewer.returncode == other.returncode == 2
    assert b"c.json: was made for other labels (3 of them); leave out your labels to use the file's" in fewer.stderr
    assert b"c.json: was made for other prompts; leave out your prompts to use the file's" in other.stderr
    labels = [json.loads(line)["label"] for line in alone.stdout.splitlines()]
    assert json.loads(measured.stdout)["metrics"]["answered"]["value"] == sum(map(bool, labels)) / 24
    made = api.Classifier(calibration=data.parent / "c.json")
    assert [row.label for row in made(data)] == labels


def test_data_that_guarantee_nothing_leave_no_file(run: Run, data: Path, tiny_model) -> None:
    common = ("calibrate", "data", "-o", "c.json", "--target-precision", "0.99")
    common += ("--model", f"local-dir:{tiny_model('plain')}")

    table, found = run(*common), run(*common, "--json")

    assert table.returncode == found.returncode == 2
    assert b"zsclip: no file is written, as a precision of 99.0% cannot be guaranteed: 24 images" in table.stderr
    assert table.stdout.splitlines()[2].split() == b"threshold answered precision at least".split()
    assert json.loads(found.stdout)["calibration"] is None
    assert json.loads(found.stdout)["learnt"]["chosen"][0]["value"] is None
    assert not (data.parent / "c.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["classify", ".", "--labels", "a,b", "--multi-label", "--none-of-these"],
            "use it or --none-of-these, ",
        ),
        (
            ["classify", ".", "--labels", "a,b", "--none-of-these", "--calibration", "x"],
            "--calibration: already fixes the distractors",
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
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--model", "nowhere"]) == 2
    assert message in capfd.readouterr().err


def test_a_file_too_large_for_a_calibration_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(40 << 20)

    with pytest.raises(InputError, match=r"huge\.json: larger than 32 MB, so not a calibration; check the path"):
        read_calibration(str(tmp_path / "huge.json"))
    with pytest.raises(InputError, match="/dev/zero: a device, not a calibration; check the path"):
        read_calibration("/dev/zero")
