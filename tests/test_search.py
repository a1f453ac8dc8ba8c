"""Search: the pictures that fit a sentence or look like a picture, best first."""

import json
import os
import sqlite3
import subprocess
import tempfile
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from clips import make_clip
from conftest import COLOURS
from PIL import Image

from zsclip.answers.search import combined, search
from zsclip.kept.cache import cache_dir
from zsclip.kept.storefile import FILE_NAME
from zsclip.models.embed import Embedded
from zsclip.out.reader import read_answers
from zsclip.pictures.identity import GRAIN_NS
from zsclip.pixels.skipped import Skipped

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def rows_of_length_1(random: np.random.Generator, count: int) -> np.ndarray:
    rows = random.normal(size=(count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def batches_of(vectors: np.ndarray, size: int) -> Iterator[Embedded]:
    """Batches in which every seventh picture failed."""
    for start in range(0, len(vectors), size):
        some = vectors[start : start + size]
        names = [f"{start + i}" for i in range(len(some))]
        skipped = {i: Skipped(names[i], "unreadable", "damaged") for i in range(len(some)) if (start + i) % 7 == 3}
        places = np.array([i for i in range(len(some)) if i not in skipped], np.int32)
        yield Embedded(names, places, some[places], skipped)


@pytest.mark.parametrize("most", [1, 5, 300, None])
@pytest.mark.parametrize("least", [None, 0.2])
@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 1), (700, 64), (20_000, 999)])
def test_a_search_finds_what_sorting_everything_finds(
    count: int, size: int, most: int | None, least: float | None
) -> None:
    random = np.random.default_rng(count)
    vectors, queries = rows_of_length_1(random, count), rows_of_length_1(random, 3)
    vectors[1::2] = vectors[: count // 2]  # ties go to the earlier picture

    found = search(batches_of(vectors, size), queries, ["a", "b", "c"], most=most, least=least)

    for place, answers in enumerate(found):
        cosines = {f"{i}": float(vector @ queries[place]) for i, vector in enumerate(vectors) if i % 7 != 3}
        wanted = [name for name in cosines if least is None or cosines[name] >= least]
        wanted = sorted(wanted, key=lambda name: -round(cosines[name], 5))[:most]
        assert len(answers) == len(wanted)
        assert np.allclose(answers.cosines[:, 0], [cosines[name] for name in wanted], atol=1e-5)
        assert answers.labels == ["abc"[place]] * len(wanted)
        by_vector: dict[bytes, list[int]] = {}
        for name in answers.names:
            by_vector.setdefault(vectors[int(name)].tobytes(), []).append(int(name))
        assert all(places == sorted(places) for places in by_vector.values())
    if count == 700:
        again = search(batches_of(vectors, 7), queries, ["a", "b", "c"], most=most, least=least)
        assert [each.names for each in again] == [each.names for each in found]


def test_equal_pictures_stay_in_order_however_many_there_are() -> None:
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (10_000, 1))

    (found,) = search(batches_of(vectors, 500), vectors[:1], ["a"], most=4)

    assert found.names == ["0", "1", "2", "4"]


def test_directions_are_added_and_taken_away() -> None:
    east, north, up = np.eye(3, dtype=np.float32)[:, None]

    assert np.allclose(combined(east, north, up), np.array([[1, 1, -1]]) / np.sqrt(3))
    assert np.allclose(combined(np.concatenate([east, up]), np.empty((0, 3)), np.empty((0, 3))), [[1, 0, 0], [0, 0, 1]])
    assert not combined(east, north[:0], east).any()


@pytest.fixture
def found(run: Run, model: str, photos: Path) -> Callable[..., list[tuple[str, str]]]:
    """Give a function that searches the photos, and gives the labels and names of its rows."""

    def search(*arguments: str) -> list[tuple[str, str]]:
        done = run("search", *arguments, "--in", "photos", "-m", model, "-q")
        assert (done.returncode, done.stderr) == (0, b"")
        return [(row["label"], row["file_name"]) for row in map(json.loads, done.stdout.splitlines())]

    return search


