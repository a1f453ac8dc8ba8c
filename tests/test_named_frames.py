"""Frames of videos by their names: those that `classify` saw, wherever else a picture may be named."""

import io
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import Run, rows_of
from clips import colour_of, make_clip, noise, number_of
from PIL import Image
from servers import serving
from test_video import KINDS, frames_of

from zsclip import Classifier
from zsclip.errors import InputError
from zsclip.out.reader import read_answers
from zsclip.pictures import named_frames
from zsclip.pictures.clips import Clip, Unread, find_in_clip
from zsclip.pictures.containers import archive_of, split_member
from zsclip.pictures.decoding_thread import is_waiting, waiting
from zsclip.pictures.files import find_images
from zsclip.pictures.listed import Members
from zsclip.pictures.named_frames import NamedFrames
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.sampling import Sampling
from zsclip.pictures.video import Shot, Video

LABELS = ("-l", "red,green,blue")


@pytest.fixture(autouse=True)
def _no_open_reels() -> None:
    named_frames._reels.clear()


def seen_by_classify(path: Path | str) -> dict[str, bytes]:
    """The slow twin: every frame by its name, of a clip that is decoded once from its beginning."""
    found: dict[str, bytes] = {}
    for some in find_in_clip(str(path), Sampling(1), Unread(), Network(), is_animation=str(path).endswith(".gif")):
        assert some.read is not None
        for place, name in enumerate(some.names):
            if "#" in name:
                data = some.read(place)
                assert isinstance(data, bytes)
                found.setdefault(str(name), data)
    return found


def reason_of(read: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        read()
    return f"{caught.value.kind}: {caught.value.message}"


def content(found: Pictures, place: int) -> bytes:
    with found.open(place) as file:
        return file.read()


@pytest.fixture
def jumps(monkeypatch: pytest.MonkeyPatch) -> list[Fraction | None]:
    """Where decoders begin."""
    begun: list[Fraction | None] = []
    real = Video.frames
    monkeypatch.setattr(Video, "frames", lambda self, start=None: begun.append(start) or real(self, start))
    return begun


@pytest.mark.parametrize(("codec", "ending"), [*KINDS, ("mpeg2video", "mpg"), ("libx264", "flv"), ("libx264", "m2ts")])
def test_each_frame_is_the_one_that_classify_saw(
    tmp_path: Path, codec: str, ending: str, jumps: list[Fraction | None]
) -> None:
    clip = make_clip(tmp_path / f"a.{ending}", 130, codec=codec, gop=12, pictures=noise(130))
    expected = seen_by_classify(clip)
    names = sorted(expected)
    random.Random(0).shuffle(names)

    frames = NamedFrames(str(clip), Network())

    for name in names[:25]:
        assert frames.read(name) == expected[name], name
    if codec != "mjpeg":
        assert sum(start is not None for start in jumps) > 5


@pytest.mark.parametrize(
    "coding", ["open-gop=1:bframes=5:b-pyramid=normal", "intra-refresh=1", "bframes=16:rc-lookahead=20"]
)
@pytest.mark.parametrize("ending", ["mp4", "m2ts", "fragments.mp4"])
def test_a_jump_is_exact_where_frames_build_on_those_before_a_key_frame(
    tmp_path: Path, ending: str, coding: str
) -> None:
    container = {"movflags": "frag_keyframe+empty_moov"} if ending[0] == "f" else {}
    clip = make_clip(tmp_path / f"a.{ending}", 90, gop=12, pictures=noise(90), coding=coding, **container)
    expected = seen_by_classify(clip)
    names = sorted(expected)
    random.Random(0).shuffle(names)

    frames = NamedFrames(str(clip), Network())

    assert all(frames.read(name) == expected[name] for name in names[:20])


@pytest.mark.parametrize("seed", range(4))
def test_a_jump_is_exact_where_the_frame_rate_varies(tmp_path: Path, seed: int) -> None:
    chance = np.random.default_rng(seed)
    times = np.cumsum(chance.choice([1, 7, 33, 40, 250, 1000, 3100], 150)).tolist()
    clip = make_clip(tmp_path / f"a.{'mkv' if seed % 2 else 'mp4'}", 150, times=times, gop=20, pictures=noise(150))
    expected = seen_by_classify(clip)
    names = sorted(expected)
    chance.shuffle(names)

    frames = NamedFrames(str(clip), Network())

    assert len(names) == 150
    assert all(frames.read(name) == expected[name] for name in names[:25])


def test_frames_in_order_are_decoded_once_and_late_threads_find_theirs(
    tmp_path: Path, jumps: list[Fraction | None]
) -> None:
    clip = make_clip(tmp_path / "a.mp4", 200)
    names = [f"{clip}#t={second}.000" for second in range(8)]
    (some,) = find_images(names).rest()

    order = [1, 0, 3, 2, 5, 4, 7, 6, 0]
    assert [number_of(np.asarray(Image.open(some.open(place)))) for place in order] == [
        25 * place % 64 for place in order
    ]
    assert len(jumps) == 1


def test_few_videos_are_open_at_a_time(tmp_path: Path) -> None:
    clips = [make_clip(tmp_path / f"{number}.mp4", [number] * 3) for number in range(6)]
    names = [f"{clip}#t=0.040" for clip in clips]

    found = list(find_images(names).rest())

    assert [number_of(np.asarray(Image.open(some.open(0)))) for some in found] == list(range(6))
    assert len(named_frames._reels) == named_frames._OPEN_REELS


def test_frames_after_damage_are_those_that_classify_saw(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 150, pictures=noise(150), gop=15, movflags="faststart")
    data = bytearray(clip.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 9000, 3000):
        data[place : place + 300] = bytes(300)
    clip.write_bytes(data)
    expected = seen_by_classify(clip)
    all_names = [f"{clip}#t={number / 25:.3f}" for number in range(150)]
    assert 60 < len(expected) < 150

    for name in random.Random(1).sample(all_names, 60):
        frames = NamedFrames(str(clip), Network())
        if name in expected:
            assert frames.read(name) == expected[name], name
        else:
            assert reason_of(lambda: frames.read(name)).startswith("missing: no frame at "), name  # noqa: B023


def test_a_jump_that_meets_damage_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "a.mp4", 100, gop=12)
    expected = seen_by_classify(clip)
    real = Video.frames

    def frames(self: Video, start: Fraction | None = None) -> Iterator[Shot]:
        for shot in real(self, start):
            if start is not None and shot.seconds == 3:  # as where frames build on some before the jump
                self._damages = 1
                continue
            yield shot

    monkeypatch.setattr(Video, "frames", frames)

    assert NamedFrames(str(clip), Network()).read(f"{clip}#t=3.000") == expected[f"{clip}#t=3.000"]


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        ("1.234", "no frame at 1.234 s; the nearest are at 1.200 s and 1.240 s"),
        ("99", "no frame at 99 s; the last is at 3.960 s"),
        ("-1", "no frame at -1 s; the first is at 0.000 s"),
        ("-1.0", "no frame at -1.0 s; the first is at 0.000 s"),
        ("nan", "'nan' is not a time in seconds; the first is at 0.000 s"),
        ("1e0", "'1e0' is not a time in seconds; the first is at 0.000 s"),
        ("inf", "'inf' is not a time in seconds; the first is at 0.000 s"),
        ("999999999", "no frame at 999999999 s; the last is at 3.960 s"),
        ("9" * 30, f"'{'9' * 30}' is not a time in seconds; the first is at 0.000 s"),
    ],
)
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "m2ts"])
def test_a_time_without_a_frame_says_what_is_there(tmp_path: Path, ending: str, time: str, reason: str) -> None:
    clip = make_clip(tmp_path / f"a.{ending}", 100, codec="mpeg4" if ending == "avi" else "libx264", gop=12)

    assert reason_of(lambda: NamedFrames(str(clip), Network()).read(f"{clip}#t={time}")) == f"missing: {reason}"


