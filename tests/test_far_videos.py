"""Videos by URL: the frames of the same file on the disk, whatever the server does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import LABELS, Run, rows_of
from clips import make_clip, number_of
from conftest import HANGS
from PIL import Image
from servers import Served, serving
from test_video import RULES, frames_of, numbers_of, playlist

from zsclip import Answers, Classifier
from zsclip.kept.contents import FRAME_TIMES
from zsclip.pictures import far_file, fetch, identity
from zsclip.pictures.files import find_images
from zsclip.pictures.sampling import Sampling

pytest.importorskip("aiohttp")

KINDS = {
    "moov-at-the-end.mp4": {},
    "faststart.mp4": {"movflags": "faststart"},
    "fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx"},
    "a.ts": {},
    "a.avi": {"codec": "mpeg4"},
    "a.mov": {"codec": "mjpeg"},
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(far_file, "_BLOCK_BYTES", 10_000)
    far_file._BLOCKS._blocks.clear()
    fetch._server.cache_clear()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as server:
        yield server


def noisy(path: Path, count: int = 60, **options: Any) -> Path:
    """A clip of many bytes."""
    chance = np.random.default_rng(0)
    pictures = [chance.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]
    return make_clip(path, count, pictures=pictures, gop=10, **options)


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_the_file(name: str, has_ranges: bool, tmp_path: Path, server: Served) -> None:
    clip = noisy(tmp_path / name, sound=2, **KINDS[name]) if name != "a.webm" else noisy(tmp_path / name, **KINDS[name])
    server.has_ranges = has_ranges
    assert clip.stat().st_size > 5 * far_file._BLOCK_BYTES

    for rule in RULES:
        near, far = frames_of(clip, rule), frames_of(f"{server.url}/{name}", rule)
        assert [at for at, _ in far] == [at for at, _ in near]
        for (_, one), (_, other) in zip(near, far, strict=True):
            np.testing.assert_array_equal(one, other)
        assert len(near) >= 2


def test_a_clip_is_read_once_and_in_parts(tmp_path: Path, server: Served) -> None:
    clip = noisy(tmp_path / "a.mkv", 200)

    numbers_of(f"{server.url}/a.mkv")

    assert server.sent <= clip.stat().st_size * 1.1 + 10 * far_file._BLOCK_BYTES
    assert server.count("GET") >= 20


def test_a_cut_off_clip_says_so_as_the_file_does(tmp_path: Path, server: Served) -> None:
    for name, options in (("a.mkv", {}), ("a.mp4", {"movflags": "faststart"}), ("a.avi", {"codec": "mpeg4"})):
        clip = noisy(tmp_path / name, **options)
        clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])

        *near, (_, reason) = numbers_of(clip)
        *far, (_, same) = numbers_of(f"{server.url}/{name}")

        assert "cut off after" in reason
        assert same == reason
        assert [number for _, number in far] == [number for _, number in near]
        assert near


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_a_server_that_fails_midway_costs_the_rest_and_is_not_remembered(
    name: str, tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    noisy(tmp_path / name, movflags="faststart") if name == "a.mp4" else noisy(tmp_path / name)
    url, sampling = f"{server.url}/{name}", Sampling(1, kept=FRAME_TIMES)
    whole = numbers_of(tmp_path / name)
    server.fault = lambda path, count: 503 if count > 8 else None

    *found, (row, reason) = frames_of(url, sampling)
    fetch._server.cache_clear()
    far_file._BLOCKS._blocks.clear()
    server.fault = lambda path, count: None
    later = numbers_of(url, sampling)

    assert (row, reason) == ("", "unreadable: cannot be fetched: HTTP 503 Service Unavailable, 5 times")
    assert [at for at, _ in found] == [at for at, _ in whole][: len(found)]
    assert 10 <= len(found) < 60
    assert [number for _, number in later] == [number for _, number in whole]


def test_a_server_that_is_busy_for_a_while_costs_nothing(tmp_path: Path, server: Served) -> None:
    clip = noisy(tmp_path / "a.mp4")
    server.fault = lambda path, count: {2: 503, 3: 429, 4: "half", 7: 503, 12: "half", 13: 503}.get(count)

    assert [each for _, each in numbers_of(f"{server.url}/a.mp4")] == [each for _, each in numbers_of(clip)]


def test_a_clip_that_changes_while_it_is_read_is_never_mixed(tmp_path: Path, server: Served) -> None:
    clip = noisy(tmp_path / "a.mkv", 150)
    whole = frames_of(clip)
    make_clip(tmp_path / "other.mkv", 60)

    def swap(path: str, count: int) -> None:
        if count == 14:
            os.replace(tmp_path / "other.mkv", clip)

    server.fault = swap

    *found, (_, reason) = frames_of(f"{server.url}/a.mkv")

    assert reason == "unreadable: the file that holds it has changed since this run began"
    for (_, one), (_, other) in zip(found, whole, strict=False):
        np.testing.assert_array_equal(one, other)
    assert found


def test_without_ranges_a_large_clip_says_what_to_do(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_file, "_LARGEST_COPY", 1000)
    noisy(tmp_path / "a.mp4")
    server.has_ranges = False

    ((_, reason),) = frames_of(f"{server.url}/a.mp4")

    what = "more than 1,000 bytes, and its server cannot send parts of it; download it first"
    assert reason == f"too-large: {what}"


def test_a_list_of_other_files_leads_nowhere(tmp_path: Path, server: Served, capfd: pytest.CaptureFixture[str]) -> None:
    playlist(tmp_path / "a.mp4")

    ((_, reason),) = frames_of(f"{server.url}/a.mp4")

    assert reason == "unreadable: damaged, or not a video in a supported format"
    assert {path for _, path in server.asked} == {"a.mp4"}
    assert capfd.readouterr() == ("", "")


def test_a_second_run_reads_no_frame(
    run: Run, tmp_path: Path, model: str, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    make_clip(tmp_path / "a.mp4", 60)
    command = ("classify", f"{server.url}/a.mp4", *LABELS, "-m", model, "--every", "5", "-f", "jsonl")
    near = rows_of(run(*command[:1], "a.mp4", *command[2:]))
    first = run(*command)
    far_file._BLOCKS._blocks.clear()
    server.asked.clear()

    second = run(*command)

    assert [row["file_name"] for row in rows_of(first)] == [f"{server.url}/{row['file_name']}" for row in near]
    assert [row | {"file_name": ""} for row in rows_of(first)] == [row | {"file_name": ""} for row in near]
    assert second.stdout == first.stdout
    assert second.stderr.startswith(b"12 images, encoded by an earlier run")
    assert server.asked == [("HEAD", "a.mp4")]
    make_clip(tmp_path / "a.mp4", 30)
    assert len(rows_of(run(*command))) == 6


def test_segments_and_python_take_urls(run: Run, tmp_path: Path, model: str, server: Served) -> None:
    clip = make_clip(tmp_path / "a.mp4", 75)
    command = ("classify", *LABELS, "-m", model, "--segments", "-f", "csv", "-q")
    near, far = run(*command, "a.mp4"), run(*command, f"{server.url}/a.mp4")
    classify = Classifier(["red", "green", "blue"], model=model)

    answers = classify(f"{server.url}/a.mp4")

    assert near.stdout
    assert far.stdout == near.stdout.replace(b"a.mp4", f"{server.url}/a.mp4".encode())
    assert isinstance(answers, Answers)
    assert [name.partition("#")[2] for name in answers.names] == [f"t={i}.000" for i in range(3)]
    assert answers.labels == classify(clip).labels


def test_what_is_not_there_ends_before_a_model_is_looked_for(run: Run, server: Served) -> None:
    done = run("classify", f"{server.url}/none.mp4", *LABELS, "-m", "no/such-model")

    told = f"zsclip: cannot read '{server.url}/none.mp4': HTTP 404 Not Found\n"
    assert (done.returncode, done.stderr.decode()) == (2, told)


def test_frames_in_lists_are_fetched_also_where_the_list_lies_on_the_server(tmp_path: Path, server: Served) -> None:
    make_clip(tmp_path / "a.mp4", 30)
    (tmp_path / "rows.csv").write_text(f"file_name\n{server.url}/a.mp4#t=1.000\n")
    (tmp_path / "far.csv").write_text("file_name\na.mp4#t=1.000\n")

    for name in (str(tmp_path / "rows.csv"), f"{server.url}/far.csv"):
        (some,) = find_images([name]).rest()

        assert list(some.names) == [f"{server.url}/a.mp4#t=1.000"]
        assert number_of(np.asarray(Image.open(some.open(0)))) == 25


def test_without_pyav_the_row_shows_how_to_install_it(tmp_path: Path, model: str, server: Served) -> None:
    make_clip(tmp_path / "a.mp4", 30)
    script = "import sys; sys.modules['av'] = None; from zsclip.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "classify", f"{server.url}/a.mp4", *LABELS, "-m", model, "-f", "jsonl"]

    done = subprocess.run(command, capture_output=True, timeout=HANGS)

    (row,) = rows_of(done)
    assert (row["error"], row["message"]) == ("unsupported", "a video; to read it: pip install 'zsclip[video]'")