def test_a_picture_is_most_like_itself_and_a_sentence_has_all_pictures_in_order(
    found: Callable[..., list[tuple[str, str]]], photos: Path
) -> None:
    names = {f"photos/{name}.png" for name in COLOURS}

    for name in names:
        assert found("--like", name, "-n", "1") == [(name, name)]
    assert {name for _, name in found("a red wall")} == names
    both = found("a red wall", "a blue wall", "-n", "2")
    assert [label for label, _ in both] == ["a red wall"] * 2 + ["a blue wall"] * 2
    assert found("a red wall", "-n", "2") == both[:2]
    assert found("--like", "photos/red.png", "--threshold", "0.9999") == [("photos/red.png", "photos/red.png")]
    assert found("a wall", "--plus", "a dog", "--minus", "a cat", "-n", "1")[0][0] == "a wall + a dog - a cat"


def test_cosines_are_those_of_classify(run: Run, model: str, photos: Path) -> None:
    template = ("--template", "{}")
    classified = run("classify", "photos", "-l", "a red wall,a dog", *template, "-k", "2", "-m", model, "-q")
    searched = run("search", "a red wall", "a dog", "--in", "photos", "-m", model, "-q")

    expected = {
        (row["file_name"], each["label"]): each["cosine"]
        for row in map(json.loads, classified.stdout.splitlines())
        for each in row["predictions"]
    }
    rows = [json.loads(line) for line in searched.stdout.splitlines()]
    # The vector of a label, a mean of prompts, is normalised once more.
    assert {(row["file_name"], row["label"]): row["cosine"] for row in rows} == pytest.approx(expected, abs=1e-6)
    assert {row["score_kind"] for row in rows} == {"cosine"}
    assert all(row["score"] == row["cosine"] for row in rows)


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet", "html", "paths", "table"])
def test_hits_are_written_in_every_format(form: str, run: Run, model: str, photos: Path, tmp_path: Path) -> None:
    done = run("search", "a red wall", "--in", "photos", "-n", "2", "-m", model, "-q", "-f", form, "-o", "out.x")

    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")
    if form in ("jsonl", "csv", "tsv", "parquet"):
        rows = list(read_answers(str(tmp_path / "out.x")))
        assert [[label for label, _ in row.labels] for row in rows] == [["a red wall"]] * 2
    else:
        assert (tmp_path / "out.x").read_bytes().count(b".png") >= 2


