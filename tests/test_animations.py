"""Animated images are videos where that is asked for; else they are one picture, as ever."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from clips import colour_of, number_of
from PIL import Image

from zsclip.pictures.files import find_images
from zsclip.pictures.sampling import Sampling, sampling_of

FRAMES = Sampling(1, animations=True)
DURATIONS = [100, 500, 400, 40, 1000, 2000, 300, 660]


def make_animation(path: Path, count: int = 8, **made: object) -> Path:
    first, *rest = (Image.new("RGB", (32, 24), colour_of(7 * number)) for number in range(count))
    first.save(path, save_all=True, append_images=rest, duration=DURATIONS[:count], **made)
    return path


def found(path: Path, sampling: Sampling | None) -> list[tuple[str, int]]:
    rows = []
    for some in find_images([str(path)], sampling=sampling).rest():
        for place, name in enumerate(some.names):
            with some.open(place) as file:
                pixels = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
            rows.append((os.path.basename(name), number_of(pixels)))
    return rows


@pytest.mark.parametrize("ending", ["gif", "png", "apng", "webp"])
def test_frames_and_times_are_those_that_were_written(tmp_path: Path, ending: str) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    path = make_animation(tmp_path / f"a.{ending}", **options)
    seconds = [sum(DURATIONS[:number]) / 1000 for number in range(8)]
    everything = [(f"{path.name}#t={at:.3f}", 7 * number) for number, at in enumerate(seconds)]

    assert found(path, FRAMES) == everything
    assert found(path, Sampling(3, animations=True)) == everything[::3]
    firsts = [number for number in range(8) if number == 0 or int(seconds[number]) != int(seconds[number - 1])]
    assert found(path, Sampling(animations=True)) == [everything[number] for number in firsts]
    assert [name for name, _ in found(path, None)] == [path.name]


def test_only_animations_are_taken_apart(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    make_animation(tmp_path / "b.gif", 3)
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png")
    (tmp_path / "d.gif").write_bytes(b"GIF89a")

    names = [os.path.basename(name) for name in find_images([str(tmp_path)], sampling=FRAMES)]

    assert names == ["a.gif", "b.gif#t=0.000", "b.gif#t=0.100", "b.gif#t=0.600", "c.png", "d.gif"]


def test_transparent_frames_keep_their_alpha(tmp_path: Path) -> None:
    some = [Image.new("RGBA", (8, 8), (200, 0, 0, alpha)) for alpha in (255, 0)]
    some[0].save(tmp_path / "a.png", save_all=True, append_images=some[1:], duration=100, blend=0)

    _, second = find_images([str(tmp_path / "a.png")], sampling=FRAMES).rest()

    with second.open(0) as file:
        assert Image.open(io.BytesIO(file.read())).getchannel("A").getextrema() == (0, 0)


def test_frames_that_are_hardly_shown_count_as_browsers_count_them(tmp_path: Path) -> None:
    some = [Image.new("RGB", (8, 8), colour_of(number)) for number in range(3)]
    some[0].save(tmp_path / "a.gif", save_all=True, append_images=some[1:], duration=10)

    assert [name for name, _ in found(tmp_path / "a.gif", FRAMES)] == [
        "a.gif#t=0.000",
        "a.gif#t=0.100",
        "a.gif#t=0.200",
    ]


def test_an_animation_that_is_cut_off_gives_the_frames_before_and_one_error(tmp_path: Path) -> None:
    path = make_animation(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-400])

    *frames, (last,) = find_images([str(path)], sampling=FRAMES).rest(), (None,)
    names = [name for some in frames[0] for name in some.names]

    assert last is None
    assert names[-1] == str(path)
    assert 0 < len(names) < 9


def test_large_animations_are_refused(tmp_path: Path) -> None:
    path = make_animation(tmp_path / "a.gif")
    sampling = sampling_of("1", keyframes=False, animations=True, max_pixels=100)

    (row,) = find_images([str(path)], sampling=sampling).rest()

    assert list(row.names) == [str(path)]
    with pytest.raises(Exception, match="768 pixels, more than --max-pixels 100"):
        row.open(0)
