"""A second pass, in which all pictures of a folder inform each other: the arithmetic, and the command line."""

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import HANGS, make_class_folders
from PIL import Image

from zsclip import Classifier
from zsclip.answers.classifier import Classifier as TextMatrix
from zsclip.answers.classify import answer
from zsclip.answers.scores import Rule
from zsclip.answers.second_pass import Line, informed, second_pass, shared, spread
from zsclip.errors import InputError
from zsclip.models.embed import Embedded, embed_images

Run = Callable[..., CompletedProcess[bytes]]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def folder(occurring: int, labels: int = 20, each: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Line]:
    """Pictures of some labels in groups of their own, words that only point towards these, and truths."""
    random = np.random.default_rng(seed)
    centres = unit(random.normal(size=(labels, 32)))
    truth = np.repeat(np.arange(occurring), each)
    vectors = unit(centres[truth] + random.normal(0, 0.14, (len(truth), 32)))
    words = unit(centres + random.normal(0, 0.16, (labels, 32)))
    return vectors, truth, Line(8.0 * words, np.zeros(labels))


def chances_of(picture: list[float], weights: list[list[float]], biases: list[float]) -> list[float]:
    logits = [sum(x * w for x, w in zip(picture, row, strict=True)) + b for row, b in zip(weights, biases, strict=True)]
    highest = max(logits)
    exponentials = [math.exp(logit - highest) for logit in logits]
    return [each / sum(exponentials) for each in exponentials]


def second_pass_slowly(vectors: np.ndarray, first: Line) -> np.ndarray:
    """The (N, C) logits of the second pass, before they are divided by the temperature, with loops."""
    pictures, width = vectors.shape
    labels, base = len(first.biases), first.weights.tolist()
    mean = [sum(column) / pictures for column in vectors.T.tolist()]
    variance = (1 - sum(x * x for x in mean)) / width
    weights, biases = base, first.biases.tolist()
    few = None
    for _ in range(5):
        chances = [chances_of(picture, weights, biases) for picture in vectors.tolist()]
        if few is None:
            pairs = [(a, b) for i, a in enumerate(chances) for j, b in enumerate(chances) if i != j]
            alike = sum(sum(x * y for x, y in zip(a, b, strict=True)) for a, b in pairs) / len(pairs)
            few = min((1 - min(1 / (alike * labels), 1)) / 0.3, 1) * pictures / (pictures + 10)
        counts = [sum(each[c] for each in chances) for c in range(labels)]
        offsets = [
            np.array(sum(each[c] * (x - np.array(mean)) for each, x in zip(chances, vectors, strict=True))) / counts[c]
            for c in range(labels)
        ]
        within = 300 * variance * np.eye(width)
        for x in vectors:
            within += np.outer(x - mean, x - mean)
        for c in range(labels):
            within -= counts[c] * np.outer(offsets[c], offsets[c])
        inverse = np.linalg.inv(within / (pictures + 300))
        weights, biases = [], []
        for c in range(labels):
            kept = counts[c] / (counts[c] + 30**few)
            one = kept * offsets[c]
            noise = (
                kept**2 * sum(each[c] ** 2 for each in chances) / counts[c] ** 2 * width * pictures / (pictures + 300)
            )
            fits = -(inverse @ one) @ mean - one @ inverse @ one / 2 + noise / 2
            occurs = math.log((counts[c] + 1) / (pictures + labels))
            weights.append((first.weights[c] + 0.3 * inverse @ one).tolist())
            biases.append(first.biases[c] + 0.3 * fits + few * occurs)
    return vectors @ np.array(weights).T + np.array(biases)


