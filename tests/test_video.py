"""The frames of videos: which ones, at what time, how they look, and what damage costs. The twin decodes them all."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import NUMBERS, colour_of, make_clip, noise, number_of
from PIL import Image

from zsclip.errors import InputError
from zsclip.kept.contents import FRAME_TIMES
from zsclip.pictures import decoding_thread
from zsclip.pictures.clips import Clip, Unread, find_in_clip
from zsclip.pictures.decoding_thread import DecodingThread
from zsclip.pictures.files import find_images
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.sampling import Sampling, sampling_of

Run = Callable[..., subprocess.CompletedProcess[bytes]]
EVERY = Sampling(1)


def frames_of(path: Path | str, sampling: Sampling = EVERY) -> list[tuple[str, Any]]:
    """Time and pixels of each frame of a clip; the reason in place of pixels that cannot be had."""
    found = []
    for some in find_in_clip(str(path), sampling, Unread(), Network()):
        assert some.read is not None
        for place, name in enumerate(some.names):
            try:
                data = some.read(place)
                assert isinstance(data, bytes)
                pixels: Any = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            except Refused as e:
                pixels = f"{e.kind}: {e.message}"
            found.append((name.removeprefix(str(path)).removeprefix("#t="), pixels))
    return found


def numbers_of(path: Path | str, sampling: Sampling = EVERY) -> list[tuple[str, Any]]:
    """Time and number of each frame; the reason in place of a number."""
    return [(at, got if isinstance(got, str) else number_of(got)) for at, got in frames_of(path, sampling)]


def all_frames(path: Path) -> list[tuple[Fraction, int, bool]]:
    """The slow twin: time, number and whether it is a key frame, of every frame that PyAV decodes."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.time_base is not None
        frames = [(f.pts, number_of(f.to_ndarray(format="rgb24")), f.key_frame) for f in file.decode(stream)]
        return [(pts * stream.time_base - frames[0][0] * stream.time_base, *rest) for pts, *rest in frames]  # type: ignore[misc]


def chosen(frames: list[tuple[Fraction, int, bool]], sampling: Sampling) -> list[tuple[str, int]]:
    """The slow twin of the choice."""
    if sampling.keyframes:
        taken = [frame for frame in frames if frame[2]]
    elif isinstance(sampling.every, int):
        taken = frames[:: sampling.every]
    else:
        taken, slots = [], []
        for frame in frames:
            slots.append(int(frame[0] / sampling.every))
            if len(slots) == 1 or slots[-1] != slots[-2]:
                taken.append(frame)
    return [(f"{float(seconds):.3f}", number) for seconds, number, _ in taken]


KINDS = [("libx264", "mp4"), ("libx264", "mkv"), ("libx264", "ts"), ("mpeg4", "avi"), ("libvpx", "webm")]
KINDS += [("libvpx-vp9", "webm"), ("mjpeg", "mov"), ("ffv1", "mkv")]
RULES = [Sampling(), Sampling(1), Sampling(7), Sampling(Fraction(3, 10)), Sampling(keyframes=True)]


@pytest.mark.parametrize(("codec", "ending"), KINDS)
def test_frames_are_those_of_the_slow_twin(tmp_path: Path, codec: str, ending: str) -> None:
    clip = make_clip(tmp_path / f"a.{ending}", 60, codec=codec, gop=25)
    frames = all_frames(clip)

    assert [number for _, number, _ in frames] == list(range(60))
    for rule in RULES:
        assert numbers_of(clip, rule) == chosen(frames, rule), rule


