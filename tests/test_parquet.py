"""Parquet files: the column with the images is found, and damage costs only the rows that it hits."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import LABELS, Run, content_of, picture, rows_of, write

from zsclip.errors import InputError
from zsclip.pictures import columns, identity
from zsclip.pictures.files import find_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_parquet_rows_without_bytes_are_read_from_files_or_fail(
    run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    chance = np.random.default_rng(0)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.png").write_bytes(picture(chance))
    os.mkfifo(tmp_path / "below" / "fifo.png")
    cells = [
        (picture(chance), "x"),
        None,
        (None, "a.png"),
        (None, None),
        (None, "gone.png"),
        (None, "fifo.png"),
        (b"", ""),
    ]
    rows = [None if cell is None else {"bytes": cell[0], "path": cell[1]} for cell in cells]
    pq.write_table(pa.table({"image": pa.array(rows)}), tmp_path / "below" / "a.parquet")
    command = ("classify", "below/a.parquet", *LABELS, "-m", model, "-f", "jsonl", "-q")

    first = rows_of(run(*command))
    same = rows_of(run(*command))
    (tmp_path / "below" / "a.png").write_bytes(picture(chance))
    changed = rows_of(run(*command))

    assert [row["file_name"] for row in first] == [f"below/a.parquet#{number}" for number in range(7)]
    kinds = [None, "missing", None, "missing", "missing", "not-a-file", "unreadable"]
    assert [row["error"] for row in first] == kinds
    assert first[1]["message"] == "the row has no image"
    assert same == first
    assert [before == after for before, after in zip(first, changed, strict=True)] == [True] * 2 + [False] + [True] * 4


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    album = [random.Random(i).randbytes(500) for i in range(40)]
    pq.write_table(pa.table({"image": album}), tmp_path / "a.parquet", row_group_size=10, compression="none")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    at = data.index(album[10])
    data[at - 4 : at] = b"\xff" * 4
    (tmp_path / "a.parquet").write_bytes(data)

    found = [data for _, data in content_of(find_images([str(tmp_path / "a.parquet")]))]

    assert (found[:10], found[20:]) == (album[:10], album[20:])
    assert all(str(each).startswith("unreadable: row group 1 is damaged: ") for each in found[10:20])
    (tmp_path / "a.parquet").write_bytes(data[:-20])
    ((name, broken),) = content_of(find_images([str(tmp_path / "a.parquet")]))
    assert name == str(tmp_path / "a.parquet")
    assert str(broken).startswith("unreadable: damaged, or not Parquet: ")


BINARY, STRUCT = pa.array([b"x"]), pa.array([{"bytes": b"x", "path": "y"}])


@pytest.mark.parametrize(
    ("table", "column", "found"),
    [
        ({"a": STRUCT, "image": BINARY}, None, "a"),
        ({"a": BINARY, "jpg": BINARY, "path": ["x"]}, None, "jpg"),
        ({"a": BINARY, "path": ["x"]}, None, "a"),
        ({"image": ["x"], "file_name": ["x"]}, None, "file_name"),
        ({"image": STRUCT, "b": STRUCT}, "b", "b"),
        ({"image": pa.array([b"x"], pa.large_binary()), "n": [1]}, None, "image"),
        ({"image": BINARY.dictionary_encode()}, None, "image"),
        ({"image": pa.array([b"x"], pa.binary_view()), "n": [1]}, None, "image"),
        ({"path": pa.array(["x"], pa.string_view()), "n": [1]}, None, "path"),
        ({"a": STRUCT, "b": STRUCT}, None, "several columns may hold the images: a, b; choose one with --column"),
        (
            {"png": BINARY, "jpg": BINARY},
            None,
            "several columns may hold the images: png, jpg; choose one with --column",
        ),
        ({"n": [1]}, None, "no column holds images or their paths; it has n (int64)"),
        ({"n": [1], "text": ["x"]}, None, "found no column of images among n, text; name one with --column"),
        ({"n": [1], "image": BINARY}, "n", "column 'n' holds int64, not images; choose another"),
        ({"image": BINARY}, "imgae", "no column 'imgae'; it has image"),
    ],
)
def test_the_column_with_the_images_is_found_or_asked_for(
    table: dict[str, Any], column: str | None, found: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    schema = pq.read_schema(tmp_path / "a.parquet")
    if found in table:
        assert columns.find_column("", schema, column).name == found
        return
    with pytest.raises(InputError) as raised:
        find_images([str(tmp_path / "a.parquet")], column=column)
    assert str(raised.value) == f"{tmp_path}/a.parquet: {found}"


def test_a_second_column_of_images_is_noted_once(run: Run, tmp_path: Path, model: str) -> None:
    chance = np.random.default_rng(0)
    image, other = ([picture(chance) for _ in range(4)] for _ in range(2))
    structs = [None, *({"bytes": each, "path": ""} for each in other[1:])]
    several = {"n": range(4), "image": image, "thumb": other, "digest": [b"no picture"] * 4, "mask": structs}
    for name in ("a", "b"):
        pq.write_table(pa.table(several).drop_columns(["mask"]), tmp_path / f"{name}.parquet")
    pq.write_table(pa.table(several), tmp_path / "struct.parquet")
    pq.write_table(pa.table({"image": image, "digest": several["digest"]}), tmp_path / "one.parquet")
    command = ("classify", *LABELS, "-m", model, "--no-store", "--runtime", "torch")

    def notes(*more: str) -> list[str]:
        done = run(*command, *([] if "-o" in more else ["-f", "jsonl"]), *more)
        assert done.returncode == (1 if "struct.parquet" in more and "thumb" not in more else 0), done.stderr
        return [line for line in done.stderr.decode().splitlines() if line.startswith("zsclip: ")]

    cure = "choose with --column"
    said = f"zsclip: a.parquet: images are read from column 'image', not from 'thumb'; {cure}"
    assert notes("a.parquet", "b.parquet") == [said]
    assert notes("struct.parquet") == [
        f"zsclip: struct.parquet: images are read from column 'mask', not from 'image' or 'thumb'; {cure}"
    ]
    assert notes("struct.parquet", "--column", "thumb") == []
    assert notes("one.parquet") == []
    assert notes("a.parquet", "-q") == []
    assert notes("a.parquet", "b.parquet", "-o", "out/") == [said]
    assert notes("a.parquet", "b.parquet", "-o", "out/", "--column", "thumb", "--overwrite") == []


def test_columns_are_checked_before_parts_are_written(run: Run, tmp_path: Path, model: str) -> None:
    chance = np.random.default_rng(0)
    pq.write_table(pa.table({"thumb": [picture(chance)], "image": [picture(chance)]}), tmp_path / "a.parquet")
    write(tmp_path / "b.tar", [("a.png", picture(chance))], "")
    command = ("classify", *LABELS, "-m", model, "-o", "out/")

    typo = run(*command, "b.tar", "a.parquet", "--column", "thunb")
    none = run(*command, "b.tar", "--column", "thumb")
    good = run(*command, "b.tar", "a.parquet", "--column", "thumb")

    assert (typo.returncode, typo.stderr) == (2, b"zsclip: a.parquet: no column 'thunb'; it has thumb, image\n")
    assert (none.returncode, none.stderr.count(b"\n")) == (2, 1)
    assert b"--column: only Parquet files and lists have columns" in none.stderr
    assert good.returncode == 0, good.stderr
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert {row["file_name"]: row["error"] for row in rows} == {"a.parquet#0": None, "b.tar#a.png": None}


@pytest.mark.parametrize("has_mark", [True, False])
def test_our_own_rows_are_a_list_of_the_images_of_that_run(
    has_mark: bool, run: Run, tmp_path: Path, model: str
) -> None:
    chance = np.random.default_rng(0)
    (tmp_path / "d").mkdir()
    (tmp_path / "rows").mkdir()
    for name in ("a.png", os.fsdecode(b"b-\xe9.png"), "c.png"):
        (tmp_path / "d" / name).write_bytes(picture(chance))
    command = ("classify", *LABELS, "-m", model, "-q")
    expected = rows_of(run(*command, "d", "-f", "jsonl"))
    run(*command, "d", "-o", "rows/a.parquet")
    if not has_mark:  # as after a change with pandas
        table = pq.read_table(tmp_path / "rows" / "a.parquet").replace_schema_metadata(None)
        pq.write_table(table, tmp_path / "rows" / "a.parquet")

    assert rows_of(run(*command, "rows/a.parquet", "-f", "jsonl")) == expected
    assert len(expected) == 3


def test_without_pyarrow_the_error_shows_how_to_install_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    done = run("classify", "a.parquet", *LABELS)

    assert done.returncode == 2
    assert done.stderr == b"zsclip: a.parquet: reading Parquet needs pyarrow: pip install 'zsclip[parquet]'\n"
