import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from columns import columns
from conftest import make_class_folders
from PIL import Image

from zsclip.answers.answers import Answers, Candidate, Prediction
from zsclip.cli.main import main
from zsclip.errors import InputError
from zsclip.measure.confusion import write_csv, write_png
from zsclip.measure.evaluate import (
    LabelResult,
    evaluate,
    found_labels,
    judge,
    most_confident_first,
    report_lines,
    truths_of,
    wrong_among,
)
from zsclip.measure.labelled import read_labelled
from zsclip.measure.metrics import Judged
from zsclip.pixels.skipped import Skipped
from zsclip.training.pairs import read_pairs
from zsclip.words.labels import Label

NAMES = ["cat", "dog", "owl"]


def answer(path: str, *labels: str, score: float = 0.5) -> Prediction:
    candidates = tuple(Candidate(label, score, 0.2) for label in labels)
    return Prediction(path, labels[0], candidates[0], candidates, "softmax")


def judged_of(rows: list[list[Prediction | Skipped]], truths: list[str]) -> tuple[list[Judged], list]:
    judged: list[Judged] = []
    batches = [columns(batch, NAMES) for batch in rows]
    return judged, [row for answers in judge(batches, truths, NAMES, judged) for row in answers.rows()]


def test_rows_are_judged_in_their_order_and_carry_the_truth():
    rows = [
        [answer("a", "cat", "dog"), Skipped("b", "unreadable", "no"), answer("c", "owl", "cat")],
        [answer("d", "dog", score=0.9)],
    ]

    judged, passed_on = judged_of(rows, ["cat", "owl", "cat", "dog"])

    assert [(row.file_name, row.truth) for row in passed_on] == [("a", "cat"), ("b", "owl"), ("c", "cat"), ("d", "dog")]
    assert [part.truth.tolist() for part in judged] == [[0, 0], [1]]
    assert [part.predicted.tolist() for part in judged] == [[0, 2], [1]]
    assert [part.among_five.tolist() for part in judged] == [[True, True], [True]]
    assert [part.score.tolist() for part in judged] == [[0.5, 0.5], [pytest.approx(0.9)]]


def test_wrong_answers_are_found_and_the_most_confident_come_first():
    rows: list[list[Prediction | Skipped]] = [
        [answer("a", "cat", "dog", score=0.6), answer("b", "dog", "owl", score=0.7), Skipped("c", "missing", "no")],
        [replace(answer("d", "owl", score=0.99), label=None), answer("e", "owl", score=0.9)],
    ]
    truths = iter(["dog", "dog", "owl", "dog", "cat"])
    batches = [columns(batch, NAMES) for batch in rows]
    judged: list[Judged] = []
    wrong: list[Answers] = []

    passed_on = list(wrong_among(judge(batches, truths, NAMES, judged), wrong))

    assert [name for batch in passed_on for name in batch.names] == ["a", "b", "c", "d", "e"]
    found = list(most_confident_first(wrong).rows())
    assert [(row.file_name, row.label, row.truth) for row in found] == [("e", "owl", "cat"), ("a", "cat", "dog")]
    assert [len(row.predictions) for row in found] == [1, 1]


def test_labels_are_counted_each_for_itself():
    rows: list[list[Prediction | Skipped]] = [
        [answer("a", "cat"), answer("b", "dog"), answer("c", "dog"), answer("d", "dog")]
    ]
    judged, _ = judged_of(rows, ["cat", "cat", "cat", "dog"])

    found = evaluate(judged, NAMES)

    assert found.pictures == 4
    assert found.labels == (
        LabelResult("cat", 3, 1.0, 1 / 3, "dog", 2),
        LabelResult("dog", 1, 1 / 3, 1.0, None, 0),
        LabelResult("owl", 0, None, None, None, 0),
    )
    assert found.confusion.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    lines = report_lines(found)
    assert lines[0].split() == ["top-1", "50.0%", "0.0%", "to", "100.0%"]
    assert [line.split() for line in lines[-2:]] == [
        ["cat", "3", "33.3%", "100.0%", "dog", "(2)"],
        ["dog", "1", "100.0%", "33.3%"],
    ]