def test_a_time_may_be_short(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 60)
    frames = NamedFrames(str(clip), Network())

    assert frames.read("a.mp4#t=1") == frames.read("a.mp4#t=1.0") == frames.read("a.mp4#t=1.000")


def test_a_video_that_is_cut_off_or_none_says_so(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 100, pictures=noise(100), movflags="faststart")
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    reason = reason_of(lambda: NamedFrames(str(clip), Network()).read(f"{clip}#t=3.960"))
    assert reason.startswith("missing: no frame at 3.960 s; the last is at 2.")
    assert ", as the video is cut off after 2." in reason

    (tmp_path / "b.mp4").write_bytes(b"no video")
    read = NamedFrames(f"{tmp_path}/b.mp4", Network()).read
    assert reason_of(lambda: read("b.mp4#t=1.000")) == "unreadable: damaged, or not a video in a supported format"


def test_frames_of_animations_are_named_too(tmp_path: Path) -> None:
    images = [Image.new("RGB", (20, 20), colour_of(number)) for number in range(5)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=300)
    images[0].save(tmp_path / "still.gif")
    expected = seen_by_classify(tmp_path / "a.gif")
    assert len(expected) == 5

    members = Members(Network())

    for name in reversed(expected):
        assert members.open(name).read() == expected[name]
    assert reason_of(lambda: members.open(f"{tmp_path}/a.gif#t=9")).endswith("no frame at 9 s; the last is at 1.200 s")
    still = reason_of(lambda: members.open(f"{tmp_path}/still.gif#t=0.000"))
    assert still == "missing: an image that is not animated has no frames"


