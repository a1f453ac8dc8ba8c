"""What a folder holds besides pictures is counted and said; and why there is no picture, if there is none."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from album import write_tar
from conftest import make_class_folders

from zsclip.pictures.files import find_images
from zsclip.pictures.passed_over import PassedOver, ending_of
from zsclip.pixels.search_summary import passed_over_line, why_no_images

Run = Callable[..., subprocess.CompletedProcess[bytes]]
COLOURS = ("--labels", "red,green,blue")


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("plain"))


@pytest.fixture
def mixed(photos: Path) -> Path:
    """The folder of photos, with twelve RAW files, a film, and three pictures without an extension."""
    picture = (photos / "red.png").read_bytes()
    for name in (*(f"{i}.NEF" for i in range(12)), "x.mov", *"abc"):
        (photos / name).write_bytes(picture)
    (photos / ".hidden.jpg").write_bytes(picture)
    return photos


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.NEF", ".nef"),
        ("photo.jpg_large", ".jpg_large"),
        ("README", ""),
        ("trailing.", ""),
        ("Mr. Smith and his dog", ""),
        ("1.2.840.113619", ""),
        ("frame.0000123", ""),
        ("song.mp3", ".mp3"),
        ("a.tar.gz", ".gz"),
        ("a." + "x" * 40, ""),
        ("caf\udce9.r\udce4w", ".r\udce4w"),
    ],
)
def test_the_ending_of_a_name(name: str, ending: str) -> None:
    assert ending_of(name) == ending


def test_files_that_are_passed_over_are_counted_by_ending_and_reason(mixed: Path) -> None:
    found = find_images([str(mixed)])

    assert len(list(found)) == 3
    assert passed_over_line(found.passed_over) == (
        "passed over: 12 .nef (camera RAW), 1 .mov (video), 3 without an extension (--all-files tries them)"
    )


def test_of_many_endings_the_most_frequent_are_named() -> None:
    found = PassedOver()
    for number in range(20):
        found.endings[f".x{number:02}"] = 100 - number

    line = passed_over_line(found)

    assert line.startswith("passed over: 100 .x00, 99 .x01, ")
    assert line.endswith(" 93 .x07, 1,038 of other types (--all-files tries them)")


def test_the_hint_is_not_for_endings_that_have_a_reason() -> None:
    found = PassedOver()
    found.endings.update({f".x{number}": 100 - number for number in range(7)} | {".nef": 50, ".mov": 2, ".y": 1})

    line = passed_over_line(found)

    assert line.startswith("passed over: 50 .nef (camera RAW), 3 of other types, 100 .x0, 99 .x1, ")
    assert line.endswith(", 94 .x6 (--all-files tries them)")
    assert "(--all-files" not in passed_over_line(found, can_try=False)


def test_classify_says_what_it_passed_over(run: Run, mixed: Path, model: str) -> None:
    lines = run("classify", "photos", *COLOURS, "-m", model).stderr.decode().splitlines()

    video = "1 .mov (video; add --every 1s)"
    assert f"passed over: 12 .nef (camera RAW), {video}, 3 without an extension (--all-files tries them)" in lines


def test_all_files_tries_every_file_of_a_folder(run: Run, mixed: Path, model: str) -> None:
    done = run("classify", "photos", *COLOURS, "-m", model, "--all-files")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file_name"] for row in rows] == sorted(
        f"photos/{name}" for name in os.listdir(mixed) if name[0] != "."
    )
    assert {row["file_name"] for row in rows if row["error"] is None} >= {"photos/a", "photos/b", "photos/c"}
    assert b"passed over" not in done.stderr


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], ": 'folder' has no files; check the path"),
        (["sub/deep/"], ": 'folder' has no files; check the path"),
        (["x.nef", "y.nef"], "; passed over: 2 .nef (camera RAW)"),
        (
            ["x.nef", "x.mov", "no_ending", "photo.jpg_large"],
            "; passed over: 1 .mov (video; add --every 1s), 1 .nef (camera RAW), 1 .jpg_large, 1 without an extension "
            "(--all-files tries them)",
        ),
        (["x"], "; passed over: 1 without an extension (--all-files tries it)"),
        (["skip/x.jpg", "skip/y.jpg"], ": --exclude left out 1"),
        ([".x.jpg", "@eaDir/y.jpg"], ": 2 hidden or generated"),
        (
            ["x.txt", "skip/x.jpg", ".x"],
            "; passed over: 1 .txt (--all-files tries it); --exclude left out 1; 1 hidden or generated",
        ),
    ],
)
def test_no_images_always_says_why(names: list[str], why: str, run: Run, tmp_path: Path, model: str) -> None:
    for name in ["folder/", *(f"folder/{name}" for name in names)]:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    command = ("classify", "folder", *COLOURS, "-m", model, "--exclude", "skip")

    done, quiet = run(*command), run(*command, "-q")

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines()[-1] == f"zsclip: no images{why}"
    assert (quiet.returncode, quiet.stdout, quiet.stderr.decode()) == (1, b"", f"zsclip: no images{why}\n")


def test_bench_says_why_there_are_no_images(run: Run, tmp_path: Path, model: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.cr2").touch()

    done = run("bench", "folder", "-m", model)

    assert (done.returncode, done.stderr.decode()) == (
        2,
        "zsclip: bench: no images; passed over: 1 .cr2 (camera RAW)\n",
    )


def test_several_empty_folders_are_counted(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    found = find_images([str(tmp_path / "a"), str(tmp_path / "b")])
    assert list(found) == []

    assert why_no_images(found.passed_over) == "no images: the 2 folders have no files; check the paths"


def test_an_exclusion_without_effect_is_noted(run: Run, photos: Path, model: str) -> None:
    command = ("classify", "photos", *COLOURS, "-m", model, "--exclude", "r*", "--exclude", "*.pgn")

    noted = [line for line in run(*command).stderr.decode().splitlines() if "--exclude" in line]

    assert noted == ["zsclip: --exclude '*.pgn': matched nothing; check its spelling"]
    assert b"--exclude" not in run(*command, "--exclude", "*.png", "-q").stderr.replace(b"--exclude left out", b"")
    assert b"--exclude" not in run(*command, "--limit", "1").stderr  # the rest of the folder was not looked at


def test_an_exclusion_that_another_one_hides_has_an_effect(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    notes: list[str] = []

    assert list(find_images([str(tmp_path)], exclude=["*.jpg", "a*"], note=notes.append)) == []
    assert notes == []


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = make_class_folders(tmp_path / "data", ("cat", "dog"), 3)
    (folder / "cat" / "x.nef").touch()
    (folder / "beside.png").touch()
    return folder


def test_eval_says_what_it_passed_over(run: Run, data: Path, model: str) -> None:
    lines = run("eval", "data", "-m", model).stderr.decode().splitlines()

    line = "passed over: 1 .nef (camera RAW), 1 .png (not in a label's folder)"
    assert line in lines


def test_eval_tries_all_files_of_label_folders_when_asked(run: Run, data: Path, model: str) -> None:
    (data / "cat" / "no_ending").write_bytes((data / "cat" / "0.png").read_bytes())

    done = run("eval", "data", "-m", model, "--all-files", "--rows", "rows.jsonl", "-q")

    rows = [json.loads(line) for line in (data.parent / "rows.jsonl").read_text().splitlines()]
    assert done.returncode == 1
    assert {row["file_name"]: row["error"] for row in rows} == {
        **{f"data/{label}/{i}.png": None for label in ("cat", "dog") for i in range(3)},
        "data/cat/no_ending": None,
        "data/cat/x.nef": "unreadable",
    }


def test_label_folders_without_pictures_say_what_they_hold(run: Run, tmp_path: Path, model: str) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "x.nef").touch()

    done = run("eval", "data", "-m", model, "-q")

    assert done.returncode == 2
    assert b"data: no labelled images; passed over: 2 .nef (camera RAW)" in done.stderr


def test_no_folder_counts_for_two_labels_by_links(run: Run, data: Path, model: str, tmp_path: Path) -> None:
    """A loop, a second name for a label, a link between labels, and a label that lies elsewhere."""
    make_class_folders(tmp_path / "elsewhere", ("owl",), 2)
    (data / "loop").symlink_to(data)
    (data / "a cat by another name").symlink_to(data / "cat")
    (data / "cat" / "up").symlink_to(data)
    (data / "cat" / "dogs").symlink_to(data / "dog")
    (data / "owl").symlink_to(tmp_path / "elsewhere" / "owl")

    done = run("eval", "data", "-m", model, "--rows", "rows.jsonl")

    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [
        *(f"data/{label}/{i}.png" for label in ("cat", "dog") for i in range(3)),
        *(f"data/owl/{i}.png" for i in range(2)),
    ]
    assert [row["truth"] for row in rows] == [*["cat"] * 3, *["dog"] * 3, *["owl"] * 2]
    noted = [line for line in done.stderr.decode().splitlines() if "a link to" in line]
    assert [line.split("'")[1] for line in noted] == ["data/a cat by another name", "data/loop"]


def test_an_empty_archive_or_list_is_named_as_what_it_is(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [])
    (tmp_path / "a.csv").write_text("file_name\n")
    for name, lacks in (("a.tar", "members"), ("a.csv", "rows")):
        found = find_images([str(tmp_path / name)])
        assert list(found) == []
        assert why_no_images(found.passed_over) == f"no images: {str(tmp_path / name)!r} has no {lacks}"
