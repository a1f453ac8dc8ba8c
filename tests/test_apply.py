"""`zsclip apply`: rows in, folders out."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import snapshot

Run = Callable[..., subprocess.CompletedProcess[bytes]]
Given = Callable[..., Path]


def row(name: str, *labels: str, score: float = 0.9, **others: Any) -> dict[str, Any]:
    """A JSON line with these labels; several have scores of their own."""
    predictions = [{"label": label, "score": score, "cosine": 0.2} for label in labels]
    kind = "sigmoid" if len(labels) > 1 else "softmax"
    answer = {"label": labels[0] if labels else None, "score": score, "cosine": 0.2, "score_kind": kind}
    return {"file_name": name, **answer, "predictions": predictions, "error": None, "message": None, **others}


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """Give a function that writes rows, and the pictures they name if those are not there."""

    def write(*rows: dict[str, Any]) -> Path:
        for each in rows:
            path = tmp_path / os.fsdecode(each["file_name"].encode("utf-8", "surrogateescape"))
            if "#" not in each["file_name"] and "://" not in each["file_name"] and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"picture {each['file_name'][0]}")
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
        return tmp_path / "rows.jsonl"

    return write


def files_in(folder: Path) -> list[str]:
    return sorted(os.fsdecode(os.path.relpath(path, os.fsencode(folder))) for path in snapshot(folder))


def test_pictures_go_to_the_folders_of_their_labels_and_back(given: Given, run: Run, tmp_path: Path) -> None:
    given(row("in/a.jpg", "cat"), row("in/b.jpg", "dog"), row("in/c.jpg"), row("in/d.jpg", error="missing", label=None))
    (tmp_path / "in/a.xmp").touch()
    before = snapshot(tmp_path / "in")

    done = run("apply", "rows.jsonl", "--move-to", "out")

    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().splitlines() == [
        "3 files moved",
        "left where they are: 1 without an answer and 1 that could not be read",
        "log: rows.jsonl.apply.jsonl; `zsclip apply --undo rows.jsonl.apply.jsonl` takes all of it back",
    ]
    assert files_in(tmp_path / "out") == ["cat", "cat/a.jpg", "cat/a.xmp", "dog", "dog/b.jpg"]
    assert files_in(tmp_path / "in") == ["c.jpg", "d.jpg"]
    again = run("apply", "rows.jsonl", "--move-to", "out")
    assert again.stderr.decode().splitlines()[0] == "2 done by an earlier run"
    undone = run("apply", "--undo", "rows.jsonl.apply.jsonl")
    assert (undone.returncode, undone.stdout, undone.stderr) == (0, b"", b"3 files moved back\n")
    assert snapshot(tmp_path / "in") == before
    assert not (tmp_path / "out").exists()
    assert run("apply", "--undo", "rows.jsonl.apply.jsonl").stderr == b"nothing is left to take back\n"


def test_a_dry_run_prints_the_plan_and_does_nothing(given: Given, run: Run, tmp_path: Path) -> None:
    given(row("in/a.jpg", "cat"), row("in/new\nline.jpg", "cat"), row("in/c.jpg", score=0.4))

    done = run(
        "apply", "rows.jsonl", "--copy-to", "{label}/{score}", "--unknown-to", "rest/{score}-{name}", "--dry-run"
    )

    assert done.stdout.decode().splitlines() == [
        "copy in/a.jpg -> cat/0.900/a.jpg",
        r"copy in/new\nline.jpg -> cat/0.900/new\nline.jpg",
        "copy in/c.jpg -> rest/0.400-c.jpg",
    ]
    assert (done.returncode, done.stderr) == (0, b"3 images, 3 files in all, would be done\n")
    assert files_in(tmp_path) == ["in", "in/a.jpg", "in/c.jpg", "in/new\nline.jpg", "rows.jsonl"]


def test_names_that_are_taken_get_numbers_and_the_same_picture_is_left_out(
    given: Given, run: Run, tmp_path: Path
) -> None:
    rows = [row(f"{folder}/a.jpg", "cat") for folder in ("1", "2", "2/again", "3")]
    given(*rows)
    (tmp_path / "2/a.jpg").write_text("second")
    (tmp_path / "2/again/a.jpg").write_text("second")
    (tmp_path / "2/a.jpg.xmp").write_text("about the second")
    (tmp_path / "out/cat").mkdir(parents=True)
    (tmp_path / "out/cat/a.jpg").write_text("of others")
    (tmp_path / "out/cat/a-3.jpg.xmp").write_text("in the way")

    done = run("apply", "rows.jsonl", "--copy-to", "out")

    assert done.stderr.decode().splitlines()[0] == "4 files copied, 1 there already"
    read = {path.name: path.read_text() for path in (tmp_path / "out/cat").iterdir()}
    assert read == {
        "a.jpg": "of others", "a-2.jpg": "picture 1", "a-3.jpg.xmp": "in the way", "a-4.jpg": "second",
        "a-4.jpg.xmp": "about the second", "a-5.jpg": "picture 3",
    }  # fmt: skip


def test_a_picture_goes_to_every_label_that_applies_but_is_not_moved_to_two(
    given: Given, run: Run, tmp_path: Path
) -> None:
    given(row("a.jpg", "beach", "sunset"), row("b.jpg", "beach"))

    linked = run("apply", "rows.jsonl", "--link-to", "links", "-q")
    moved = run("apply", "rows.jsonl", "--move-to", "moved", "-q")

    assert (linked.returncode, linked.stderr) == (0, b"")
    assert [name for name in files_in(tmp_path / "links") if "." in name] == [
        "beach/a.jpg",
        "beach/b.jpg",
        "sunset/a.jpg",
    ]
    assert (tmp_path / "links/sunset/a.jpg").readlink() == tmp_path / "a.jpg"
    assert moved.returncode == 1
    assert moved.stderr == b"left a.jpg: 2 labels apply, but a file can be in only one folder; copy or link it\n"
    assert files_in(tmp_path / "moved") == ["beach", "beach/b.jpg"]


def test_a_score_below_the_least_is_no_answer(given: Given, run: Run, tmp_path: Path) -> None:
    given(row("a.jpg", "cat", score=0.9), row("b.jpg", "cat", score=0.3), row("c.jpg"))

    done = run("apply", "rows.jsonl", "--move-to", "out", "--min-score", "0.5", "--unknown-to", "rest", "-q")

    assert (done.returncode, done.stderr) == (0, b"")
    assert [files_in(tmp_path / name) for name in ("out", "rest")] == [["cat", "cat/a.jpg"], ["b.jpg", "c.jpg"]]


def test_companions_can_be_left_behind(given: Given, run: Run, tmp_path: Path) -> None:
    given(row("in/a.jpg", "cat"))
    for name in ("a.NEF", "a.mov", "a.jpg.json"):
        (tmp_path / "in" / name).touch()

    run("apply", "rows.jsonl", "--move-to", "out", "--no-companions")

    assert files_in(tmp_path / "out") == ["cat", "cat/a.jpg"]


def test_a_file_that_goes_with_another_picture_is_not_moved_by_a_row_of_its_own(
    given: Given, run: Run, tmp_path: Path
) -> None:
    given(row("in/a.jpg", "cat"), row("in/a.nef", "dog"), row("in/b.jpg", "cat"), row("in/b.jpg", "dog"))

    done = run("apply", "rows.jsonl", "--move-to", "out", "-q")

    assert files_in(tmp_path / "out") == ["cat", "cat/a.jpg", "cat/a.nef", "cat/b.jpg"]
    assert (done.returncode, done.stderr) == (1, b"left in/b.jpg: another row moves it elsewhere\n")


def test_two_pictures_share_a_sidecar_that_goes_with_the_first(given: Given, run: Run, tmp_path: Path) -> None:
    given(row("in/a.jpg", "cat"), row("in/a.png", "dog"))
    (tmp_path / "in/a.xmp").touch()

    done = run("apply", "rows.jsonl", "--move-to", "out", "-q")

    assert (done.returncode, done.stderr) == (0, b"")
    assert files_in(tmp_path / "out") == ["cat", "cat/a.jpg", "cat/a.xmp", "dog", "dog/a.png"]


def test_names_are_bytes(given: Given, run: Run, tmp_path: Path) -> None:
    name = "in/\udcff\n\udc80.jpg"
    given(row(name, "cat"))

    assert run("apply", "rows.jsonl", "--move-to", "out", "-q").returncode == 0
    assert os.listdir(os.fsencode(tmp_path / "out/cat")) == [b"\xff\n\x80.jpg"]
    assert run("apply", "--undo", "rows.jsonl.apply.jsonl", "-q").returncode == 0
    assert os.listdir(os.fsencode(tmp_path / "in")) == [b"\xff\n\x80.jpg"]


def test_rows_from_a_pipe_leave_their_log_in_the_current_folder(given: Given, run: Run, tmp_path: Path) -> None:
    rows = given(row("a.jpg", "cat")).read_bytes()

    done = run("apply", "-", "--copy-to", "out", input=rows)

    assert done.returncode == 0
    assert b"log: zsclip.apply.jsonl; " in done.stderr
    assert run("apply", "--undo", "zsclip.apply.jsonl", "-q").returncode == 0
    assert not (tmp_path / "out").exists()


def test_a_member_may_have_a_hash_in_its_name(given: Given, run: Run, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("no#1.jpg"), io.BytesIO())
    given(row("x.tar#no#1.jpg", "cat"))

    assert b"left x.tar#no#1.jpg: inside an archive; --copy-to copies it out\n" in (
        run("apply", "rows.jsonl", "--move-to", "out", "-q").stderr
    )


def test_members_of_archives_are_copied_out_but_not_moved(given: Given, run: Run, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("dir/a.png", "other/a.png", "../..", "same/a.png"):
            member = tarfile.TarInfo(name)
            content = data.getvalue() + b"0" * (name == "other/a.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    pq.write_table(pa.table({"image": [data.getvalue()] * 2}), tmp_path / "d.parquet")
    names = ["x.tar#dir/a.png", "x.tar#other/a.png", "x.tar#same/a.png", "x.tar#../..", "d.parquet#1", "x.tar#gone"]
    given(*(row(name, "cat") for name in names))

    copied = run("apply", "rows.jsonl", "--copy-to", "out")
    moved = run("apply", "rows.jsonl", "--move-to", "out", "-q")

    assert copied.returncode == moved.returncode == 1
    assert b"left x.tar#gone: the archive has no such member\n" in copied.stderr
    assert files_in(tmp_path / "out/cat") == ["_", "a-2.png", "a.png", "d-1.png"]
    assert (tmp_path / "out/cat/a.png").read_bytes() == (tmp_path / "out/cat/d-1.png").read_bytes() == data.getvalue()
    assert b"left x.tar#dir/a.png: inside an archive; --copy-to copies it out\n" in moved.stderr
    assert (
        run("apply", "rows.jsonl", "--copy-to", "out").stderr.splitlines()[1]
        == b"1 there already, 4 done by an earlier run"
    )
    assert run("apply", "--undo", "rows.jsonl.apply.jsonl", "-q").returncode == 0
    assert not (tmp_path / "out").exists()


def test_what_is_no_file_is_left_with_the_reason(given: Given, run: Run, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    names = ["clip.mp4#t=1.500", "https://example.org/a.jpg", "folder", "link.jpg", "no.tar#a.jpg"]
    given(*(row(name, "cat") for name in names))

    done = run("apply", "rows.jsonl", "--move-to", "out", "-q")

    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "left clip.mp4#t=1.500: a frame of a video; --copy-to copies it out",
        "left https://example.org/a.jpg: on a server; download it first",
        "left folder: not a regular file",
        "left link.jpg: a symbolic link, which may lead nowhere from another folder; copy or link it",
        "left no.tar#a.jpg: no such file; run this in the folder in which it was classified",
    ]
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "rows.jsonl.apply.jsonl").exists()
    assert run("apply", "rows.jsonl", "--copy-to", "out", "-q").returncode == 1
    assert (tmp_path / "out/cat/link.jpg").is_file()


def test_frames_of_videos_are_copied_out_as_png(given: Given, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from clips import make_clip, number_of

    make_clip(tmp_path / "c.mp4", 80)
    names = [f"c.mp4#t={at}" for at in ("0.000", "1.000", "2.000", "1.000", "99")]
    given(*(row(name, "cat") for name in names))

    done = run("apply", "rows.jsonl", "--copy-to", "out")

    assert done.stderr.decode().splitlines()[0] == "left c.mp4#t=99: no frame at 99 s; the last is at 3.160 s"
    assert files_in(tmp_path / "out/cat") == ["c-0.000.png", "c-1.000.png", "c-2.000.png"]
    for second in range(3):
        with Image.open(tmp_path / f"out/cat/c-{second}.000.png") as image:
            assert (image.format, number_of(np.asarray(image))) == ("PNG", 25 * second)
    again = run("apply", "rows.jsonl", "--copy-to", "out")
    assert b"3 done by an earlier run" in again.stderr
    (tmp_path / "out/cat/c-1.000.png").rename(tmp_path / "out/cat/c-0.000.png")
    assert run("apply", "rows.jsonl", "--tag", "xmp", "-q").stderr.splitlines()[0] == (
        b"left c.mp4#t=0.000: a frame of a video, which is not a file"
    )
    (tmp_path / "rows.jsonl.apply.jsonl").rename(tmp_path / "log")
    undone = run("apply", "--undo", "log")
    assert undone.stderr.splitlines() == [
        b"left out/cat/c-0.000.png: has changed since",
        b"2 files removed",
    ]
    assert files_in(tmp_path / "out/cat") == ["c-0.000.png"]


def test_thousands_of_pictures_with_one_name_are_numbered_at_once(given: Given, run: Run, tmp_path: Path) -> None:
    given(*(row(f"{number}/image.jpg", "cat") for number in range(3000)))
    for number in range(3000):
        (tmp_path / f"{number}/image.jpg").write_text("x" * number)

    assert run("apply", "rows.jsonl", "--link-to", "out", "-q").returncode == 0
    assert len(os.listdir(tmp_path / "out/cat")) == 3000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "apply: give the file with the rows, - for stdin, or --undo LOG"),
        (["rows.jsonl"], "apply: needs one of --copy-to, --move-to, --link-to and --tag; found none of them"),
        (["rows.jsonl", "--copy-to", "a", "--move-to", "b"], "found --copy-to and --move-to"),
        (["rows.jsonl", "--copy-to", "{lable}"], "--copy-to: cannot fill in {lable}"),
        (["rows.jsonl", "--copy-to", "a", "--unknown-to", "{label}"], "--unknown-to: cannot fill in {label}"),
        (["rows.jsonl", "--copy-to", "s3://a/b"], "--copy-to s3://a/b: only local files can be written"),
        (["rows.jsonl", "--copy-to", "a", "--log", "s3://a/b"], "--log s3://a/b: only local files can be written"),
        (["rows.jsonl", "--undo", "x"], "--undo: takes nothing but a log; leave out ROWS"),
        (["rows.jsonl", "--copy-to", "out", "--log", "rows.jsonl"], "rows.jsonl: not a log of `zsclip apply`"),
        (["--undo", "rows.jsonl"], "rows.jsonl: not a log of `zsclip apply`"),
        (["--undo", "nope"], "nope: no such file; give the log"),
        (["nope", "--copy-to", "out"], "nope: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_touches_nothing(
    arguments: list[str], said: str, given: Given, run: Run, tmp_path: Path
) -> None:
    given(row("a.jpg", "cat"))
    before = snapshot(tmp_path)

    done = run("apply", *arguments)

    assert done.returncode == 2
    assert done.stderr.decode().startswith("zsclip: ")
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert snapshot(tmp_path) == before


def test_no_rows_and_a_log_in_no_folder_have_their_codes(given: Given, run: Run) -> None:
    given(row("a.jpg", "cat"))

    assert run("apply", "rows.jsonl", "--copy-to", "out", "--log", "no/log").returncode == 4
    empty = run("apply", "-", "--copy-to", "out", "-q", input=b"file_name,label\n")
    assert (empty.returncode, empty.stderr) == (1, b"zsclip: no rows\n")


def test_apply_loads_nothing_heavy(given: Given, tmp_path: Path) -> None:
    from test_folder_imports import HEAVY, modules_after

    rows = given(row("a.jpg", "cat"))
    loaded = modules_after(
        f"from zsclip.cli.main import main; main(['apply', {str(rows)!r}, '--copy-to', 'out', '-q'])"
    )

    assert not loaded & HEAVY