def test_a_search_for_a_frame_may_be_limited_in_time(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 100)
    frames = NamedFrames(str(clip), Network(), most_seconds=-1)

    assert reason_of(lambda: frames.read(f"{clip}#t=3.000")) == "timeout: its frame was not reached within -1 s"
    assert frames.read(f"{clip}#t=0.000")  # the first one that is decoded


def test_large_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 3)
    frames = NamedFrames(str(clip), Network(), max_pixels=1000)

    assert reason_of(lambda: frames.read(f"{clip}#t=0.000")).startswith("too-large: 3072 pixels")


def test_files_that_are_called_so_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4", 60)
    Image.new("RGB", (9, 9)).save("x.png")
    Path("clip.mp4#t=1.000").write_bytes(Path("x.png").read_bytes())
    Path("a.tar").write_bytes(b"")
    Path("a.tar#x.jpg").write_bytes(Path("x.png").read_bytes())
    Path("a.tar#b.mp4").write_bytes(Path("clip.mp4").read_bytes())

    for name in ("clip.mp4#t=1.000", "a.tar#x.jpg"):
        assert archive_of(name) == ""
        (some,) = find_images([name]).rest()
        assert content(some, 0) == Path("x.png").read_bytes()
    assert archive_of("clip.mp4#t=2.000") == "clip.mp4"
    assert archive_of("a.tar#b.mp4#t=1.000") == "a.tar#b.mp4"
    assert split_member("b.tar#b.mp4#t=1.000") == ("b.tar", "b.mp4#t=1.000")
    assert split_member("clip.mp4#x") == ("clip.mp4#x", "")
    assert split_member("http://[#t=1.mp4#t=1") == ("http://[#t=1.mp4#t=1", "")
    with pytest.raises(InputError, match=r"no such file or folder: 'clip\.mp4#x'"):
        find_images(["clip.mp4#x"])


def test_rows_are_inputs_again(run: Run, tmp_path: Path, model: str) -> None:
    """On the command line, from stdin, in rows of every kind, and in Python; the answers are the same."""
    make_clip(tmp_path / "a.mp4", 130, pictures=noise(130))
    command = ("classify", *LABELS, "-m", model, "-q", "--no-store")
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        run(*command, "a.mp4", "-o", f"rows.{ending}")
    rows = rows_of(run(*command, "a.mp4", "-f", "jsonl"))
    names = [row["file_name"] for row in rows]
    assert names == [f"a.mp4#t={second}.000" for second in range(6)]

    for ending in ("csv", "tsv", "jsonl", "parquet"):
        assert_same(rows_of(run(*command, f"rows.{ending}", "-f", "jsonl")), rows)
    assert_same(rows_of(run(*command, *names[::-1], "-f", "jsonl", "--report", "page.html")), rows[::-1])
    cards = json.loads((tmp_path / "page.html").read_text().partition('id="rows">')[2].partition("</script>")[0])
    assert [card[1] for card in cards] == names[::-1]  # a link to the video, and the time
    assert len({card[7] for card in cards} - {None}) == 6
    run(*command, "rows.csv", "-o", "parts/")
    assert [row.name for row in read_answers(str(tmp_path / "parts"))] == names
    assert_same(rows_of(run(*command, "-", "-f", "jsonl", input="\n".join(names).encode())), rows)
    one = Classifier(["red", "green", "blue"], model=model)(str(tmp_path / names[3]))
    assert one.label == rows[3]["label"]
    assert one.score == pytest.approx(rows[3]["score"], abs=1e-5)


