"""Answers that are corrected for the shares of labels: the arithmetic, the file, and the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from conftest import make_class_folders

from zsclip import Classifier
from zsclip.answers.classifier import Classifier as TextMatrix
from zsclip.answers.shares import biases_for, biases_of_few, corrected
from zsclip.errors import InputError
from zsclip.models.embed import Embedded
from zsclip.words.expected import read_shares

Run = Callable[..., CompletedProcess[bytes]]


def chances(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def drawn(shares: list[float], pictures: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that lean to the first label, and truths with these shares."""
    random = np.random.default_rng(seed)
    truth = random.choice(len(shares), pictures, p=shares)
    logits = random.normal(0, 1.5, (pictures, len(shares)))
    logits[np.arange(pictures), truth] += 3
    logits[:, 0] += 2
    return logits, truth


@pytest.mark.parametrize("shares", [[0.25] * 4, [0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.5, 0.0]])
def test_labels_get_the_shares_that_are_expected(shares: list[float]) -> None:
    logits, _ = drawn([0.25] * 4)

    biases = biases_for(logits, np.array(shares))

    assert chances(logits + biases).mean(axis=0) == pytest.approx(shares, abs=1e-3)
    assert biases.max() == 0


@pytest.mark.parametrize("shares", [[0.25] * 4, [0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.5, 0.0]])
def test_true_shares_make_answers_better(shares: list[float]) -> None:
    logits, truth = drawn(shares)

    after = (logits + biases_for(logits, np.array(shares))).argmax(axis=1)

    assert (after == truth).mean() > (logits.argmax(axis=1) == truth).mean() + 0.05


def test_few_is_the_likeliest_shares() -> None:
    """Against many other shares, tried one by one."""
    logits = drawn([0.0, 0.9, 0.1, 0.0], 300)[0]
    densities = np.exp(logits - logits.max(axis=1, keepdims=True))

    found = np.exp(biases_of_few(logits))
    found /= found.sum()

    def likelihood(shares: np.ndarray) -> float:
        return float(np.log(densities @ shares).sum())

    others = np.random.default_rng(0).dirichlet([0.5] * 4, 3000)
    assert likelihood(found) > max(map(likelihood, others)) - 0.05
    assert found[3] < 0.05


def test_a_corrected_classifier_has_the_shares_and_the_cosines_of_the_words() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(504, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    words = TextMatrix(("a", "b", "c", "d"), rows[:4], None, 20.0, None, ())
    batches = [Embedded([""] * 500, np.arange(500, dtype=np.int32), rows[4:], {})]

    found = corrected(words, batches, np.full(4, 0.25))

    assert found.is_corrected
    assert found.weights is not None
    assert found.weights.tobytes() == found.class_embeddings.tobytes() == words.class_embeddings.tobytes()
    logits = 20 * (rows[4:] @ found.weights.T + found.biases)
    assert chances(logits).mean(axis=0) == pytest.approx([0.25] * 4, abs=1e-3)
    again = corrected(found, batches, np.full(4, 0.25))
    assert again.biases == pytest.approx(found.biases, abs=1e-4)
    assert corrected(words, [], None) is words


def test_shares_are_read_from_a_mapping_or_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("dog: 30\ncat: 10\nbird: 0\n")
    (tmp_path / "a.json").write_text('{"dog": 0.75, "cat": 0.25, "bird": 0}')
    (tmp_path / "a.csv").write_text("label,share\ncat,1\ndog,3\nbird,0\n")

    for name in ("a.yaml", "a.json", "a.csv"):
        assert read_shares(str(tmp_path / name), ["cat", "dog", "bird"]) == [0.25, 0.75, 0.0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cat: 1\n", "has no share for 'dog'"),
        ("cat: 1\ndog: 1\nfox: 2\n", "'fox' are not among the labels"),
        ("cat: -1\ndog: 1\n", "the share of 'cat' is not a number"),
        ("cat: .nan\ndog: 1\n", "the share of 'cat' is not a number"),
        ("cat: many\ndog: 1\n", "the share of 'cat' is not a number"),
        ("cat: 0\ndog: 0\n", "all shares are 0"),
        ("- cat\n- dog\n", "expected a share for each label"),
        ("cat\n", "expected a share for each label"),
    ],
)
def test_a_file_without_the_shares_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)

    with pytest.raises(InputError) as e:
        read_shares(str(tmp_path / "a.yaml"), ["cat", "dog"])

    assert why in str(e.value)