def test_only_the_worst_labels_are_shown_unless_all_are_asked_for():
    labels = [f"label {i}" for i in range(30)]
    judged: list[Judged] = []
    rows = [answer(f"{i}", labels[i if i > 4 else 29]) for i in range(30)]
    list(judge([columns(rows, labels)], labels, labels, judged))
    found = evaluate(judged, labels)

    lines = report_lines(found, 20)

    assert lines[-1] == "and 10 labels with a higher recall; --all-labels shows them"
    assert [line.split("  ")[0] for line in lines[7:12]] == labels[:5]
    assert len(lines) == 7 + 20 + 1
    assert len(report_lines(found)) == len(report_lines(found, 30)) == 7 + 30


def test_labels_from_data_send_nothing_to_a_terminal():
    rows: list[list[Prediction | Skipped]] = [[answer("a", "cat\x1b[2J"), answer("b", "cat\x1b[2J")]]
    judged: list[Judged] = []
    names = ["cat\x1b[2J", "dog\x9b"]
    list(judge([columns(batch, names) for batch in rows], names, names, judged))

    lines = report_lines(evaluate(judged, ["cat\x1b[2J", "dog\x9b"]))

    assert all(line.isprintable() for line in lines)
    assert lines[-2].split()[0] == r"dog\x9b"


def test_unreadable_pictures_end_the_evaluation():
    judged, _ = judged_of([[Skipped("a", "missing", "gone")]], ["cat"])

    with pytest.raises(InputError, match="none of the images could be read"):
        evaluate(judged, NAMES)


def test_labels_are_made_of_the_words_of_the_data():
    meanings = {"0": "sea_lion", "1": "cat"}
    assert found_labels(["0", "1"], meanings=meanings) == [Label("cat", found_as="1"), Label("sea lion", found_as="0")]
    assert truths_of(["0", "1"], [Label("sea lion"), Label("cat", found_as="1")], meanings) == ["sea lion", "cat"]
    assert found_labels(["sea_lion", "cat", "sea_lion", "sea lion"]) == [
        Label("cat", found_as="cat"),
        Label("sea lion", found_as="sea_lion"),
    ]
    assert found_labels(["pi\u00f1a", "pin\u0303a", "taxi"]) == [
        Label("pi\u00f1a", found_as="pi\u00f1a"),
        Label("taxi", found_as="taxi"),
    ]
    with pytest.raises(InputError, match="'cat' is the only label in the data"):
        found_labels(["cat", "cat"])


def test_words_of_the_data_mean_a_label_by_its_key_its_name_or_a_synonym():
    labels = [Label("goldfish", ("gold carp",), found_as="n0144"), Label("cat", ("kitty",)), Label("kitty car")]
    words = ["n0144", "goldfish", "gold_carp", "cat", "kitty", "kitty_car"]

    assert truths_of(words, labels) == ["goldfish", "goldfish", "goldfish", "cat", "cat", "kitty car"]
    assert truths_of(["kitty"], [Label("cat", ("kitty",)), Label("kitty")]) == ["kitty"]
    for one, other in (("piña", "pin\u0303a"), ("pin\u0303a", "piña")):
        assert truths_of([one], [Label(other), Label("cat")]) == [other]
        assert truths_of([one], [Label("fruit", (other,)), Label("cat")]) == ["fruit"]
        assert truths_of([f"\ufeff{one}_x"], [Label("fruit", found_as=f"{other} x"), Label("cat")]) == ["fruit"]
    with pytest.raises(
        InputError, match="labels that are not in your list: 'a', 'b', 'c' and 1 more; add them as labels"
    ):
        truths_of(["a", "cat", "b", "c", "d"], labels)