@pytest.mark.parametrize("seed", range(5))
def test_times_are_exact_where_the_frame_rate_varies(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.cumsum(random.choice([1, 7, 33, 40, 250, 1000, 3100], 60)).tolist()
    clip = make_clip(tmp_path / "a.mkv", 60, times=times, gop=int(random.integers(1, 40)))
    frames = all_frames(clip)

    assert [at for at, _, _ in frames] == [Fraction(each - times[0], 1000) for each in times]
    for rule in RULES:
        assert numbers_of(clip, rule) == chosen(frames, rule), rule


def test_time_starts_with_the_clip_whatever_its_timestamps_say(tmp_path: Path) -> None:
    """As players and `ffmpeg -ss` count; and a start that ffmpeg rounds up must not make the first frame early."""
    clip = make_clip(tmp_path / "a.mkv", 5, times=[16, 49, 1016, 1049, 2016])

    assert numbers_of(clip, Sampling()) == [("0.000", 0), ("1.000", 2), ("2.000", 4)]

    late = make_clip(tmp_path / "a.ts", 90, rate=30)
    with av.open(str(late)) as file:
        assert file.start_time % 10**6 not in (0, None)
    assert numbers_of(late, Sampling()) == [("0.000", 0), ("1.000", 30), ("2.000", 60 % NUMBERS)]


def test_a_frame_without_a_time_follows_at_the_usual_rate(tmp_path: Path) -> None:
    """A raw stream has no timestamps at all."""
    clip = make_clip(tmp_path / "a.h264", 30, rate=25)
    clip.rename(tmp_path / "a.mp4")

    assert [number for _, number in numbers_of(tmp_path / "a.mp4")] == list(range(30))
    assert [at for at, _ in numbers_of(tmp_path / "a.mp4", Sampling(10))] == ["0.000", "0.400", "0.800"]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    for place, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]):
        picture[24 * (place // 2) :, 32 * (place % 2) :] = colour
        picture[24 * (place // 2) + 24 :, 32 * (place % 2) :] = 0
    turn = (float(degrees), mirrored) if degrees or mirrored else None
    clip = make_clip(tmp_path / "a.mp4", 1, pictures=[picture], rotation=turn)

    ((_, seen),) = frames_of(clip)

    expected = np.rot90(picture, degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected)[4:-4:8, 4:-4:8].mean() < 40  # coding blurs the edges of colours


@pytest.mark.parametrize(("aspect", "shape"), [(Fraction(2), (48, 128)), (Fraction(1, 2), (96, 64)), (None, (48, 64))])
def test_pixels_that_are_not_square_are_stretched(
    tmp_path: Path, aspect: Fraction | None, shape: tuple[int, int]
) -> None:
    clip = make_clip(tmp_path / "a.mp4", 2, aspect=aspect)

    assert [pixels.shape[:2] for _, pixels in frames_of(clip)] == [shape, shape]


# Weights of red and blue in the luma, by the number of the matrix.
MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("matrix", [*MATRICES, 2])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (1280, 720)])
def test_colours_are_those_that_the_stream_declares(
    tmp_path: Path, matrix: int, full: bool, size: tuple[int, int]
) -> None:
    """Where it declares none (2), small frames are BT.601 and large ones BT.709, as players have it."""
    y, u, v = 120, 90, 180
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream: Any = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        frame = av.VideoFrame(*size, "yuv420p")
        for plane, value in zip(frame.planes, (y, u, v), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
        file.mux(stream.encode(frame))
        file.mux(stream.encode())

    ((_, pixels),) = frames_of(tmp_path / "a.mkv")

    red, blue = MATRICES[matrix if matrix in MATRICES else 5 if size[1] < 576 else 1]
    luma, scale = (y / 255, 255) if full else ((y - 16) / 219, 224)
    r, b = luma + 2 * (1 - red) * (v - 128) / scale, luma + 2 * (1 - blue) * (u - 128) / scale
    g = (luma - red * r - blue * b) / (1 - red - blue)
    assert np.abs(pixels.reshape(-1, 3).mean(axis=0) - 255 * np.clip([r, g, b], 0, 1)).max() < 2


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.58), (18, 0.75)])
def test_hdr_is_brought_to_what_a_screen_shows(tmp_path: Path, transfer: int, white: float) -> None:
    """White paper is 203 nits: 0.58 in PQ, 0.75 in HLG. Taken as it is, it would be grey."""
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_trc, context.color_primaries = 9, 1, transfer, 9
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        for plane, value in zip(frame.planes, (round(64 + 876 * white), 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = 9, 1, transfer, 9
        file.mux(stream.encode(frame))
        file.mux(stream.encode())

    ((_, pixels),) = frames_of(tmp_path / "a.mp4")

    assert pixels.min() > 235


def intact_and(path: Path, change: Callable[[bytes], bytes], **made: Any) -> tuple[list[Any], list[Any], str]:
    """Frames of a clip, those of the same clip after a change, and the last row of that."""
    made = {"pictures": noise(100), "gop": 20} | made
    make_clip(path, 100, **made)
    intact = frames_of(path)
    path.write_bytes(change(path.read_bytes()))
    *frames, (name, why) = frames_of(path)
    assert isinstance(why, str)
    assert name == ""
    return intact, frames, why


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    ("codec", "name"),
    [("libx264", "a.mp4"), ("mpeg4", "a.mov"), ("libx264", "a.mkv"), ("libvpx", "a.webm"), ("mpeg4", "a.avi")],
)
@pytest.mark.parametrize("share", [0.3, 0.61, 0.999])
def test_a_clip_that_is_cut_off_gives_the_frames_before_and_one_error(
    tmp_path: Path, codec: str, name: str, share: float
) -> None:
    options = {"movflags": "faststart"} if name[2] == "m" and name != "a.mkv" else {}
    intact, frames, why = intact_and(
        tmp_path / name, lambda data: data[: int(len(data) * share)], codec=codec, **options
    )

    assert why.startswith("unreadable: the video is cut off after ")
    assert f"after {frames[-1][0]} s: " in why
    assert abs(len(frames) - 100 * share) < 15
    assert same(frames, intact[: len(frames)])


@pytest.mark.parametrize(("codec", "name"), [("libx264", "a.mp4"), ("libx264", "a.mkv")])
def test_damage_costs_the_frames_up_to_the_next_key_frame(tmp_path: Path, codec: str, name: str) -> None:
    """Not one of the frames that are given shows a trace of it."""

    def damaged(data: bytes) -> bytes:
        half = len(data) // 2
        return data[:half] + bytes(2000) + data[half + 2000 :]

    intact, frames, why = intact_and(tmp_path / name, damaged, codec=codec)

    lost = [each[0] for each in intact if each[0] not in {frame[0] for frame in frames}]
    assert 0 < len(lost) <= 22
    assert same(frames, [each for each in intact if each[0] not in lost])
    before = max(float(at) for at, _ in frames if float(at) < float(lost[0]))
    assert why == (
        f"unreadable: the video is damaged after {before:.3f} s; frames up to the next key frame are left out"
    )


def test_a_recording_that_begins_between_key_frames_is_not_damaged(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.ts", 100, pictures=noise(100), gop=20)
    data = clip.read_bytes()
    with av.open(str(clip)) as file:
        positions = [packet.pos for packet in file.demux(video=0)]
    (tmp_path / "late.mts").write_bytes(data[: 188 * 4] + data[positions[10] :])

    frames = frames_of(tmp_path / "late.mts")

    assert same([("", pixels) for _, pixels in frames], [("", pixels) for _, pixels in frames_of(clip)[19:]])


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        file.mux([*stream.encode(samples), *stream.encode()])


def with_cover(path: Path) -> None:
    """A sound file with a picture: an MP4 track of one JPEG that is an attachment."""
    with av.open(str(path), "w", format="matroska") as file:
        stream: Any = file.add_stream("aac", rate=8000)
        cover: Any = file.add_attachment("cover.jpg", "image/jpeg", jpeg())
        assert cover is not None
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        file.mux([*stream.encode(samples), *stream.encode()])


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "JPEG")
    return file.getvalue()


def playlist(path: Path) -> None:
    make_clip(path.with_name("secret.mkv"), 3)
    path.write_text(f"ffconcat version 1.0\nfile '{path.with_name('secret.mkv')}'\n")


def hls(path: Path) -> None:
    make_clip(path.with_name("secret.ts"), 3)
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path.with_name('secret.ts')}\n#EXT-X-ENDLIST\n")


