"""The loop: what eval finds wrong, and what is worth a label, is corrected by a person and learnt from."""

import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from test_heads import make_pictures, refusal

from zsclip.cli.main import main

Run = Callable[..., CompletedProcess[bytes]]


@pytest.fixture
def data(tmp_path: Path, model: str, run: Run) -> Path:
    """Examples in `few`, other pictures in `many`, some of them in folders of other labels, and the head `h`."""
    make_pictures(tmp_path / "few", 5, seed=0)
    make_pictures(tmp_path / "many", 12, seed=1)
    for i in range(3):
        (tmp_path / f"many/stone/{i}.png").rename(tmp_path / f"many/cloud/stone{i}.png")
    (tmp_path / "many/river/0.png").write_bytes(b"\x89PNG broken")
    done = run("learn", "few", "-o", "h", "-m", model, "-q")
    assert done.returncode == 0, done.stderr
    return tmp_path


def rows_of(file: Path) -> list[dict[str, str]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ","))


def test_images_worth_a_label_are_named_labelled_and_learnt(run: Run, data: Path) -> None:
    """Their rows are those of the whole run, and the column truth is left to be filled in."""
    whole = run("classify", "many", "--head", "h", "-f", "csv", "-q")
    done = run("classify", "many", "--head", "h", "--suggest", "4", "-o", "todo.csv")

    assert done.returncode == 1  # an image could not be read
    assert b"1 failed: unreadable 1" in done.stderr
    header, *lines = (data / "todo.csv").read_text().splitlines()
    assert header == "file_name,rank,label,candidate,score,cosine,score_kind,error,message,truth"
    assert len(lines) == 4
    assert all(line.endswith(",") and line[:-1] in whole.stdout.decode().splitlines() for line in lines)
    todo = [header, lines[0] + "stone", lines[1] + "fog", *lines[2:]]
    (data / "todo.csv").write_text("\n".join(todo))
    learnt = run("learn", "todo.csv", "--add-to", "h", "-o", "h2", "--json")
    assert json.loads(learnt.stdout)["examples"] == {"cloud": 5, "river": 5, "stone": 6, "fog": 1}
    assert b"todo.csv: skipped: 2 lines without a label or caption" in learnt.stderr


def test_more_suggestions_than_images_are_all_that_are_not_known(run: Run, data: Path) -> None:
    (data / "many/river/0.png").unlink()
    with tarfile.open(data / "many.tar", "w") as archive:
        archive.add(data / "many/stone", "stone")
        archive.add(data / "few/cloud", "cloud")

    done = run("classify", "many.tar", "many/river", "--head", "h", "--suggest", "99", "--expect", "balanced")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    of_tar = sorted(f"many.tar#stone/{path.name}" for path in (data / "many/stone").iterdir())
    assert [row["file_name"] for row in rows] == [
        *of_tar, *(str(path.relative_to(data)) for path in sorted((data / "many/river").iterdir()))
    ]  # fmt: skip
    assert {row["score_kind"] for row in rows} == {"expected"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("-",), "-: --suggest needs all images"),
        (("many", "-o", "rows/"), "--suggest: needs all images in one run"),
        (("many", "-o", "a.csv", "--resume"), "--suggest: depends on all images"),
        (("many", "-f", "csv", "--segments"), "--suggest: takes single frames"),
        (("many", "-l", "stone,river", "--multi-label"), "--suggest: asks which label fits best"),
    ],
)
def test_suggest_is_refused_where_it_cannot_be_right(
    arguments: tuple[str, ...], why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many").mkdir()

    assert main(["classify", *arguments, "--suggest", "3", "-m", "nowhere"]) == 2

    assert why in capfd.readouterr().err


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_wrong_answers_are_corrected_and_learnt(run: Run, data: Path, ending: str) -> None:
    """The file may lie in another folder than the data; names in it are as they were given."""
    (data / "out").mkdir()
    wrong = data / "out" / f"wrong.{ending}"

    done = run("eval", "many", "--head", "h", "--errors", f"out/wrong.{ending}", "--rows", "rows.jsonl", "-q")

    assert done.returncode == 1  # an image could not be read
    found = rows_of(wrong)
    expected = [row for row in rows_of(data / "rows.jsonl") if row["label"] not in (row["truth"], None)]
    assert {row["file_name"] for row in found} == {row["file_name"] for row in expected}
    assert {row["file_name"] for row in found} >= {f"many/cloud/stone{i}.png" for i in range(3)}
    scores = [float(row["score"]) for row in found]
    assert scores == sorted(scores, reverse=True)

    text = wrong.read_text()
    old, new = ('"truth": "cloud"', '"truth": "stone"') if ending == "jsonl" else ("cloud\n", "stone\n")
    wrong.write_text(text.replace(old, new))
    learnt = run("learn", f"out/wrong.{ending}", "--add-to", "h", "-o", "h2", "--json")

    corrected = ["stone" if row["truth"] == "cloud" else row["truth"] for row in found]
    expected_counts = {label: 5 + corrected.count(label) for label in ("cloud", "river", "stone")}
    assert json.loads(learnt.stdout)["examples"] == expected_counts
    assert expected_counts["stone"] >= 8


def test_errors_in_archives_and_parquet_are_learnt_from(run: Run, data: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted((data / "many").rglob("*[1-9].png"))
    with tarfile.open(data / "many.tar", "w") as archive:
        for file in files:
            archive.add(file, str(file.relative_to(data / "many")))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    table = pa.table({"image": images, "label": [file.parent.name for file in files]})
    pq.write_table(table, data / "many.parquet")

    for name in ("many.tar", "many.parquet"):
        judged = run("eval", name, "--head", "h", "--errors", f"{name}.csv", "-q")
        learnt = run("learn", f"{name}.csv", "--add-to", "h", "-o", f"{name}.head", "--json")

        assert judged.returncode == learnt.returncode == 0, judged.stderr + learnt.stderr
        found = rows_of(data / f"{name}.csv")
        assert len(found) >= 2
        assert sum(json.loads(learnt.stdout)["examples"].values()) == 15 + len(found)


def test_a_file_of_errors_is_replaced_only_when_asked_and_may_be_empty(run: Run, data: Path) -> None:
    given = ("eval", "few", "--head", "h", "--errors", "wrong.csv", "-q")
    assert run(*given).returncode == 0
    assert (data / "wrong.csv").read_text() == (
        "file_name,rank,label,candidate,score,cosine,score_kind,error,message,truth\n"
    )
    (data / "wrong.csv").write_text("corrected")

    assert "wrong.csv: already exists; add --overwrite" in refusal(run(*given))
    assert (data / "wrong.csv").read_text() == "corrected"
    assert run(*given, "--overwrite").returncode == 0
    assert (data / "wrong.csv").read_text().startswith("file_name,")