def test_the_confusion_table_reads_back():
    out = io.StringIO()
    write_csv(np.array([[3, 1], [0, 2]]), ["a, b", "c"], out)

    assert list(csv.reader(io.StringIO(out.getvalue()))) == [
        ["truth", "a, b", "c"],
        ["a, b", "3", "1"],
        ["c", "0", "2"],
    ]


@pytest.mark.parametrize("count", [2, 40, 400])
def test_the_picture_of_it_is_dark_where_the_answers_are(count):
    confusion = np.zeros((count, count), np.int64)
    confusion[0, 0] = confusion[1, 0] = 10
    out = io.BytesIO()
    write_png(confusion, [f"label {i}" for i in range(count)], out)

    with Image.open(io.BytesIO(out.getvalue())) as image:
        dark = np.asarray(image.convert("L")) < 100
    rows, columns = dark.nonzero()
    cell = max(4, min(30, 3000 // count))
    inside = dark[rows.max() - 2 * cell :] if count == 400 else dark
    assert inside.sum() >= 2 * (cell - 2) ** 2 * 0.6  # two cells, one under the other; digits are left white
    assert image.width < 3500
    assert columns.size > 0


Run = Callable[..., CompletedProcess[bytes]]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three class folders of four pictures, one of them broken."""
    make_class_folders(tmp_path / "data", ("red", "green_blue", "n01"), 4)
    (tmp_path / "data" / "red" / "1.png").write_bytes(b"no")
    (tmp_path / "labels.yaml").write_text("red:\nblue: {synonyms: [green blue]}\nn01: {name: yellow}\n")
    return tmp_path / "data"


@pytest.mark.parametrize("store", [(), ("--no-store",)])
def test_what_is_measured_is_what_classify_answers(run: Run, classes: Path, tiny_model, store) -> None:
    model = f"local-dir:{tiny_model('plain')}"
    common = ("--labels-file", "labels.yaml", "--model", model, *store)
    truth = {"red": "red", "green_blue": "blue", "n01": "yellow"}

    answers = run("classify", "data", "-k", "5", *common)
    measured = run("eval", "data", "--json", "--rows", "rows.jsonl", "--confusion", "table.csv", *common)

    assert answers.returncode == measured.returncode == 1  # of one picture nothing is known
    rows = [json.loads(line) for line in answers.stdout.splitlines()]
    with_truth = [json.loads(line) for line in (classes.parent / "rows.jsonl").read_text().splitlines()]
    assert [row | {"truth": truth[row["file_name"].split("/")[1]]} for row in rows] == with_truth
    report = json.loads(measured.stdout)
    good = [row for row in with_truth if row["error"] is None]
    assert (report["images"], report["failed"]) == (11, 1)
    right = sum(row["label"] == row["truth"] for row in good)
    assert report["metrics"]["top-1"]["value"] == right / 11
    assert report["metrics"]["top-5"]["value"] == 1
    assert [each["label"] for each in report["labels"]] == ["red", "blue", "yellow"]
    assert [each["images"] for each in report["labels"]] == [3, 4, 4]
    table = list(csv.reader(io.StringIO((classes.parent / "table.csv").read_text())))
    assert table[0] == ["truth", "red", "blue", "yellow"]
    for name, *cells in table[1:]:
        assert [int(cell) for cell in cells] == [
            sum(row["truth"] == name and row["label"] == label for row in good) for label in table[0][1:]
        ]


def test_labels_that_are_ids_are_noted_unless_something_names_them(run: Run, tmp_path: Path, tiny_model) -> None:
    make_class_folders(tmp_path / "data", ("0", "1"), 1)
    (tmp_path / "names.json").write_text('{"0": "red", "1": "blue"}')
    (tmp_path / "names.csv").write_text("file_name,label,name\ndata/0/0.png,0,red\ndata/1/0.png,1,blue\n")
    model = f"local-dir:{tiny_model('plain')}"

    bare, mapped, named = (
        run("eval", data, "--json", "--model", model, *more)
        for data, more in (("data", ()), ("data", ("--labels-file", "names.json")), ("names.csv", ()))
    )

    assert b"zsclip: all labels are numbers, such as '0', and the model reads them as words; " in bare.stderr
    assert b"all labels are" not in mapped.stderr + named.stderr
    labels = [[each["label"] for each in json.loads(done.stdout)["labels"]] for done in (bare, mapped, named)]
    assert labels == [["0", "1"], ["red", "blue"], ["blue", "red"]]


def test_parquet_is_measured_like_the_folders_it_was_made_of(run: Run, classes: Path, tiny_model) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    files = sorted(classes.rglob("*.png"))
    images = [{"bytes": file.read_bytes(), "path": str(file)} for file in files]
    table = pa.table({"image": images, "label": [file.parent.name for file in files]})
    pq.write_table(table, classes.parent / "data.parquet", row_group_size=5)
    common = ("--model", f"local-dir:{tiny_model('plain')}", "--json")

    of_folders, of_shard, again, unkept = (
        run("eval", data, *common, *more)
        for data, more in (("data", ()), ("data.parquet", ()), ("data.parquet", ()), ("data.parquet", ("--no-store",)))
    )

    expected, found = json.loads(of_folders.stdout), json.loads(unkept.stdout)
    assert json.loads(of_shard.stdout) == expected
    assert again.stdout == of_shard.stdout
    metrics = expected.pop("metrics")
    for name, figure in found.pop("metrics").items():
        assert figure == pytest.approx(metrics[name], abs=1e-5)  # its batches may fall otherwise
    assert found == expected
    assert b", 11 of them encoded by an earlier run" in of_shard.stderr  # known by their content, wherever it is
    assert b", 11 of them encoded by an earlier run" in again.stderr


def test_a_table_for_people_and_rows_as_a_spreadsheet(run: Run, classes: Path, tiny_model) -> None:
    done = run(
        "eval",
        "data",
        "--model",
        f"local-dir:{tiny_model('plain')}",
        "--rows",
        "rows.csv",
        "--confusion",
        "c.png",
        "-q",
    )

    lines = done.stdout.decode().splitlines()
    assert [line.rsplit("  ", 2)[0].split("  ")[0] for line in lines[:5]] == [
        "top-1", "top-5", "balanced accuracy", "macro-F1", "calibration error",
    ]  # fmt: skip
    assert {line.split("  ")[0] for line in lines[7:]} == {"red", "green blue", "n01"}
    assert done.stderr == b""
    rows = list(csv.DictReader(io.StringIO((classes.parent / "rows.csv").read_text())))
    assert {row["truth"] for row in rows} == {"red", "green blue", "n01"}
    assert [row["candidate"] for row in rows if row["rank"] == "1"] == [
        row["label"] for row in rows if row["rank"] == "1"
    ]
    assert {row["score_kind"] for row in rows if not row["error"]} == {"softmax"}
    assert sum(row["error"] == "unreadable" and row["truth"] == "red" for row in rows) == 1
    with Image.open(classes.parent / "c.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confusion", "x.jpg"], "--confusion: cannot write 'x.jpg'; use a name that ends in .png or .csv"),
        (["--rows", "x.txt"], "x.txt: unknown extension"),
        (
            ["--errors", "x.parquet"],
            "--errors: cannot write 'x.parquet'; use a name that ends in .csv, .tsv or .jsonl",
        ),
        (["--labels", "red,blue"], "labels that are not in your list: 'green_blue', 'n01'; "),
    ],
)
def test_a_mistake_is_found_before_a_model_is_looked_for(
    arguments: list[str], message: str, classes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(classes), "--model", "nowhere", *arguments]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    "options",
    [("--threshold", "0.35"), ("--none-of-these",), ("--multi-label", "--threshold", "0.5"), ("--multi-label",)],
    ids=" ".join,
)
def test_the_answers_that_are_measured_are_those_of_classify(run: Run, classes: Path, tiny_model, options) -> None:
    common = ("--labels-file", "labels.yaml", "--model", f"local-dir:{tiny_model('plain')}", *options)
    truth = {"red": "red", "green_blue": "blue", "n01": "yellow"}
    several = "--multi-label" in options

    answers = run("classify", "data", *common)
    measured = run("eval", "data", "--json", "--confusion", "table.csv", "--rows", "rows.jsonl", *common)
    shown = run("eval", "data", *common)

    rows = [json.loads(line) for line in answers.stdout.splitlines() if b'"error": null' in line]
    with_truth = [json.loads(line) for line in (classes.parent / "rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in with_truth if row["error"] is None] == [row["label"] for row in rows]
    pairs = []
    for row in rows:
        labels = [one["label"] for one in row["predictions"]] if several else [row["label"]] if row["label"] else []
        pairs.append((labels, truth[row["file_name"].split("/")[1]]))
    given = [(label, true) for labels, true in pairs for label in labels]
    report = json.loads(measured.stdout)
    metrics = {name: figure and figure["value"] for name, figure in report["metrics"].items()}
    assert metrics["answered"] == sum(bool(labels) for labels, _ in pairs) / 11
    right = sum(label == true for label, true in given)
    assert metrics["precision"] == (right / len(given) if given else None)
    assert ("recall" in metrics) == several
    assert not several or metrics["recall"] == sum(true in labels for labels, true in pairs) / 11
    for each in report["labels"]:
        its = [labels for labels, true in pairs if true == each["label"]]
        assert (each["images"], each["unknown"]) == (len(its), sum(not labels for labels in its))
        assert each["recall"] == sum(each["label"] in labels for labels in its) / len(its)
    table = list(csv.reader(io.StringIO((classes.parent / "table.csv").read_text())))
    assert table[0] == ["truth", "red", "blue", "yellow", "unknown"]
    assert [list(map(int, row[1:])) for row in table[1:]] == [
        [sum(pair == (label, true) for pair in given) for label in truth.values()]
        + [sum(not labels and one == true for labels, one in pairs)]
        for true in truth.values()
    ]
    lines = shown.stdout.decode().splitlines()
    assert lines[0].split()[:2] == ["answered", f"{metrics['answered']:.1%}"]
    assert lines[1].split()[:2] == ["precision", "-" if metrics["precision"] is None else f"{metrics['precision']:.1%}"]
    assert "  unknown  " in next(line for line in lines if line.startswith("label "))
    assert (b"any other label it was given counts as wrong" in shown.stderr) == several


def test_a_limit_takes_pictures_from_all_over_the_data(run: Run, classes: Path, tiny_model) -> None:
    arguments = ("eval", "data", "--model", f"local-dir:{tiny_model('plain')}", "--rows", "rows.jsonl", "--json")

    done = run(*arguments, "--limit", "6")

    rows = [json.loads(line) for line in (classes.parent / "rows.jsonl").read_text().splitlines()]
    assert [row["truth"] for row in rows] == ["green blue", "green blue", "n01", "n01", "red", "red"]
    assert [row["file_name"].split("/")[-1] for row in rows] == ["0.png", "2.png"] * 3
    assert b"using 6 of 12 images, spread evenly over the data" in done.stderr
    two = json.loads(run(*arguments, "--limit", "2", "--overwrite").stdout)
    assert [each["images"] for each in two["labels"]] == [1, 1, 0]  # all labels compete still


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        (("train", "val"), "val or train"),
        (("Test", "train"), "Test or train"),
        (("train",), "train"),
        (("train2017", "val2017"), "val2017 or train2017"),
        (("training_set", "test set"), "test set or training_set"),
        (("fold_2", "fold_10"), "fold_2 or fold_10"),
        (("eval", "holdout"), "eval or holdout"),
        (("unlabeled", "train"), "train or unlabeled"),
        (("split=train", "split=val"), "split=train or split=val"),
        (("query", "gallery"), "gallery or query"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "calibrate"])
def test_splits_are_not_taken_for_labels(command, splits, named, tmp_path, capfd: pytest.CaptureFixture[str]) -> None:
    for split in splits:
        make_class_folders(tmp_path / "data" / split, ("cat", "dog"), 1)
    data = tmp_path / "data"

    assert main([command, str(data), "--model", "nowhere"]) == 2

    folders = " or ".join(str(data / name) for name in named.split(" or "))
    held = named.replace(" or ", " and ")
    message = f"{str(data)!r}: holds the splits {held}, not a folder for each label; give {folders}"
    assert capfd.readouterr().err == f"zsclip: {message}\n"
    with pytest.raises(InputError, match=re.escape(message)):
        read_pairs([str(data)])  # for training


@pytest.mark.parametrize("outer", [("2023", "2024"), ("front", "side")])
def test_folders_that_hold_the_same_folders_are_noted(outer: tuple[str, str], tmp_path: Path) -> None:
    for folder in outer:
        make_class_folders(tmp_path / folder, ("cat", "dog", "taxi"), 1)
    notes: list[str] = []

    assert read_labelled(str(tmp_path), note=notes.append).words == (outer[0],) * 3 + (outer[1],) * 3

    assert notes == [
        f"{tmp_path}: each of its 2 folders holds the same folders, cat and 2 more; if those are the labels, give one "
        f"of the 2, such as {tmp_path}/{outer[0]}"
    ]


@pytest.mark.parametrize(
    ("folders", "own"),
    [
        (("query/cat", "query/dog", "gallery/cat"), None),
        (("query/cat", "query/dog", "gallery/cat", "gallery/dog"), "gallery"),
        (("cat/train", "cat/val", "dog/train", "dog/val"), None),
        (("cat/front", "cat/back", "dog/front"), None),
    ],
)
def test_labels_may_hold_folders(folders: tuple[str, ...], own: str | None, tmp_path: Path) -> None:
    make_class_folders(tmp_path, folders, 1)
    if own is not None:
        Image.new("RGB", (8, 8)).save(tmp_path / own / "own.png")
    notes: list[str] = []

    read_labelled(str(tmp_path), note=notes.append)

    assert notes == []


@pytest.mark.parametrize(
    ("folders", "holder", "named"),
    [
        (("images/train/cat", "images/train/dog", "images/val/dog", "labels/train"), "/images", "val or train"),
        (("images/train/cat", "images/val/dog", "docs"), "/images", "val or train"),
        (("a/test/cat", "a/train/cat", "b/train/cat"), "/a", "test or train"),
        (("data/images/fold1/cat", "data/images/fold2/dog"), "/data/images", "fold1 or fold2"),
        (("words/train/cat/deep", "words/train/dog"), "", "words/train"),
        (("images/cat", "images/dog"), "", "images"),
        (("Dataset/images/cat", "Dataset/images/dog/deep"), "", "Dataset/images"),
    ],
)
def test_splits_and_label_folders_one_level_too_deep_are_refused(
    folders: tuple[str, ...], holder: str, named: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for folder in folders:
        make_class_folders(data, (folder,), 0 if folder == "labels/train" else 1)

    assert main(["eval", str(data), "--model", "nowhere", "--labels", "cat,dog"]) == 2

    message = capfd.readouterr().err.splitlines()[-1]
    if holder:
        inner = f"{data}{holder}"
        folder = " or ".join(f"{inner}/{name}" for name in named.split(" or "))
        held = named.replace(" or ", " and ")
        assert message == f"zsclip: {inner!r}: holds the splits {held}, not a folder for each label; give {folder}"
    else:
        assert message.startswith(f"zsclip: {str(data)!r}: all its images are in '{folders[0].split('/')[0]}', which ")
        assert message.endswith(f"; give {data}/{named}")
    with pytest.raises(InputError, match=re.escape(message.removeprefix("zsclip: "))):
        read_pairs([str(data)])


def test_many_folds_are_not_all_named(tmp_path: Path) -> None:
    make_class_folders(tmp_path, [f"fold{i}/cat" for i in range(1, 11)], 1)

    with pytest.raises(InputError, match=r" fold1, fold2, fold3 and 7 more, not .* or \S+/fold3 or another of them$"):
        read_labelled(str(tmp_path))


@pytest.mark.parametrize(
    "folders",
    [
        ("cat/train", "cat/val", "dog/train"),  # a label's own pictures
        ("images", "dog"),
        ("images",),
        ("images/train", "images/val"),  # no folder is a label's
        ("vehicle/train/steam", "vehicle/car", "animal"),
        ("vehicle/train/steam", "animal"),
        ("fold", "test"),
        ("fold/a/b", "cut/a/b"),
        ("trains/a", "tests/a"),
    ],
)
def test_folders_that_may_be_labels_are_labels(folders: tuple[str, ...], tmp_path: Path) -> None:
    make_class_folders(tmp_path, folders, 1)
    notes: list[str] = []

    assert set(read_labelled(str(tmp_path), note=notes.append).words) == {name.split("/")[0] for name in folders}
    assert notes == []


@pytest.mark.parametrize("folders", [("flowers/rose", "flowers/tulip"), ("flowers/train/rose", "flowers/tulip")])
def test_one_label_with_folders_in_it_is_noted(tmp_path: Path, folders: tuple[str, ...]) -> None:
    make_class_folders(tmp_path, folders, 1)
    notes: list[str] = []

    assert set(read_labelled(str(tmp_path), note=notes.append).words) == {"flowers"}
    assert notes == [
        f"{tmp_path}: all its images have one label, 'flowers'; "
        f"if the folders in it are labels, give {tmp_path}/flowers"
    ]


def test_pictures_outside_any_class_folder_are_counted(run: Run, classes: Path, tiny_model) -> None:
    for name in ("loose.PNG", "another.jpg", "notes.txt", ".hidden.png"):
        (classes / name).write_bytes(b"")
    make_class_folders(classes, ("@eaDir",), 1)

    done = run("eval", "data", "--model", f"local-dir:{tiny_model('plain')}", "--json")

    assert b"passed over: 1 .jpg (not in a label's folder), 1 .png (not in a label's folder)" in done.stderr
    assert [each["label"] for each in json.loads(done.stdout)["labels"]] == ["green blue", "n01", "red"]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_rows_of_eval_are_measured_again_and_rows_of_classify_are_not_the_truth(
    run: Run, classes: Path, tiny_model, form: str
) -> None:
    model = ("--model", f"local-dir:{tiny_model('plain')}")
    (classes.parent / "out").mkdir()
    rows, predicted = f"out/rows.{form}", f"out/predicted.{form}"
    first = run("eval", "data", *model, "--rows", rows, "--json")

    again = run("eval", rows, *model, "--json")
    compared = run("compare", rows, *model, "--prompts", "photo", "--prompts", "plain", "--json")
    assert run("classify", "data", *model, "-l", "red,n01,green blue", "-k", "3", "-o", predicted).returncode == 1
    refused = [run(command, predicted, *model) for command in ("eval", "calibrate")]

    assert first.returncode == again.returncode == 1  # one of the twelve is broken
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert json.loads(again.stdout)["images"] == 11
    assert json.loads(compared.stdout)[0]["figures"] == json.loads(first.stdout)["metrics"]
    for done in refused:
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"zsclip: {predicted}: these labels are zsclip's own answers; ".encode() in done.stderr


def test_a_column_truth_comes_before_a_column_label(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file_name,label,truth\na.png,dog,cat\nb.png,dog,dog\n")

    assert read_labelled(str(tmp_path / "list.csv")).words == ("cat", "dog")