def no_frames(path: Path) -> None:
    data = make_clip(path, 30, movflags="faststart").read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 8])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (sound_only, "unsupported: only sound, no video"),
        (with_cover, "unsupported: only sound, no video"),
        (playlist, "unreadable: damaged, or not a video in a supported format"),
        (hls, "unreadable: damaged, or not a video in a supported format"),
        (lambda path: path.write_bytes(b""), "unreadable: damaged, or not a video in a supported format"),
        (lambda path: path.write_bytes(bytes(10_000)), "unreadable: damaged, or not a video in a supported format"),
        (no_frames, "unreadable: no frame can be decoded: it is cut off"),
    ],
)
def test_a_file_without_a_video_has_one_row_with_the_reason(
    tmp_path: Path, make: Callable[[Path], object], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a.mp4")

    ((name, found),) = frames_of(tmp_path / "a.mp4")

    assert name == ""
    assert found.startswith(why)
    assert capfd.readouterr() == ("", "")


def test_large_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 3, size=(640, 480))

    assert numbers_of(clip, Sampling(max_pixels=640 * 480 - 1)) == [
        ("", "too-large: 307200 pixels, more than --max-pixels 307199")
    ]
    assert len(numbers_of(clip, Sampling(1, max_pixels=640 * 480))) == 3