@pytest.mark.parametrize(("occurring", "labels", "each"), [(4, 4, 9), (2, 5, 12), (3, 3, 1), (1, 2, 30)])
def test_the_second_pass_is_that_of_loops(occurring: int, labels: int, each: int) -> None:
    vectors, _, first = folder(occurring, labels, each)

    line = second_pass(vectors, first)

    slow = second_pass_slowly(vectors, first)
    fast = vectors @ line.weights.T + line.biases
    temperature = (slow.max() - slow.min()) / (fast.max() - fast.min())
    assert fast * temperature == pytest.approx(slow, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("occurring", [20, 10, 5, 2])
def test_pictures_inform_each_other_whether_all_labels_or_few_of_them_occur(occurring: int) -> None:
    gains = []
    for seed in range(5):
        vectors, truth, first = folder(occurring, seed=seed)
        second = second_pass(vectors, first)
        right = [((vectors @ line.weights.T + line.biases).argmax(axis=1) == truth).mean() for line in (first, second)]
        gains.append(right[1] - right[0])

    assert np.mean(gains) > 0.015
    assert min(gains) >= 0


def test_the_second_pass_is_as_sure_as_the_first() -> None:
    vectors, _, first = folder(20)

    second = second_pass(vectors, first)

    def sureness(line: Line) -> float:
        logits = vectors @ line.weights.T + line.biases
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return float((exponentials / exponentials.sum(axis=1, keepdims=True)).max(axis=1).mean())

    assert sureness(second) == pytest.approx(sureness(first), abs=1e-3)


@pytest.mark.parametrize("pictures", [20, 60, 600])
def test_the_labels_that_occur_are_counted_whatever_the_number_of_pictures(pictures: int) -> None:
    random = np.random.default_rng(0)
    rows = np.eye(20, dtype=np.float32)
    found = []
    for _ in range(50):
        vectors = rows[random.integers(0, 5, pictures)]
        found.append(1 / spread(shared(vectors, Line(60.0 * rows, np.zeros(20))), pictures))

    assert np.mean(found) == pytest.approx(4, rel=0.1)  # a fourth of the labels occurs


def matrix(line: Line) -> TextMatrix:
    words = (line.weights / 8).astype(np.float32)
    return TextMatrix(tuple(map(str, range(len(words)))), words, None, 8.0, None, ())


def batch(vectors: np.ndarray) -> Embedded:
    return Embedded([""] * len(vectors), np.arange(len(vectors), dtype=np.int32), vectors, {})


@pytest.mark.parametrize("pictures", [0, 1])
def test_a_picture_alone_keeps_its_answer(pictures: int) -> None:
    vectors, _, first = folder(20)
    words = matrix(first)

    found = answer(batch(vectors[:pictures]), informed(words, [batch(vectors[:pictures])]), Rule())

    alone = answer(batch(vectors[:pictures]), words, Rule())
    assert (found.score_kind, alone.score_kind) == ("transductive", "softmax")
    assert found.first_answered is not None
    assert found.answered.tolist() == found.first_answered.tolist() == alone.answered.tolist()
    assert found.scores.tobytes() == alone.scores.tobytes()


@pytest.mark.parametrize("pictures", [2, 300])
def test_equal_pictures_keep_their_answer(pictures: int) -> None:
    vectors, _, first = folder(20)
    same = np.repeat(vectors[:1], pictures, axis=0)
    words = matrix(first)

    found = answer(batch(same), informed(words, [batch(same)]), Rule())

    alone = answer(batch(same), words, Rule())
    assert found.answered.tolist() == alone.answered.tolist()
    assert found.scores[:, 0] == pytest.approx(alone.scores[:, 0], abs=1e-3)


@pytest.mark.parametrize(("pictures", "labels"), [(2, 20), (5, 3), (40, 1)])
def test_few_pictures_and_few_labels_have_finite_scores(pictures: int, labels: int) -> None:
    """With 32 dimensions: more than pictures."""
    vectors, _, first = folder(labels, labels)
    words = matrix(first)
    some = vectors[np.random.default_rng(0).permutation(len(vectors))[:pictures]]

    found = answer(batch(some), informed(words, [batch(some)]), Rule(k=labels))

    assert np.isfinite(found.scores).all()
    assert found.scores.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_first_answer_and_the_cosines_are_those_of_one_pass() -> None:
    vectors, _, first = folder(5)
    words, rule = matrix(first), Rule(k=3, threshold=0.3)

    found = answer(batch(vectors), informed(words, [batch(vectors[:70]), batch(vectors[70:])]), rule)

    alone = answer(batch(vectors), words, rule)
    assert found.first_answered is not None
    assert found.first_scores is not None
    assert found.first_answered.tolist() == alone.answered.tolist()
    assert (alone.answered < 0).any()
    assert found.first_scores.tobytes() == alone.scores[:, 0].tobytes()
    assert found.answered.tolist() != alone.answered.tolist()
    cosines = np.take_along_axis(vectors @ words.class_embeddings.T, found.classes, axis=1)
    assert found.cosines == pytest.approx(cosines, abs=1e-6)


def make_data(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "data", ("cat", "dog", "bird"), 20)
    (tmp_path / "data/bird/broken.png").write_bytes(b"")


def test_every_row_says_what_the_first_pass_answered(run: Run, tmp_path: Path, model: str) -> None:
    make_data(tmp_path)
    labels = ("-l", "cat,dog,bird", "-m", model)

    done = run("classify", "data", *labels, "--transductive")
    again = run("classify", "data", *labels, "--transductive")  # from stored vectors
    plain = [json.loads(line) for line in run("classify", "data", *labels).stdout.splitlines()]
    run("classify", "data", *labels, "--transductive", "-o", "rows.csv")
    run("classify", "data", *labels, "--transductive", "-o", "rows.parquet")

    assert done.returncode == 1
    assert done.stdout == again.stdout
    assert b"earlier run" not in done.stderr  # what the first pass encoded
    assert b", 60 of them encoded by an earlier run" in again.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({tuple(row) for row in rows}) == 1
    assert [row["file_name"] for row in rows] == [row["file_name"] for row in plain]
    assert [row["first_label"] for row in rows] == [row["label"] for row in plain]
    assert [row["first_score"] for row in rows] == [row["score"] for row in plain]
    assert {row["score_kind"] for row in rows} == {"transductive", None}
    assert any(row["score"] != row["first_score"] for row in rows)
    columns = ("file_name", "label", "first_label")
    with open(tmp_path / "rows.csv", newline="") as file:
        table = [{name: row[name] or None for name in columns} for row in csv.DictReader(file)]
    assert table == [{name: row[name] for name in columns} for row in rows]
    of_parquet = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [{name: row[name] for name in columns} for row in of_parquet] == table


def test_eval_and_python_answer_as_classify_does(run: Run, tmp_path: Path, model: str) -> None:
    make_data(tmp_path)

    done = run("classify", "data", "-l", "bird,cat,dog", "-m", model, "--transductive")
    judged = run("eval", "data", "-m", model, "--transductive", "--json", "--rows", "judged.jsonl")
    answers = Classifier(["bird", "cat", "dog"], model=model, transductive=True)(tmp_path / "data")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    labels = [row["label"] for row in rows]
    right = np.mean([row["file_name"].split("/")[1] == row["label"] for row in rows if row["label"]])
    assert json.loads(judged.stdout)["transductive"] is True
    assert json.loads(judged.stdout)["metrics"]["top-1"]["value"] == pytest.approx(right)
    of_eval = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert [row["label"] for row in of_eval] == labels
    assert [row["first_label"] for row in of_eval] == [row["first_label"] for row in rows]
    assert answers.labels == labels
    assert list(answers.to_pandas().columns) == answers.to_arrow().column_names == list(rows[0])
    with pytest.raises(InputError, match=r"^transductive=True: shares .* leave out multi_label=True"):
        Classifier(["cat", "dog"], model=model, transductive=True, multi_label=True)


@pytest.mark.parametrize("flag", [("--transductive",), ("--expect", "balanced")])
@pytest.mark.parametrize("most", [1 << 30, 1])
def test_eval_without_the_store_encodes_every_image_once_if_the_vectors_fit(
    flag: tuple[str, ...], most: int, run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path)
    encoded = 0

    def counted(*arguments: Any) -> Iterator[Embedded]:
        nonlocal encoded
        for batch in embed_images(*arguments):
            encoded += len(batch.vectors)
            yield batch

    monkeypatch.setattr("zsclip.engine.run.embed_images", counted)
    monkeypatch.setattr("zsclip.cli.run._MOST_KEPT", most)
    command = ("eval", "data", "-m", model, *flag, "--json", "--rows")

    once = run(*command, "once.jsonl", "--no-store")
    times, encoded = encoded, 0
    stored = run(*command, "stored.jsonl")

    assert times == (60 if most > 1 else 120)
    assert once.stdout == stored.stdout != b""
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "stored.jsonl").read_bytes()
    assert [line for line in once.stderr.splitlines() if b"failed" in line] == [b"1 failed: unreadable 1"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("-",), "-: --transductive needs all images"),
        (("data", "-o", "rows/"), "--transductive: needs all images in one run"),
        (("data", "-o", "a.csv", "--resume"), "--transductive: depends on all images; run again without --resume"),
        (("data", "-o", "a.csv", "--retry-errors"), "depends on all images; run again without --retry-errors"),
        (("data", "-o", "old.csv"), "old.csv: already exists; add --overwrite to replace it\n"),
        (("data", "--no-store"), "--no-store: --transductive looks at every image twice"),
        (("data", "--multi-label"), "leave out --multi-label"),
        (("data", "--none-of-these"), "leave out --none-of-these"),
        (("data", "--calibration", "a.json"), "leave out --calibration"),
        (("data", "--expect", "few"), "leave out --expect"),
    ],
)
def test_a_second_pass_is_refused_where_it_cannot_be_right(
    arguments: tuple[str, ...], why: str, run: Run, tmp_path: Path, model: str
) -> None:
    make_class_folders(tmp_path / "data", ("cat", "dog"), 1)
    (tmp_path / "old.csv").touch()

    done = run("classify", *arguments, "--transductive", "-l", "cat,dog", "-m", model)

    assert done.returncode == 2
    assert why in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_an_interrupted_run_says_that_it_must_begin_again(tmp_path: Path, model: str) -> None:
    make_class_folders(tmp_path / "data", ("cat",), 20)
    command = [sys.executable, "-m", "zsclip", "classify", "data", "--labels-file", "imagenet", "-k", "1000"]
    command += ["-m", model, "-f", "jsonl", "--transductive"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # of rows that fill the pipe, so that the run waits
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)  # the first one waits for the end of the batch
        try:
            _, said = process.communicate(timeout=HANGS)
        finally:
            process.kill()

    assert process.returncode == 130
    *_, last = said.decode().splitlines()
    assert re.fullmatch(
        r"zsclip: interrupted: \d+ images done; run the same command again; what was encoded is kept", last
    )


@pytest.mark.parametrize("further", [("--transductive",), ("--suggest", "300")])
def test_all_frames_of_an_animation_are_answered_though_few_fit_in_memory(
    further: tuple[str, ...], run_alone: Run, tmp_path: Path, model: str
) -> None:
    """Frames wait until they are read, at most 256 of them; so it would hang if all were found before one is read."""
    frames = [Image.new("L", (8, 8), i % 256) for i in range(300)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)

    command = ("classify", "a.gif", "--frames", "--every", "1", "-l", "cat,dog", "-m", model, "-f", "csv")
    done = run_alone(*command, *further)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"a.gif#t=") > 200  # some frames are the same, and suggested once
