"""Lists of images, and brace ranges: relative paths, our own rows, and what is missing is a row."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from album import LABELS, Run, folder_of, good_album, picture, rows_of, write, write_tar

from zsclip.errors import InputError
from zsclip.pictures.containers import expand_braces
from zsclip.pictures.files import find_images


def test_lists_are_relative_and_what_is_missing_is_a_row(run: Run, tmp_path: Path, model: str) -> None:
    chance = np.random.default_rng(0)
    folder_of(tmp_path / "d", {"a.png": picture(chance), "b.png": picture(chance)})
    (tmp_path / "b.csv").write_text("file_name, x\n d/a.png , 1, more\n")
    lines = ["file_name,path", "a.png,x", f"{tmp_path}/d/b.png,x", "gone.png,x", ",x", "shell://a.b/c.png,x"]
    (tmp_path / "d" / "a.csv").write_text("\n".join(lines))
    (tmp_path / "d" / "a.ndjson").write_text('{"path": "b.png"}\nnonsense\n\n{"image": 1}\n{"image": "a.png"}\n')
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "-q")

    done = run(*command, "d/a.csv", "d/a.ndjson", "b.csv")

    assert [(row["file_name"], row["error"]) for row in rows_of(done)] == [
        ("d/a.png", None), (f"{tmp_path}/d/b.png", None), ("d/gone.png", "missing"), ("d/a.csv:5", "missing"),
        ("shell://a.b/c.png", "unsupported"), ("d/b.png", None), ("d/a.ndjson:2", "missing"),
        ("d/a.ndjson:4", "missing"), ("d/a.png", None), ("d/a.png", None),
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_our_own_rows_are_a_list_of_the_same_pictures(ending: str, run: Run, tmp_path: Path, model: str) -> None:
    chance = np.random.default_rng(0)
    names = ["a.png", " spaced.png ", "tab\tand\\t.png", "two\nlines.png", os.fsdecode(b"\xe9.png"), "cut.png"]
    folder_of(tmp_path / "d", {name: picture(chance) if name != "cut.png" else b"bad" for name in names})
    (tmp_path / "rows").mkdir()
    command = ("classify", *LABELS, "-m", model, "-q", "-k", "2")
    assert run(*command, "d", "-o", f"rows/a.{ending}").returncode == 1

    again = run(*command, f"rows/a.{ending}", "-f", ending)

    assert again.stdout == (tmp_path / "rows" / f"a.{ending}").read_bytes()


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.zip", "struct.parquet"])
def test_rows_about_members_are_a_list_of_them(kind: str, run: Run, tmp_path: Path, model: str) -> None:
    write(tmp_path / kind, good_album(), "")
    command = ("classify", *LABELS, "-m", model, "-q", "--batch-size", "1", "--no-store")
    assert run(*command, kind, "-o", "rows.jsonl").returncode == 0
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()

    again = run(*command, "rows.jsonl", "-f", "jsonl")
    (tmp_path / "back.jsonl").write_text("\n".join([*rows[::-1], rows[0].replace("#", "#none")]))
    back = rows_of(run(*command, "back.jsonl", "-f", "jsonl"))

    assert again.stdout.decode().splitlines() == rows
    assert back[:-1] == [json.loads(row) for row in rows[::-1]]
    what = "the Parquet file has no such row" if kind == "struct.parquet" else "the archive has no such member"
    assert (back[-1]["error"], back[-1]["message"]) == ("missing", what)


def test_a_member_is_named_on_the_command_line_as_in_rows(run: Run, tmp_path: Path, model: str) -> None:
    write(tmp_path / "a.tar", good_album(), "")
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "-q", "--batch-size", "1", "--no-store")
    rows = rows_of(run(*command, "a.tar"))

    done = run(*command, rows[3]["file_name"], "a.tar#none", rows[1]["file_name"])
    no_archive = run(*command, "b.tar#a.jpg")

    first, none, second = rows_of(done)
    assert (first, second) == (rows[3], rows[1])
    assert (none["error"], none["message"]) == ("missing", "the archive has no such member")
    assert no_archive.returncode == 2


def test_a_member_of_an_archive_that_is_cut_off_says_so(run: Run, tmp_path: Path, model: str) -> None:
    write_tar(tmp_path / "a.tar", good_album()[:8])
    cut = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    names = [f"a.tar#{good_album()[place][0]}" for place in (0, 7)] + ["bad.zip#a.png"]
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "-q")

    rows = rows_of(run(*command, *names))

    *_, of_tar = rows_of(run(*command, "a.tar"))
    (of_zip,) = rows_of(run(*command, "bad.zip"))
    expected = [(None, None), *((each["error"], each["message"]) for each in (of_tar, of_zip))]
    assert [(row["error"], row["message"]) for row in rows] == expected
    assert [row["file_name"] for row in rows] == names


def test_a_list_without_a_column_of_paths_is_refused(run: Run, tmp_path: Path, model: str) -> None:
    (tmp_path / "a.csv").write_text("name,label\nx,y\n")
    (tmp_path / "a.jsonl").write_text('{"name": "x"}\n')
    for name, found in (("a.csv", "name, label"), ("a.jsonl", "name")):
        done = run("classify", name, *LABELS)
        assert done.returncode == 2
        assert done.stderr.decode() == (
            f"zsclip: {name}: needs a column of image paths named file_name, path or image; found {found}\n"
        )
    (tmp_path / "wide.csv").write_bytes("file_name\nx.png\n".encode("utf-16"))
    wide = run("classify", "wide.csv", *LABELS)
    assert (wide.returncode, wide.stderr) == (2, b"zsclip: wide.csv: UTF-16; save it as UTF-8\n")
    done = run("classify", "a.csv", *LABELS, "-m", model, "--exclude", "*.csv", "-q")
    assert (done.returncode, done.stderr) == (1, b"zsclip: no images: --exclude left out 1\n")


def test_containers_that_come_through_stdin_or_a_list_are_rows(run: Run, tmp_path: Path, model: str) -> None:
    write_tar(tmp_path / "a.tar", good_album()[:1])
    (tmp_path / "a.csv").write_text("file_name\na.tar\n")
    for given, text in (("-", b"a.tar\n"), ("a.csv", b"")):
        (row,) = rows_of(run("classify", given, *LABELS, "-m", model, "-f", "jsonl", "-q", input=text))
        assert (row["file_name"], row["error"]) == ("a.tar", "unsupported")
        assert row["message"] == "an archive or a list; name it on the command line to read the images in it"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("s-{000..002}.tar", ["s-000.tar", "s-001.tar", "s-002.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{3..1..2}x", ["3x", "1x"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{a,b{1,2}}x", ["ax", "b1x", "b2x"]),
        ("{,a}b", ["b", "ab"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{a}", ["{a}"]),
        ("{1..2", ["{1..2"]),
        ("}{", ["}{"]),
    ],
)
def test_brace_ranges_are_expanded(text: str, meant: list[str]) -> None:
    assert expand_braces(text) == meant
    assert subprocess.run(["bash", "-c", f"echo {text}"], capture_output=True).stdout.decode().split() == meant


def test_brace_ranges_are_inputs_unless_a_file_is_called_so(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"s-{i:03}.png": b"" for i in range(12)} | {"{a,b}.png": b"", "a.png": b"", "b.png": b""})

    def found(text: str) -> list[str]:
        return [os.path.basename(path) for path in find_images([str(tmp_path / text)])]

    assert found("s-{009..011}.png") == ["s-009.png", "s-010.png", "s-011.png"]
    assert found("s-00{1,3}*") == ["s-001.png", "s-003.png"]
    assert found("{a,b}.png") == ["{a,b}.png"]
    with pytest.raises(InputError, match=r"no such file or folder: '.*s-012.png'"):
        found("s-{009..012}.png")
    for huge in ("{0..99999999999}", "{1..999}{1..999}"):
        with pytest.raises(InputError, match="stands for more than 100,000 files; use a smaller range"):
            found(huge)


def test_a_column_needs_something_that_has_columns(run: Run, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [])

    done = run("classify", "a.tar", *LABELS, "--column", "image")

    assert done.returncode == 2
    assert done.stderr == b"zsclip: --column: only Parquet files and lists have columns; give one, or leave it out\n"