def test_damaged_images_are_counted_and_archives_are_searched(
    run: Run, model: str, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.png").write_bytes(b"bad")
    subprocess.run(["tar", "-cf", tmp_path / "x.tar", "-C", photos, "red.png", "blue.png"], check=True)

    done = run("search", "a wall", "--in", "photos", "--in", "x.tar", "-m", model, "-f", "paths")

    assert done.returncode == 1
    assert sorted(done.stdout.decode().splitlines()) == [
        "photos/blue.png", "photos/green.png", "photos/red.png", "x.tar#blue.png", "x.tar#red.png",
    ]  # fmt: skip
    assert b"6 images" in done.stderr
    assert b"1 failed: unreadable 1" in done.stderr


def test_frames_of_videos_are_searched_and_shown(run: Run, model: str, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", [0] * 25 + [3] * 25 + [48] * 25)

    done = run("search", "a wall", "--in", "clip.mp4", "-m", model, "-f", "paths", "--report", "hits.html", "-q")

    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(done.stdout.decode().splitlines()) == [f"clip.mp4#t={second}.000" for second in range(3)]
    assert (tmp_path / "hits.html").read_text().count('"UklGR') == 3  # thumbnails: how WebP begins, in base64


def test_what_was_searched_is_not_read_again(run: Run, model: str, photos: Path) -> None:
    first = run("search", "a wall", "--in", "photos", "-m", model)
    Image.new("RGB", (9, 9)).save(photos / "new.png")
    second = run("search", "--like", "photos/red.png", "--in", "photos", "-m", model)

    assert b"3 images" in first.stderr
    assert b"4 images" in second.stderr
    assert b"3 of them encoded by an earlier run" in second.stderr


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets the address of each page that is opened, by a command that stands for a browser."""
    browser, addresses = tmp_path / "browser", tmp_path / "addresses"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {addresses}\n')
    browser.chmod(0o700)
    addresses.touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # it looks for browsers once in a process
    monkeypatch.setattr(webbrowser, "_browsers", {})
    return addresses


@pytest.mark.parametrize(
    ("given", "page"),
    [
        (["--report", "hits.html"], "hits.html"),
        (["-o", "rows.html"], "rows.html"),
        (["-o", "rows.html", "--report", "hits.html"], "hits.html"),
        (["-f", "html", "-o", "/dev/null"], None),
        ([], None),
    ],
)
@pytest.mark.parametrize("arguments", [["search", "a wall", "--in", "photos"], ["similar", "photos"]])
def test_the_page_is_opened(
    arguments: list[str], given: list[str], page: str | None, opened: Path, run: Run, model: str, photos: Path
) -> None:
    closed = run(*arguments, "--report", "closed.html", "-m", model)
    assert opened.read_text() == ""
    (photos / "again.png").write_bytes((photos / "red.png").read_bytes())

    done = run(*arguments, *given, "--open", "-m", model)

    (address,) = opened.read_text().splitlines()
    file = Path(unquote(urlsplit(address).path))
    assert (closed.returncode, done.returncode, urlsplit(address).scheme) == (0, 0, "file")
    assert file.read_text().count('"UklGR') >= 2
    assert done.stderr.count(os.fsencode(page or file)) == 1  # it was written
    if page is None:
        assert file.parent.parent == opened.parent / "temporary"
        assert file.parent.stat().st_mode & 0o777 == 0o700
    else:
        assert file == opened.parent / page
        assert not list((opened.parent / "temporary").iterdir())


@pytest.mark.parametrize("variables", [{}, {"DISPLAY": ":0", "SSH_CONNECTION": "1.2.3.4"}, {"BROWSER": "/no/browser"}])
def test_without_a_browser_the_place_of_the_page_is_said(
    variables: dict[str, str],
    opened: Path,
    run: Run,
    model: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "bin").mkdir()
    for name in ("xdg-open", "www-browser"):  # for a display, and for terminals
        (tmp_path / "bin" / name).symlink_to(tmp_path / "browser")
    monkeypatch.setenv("PATH", str(tmp_path / "bin") if "BROWSER" not in variables else "")

    done = run("search", "a wall", "--in", "photos", "--open", "-q", "-m", model)

    (line,) = done.stderr.decode().splitlines()
    page = line.removeprefix("zsclip: no browser here; open ").removesuffix(" in yours")
    assert (done.returncode, os.path.isfile(page), opened.read_text()) == (0, True, "")


def test_a_page_without_images_is_not_opened(opened: Path, run: Run, model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert run("search", "a wall", "--in", "empty", "--open", "-m", model).returncode == 1
    assert opened.read_text() == ""


def test_answers_are_the_same_from_pictures_rows_and_blocks(run: Run, model: str, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for i in range(40):
        path = tmp_path / "many" / f"{i:02}.png"
        Image.new("RGB", (9, 9), (6 * i, 200 - 5 * i, i)).save(path)
        os.utime(path, ns=(10**18, 10**18))
    for arguments in (["search", "a wall", "--in", "many"], ["classify", "many", "-l", "red,blue"]):
        time.sleep(GRAIN_NS / 1e9)  # a file that was just written has no key
        blocks, outputs = [], []
        for _ in range(4):
            outputs.append(run(*arguments, "-m", model, "-q").stdout)
            with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection:
                blocks += connection.execute("SELECT COUNT(*) FROM blocks").fetchone()

        assert outputs[1:] == outputs[:1] * 3
        assert (len(outputs[0].splitlines()) >= 20, blocks[-1]) == (True, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--in", "photos"], 2, "search: give a sentence, or --like with an image"),
        (["a dog"], 2, "missing option '--in'"),
        ([" ", "--in", "photos"], 2, "search: a sentence is empty"),
        (["--like", "nope.png", "--in", "photos"], 2, "--like nope.png: no such file"),
        (["--like", "bad.png", "--in", "photos"], 2, "--like bad.png: damaged, or not an image"),
        (["a dog", "--in", "nope"], 2, "no such file or folder: 'nope'"),
        (["a dog", "--minus", "a dog", "--in", "photos"], 2, "--minus: takes away all of the query"),
        (["a dog", "--in", "photos", "--print0"], 2, "--print0: only paths can end in NUL"),
        (["a dog", "--in", "photos", "-o", "photos/red.png", "-f", "csv", "--overwrite"], 2, "would overwrite"),
        (["a dog", "--in", "empty"], 1, "no images"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], code: int, said: str, run: Run, model: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "empty").mkdir()

    done = run("search", *arguments, "-m", model, "-q")

    assert done.returncode == code
    assert said in done.stderr.decode()
    assert (done.stderr.count(b"\n"), done.stdout) == (1, b"")