def test_classify_and_eval_answer_with_equal_shares(run: Run, tmp_path: Path, model: str) -> None:
    make_class_folders(tmp_path / "data", ("cat", "dog", "bird"), 20)
    labels = ("-l", "cat,dog,bird", "-m", model)

    done = run("classify", "data", *labels, "--expect", "balanced", "-k", "3")
    judged = run("eval", "data", "-m", model, "--expect", "balanced", "--json")
    plain = run("eval", "data", "-m", model, "--json")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 60
    assert {row["score_kind"] for row in rows} == {"expected"}
    for label in ("cat", "dog", "bird"):
        scores = [each["score"] for row in rows for each in row["predictions"] if each["label"] == label]
        assert np.mean(scores) == pytest.approx(1 / 3, abs=1e-3)
    right = np.mean([row["file_name"].split("/")[1] == row["label"] for row in rows])
    assert json.loads(judged.stdout)["metrics"]["top-1"]["value"] == pytest.approx(right)
    assert json.loads(judged.stdout)["metrics"] != json.loads(plain.stdout)["metrics"]


@pytest.mark.parametrize("expect", ["balanced", "few", "shares.yaml"])
def test_python_answers_as_the_command_line_does(expect: str, run: Run, tmp_path: Path, model: str) -> None:
    make_class_folders(tmp_path / "data", ("cat", "dog", "bird"), 8)
    (tmp_path / "data/cat/0.png").write_bytes(b"no")
    (tmp_path / "shares.yaml").write_text("cat: 2\ndog: 1\nbird: 1\n")
    done = run("classify", "data", "-l", "cat,dog,bird", "-m", model, "--expect", expect)
    given = tmp_path / expect if expect.endswith("yaml") else expect

    classify = Classifier(["cat", "dog", "bird"], model=model, expect=given)
    found = classify(tmp_path / "data")
    in_memory = classify([path.read_bytes() for path in sorted((tmp_path / "data").rglob("*.png"))])

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for answers in (found, in_memory):
        assert [row.label for row in answers] == [row["label"] for row in rows]
        good = [row["score"] for row in rows if row["score"] is not None]
        assert answers.scores[answers.was_read(), 0] == pytest.approx(good, abs=1e-4)
    assert found.score_kind == "expected"
    assert found.scores.tolist() != Classifier(["cat", "dog", "bird"], model=model)(tmp_path / "data").scores.tolist()
    for one in (tmp_path / "data/dog/0.png", (tmp_path / "data/dog/0.png").read_bytes()):
        with pytest.raises(InputError, match="expect: corrects for the labels of all images together"):
            classify(one)
    with pytest.raises(InputError, match="expect: shares all images among the labels"):
        Classifier(["cat", "dog"], model=model, expect="few", multi_label=True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("-",), "-: --expect needs all images"),
        (("data", "-o", "rows/"), "--expect: needs all images in one run"),
        (("data", "-o", "a.csv", "--resume"), "--expect: depends on all images"),
        (("data", "--no-store"), "--no-store: --expect looks at every image twice"),
        (("data", "--multi-label"), "leave out --multi-label"),
        (("data", "--none-of-these"), "leave out --none-of-these"),
        (("data", "--expect", "equal"), "--expect equal: use balanced, few, or"),
        (("data", "--expect", "nope.yaml"), "nope.yaml: "),
    ],
)
def test_expect_is_refused_where_it_cannot_be_right(
    arguments: tuple[str, ...], why: str, run: Run, tmp_path: Path, model: str
) -> None:
    make_class_folders(tmp_path / "data", ("cat", "dog"), 1)
    expect = () if "--expect" in arguments else ("--expect", "balanced")

    done = run("classify", *arguments, *expect, "-l", "cat,dog", "-m", model)

    assert done.returncode == 2
    assert why in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
