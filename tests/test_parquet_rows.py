"""Rows as Parquet: the fields of the JSON lines of the same run, and how they came about."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from columns import columns, encoded, write_jsonl_slowly
from PIL import Image
from test_sinks import ALL, ODD_NAMES, SURE, answer

from zsclip.answers.answers import Answers
from zsclip.answers.classifier import Classifier
from zsclip.answers.classify import classify
from zsclip.answers.scores import Rule
from zsclip.cli.rows import Output
from zsclip.errors import InputError
from zsclip.out.parquet import Layout, read_about, write_parquet
from zsclip.out.text import six_digits
from zsclip.pixels.skipped import Skipped

PLAIN = Layout()

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def written(batches: Sequence[Answers], layout: Layout = PLAIN, **options: Any) -> io.BytesIO:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw)
    write_parquet(batches, out, layout=layout, **options)
    out.detach()
    raw.seek(0)
    return raw


def as_json(table: pa.Table) -> list[dict[str, Any]]:
    """The records of the JSON lines with these rows."""
    rows = table.to_pylist()
    for row in rows:
        if (raw := row.pop("file_name_bytes")) is not None:
            assert raw.decode("utf-8", "replace") == row["file_name"]
            row["file_name"] = raw.decode("utf-8", "surrogateescape")
        for record in (row, *row["predictions"]):
            for name in ("score", "cosine"):
                record[name] = None if record[name] is None else six_digits(record[name])
    return rows


def slow_rows(batches: Sequence[Answers]) -> list[dict[str, Any]]:
    out = io.StringIO()
    write_jsonl_slowly(batches, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        ALL,
        [Skipped("a.jpg", "missing", "gone \udcff")] * 3,
        [replace(SURE, beaten_by="a sofa", label=None), SURE],
        [replace(SURE, truth="dog"), replace(SURE, truth="cat")],
        [replace(SURE, first_label="cat", first_score=0.5), Skipped("a.jpg", "missing", "gone")],
        [replace(SURE, first_score=0.5)],
        list(map(answer, ODD_NAMES)),
        [answer("a.jpg", "a \udcff label")],
    ],
)
def test_rows_are_those_of_the_json_lines(rows: list[Any]) -> None:
    batches = [columns(rows), columns(rows[:1])]

    layout = Layout(truth=any(row.truth for row in rows), first=batches[0].first_answered is not None)
    table = pq.read_table(written(batches, layout))

    assert as_json(table) == slow_rows(batches)


def random_batches(sizes: Sequence[int], rule: Rule, groups: tuple[str, ...] | None, rivals: int) -> Iterator[Answers]:
    random = np.random.default_rng(len(sizes))

    def vectors(count: int) -> np.ndarray:
        some = random.normal(size=(count, 8)).astype(np.float32)
        return some / np.linalg.norm(some, axis=1, keepdims=True)

    names = tuple(f"rival {i}" for i in range(rivals))
    matrix = Classifier(tuple("abcde"), vectors(5 + rivals), vectors(1), 20.0, None, (), groups, names)
    batches = []
    for size in sizes:
        some = [Skipped(f"{i}.jpg", "unreadable", "no") if random.random() < 0.2 else f"{i}.jpg" for i in range(size)]
        batches.append(encoded(some, vectors(sum(isinstance(name, str) for name in some))))
    return classify(batches, matrix, rule, with_vectors=True)


@pytest.mark.parametrize(
    ("rule", "groups", "rivals"),
    [
        (Rule(1, None, False), None, 0),
        (Rule(3, 0.5, False), None, 4),
        (Rule(None, 0.4, True), None, 0),
        (Rule(2, 0.4, True), None, 0),
        (Rule(2, None, False), tuple("xxyyz"), 2),
    ],
)
@pytest.mark.parametrize("sizes", [[1], [7, 0, 40], [9000, 9000, 3]])
def test_columns_of_every_kind_of_run_are_the_json_lines(
    sizes: list[int], rule: Rule, groups: tuple[str, ...] | None, rivals: int
) -> None:
    batches = list(random_batches(sizes, rule, groups, rivals))

    file = written(batches, Layout("float32", 8))
    table = pq.read_table(file)
    vectors = table["embedding"].to_pylist()

    assert as_json(table.drop_columns("embedding")) == slow_rows(batches)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    for mine, expected in zip(vectors, np.concatenate([batch.vectors for batch in batches]), strict=True):
        assert mine is None if np.isnan(expected[0]) else mine == expected.tolist()
    assert pq.ParquetFile(file).num_row_groups == (2 if sum(sizes) > 10_000 else 1)


def test_embeddings_may_have_half_the_size() -> None:
    batches = list(random_batches([5], Rule(1, None, False), None, 0))

    column = pq.read_table(written(batches, Layout("float16", 8)))["embedding"]

    assert column.type == pa.list_(pa.float16(), 8)
    good = batches[0].was_read()
    np.testing.assert_allclose(
        np.array(column.drop_null().to_pylist(), np.float32), batches[0].vectors[good], atol=1e-3
    )


def test_no_rows_make_a_file_with_all_columns() -> None:
    table = pq.read_table(written([], Layout("float16", 4)))

    assert table.num_rows == 0
    assert table.column_names[0] == "file_name"
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 4)


def test_a_file_that_is_cut_has_no_end(tmp_path: Path) -> None:
    def broken() -> Iterator[Answers]:
        yield from random_batches([9000, 9000], Rule(1, None, False), None, 0)
        raise KeyboardInterrupt

    with open(tmp_path / "a", "w") as out, pytest.raises(KeyboardInterrupt):
        write_parquet(broken(), out, layout=Layout(about={"a": 1}))

    assert (tmp_path / "a").stat().st_size > 1000
    assert read_about(str(tmp_path / "a")) is None
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(tmp_path / "a")


def test_settings_and_counts_are_read_without_the_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(written([columns(ALL)], Layout(about={"settings": {"k": 2}}), end=lambda: {"n": 4}).getvalue())

    assert read_about(str(file)) == ({"settings": {"k": 2}}, {"n": 4})
    assert read_about(str(tmp_path / "none")) is None
    file.write_bytes(file.read_bytes()[:-1])
    assert read_about(str(file)) is None


@pytest.fixture
def plain(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("plain"))


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Twelve pictures, a damaged one, and one whose name is not UTF-8."""
    folder = tmp_path / "noise"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    os.rename(folder / "07.png", os.fsencode(folder) + b"/\xff\xe9.png")
    return folder


