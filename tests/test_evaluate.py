import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from columns import columns
from conftest import make_class_folders
from PIL import Image

from zsclip.answers.answers import Candidate, Prediction
from zsclip.cli.main import main
from zsclip.errors import InputError
from zsclip.measure.confusion import write_csv, write_png
from zsclip.measure.evaluate import OfLabel, evaluate, found_labels, judge, report_lines, truths_of
from zsclip.measure.metrics import Judged
from zsclip.pixels.skipped import Skipped
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


def test_labels_are_counted_each_for_itself():
    rows: list[list[Prediction | Skipped]] = [
        [answer("a", "cat"), answer("b", "dog"), answer("c", "dog"), answer("d", "dog")]
    ]
    judged, _ = judged_of(rows, ["cat", "cat", "cat", "dog"])

    found = evaluate(judged, NAMES)

    assert found.pictures == 4
    assert found.labels == (
        OfLabel("cat", 3, 1.0, 1 / 3, "dog", 2),
        OfLabel("dog", 1, 1 / 3, 1.0, None, 0),
        OfLabel("owl", 0, None, None, None, 0),
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


def test_pictures_of_which_none_could_be_read_are_no_evaluation():
    judged, _ = judged_of([[Skipped("a", "missing", "gone")]], ["cat"])

    with pytest.raises(InputError, match="none of the pictures could be read"):
        evaluate(judged, NAMES)


def test_labels_are_made_of_the_words_of_the_data():
    assert found_labels(["sea_lion", "cat", "sea_lion", "sea lion"]) == [
        Label("cat", found_as="cat"),
        Label("sea lion", found_as="sea_lion"),
    ]
    assert found_labels(["pi\u00f1a", "pin\u0303a", "taxi"]) == [
        Label("pi\u00f1a", found_as="pi\u00f1a"),
        Label("taxi", found_as="taxi"),
    ]
    with pytest.raises(InputError, match="only 'cat' in the data"):
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
    with pytest.raises(InputError, match="'a', 'b', 'c' and 1 more of the data match no label"):
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
    assert (report["pictures"], report["failed"]) == (11, 1)
    right = sum(row["label"] == row["truth"] for row in good)
    assert report["metrics"]["top-1"]["value"] == right / 11
    assert report["metrics"]["top-5"]["value"] == 1
    assert [each["label"] for each in report["labels"]] == ["red", "blue", "yellow"]
    assert [each["pictures"] for each in report["labels"]] == [3, 4, 4]
    table = list(csv.reader(io.StringIO((classes.parent / "table.csv").read_text())))
    assert table[0] == ["truth", "red", "blue", "yellow"]
    for name, *cells in table[1:]:
        assert [int(cell) for cell in cells] == [
            sum(row["truth"] == name and row["label"] == label for row in good) for label in table[0][1:]
        ]


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
    ("arguments", "told"),
    [
        (["--confusion", "x.jpg"], "--confusion: cannot write 'x.jpg'; use a name that ends in .png or .csv"),
        (["--rows", "x.txt"], "x.txt: the ending does not name a format"),
        (["--labels", "red,blue"], "'green_blue', 'n01' of the data match no label"),
    ],
)
def test_a_mistake_is_found_before_a_model_is_looked_for(
    arguments: list[str], told: str, classes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(classes), "--model", "nowhere", *arguments]) == 2
    assert told in capfd.readouterr().err
