"""Rows read back are what was answered, whatever the format."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from columns import columns
from conftest import HANGS, standard_streams

from zsclip.answers.answers import Candidate, Prediction, Row
from zsclip.errors import InputError
from zsclip.out.parquet import Layout, write_parquet
from zsclip.out.reader import Answered, read_answers
from zsclip.out.sinks import SINKS
from zsclip.pixels.skipped import Skipped

NAMES = ["a.jpg", 'b, "c".jpg', "new\nline\r.jpg", "tab\t\\.jpg", os.fsdecode(b"\xff\x80.jpg"), "日本.jpg"]


RANKS = "file_name,rank,label,candidate,score,score_kind\n"


def candidate(label: str, score: float) -> Candidate:
    return Candidate(label, score, 0.25)


def one_of_several() -> list[Row]:
    """Rows where labels compete."""
    best, second = candidate("cat, or so", 0.75), candidate("dog", 0.25)
    rows: list[Row] = [Prediction(name, "cat, or so", best, (best, second), "softmax") for name in NAMES]
    rows.append(Prediction("unknown.jpg", None, best, (best, second), "softmax"))
    rows.append(Prediction("beaten.jpg", None, best, (best, second), "softmax", beaten_by="fog"))
    return [*rows, Skipped("bad.jpg", "unreadable", "damaged")]


def each_by_itself() -> list[Row]:
    """Rows where several labels apply, one, or none."""
    cat, dog = candidate("cat", 0.75), candidate("dog", 0.5)
    return [
        Prediction("both.jpg", "cat", cat, (cat, dog), "sigmoid"),
        Prediction("one.jpg", "dog", dog, (dog,), "sigmoid"),
        Prediction("none.jpg", None, candidate("cat", 0.25), (), "sigmoid"),
    ]


def expected(row: Row, form: str) -> Answered:
    """The slow twin: what a row says, from the record itself; of no candidate, CSV and TSV still have the best."""
    if isinstance(row, Skipped):
        return Answered(row.file_name, (), None, row.error, row.message)
    several = row.score_kind == "sigmoid"
    labels = row.predictions if several else [row.best] * (row.label is not None)
    offered = row.predictions or (row.best,) * (form in ("csv", "tsv"))
    applying, candidates = (tuple((each.label, each.score) for each in some) for some in (labels, offered))
    beaten_by = None if form in ("csv", "tsv") else row.beaten_by
    return Answered(row.file_name, applying, row.best.score, candidates=candidates, beaten_by=beaten_by)


def written(rows: list[Row], form: str, path: Path) -> Path:
    sinks = SINKS | {"parquet": partial(write_parquet, layout=Layout())}
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as out:
        sinks[form]([columns(rows)], out)
    return path


@pytest.mark.parametrize("make", [one_of_several, each_by_itself])
@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet"])
def test_rows_are_read_as_they_were_written(form: str, make, tmp_path: Path) -> None:
    rows = make()
    file = written(rows, form, tmp_path / f"rows.{form}")

    assert list(read_answers(str(file))) == [expected(row, form) for row in rows]
    with open(os.devnull, "wb") as nowhere, standard_streams(file.read_bytes(), nowhere, nowhere):
        assert list(read_answers("-")) == [expected(row, form) for row in rows]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_rows_come_from_a_pipe(form: str, tmp_path: Path) -> None:
    file = written(one_of_several(), form, tmp_path / "rows")
    count = "from zsclip.out.reader import *; print(len(list(read_answers('-'))))"

    done = subprocess.run([sys.executable, "-c", count], input=file.read_bytes(), capture_output=True, timeout=HANGS)

    assert (done.stdout, done.stderr) == (b"9\n", b"")


def test_the_parts_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    for place, row in enumerate(each_by_itself()):
        written([row], "parquet", tmp_path / f"{place}.parquet")
    (tmp_path / ".1.parquet.part").write_text("half")

    assert [each.name for each in read_answers(str(tmp_path))] == ["both.jpg", "one.jpg", "none.jpg"]


def test_the_list_of_somebody_else_has_paths_of_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("\ufefffile_name;label;note\na.jpg;cat;x\n/b.jpg;;\n")

    assert list(read_answers(str(tmp_path / "list.csv"))) == [
        Answered(str(tmp_path / "a.jpg"), (("cat", None),), candidates=(("cat", None),)),
        Answered("/b.jpg", ()),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs the columns file_name and label, as `zsclip classify` writes; found nothing"),
        ("a.jpg\nb.jpg\n", "found a.jpg"),
        ("file_name,label,label\n", "2 columns named label"),
        ('{"file_name": "a", "label": null}\n{"file_name"', ":2: not valid JSON; is the file complete?"),
        ('{"path": "a"}\n', ":1: not a row with file_name and label"),
        ('{"file_name": 3, "label": "a"}\n', "a row has no file_name"),
        ('{"file_name": "a", "label": "b", "score": "high"}\n', "'high' is not a score"),
        ('{"file_name": "a", "label": 3}\n', "3 is not a label"),
        ('{"file_name": "a", "label": "b", "score": Infinity}\n', "inf is not a score"),
        ('{"file_name": "\\ud800", "label": "b"}\n', "is not the name of a file"),
        ('{"file_name": "a", "label": "b", "score_kind": "softmax", "predictions": [{"x": 1}]}\n', "without labels"),
        (
            '{"file_name": "a", "label": "b", "score_kind": "sigmoid", "predictions": [{"label": 3}]}\n',
            "without labels",
        ),
        ('{"file_name": "a", "label": "b", "score_kind": "sigmoid", "predictions": {"label": 3}}\n', "without labels"),
        (
            RANKS + "a,1,x,x,0.9,sigmoid\nb,1,y,y,0.8,sigmoid\na,2,x,z,0.7,sigmoid\n",
            ":4: rank 2 of 'a' does not follow",
        ),
        (RANKS + "a,2,x,x,0.9,sigmoid\n", ":2: rank 2 of 'a' does not follow its rank 1; restore the order"),
        ("file_name,start,end,label,score,frames,error,message\n", "rows of segments"),
        ("PAR1 and more", "damaged, or not Parquet"),
    ],
)
def test_what_has_no_rows_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)

    with pytest.raises(InputError) as error:
        list(read_answers(str(tmp_path / "x")))
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "x"))


def test_a_missing_file_or_an_empty_folder_is_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "no", "no such file"), (tmp_path, "has no Parquet parts")):
        with pytest.raises(InputError, match=said):
            list(read_answers(str(path)))


def test_what_others_call_predictions_is_not_read_and_true_labels_are(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        '{"file_name": "/a", "label": "cat", "truth": "dog", "predictions": ["cat", 3]}\n'
    )

    assert list(read_answers(str(tmp_path / "x.jsonl"))) == [
        Answered("/a", (("cat", None),), candidates=(("cat", None),), truth="dog")
    ]


def test_rows_are_read_as_pandas_writes_them(tmp_path: Path) -> None:
    """It makes floats of ranks as soon as one is missing, and may write `nan` for a missing score."""
    text = "a,1.0,x,x,0.75,softmax\na,2.0,x,y,0.25,softmax\nb,1.0,y,y,nan,softmax\nc,,,,,\n"
    (tmp_path / "x.csv").write_text(RANKS + text)

    assert list(read_answers(str(tmp_path / "x.csv"))) == [
        Answered("a", (("x", 0.75),), 0.75, candidates=(("x", 0.75), ("y", 0.25))),
        Answered("b", (("y", None),), candidates=(("y", None),)),
        Answered("c", ()),
    ]


def test_rows_are_read_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"file_name": "a", "label": "b"}) + "\n" + "not json")

    rows = read_answers(str(tmp_path / "x.jsonl"))

    assert next(rows).name == str(tmp_path / "a")
    rows.close()