def assert_same(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    assert [(row["file_name"], row["label"]) for row in rows] == [(row["file_name"], row["label"]) for row in others]
    assert [row["score"] for row in rows] == pytest.approx([row["score"] for row in others], abs=1e-5)


def test_a_frame_is_not_encoded_again(run: Run, tmp_path: Path, model: str) -> None:
    clip = make_clip(tmp_path / "a.mp4", 60)
    os.utime(clip, ns=(0, 0))
    time_passes(clip)
    run("classify", "a.mp4", *LABELS, "-m", model, "-o", "rows.csv", "-q")

    for _ in range(2):  # by its content, then by its name
        done = run("classify", "rows.csv", *LABELS, "-m", model, "-f", "csv")
        assert b"3 images, encoded by an earlier run" in done.stderr


def time_passes(clip: Path) -> None:
    import time

    time.sleep(2.1)  # a file that was changed a moment ago may change again unnoticed
    assert clip.exists()


def test_a_frame_that_is_not_there_is_an_error_row(run: Run, tmp_path: Path, model: str) -> None:
    make_clip(tmp_path / "a.mp4", 60)

    done = run("classify", "a.mp4#t=1.000", "a.mp4#t=99", "gone.mp4", "-m", model, *LABELS, "-f", "jsonl", "-q")
    assert (done.returncode, done.stdout) == (2, b"")
    done = run("classify", "a.mp4#t=1.000", "a.mp4#t=99", "-m", model, *LABELS, "-f", "jsonl", "-q")

    assert done.returncode == 1
    assert [row["message"] for row in rows_of(done)] == [None, "no frame at 99 s; the last is at 2.360 s"]


def test_frames_by_url(tmp_path: Path, run: Run, model: str) -> None:
    pytest.importorskip("aiohttp")
    clip = make_clip(tmp_path / "a.mp4", 130, pictures=noise(130))
    expected = seen_by_classify(clip)
    with serving(tmp_path) as server:
        members = Members(Network())
        for at in ("4.000", "1.000", "2.480"):
            assert members.open(f"{server.url}/a.mp4?x#t={at}").read() == expected[f"{clip}#t={at}"]
        found = list(find_images([f"{server.url}/a.mp4#t=1.000"]).rest())
        assert [content(some, 0) for some in found] == [expected[f"{clip}#t=1.000"]]
        like = f"{server.url}/a.mp4#t=1.000"
        done = run("search", "--like", like, "--in", "a.mp4", "-m", model, "-f", "paths", "-n", "1", "-q")
        assert done.stdout == b"a.mp4#t=1.000\n"
        done = run("search", "--like", like, "--in", "a.mp4", "-m", model, "--offline")
        assert done.returncode == 2
        assert b"a URL, which --offline forbids" in done.stderr


def test_without_pyav_the_row_says_how_to_install_it(tmp_path: Path, model: str) -> None:
    make_clip(tmp_path / "a.mp4", 30)
    script = "import sys; sys.modules['av'] = None; from zsclip.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "classify", "a.mp4#t=1.000", *LABELS, "-m", model, "-f", "jsonl"]

    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False)

    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    reason = "a frame of a video; to read it: pip install 'zsclip[video]'"
    assert (row["error"], row["message"]) == ("unsupported", reason)


def test_an_output_is_not_the_video_of_a_frame(run: Run, tmp_path: Path, model: str) -> None:
    make_clip(tmp_path / "a.mp4", 30)
    (tmp_path / "rows.csv").write_text("file_name,label\na.mp4#t=1.000,red\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    data = (tmp_path / "a.mp4").read_bytes()

    for command in (
        ("classify", "a.mp4#t=1.000", *LABELS, "-f", "csv"),
        ("classify", "rows.csv", *LABELS, "-f", "csv"),
        ("learn", "rows.csv", "-l", "red,blue"),
        ("search", "--like", "a.mp4#t=1.000", "--in", "x.png", "-f", "csv"),
        ("classify", "x.png", *LABELS, "--example", "red=a.mp4#t=1.000", "-f", "csv"),
    ):
        done = run(*command, "-m", model, "-o", "a.mp4", "--overwrite")
        assert done.returncode == 2, command
        assert b"would overwrite" in done.stderr, command
    assert (tmp_path / "a.mp4").read_bytes() == data


def test_keys_of_frames_change_with_the_video(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 60)
    os.utime(clip, ns=(0, 0))
    time_passes(clip)
    name = f"{clip}#t=1.000"
    first = NamedFrames(str(clip), Network())
    assert first.key(name) == NamedFrames(str(clip), Network()).key(f"{clip}#t=1") is not None
    assert first.key(name) != first.key(f"{clip}#t=2.000")
    for at in ("0.0005", "0.0015", "1.0005", "12.0005", "12.0015"):  # a key says what is read
        assert first.key(f"{clip}#t={at}") == first.key(f"{clip}#t={float(at):.3f}"), at
    assert first.key(f"{clip}#t=-1") is first.key(f"{clip}#t=nan") is None

    os.utime(clip, ns=(10**9, 10**9))

    assert first.key(name) is None


def test_a_thread_that_waits_twice_waits_until_both_have_ended() -> None:
    thread = threading.get_ident()
    with waiting():
        with waiting():
            pass
        assert is_waiting(thread)
    assert not is_waiting(thread)


def test_opening_is_left_until_a_frame_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "a.mp4", 30)
    opened: list[str] = []
    real = Clip.opened
    monkeypatch.setattr(Clip, "opened", lambda self: opened.append(self.path) or real(self))

    found = list(find_images([f"{clip}#t=0.000"]).rest())

    assert not opened
    assert Image.open(io.BytesIO(content(found[0], 0))).size == (64, 48)
    assert opened == [str(clip)]


def test_frames_named_as_find_names_them(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 3)
    assert [at for at, _ in frames_of(clip, Sampling(1))] == ["0.000", "0.040", "0.080"]
    found: Any = find_images([f"{clip}#t=0.040"])
    assert list(found) == [f"{clip}#t=0.040"]
