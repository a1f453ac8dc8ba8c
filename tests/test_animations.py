"""Animated images are videos where that is asked for; else they are one picture, as ever."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import colour_of, number_of
from PIL import Image
from servers import Served, serving

from zsclip.pictures import far_file, fetch
from zsclip.pictures.files import find_images
from zsclip.pictures.refused import Refused
from zsclip.pictures.sampling import Sampling, sampling_of

FRAMES = Sampling(1, animations=True)
DURATIONS = [100, 500, 400, 40, 1000, 2000, 300, 660]


def make_animation(path: Path, count: int = 8, **made: object) -> Path:
    first, *rest = (Image.new("RGB", (32, 24), colour_of(7 * number)) for number in range(count))
    first.save(path, save_all=True, append_images=rest, duration=DURATIONS[:count], **made)
    return path


def found(path: Path | str, sampling: Sampling | None) -> list[tuple[str, int]]:
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


def make_noisy(path: Path, count: int = 30) -> None:
    """Make an animation of many bytes."""
    chance = np.random.default_rng(0)
    first, *rest = (Image.fromarray(chance.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count))
    first.save(path, save_all=True, append_images=rest, duration=100)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(fetch, "_FIRST_WAIT_SECONDS", 0.01)
    far_file._BLOCKS._blocks.clear()
    fetch._server.cache_clear()
    with serving(tmp_path) as served:
        yield served


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("ending", ["gif", "png", "apng", "webp"])
def test_an_animation_on_a_server_is_fetched_once_and_gives_the_frames_of_the_file(
    ending: str, has_ranges: bool, tmp_path: Path, server: Served
) -> None:
    server.has_ranges = has_ranges
    path = make_animation(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))

    far = found(f"{server.url}/a.{ending}", FRAMES)

    assert far == found(path, FRAMES)
    assert server.count("GET") == (1 if has_ranges else 2)  # one that is not answered with a part
    assert [name for name, _ in found(f"{server.url}/a.{ending}", None)] == [path.name]


def test_an_animation_on_a_server_is_read_in_parts(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_file, "_BLOCK_BYTES", 10_000)
    make_noisy(tmp_path / "a.gif")
    size = (tmp_path / "a.gif").stat().st_size

    first, *_ = find_images([f"{server.url}/a.gif"], sampling=FRAMES).rest()

    assert first.names[0].endswith("#t=0.000")
    assert len(list(find_images([f"{server.url}/a.gif"], sampling=FRAMES))) == 30
    assert size <= server.sent < 1.2 * size
    assert server.count("GET") >= size // 10_000


def test_still_images_on_a_server_are_fetched_once_and_are_single_images(tmp_path: Path, server: Served) -> None:
    Image.new("RGB", (8, 8), colour_of(7)).save(tmp_path / "a.gif")
    Image.new("RGB", (8, 8), colour_of(8)).save(tmp_path / "b.png")
    (tmp_path / "c.gif").write_bytes(b"GIF89a")
    urls = [f"{server.url}/{name}" for name in ("a.gif", "b.png", "c.gif")]

    some = list(find_images(urls, sampling=FRAMES).rest())

    assert [name for each in some for name in each.names] == urls
    assert [each.open(0).read() for each in some] == [
        (tmp_path / name).read_bytes() for name in ("a.gif", "b.png", "c.gif")
    ]
    assert server.count("GET") == 3


def test_a_server_that_breaks_off_has_not_damaged_an_animation(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far_file, "_BLOCK_BYTES", 10_000)
    make_noisy(tmp_path / "a.gif", 60)
    server.fault = lambda path, count: 404 if count > 24 else None

    *frames, last = find_images([f"{server.url}/a.gif"], sampling=FRAMES).rest()

    assert 0 < len(frames) < 60
    assert list(last.names) == [f"{server.url}/a.gif"]
    with pytest.raises(Refused, match="HTTP 404") as raised:
        last.open(0)
    assert raised.value.kind == "missing"  # and not unreadable, for good