@pytest.mark.parametrize(
    "options",
    [("-k", "2"), ("--multi-label", "--threshold", "0.5"), ("--none-of-these",), ("--only", "red"), ("-n", "3")],
)
def test_the_command_writes_the_same_rows_in_both_formats(
    options: tuple[str, ...], run: Run, noise: Path, plain: str, tmp_path: Path
) -> None:
    arguments = ("classify", "noise", "-l", "red,green,blue", "-m", plain, "--precision", "fp32", *options)

    done = run(*arguments, "-o", "rows.parquet", "--embeddings", "float32")
    lines = run(*arguments, "-f", "jsonl").stdout
    piped = run(*arguments, "-f", "parquet", "-q")

    table = pq.read_table(tmp_path / "rows.parquet")
    assert done.returncode == (0 if "-n" in options else 1), done.stderr
    assert as_json(table.drop_columns("embedding")) == [json.loads(line) for line in lines.splitlines()]
    assert pq.read_table(io.BytesIO(piped.stdout)).equals(table.drop_columns("embedding"))
    about = read_about(str(tmp_path / "rows.parquet"))
    assert about is not None
    assert about[0]["settings"]["labels"]["is"] == ["red", "green", "blue"]
    for vector in table["embedding"].drop_null().to_pylist():
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_finished_file_is_kept_and_a_cut_one_is_written_again(
    run: Run, noise: Path, plain: str, tmp_path: Path
) -> None:
    arguments = ("classify", "noise", "-l", "red,green,blue", "-m", plain, "-o", "rows.parquet")
    assert run(*arguments).returncode == 1
    whole = (tmp_path / "rows.parquet").read_bytes()

    assert b"already exists; add --overwrite" in run(*arguments).stderr
    assert b"already complete: 12 images, 1 failed" in run(*arguments, "--resume").stderr
    other = run(*arguments, "--resume", "-k", "2")
    assert (other.returncode, b"top-k: none -> 2" in other.stderr) == (2, True)
    assert run(*arguments, "--overwrite").returncode == 1
    assert (tmp_path / "rows.parquet").read_bytes() == whole


def test_a_cut_file_is_written_from_the_beginning(run: Run, noise: Path, plain: str, tmp_path: Path) -> None:
    arguments = ("classify", "noise", "-l", "red,green,blue", "-m", plain, "-o", "rows.parquet")
    assert run(*arguments).returncode == 1
    whole = tmp_path / "rows.parquet"
    expected = whole.read_bytes()
    whole.rename(tmp_path / "rows.parquet.part")
    settings = read_about(str(tmp_path / "rows.parquet.part"))
    assert settings is not None
    header = {"version": 2, "overwrite": False, "retries": False, **settings[0]}
    (tmp_path / "rows.parquet.part.json").write_text(json.dumps(header) + '\n[2, 0, 4, "", []]\n')
    (tmp_path / "rows.parquet.part").write_bytes(expected[:100])

    refused = run(*arguments)
    changed = run(*arguments, "--resume", "-k", "2")
    done = run(*arguments, "--resume")

    assert b"rows.parquet.part: left by an earlier run" in refused.stderr
    assert b"top-k: none -> 2" in changed.stderr
    assert b"cannot be continued, so it is written from the beginning" in done.stderr
    assert whole.read_bytes() == expected
    assert sorted(path.name for path in tmp_path.glob("rows*")) == ["rows.parquet"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"embeddings": "float16", "output": "a.csv"}, "--embeddings: "),
        ({"retry_errors": True, "output": "a.parquet"}, "--retry-errors: "),
    ],
)
def test_what_parquet_cannot_do_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"^{told}"):
        Output(**options)


def test_a_missing_library_names_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    with pytest.raises(InputError, match=r"^--format parquet: needs pyarrow: pip install 'zsclip\[parquet\]'$"):
        Output(output="a.parquet")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
def test_a_full_disk_is_one_line(run: Run, noise: Path, plain: str) -> None:
    done = run("classify", "noise", "-l", "red,blue", "-m", plain, "-q", "-f", "parquet", "-o", "/dev/full")

    assert (done.returncode, done.stderr.decode()) == (
        4,
        "zsclip: /dev/full: no space left on device; free some space and run again\n",
    )


def test_labelled_pictures_have_their_true_label(run: Run, plain: str, noise: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "red").mkdir(parents=True)
    (tmp_path / "data" / "blue").mkdir()
    for label in ("red", "blue"):
        for i in range(3):
            Image.new("RGB", (20, 20), (i, 9, 9)).save(tmp_path / "data" / label / f"{i}.png")

    done = run("eval", "data", "-m", plain, "--rows", "rows.parquet", "-q")

    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "rows.parquet")["truth"].to_pylist() == ["blue"] * 3 + ["red"] * 3