def test_the_size_may_change_and_time_may_jump_back_midway(tmp_path: Path) -> None:
    """Two recordings, one copied behind the other."""
    small, large = make_clip(tmp_path / "a.ts", 30), make_clip(tmp_path / "b.ts", 30, size=(128, 96))
    both = tmp_path / "both.mts"
    both.write_bytes(small.read_bytes() + large.read_bytes())

    frames = frames_of(both, Sampling(10))

    assert [pixels.shape[:2] for _, pixels in frames if not isinstance(pixels, str)] == [(48, 64)] * 3 + [(96, 128)] * 3
    assert [number for _, number in numbers_of(both, Sampling()) if isinstance(number, int)] == [0, 25, 0, 25]
    limited = numbers_of(both, Sampling(10, max_pixels=64 * 48))
    assert [number for _, number in limited[:3]] == [0, 10, 20]
    assert len(limited) == 4
    assert isinstance(limited[3][1], str)


def test_frames_can_be_read_in_any_order_and_again(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 60)
    found = list(find_in_clip(str(clip), EVERY, Unread(), Network()))

    def number(place: int) -> int:
        read = found[place].read
        assert read is not None
        return number_of(np.asarray(Image.open(io.BytesIO(read(0)))))  # type: ignore[arg-type]

    order = np.random.default_rng(0).permutation(np.repeat(np.arange(60), 2)).tolist()
    assert [number(place) for place in order] == order


def test_decoding_waits_for_the_readers(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 60)
    unread = Unread(8 << 19)  # eight small frames
    arrived: list[Any] = []
    found = find_in_clip(str(clip), EVERY, unread, Network())
    thread = threading.Thread(target=lambda: arrived.extend(found), daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while len(arrived) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)

    assert thread.is_alive()
    held = len(unread._shots)
    assert held <= 8
    for each in iter(lambda: sum(some.drop(0) is None for some in list(arrived)), 60):  # what is dropped makes room
        assert each < 60
    thread.join(20)
    assert len(arrived) == 60


def test_names_taken_one_by_one_hold_no_frame(tmp_path: Path) -> None:
    """As --resume takes those that have rows already."""
    clip = make_clip(tmp_path / "a.mp4", 300)
    paths = find_images([str(clip)], sampling=EVERY)

    names = [next(paths) for _ in range(290)]
    rest = list(paths.rest())

    assert names[-1] == f"{clip}#t=11.560"
    assert len(rest) == 10
    assert number_of(np.asarray(Image.open(rest[0].open(0)))) == 290 % NUMBERS
    paths.close()


def test_a_second_run_knows_the_frames_without_decoding(tmp_path: Path, run_alone: Run) -> None:
    clip = make_clip(tmp_path / "a.mp4", 100)
    os.utime(clip, ns=(0, 0))
    time.sleep(2.1)  # a file that was changed a moment ago may change again unnoticed
    code = "import sys; from zsclip.cli.main import main; main({}); print('av' in sys.modules, file=sys.stderr)"
    arguments = ["classify", str(clip), "-m", "tiny", "-l", "red,blue", "-f", "jsonl", "--every", "5"]

    def zsclip(*more: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code.format([*arguments, *more])], capture_output=True, text=True, check=True
        )
        return [done.stdout, *done.stderr.splitlines()]

    first, again, other = zsclip(), zsclip(), zsclip("--every", "10")

    assert first[-1] == "True"
    assert again[-1] == "False"
    assert again[0] == first[0]
    assert again[1] == "20 images, encoded by an earlier run"
    assert other[1] == "10 images, encoded by an earlier run"  # decoded, but not encoded again


def test_known_frames_that_are_not_stored_are_decoded_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "a.mp4", 120)
    os.utime(clip, ns=(0, 0))
    time.sleep(2.1)
    sampling = Sampling(3, kept=FRAME_TIMES)
    first = numbers_of(clip, sampling)
    opened: list[str] = []
    real = Clip.opened
    monkeypatch.setattr(Clip, "opened", lambda self: opened.append(self.path) or real(self))

    again = numbers_of(clip, sampling)

    assert first == again == chosen(all_frames(clip), Sampling(3))
    assert opened == [str(clip)]


def test_a_decoder_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_thread, "CPU_SECONDS", 0.3)
    over = threading.Event()  # else it would slow down all tests that follow

    def hangs() -> Iterator[int | None]:
        yield from (1, None, 2)
        while not over.is_set():
            sum(range(1000))

    items = DecodingThread(hangs())

    try:
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(Refused, match="not decoded within"):
            next(items)
    finally:
        over.set()


