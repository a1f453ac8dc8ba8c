"""Which sample of a TIFF is black and which is white, where the file does not say it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiffs import BLACK_IS_ZERO, PALETTE, RGB, WHITE_IS_ZERO, tiff

from zsclip.pixels.decode import upright
from zsclip.pixels.sample_range import find_range

LEVELS = np.add.outer(np.arange(60) * 2, np.arange(80)) % 256  # (H, W); 0 to 197
NO_DATA_TAG = 42113


def shown(data: bytes, folder: Path) -> NDArray[np.int64]:
    """All pixels of one channel; (H, W)."""
    (folder / "x.tif").write_bytes(data)
    with open(folder / "x.tif", "rb") as file, upright(file) as image:
        return np.asarray(image.convert("RGB"))[..., 0].astype(np.int64)


def assert_shown(samples: NDArray[Any], expected: NDArray[Any], folder: Path, **options: Any) -> None:
    samples = samples if samples.ndim == 3 else samples[..., None]
    photometric = options.pop("photometric", BLACK_IS_ZERO if samples.shape[2] < 3 else RGB)
    found = shown(tiff(samples, photometric, **options), folder)
    assert np.abs(found - expected).max() <= 1, (found.mean(), expected.mean())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("most", [1.02, 1.5, 1.9])
def test_floats_that_go_over_1_are_clipped(tmp_path: Path, dtype: str, most: float) -> None:
    samples = (LEVELS / 197 * most).astype(dtype)
    expected = np.rint(samples.astype(float).clip(0, 1) * 255)

    assert_shown(samples, expected, tmp_path)
    assert_shown(samples - np.where(LEVELS < 3, 0.05, 0), np.where(LEVELS < 3, 0, expected), tmp_path)
    assert_shown(samples, 255 - expected, tmp_path, photometric=WHITE_IS_ZERO)


@pytest.mark.parametrize("light", [3.0, 300.0, 1e6])
def test_a_light_brighter_than_white_does_not_make_the_rest_black(tmp_path: Path, light: float) -> None:
    samples = (LEVELS / 255).astype("f4")
    samples[:10, :5] = light  # 1 % of the picture
    samples[20:30, 20:25] = light / 2
    expected = np.rint(samples.astype(float).clip(0, 1) * 255)

    assert_shown(samples, expected, tmp_path)
    assert_shown(np.dstack([samples] * 3), expected, tmp_path, planar=True)


def test_floats_up_to_255_stay_what_they_are(tmp_path: Path) -> None:
    dark = np.where(LEVELS < 190, LEVELS % 2, LEVELS)  # nearly all are 0 or 1
    blurred = LEVELS * 0.9 + 0.3

    for picture in (LEVELS, dark, blurred, np.where(LEVELS < 190, 0, LEVELS)):
        assert_shown(picture.astype("f4"), np.rint(picture), tmp_path)


def test_floats_that_are_mostly_a_little_over_1_keep_their_contrast(tmp_path: Path) -> None:
    assert_shown((LEVELS / 50).astype("f4"), np.rint(LEVELS / 197 * 255), tmp_path)


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 100.0])
@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf, 3.4028235e38, -3.4028235e38, -9999, -32768])
def test_what_stands_for_no_data_does_not_count(tmp_path: Path, filler: float, scale: float) -> None:
    samples = (LEVELS * scale).astype("f4")
    full = 255 if scale <= 1 else LEVELS[:40].max()
    expected = np.rint(LEVELS / full * 255)
    samples[40:] = filler
    expected[40:] = 255 if filler > 0 else 0  # NaN is black

    assert_shown(samples, expected, tmp_path)


def test_no_data_that_the_file_declares_does_not_count(tmp_path: Path) -> None:
    tags = {NO_DATA_TAG: ("B", tuple(b"1e+20\0"))}
    samples = (LEVELS / 255).astype("f4")
    samples[40:] = 1e20
    assert_shown(samples[:60], np.where(np.arange(60)[:, None] < 40, LEVELS, 255), tmp_path, tags=tags)

    heights = (LEVELS * 16).astype("i2")
    heights[40:] = -9999
    tags = {NO_DATA_TAG: ("B", tuple(b"-9999\0"))}
    expected = np.where(np.arange(60)[:, None] < 40, np.rint(LEVELS / LEVELS[:40].max() * 255), 0)
    assert_shown(heights, expected, tmp_path, tags=tags)
    for text in (b"none\0", b"\0", b"0\0"):
        assert_shown(LEVELS.astype("f4"), LEVELS, tmp_path, tags={NO_DATA_TAG: ("B", tuple(text))})


@pytest.mark.parametrize(
    ("dtype", "scale", "fault", "full"),
    [
        ("u2", 5, 65_535, 197 * 5),
        ("u2", 20, 65_535, 197 * 20),
        ("u2", 1, 65_535, 255),
        ("u4", 5, 2**32 - 1, 197 * 5),
        ("i2", 5, -32_768, 197 * 5),
        ("f4", 1, 1e6, 255),
        ("f4", 100, -1e6, 19_700),
    ],
)
def test_a_fault_among_thousands_of_pixels_does_not_count(
    tmp_path: Path, dtype: str, scale: int, fault: float, full: int
) -> None:
    samples = (LEVELS * scale).astype(dtype)
    samples[7, [3, 40]] = fault
    expected = np.rint(LEVELS * scale / full * 255)
    expected[7, [3, 40]] = 255 if fault > 0 else 0

    assert_shown(samples, expected, tmp_path)
    limits = {280: ("H", (0,)), 281: ("H", (full,))}
    assert_shown(samples, expected, tmp_path, tags=limits if fault > 0 else None)


def test_lights_in_a_dark_picture_of_16_bits_are_no_faults(tmp_path: Path) -> None:
    samples = (LEVELS * 5).astype("u2")
    many, between = samples.copy(), samples.copy()
    many[:2, :5] = 65_535  # more than one in a thousand
    between[0, :4] = 2000, 4000, 30_000, 65_535

    for picture in (many, between):
        assert_shown(picture, np.rint(picture / 257), tmp_path)
    assert_shown(np.where(LEVELS == 0, 65_535, 0).astype("u2"), np.where(LEVELS == 0, 255, 0), tmp_path)


def test_a_large_picture_is_judged_by_some_of_its_values() -> None:
    big = np.tile((LEVELS / 250).astype("f4"), (30, 30))  # more values than are looked at
    big[:, 1::3] *= 1.6

    spread = find_range(lambda: iter([big[:700], big[700:]]), big.size, "f", 32)

    assert spread == (0, 1)
    assert find_range(lambda: iter(()), 0, "f", 32) == (0, 1)


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize(("dtype", "full"), [("u2", 4095), ("u4", 255), ("u4", 4095), ("f4", 255), ("i4", 1023)])
def test_alpha_has_the_range_of_its_colours(tmp_path: Path, dtype: str, full: int, extra: int) -> None:
    opaque = np.where(np.arange(80) < 40, 1.0, 0.5) * np.ones((60, 1))
    levels = np.minimum(LEVELS * 2, 255)
    colours = levels / 255 * (opaque if extra == 1 else 1)
    samples = np.rint(np.dstack([colours] * 3 + [opaque]) * full).astype(dtype)
    expected = np.rint(levels * opaque + 255 * (1 - opaque))

    for planar in (False, True):
        assert_shown(samples, expected, tmp_path, extra=(extra,), planar=planar)
        limits = {280: ("H", (0,)), 281: ("H", (full,))}
        assert_shown(samples, expected, tmp_path, extra=(extra,), planar=planar, tags=limits)


def test_alpha_may_be_brighter_than_all_colours(tmp_path: Path) -> None:
    colours = np.dstack([LEVELS * 16] * 3)
    samples = np.dstack([colours, np.full(LEVELS.shape, 4095)]).astype("u2")

    assert_shown(samples, np.rint(LEVELS / 197 * 255), tmp_path, extra=(2,))
    assert_shown(samples, np.rint(LEVELS * 16 / 4095 * 255), tmp_path, extra=(1,))


def test_alpha_of_all_its_bits_goes_by_them(tmp_path: Path) -> None:
    half = np.full(LEVELS.shape, 32_768)
    samples = np.dstack([LEVELS * 16] * 3 + [half]).astype("u2")
    faint = np.dstack([LEVELS * 257] * 3 + [half // 16]).astype("u2")

    assert_shown(samples, np.rint(LEVELS / 197 * 127.5 + 127.5), tmp_path, extra=(2,))
    assert_shown(faint, np.rint(LEVELS / 32 + 255 * 31 / 32), tmp_path, extra=(2,))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("codec", ["raw", "lzw", "deflate"])
def test_a_palette_of_8_bit_colours_is_not_taken_for_16_bits(tmp_path: Path, bits: int, codec: str) -> None:
    chosen = LEVELS % 2**bits
    palette = np.arange(2**bits) * 255 // (2**bits - 1)
    whole = tiff(chosen[..., None].astype("u1"), PALETTE, tags={320: ("H", (*palette.tolist(),) * 3)}, codec=codec)
    small = tiff(
        chosen[..., None].astype("u1"), PALETTE, bits=bits, tags={320: ("H", (*palette.tolist(),) * 3)}
    )  # packed
    data = whole if bits == 8 else small

    assert np.array_equal(shown(data, tmp_path), palette[chosen])


def test_a_palette_that_is_all_black_is_black(tmp_path: Path) -> None:
    data = tiff(np.zeros((8, 8, 1), "u1"), PALETTE, tags={320: ("H", (0,) * 768)})

    assert not shown(data, tmp_path).any()


def test_a_float_picture_in_memory_is_read_by_the_same_rule() -> None:
    from zsclip.pixels.decode import as_seen

    seen = as_seen(Image.fromarray((LEVELS / 190).astype("f4")))

    assert np.abs(np.asarray(seen).astype(int) - np.rint((LEVELS / 190).clip(0, 1) * 255)).max() <= 1