def test_a_decoding_thread_ends_with_its_consumer() -> None:
    ended = threading.Event()

    def endless() -> Iterator[int | None]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    items = DecodingThread(endless())
    assert next(items) == 1
    del items

    assert ended.wait(10)


@pytest.mark.parametrize(
    ("text", "every"),
    [("1s", Fraction(1)), ("0.5s", Fraction(1, 2)), ("500ms", Fraction(1, 2)), ("2min", Fraction(120)), ("10", 10)],
)
def test_intervals(text: str, every: Fraction | int) -> None:
    found = sampling_of(text, keyframes=False, animations=False)

    assert (found.every, type(found.every)) == (every, type(every))


@pytest.mark.parametrize("text", ["", "0", "0s", "2.5", "-1s", "1 hour", "s", "1e9s", "nan"])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--every: "):
        sampling_of(text, keyframes=False, animations=False)


def test_two_rules_at_once_are_refused(run: Run, tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", 3)

    done = run("classify", "a.mp4", "-l", "red,blue", "--every", "1s", "--keyframes")

    assert done.returncode == 2
    assert done.stderr == b"zsclip: --keyframes: already says which frames are taken; use it or --every, not both\n"


def test_videos_in_folders_are_read_only_if_a_rule_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    make_clip(folder / "b.mp4", 30)

    found = find_images([str(folder)])
    assert [os.path.basename(name) for name in found] == ["a.png", "c.png"]
    assert found.passed_over.endings == {".mp4": 1}

    found = find_images([str(folder)], sampling=sampling_of("1s", keyframes=False, animations=False))
    assert [os.path.basename(name) for name in found] == ["a.png", "b.mp4#t=0.000", "b.mp4#t=1.000", "c.png"]


def test_the_passed_over_line_says_how_videos_are_read(run: Run, tmp_path: Path) -> None:
    make_clip(tmp_path / "in.mp4", 3)
    (tmp_path / "in").mkdir()
    (tmp_path / "in.mp4").rename(tmp_path / "in" / "a.mp4")

    done = run("classify", "in", "-l", "red,blue", "-m", "tiny")

    assert done.returncode == 1
    assert done.stderr == b"zsclip: no images; passed over: 1 .mp4 (video; add --every 1s)\n"


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")

    assert list(find_images([str(tmp_path / "a.mp4")])) == [str(tmp_path / "a.mp4")]


def test_broken_videos_write_nothing_but_our_lines_to_stderr(tmp_path: Path, run_alone: Run) -> None:
    make_clip(tmp_path / "a.mp4", 100, pictures=noise(100), movflags="faststart")
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    for place in range(len(data) // 3, len(data), 5000):
        data[place : place + 300] = bytes(300)
    (tmp_path / "a.mp4").write_bytes(data)

    done = run_alone("classify", "a.mp4", "-m", "tiny", "-l", "red,blue", "-f", "csv", "-q")

    assert done.stderr == b""
    assert done.returncode == 1
    assert b"a.mp4,,,,,,,unreadable,the video is damaged after " in done.stdout


def test_ctrl_c_ends_a_run_that_decodes(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", 3000)
    command = [sys.executable, "-m", "zsclip", "classify", "a.mp4", "-m", "tiny", "-l", "red,blue", "--every", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert errors.startswith(b"zsclip: interrupted: ")


def test_a_finished_file_is_complete_for_resume(run: Run, tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", 100)
    command = ["classify", "a.mp4", "-m", "tiny", "-l", "red,blue", "-o", "rows.jsonl", "--every", "10"]
    assert run(*command).returncode == 0

    done = run(*command, "--resume")

    assert done.stderr == b"zsclip: rows.jsonl: already complete: 10 images\n"


def test_python_gives_the_frames(tmp_path: Path) -> None:
    from zsclip import Classifier

    clip = make_clip(tmp_path / "a.mp4", 60)
    classify = Classifier(["red", "blue"], model="tiny")

    answers = classify(clip)
    assert list(answers.names) == [f"{clip}#t={at}" for at in ("0.000", "1.000", "2.000")]
    image = Image.new("RGB", (64, 48), colour_of(0))
    assert len(classify([clip, image])) == 4
    assert len(Classifier(["red", "blue"], model="tiny", every=10)(clip)) == 6
    assert number_of(np.asarray(Image.open(answers.pictures.open(1)))) == 25
    with pytest.raises(InputError, match=r"^every: "):
        Classifier(["red", "blue"], model="tiny", every="often")
