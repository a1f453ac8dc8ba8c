"""TIFFs of every depth, sign, arrangement and colour, as people see them."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_decode import SIMPLE, skipped
from tiffs import (
    BLACK_IS_ZERO,
    CMYK,
    ICC_LAB,
    LAB,
    PALETTE,
    RGB,
    WHITE_IS_ZERO,
    YCBCR,
    quadrants,
    tiff,
    with_tags,
)

from zsclip.pixels.decode import as_seen, decode_image
from zsclip.pixels.limits import Decoding
from zsclip.pixels.skipped import Skipped

COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)])
GREYS = np.array([0, 80, 160, 255])
ALPHAS = np.array([255, 128, 0, 64])
WHITES = {"u1": 255, "u2": 2**16 - 1, "u4": 2**32 - 1, "u8": 2**64 - 1, "f2": 1, "f4": 1, "f8": 1}  # by type
ARRANGED: list[dict[str, Any]] = [
    {"order": "<", "planar": False},
    {"order": ">", "planar": True},
    {"order": "<", "planar": True, "tile": (16, 32)},
    {"order": ">", "planar": False, "tile": (16, 32)},
]


def in_type(levels: Any, dtype: str) -> NDArray[Any]:
    """Bring levels 0..255 to the range of a type."""
    exact = [
        round(float(level)) * WHITES[dtype] // 255 if dtype[0] == "u" else level / 255 for level in np.ravel(levels)
    ]
    return np.array(exact, dtype).reshape(np.shape(levels))


def shown(data: bytes, folder: Path) -> NDArray[np.int64]:
    """Decode four areas; (4, 3)."""
    (folder / "x.tif").write_bytes(data)
    pixels = decode_image(str(folder / "x.tif"), SIMPLE)
    assert not isinstance(pixels, Skipped), pixels.message
    return pixels[:, [1, 1, 6, 6], [1, 6, 1, 6]].T.astype(np.int64)


def assert_shown(data: bytes, expected: Any, folder: Path, tolerance: int = 1) -> None:
    expected = np.array(expected)
    if expected.ndim == 1:
        expected = np.stack([expected] * 3, axis=1)
    found = shown(data, folder)
    assert np.abs(found - expected).max() <= tolerance, (found.tolist(), expected.tolist())


def on_white(levels: NDArray[Any], alphas: NDArray[Any]) -> NDArray[Any]:
    alphas = alphas.reshape(-1, *[1] * (levels.ndim - 1))
    return levels * alphas / 255 + 255 - alphas


@pytest.mark.parametrize("dtype", WHITES)
def test_colours_of_all_depths_and_arrangements_are_read(tmp_path: Path, dtype: str) -> None:
    for arranged in ARRANGED:
        assert_shown(tiff(quadrants(in_type(COLOURS, dtype), dtype), RGB, **arranged), COLOURS, tmp_path)


@pytest.mark.parametrize("dtype", WHITES)
@pytest.mark.parametrize("extra", [(1,), (2,), (0,), (0, 2)])
def test_alpha_of_all_depths_and_arrangements_is_applied(tmp_path: Path, dtype: str, extra: tuple[int, ...]) -> None:
    stored = COLOURS * ALPHAS[:, None] / 255 if extra == (1,) else COLOURS
    unused = [ALPHAS[:, None]] * (len(extra) - 1)
    samples = quadrants(in_type(np.concatenate((stored, *unused, ALPHAS[:, None]), axis=1), dtype), dtype)
    expected = COLOURS if extra == (0,) else on_white(COLOURS, ALPHAS)

    for arranged in ARRANGED:
        assert_shown(tiff(samples, RGB, extra=extra, **arranged), expected, tmp_path, 2)


@pytest.mark.parametrize("dtype", WHITES)
def test_grey_black_or_white_is_zero_with_and_without_alpha(tmp_path: Path, dtype: str) -> None:
    alone = quadrants(in_type(GREYS, dtype), dtype)
    both = quadrants(in_type(np.stack((GREYS, ALPHAS), axis=1), dtype), dtype)
    multiplied = quadrants(in_type(np.stack((GREYS * ALPHAS / 255, ALPHAS), axis=1), dtype), dtype)

    for arranged in ARRANGED:
        assert_shown(tiff(alone, BLACK_IS_ZERO, **arranged), GREYS, tmp_path)
        assert_shown(tiff(alone, WHITE_IS_ZERO, **arranged), 255 - GREYS, tmp_path)
        assert_shown(tiff(both, BLACK_IS_ZERO, extra=(2,), **arranged), on_white(GREYS, ALPHAS), tmp_path, 2)
        assert_shown(tiff(both, WHITE_IS_ZERO, extra=(2,), **arranged), on_white(255 - GREYS, ALPHAS), tmp_path, 2)
        assert_shown(tiff(multiplied, BLACK_IS_ZERO, extra=(1,), **arranged), on_white(GREYS, ALPHAS), tmp_path, 2)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8"])
def test_signed_samples_go_from_their_lowest_to_their_highest(tmp_path: Path, dtype: str) -> None:
    info = np.iinfo(dtype)
    values = [info.min, int(info.min) * 5 // 16, int(info.max) * 5 // 16, info.max]
    colours = quadrants(np.where(COLOURS > 0, info.max, info.min), dtype)

    for arranged in ARRANGED:
        for codec, predictor in (("raw", 1), ("deflate", 2)):
            how = arranged | {"codec": codec, "predictor": predictor}
            assert_shown(tiff(quadrants(values, dtype), BLACK_IS_ZERO, **how), [0, 88, 167, 255], tmp_path)
            assert_shown(tiff(quadrants(values, dtype), WHITE_IS_ZERO, **how), [255, 167, 88, 0], tmp_path)
            assert_shown(tiff(colours, RGB, **how), COLOURS, tmp_path)


@pytest.mark.parametrize("dtype", ["i2", "i4", "i8", "u2", "u4", "u8", "f4", "f8"])
def test_samples_within_8_bits_count_as_such(tmp_path: Path, dtype: str) -> None:
    greys = [3, 80, 160, 250]  # not the whole range

    assert_shown(tiff(quadrants(greys, dtype), BLACK_IS_ZERO), greys, tmp_path)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([-1000, -360, 280, 1040], "i2", GREYS),  # as of a scanner: neither 0 nor the type's limits mean anything
        ([-1000, -360, 280, 1040], "i4", GREYS),
        ([0, 1280, 2560, 4080], "u2", GREYS),  # 12 bits, not declared
        ([0, 5000, 300, 2], "u2", [0, 19, 1, 0]),  # a dark picture of 16 bits stays dark
        ([5, 16_005, 32_005, 51_005], "u4", GREYS),
        ([-1, 0, 0.5, 1], "f4", [0, 128, 191, 255]),
        ([0, 0, 1, 1], "u4", [0, 0, 255, 255]),
    ],
)
def test_samples_without_a_declared_range_use_their_actual_one(
    tmp_path: Path, values: list[float], dtype: str, expected: Any
) -> None:
    assert_shown(tiff(quadrants(values, dtype), BLACK_IS_ZERO), expected, tmp_path)


def test_the_declared_range_comes_first(tmp_path: Path) -> None:
    values = [0, 100, 200, 300]
    limits = {280: ("H", (0,)), 281: ("H", (4095,))}
    signed = {340: ("h", (-100,)), 341: ("h", (400,))}

    for dtype in ("u2", "u4", "i2", "f4"):
        samples = quadrants(values, dtype)
        assert_shown(tiff(samples, BLACK_IS_ZERO, tags=limits), [0, 6, 12, 19], tmp_path)
        assert_shown(tiff(samples, BLACK_IS_ZERO, tags=limits | signed), [51, 102, 153, 204], tmp_path)
    wrong = {281: ("H", (255,))}  # some writers copy it from another picture
    assert_shown(
        tiff(quadrants([0, 20_000, 40_000, 65_535], "u2"), BLACK_IS_ZERO, tags=wrong), [0, 78, 156, 255], tmp_path
    )


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 10, 12, 14, 24, 40])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO, RGB])
def test_depths_that_are_not_a_whole_type_are_read(tmp_path: Path, bits: int, photometric: int) -> None:
    levels = COLOURS if photometric == RGB else GREYS[:, None]
    samples = np.rint(levels / 255 * (2**bits - 1)).astype(np.int64)
    expected = samples / (2**bits - 1) * 255
    samples = quadrants(samples, "u8")

    for order, planar in itertools.product("<>", (False, True)):
        data = tiff(samples, photometric, bits=bits, order=order, planar=planar)
        assert_shown(data, 255 - expected if photometric == WHITE_IS_ZERO else expected * np.ones(3), tmp_path)


@pytest.mark.parametrize("codec", ["lzw", "deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("dtype", ["u2", "u4", "f4", "f8"])
def test_compressed_samples_are_read_with_and_without_a_predictor(tmp_path: Path, codec: str, dtype: str) -> None:
    for predictor in (1, 3) if dtype[0] == "f" else (1, 2):
        for arranged in ARRANGED:
            data = tiff(quadrants(in_type(COLOURS, dtype), dtype), RGB, codec=codec, predictor=predictor, **arranged)
            assert_shown(data, COLOURS, tmp_path)


def test_a_strip_may_have_more_bytes_than_a_picture_may_have_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = quadrants(in_type(COLOURS, "u8"), "u8")  # 24 bytes a pixel
    (tmp_path / "x.tif").write_bytes(tiff(samples, RGB, codec="lzw", rows_per_strip=24))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)

    assert isinstance(decode_image(str(tmp_path / "x.tif"), SIMPLE, Decoding(max_pixels=960)), np.ndarray)
    assert skipped(tmp_path / "x.tif", max_pixels=959).message == "960 pixels, more than --max-pixels 959"
    assert Image.MAX_IMAGE_PIXELS == 900


def test_a_strip_that_takes_too_much_memory_is_refused_by_its_tags(tmp_path: Path) -> None:
    tags = {256: ("I", (13_000,)), 257: ("I", (13_000,)), 258: ("H", (16,) * 3), 259: ("H", (5,)), 262: ("H", (RGB,))}
    (tmp_path / "x.tif").write_bytes(with_tags({**tags, 277: ("H", (3,))}, [bytes(100)]))

    row = skipped(tmp_path / "x.tif")

    assert row.error == "too-large"
    assert row.message == "takes 3.6 GB of memory to decode; convert it first"


def test_bits_in_reverse_order_are_read(tmp_path: Path) -> None:
    plain = tiff(quadrants(in_type(COLOURS, "u2"), "u2"), RGB, rows_per_strip=24)
    turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in plain[8 : 8 + 24 * 40 * 6])
    samples = np.frombuffer(turned, "<u2").reshape(24, 40, 3)

    assert_shown(tiff(samples, RGB, tags={266: ("H", (2,))}), COLOURS, tmp_path)
    assert_shown(
        tiff(np.frombuffer(turned, "<u2").reshape(24, 40, 3), RGB), shown(tiff(samples, RGB), tmp_path), tmp_path
    )


@pytest.mark.parametrize(("dtype", "entries"), [("u1", 256), ("u2", 65536)])
def test_palettes_of_8_and_16_bits_are_read(tmp_path: Path, dtype: str, entries: int) -> None:
    chosen = [3, 7, 100, entries - 1]
    palette = np.zeros((3, entries), int)
    palette[:, chosen] = COLOURS.T * 257
    tags = {320: ("H", tuple(palette.ravel().tolist()))}

    for arranged in ARRANGED:
        assert_shown(tiff(quadrants(chosen, dtype), PALETTE, tags=tags, **arranged), COLOURS, tmp_path)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_inks_and_lab_colours_are_converted(tmp_path: Path, dtype: str) -> None:
    inks = [(0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 255)]
    lab = np.array([(53, 80, 67), (88, -86, 83), (0, 0, 0), (100, 0, 0)])  # red, green, black, white
    expected = [(253, 6, 16), (0, 255, 18), (0, 0, 0), (255, 255, 255)]
    for arranged in ARRANGED:
        samples = quadrants(in_type(inks, dtype), dtype)
        assert_shown(tiff(samples, CMYK, **arranged), [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)], tmp_path, 2)
        one = 1 if dtype == "u1" else 256
        for photometric, zero in ((LAB, 0), (ICC_LAB, 128)):
            light = lab[:, 0] * WHITES[dtype] // 100
            rest = ((lab[:, 1:] + zero) * one) % (WHITES[dtype] + 1)
            samples = quadrants(np.column_stack((light, rest)), dtype)
            assert_shown(tiff(samples, photometric, **arranged), expected, tmp_path, 12)


@pytest.mark.parametrize("blocks", [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_colours_that_blocks_of_pixels_share_are_read(tmp_path: Path, blocks: tuple[int, int]) -> None:
    across, down = blocks
    colours = np.asarray(Image.fromarray(quadrants(COLOURS)).convert("YCbCr"))  # (24, 40, 3)
    units = colours.reshape(24 // down, down, 40 // across, across, 3).transpose(0, 2, 1, 3, 4)
    light = units[..., 0].reshape(24 // down, 40 // across, -1)
    stored = np.concatenate((light, units[:, :, 0, 0, 1:]), axis=2).tobytes()
    tags = {
        256: ("I", (40,)), 257: ("I", (24,)), 258: ("H", (8, 8, 8)), 259: ("H", (1,)), 262: ("H", (YCBCR,)),
        277: ("H", (3,)), 278: ("I", (24,)), 530: ("H", blocks),
    }  # fmt: skip

    assert_shown(with_tags(tags, [stored]), COLOURS, tmp_path, 3)


def test_missing_samples_are_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (24, 40, 3)).astype("u2")
    for how in ({}, {"planar": True}, {"tile": (16, 16)}, {"codec": "deflate"}, {"codec": "lzw"}):
        data = tiff(noise, RGB, **how)
        (tmp_path / "x.tif").write_bytes(data)
        assert not isinstance(decode_image(str(tmp_path / "x.tif"), SIMPLE), Skipped)
        tags_at = int.from_bytes(data[4:8], "little")
        # The strips point behind the end of the file.
        moved = bytearray(data)
        moved[8:tags_at] = b""
        (tmp_path / "x.tif").write_bytes(data[:4] + (8).to_bytes(4, "little") + bytes(moved[8:]))
        assert skipped(tmp_path / "x.tif").error in ("unreadable", "unsupported")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({339: ("H", (6, 6, 6))}, "samples of 16 bits in format 6"),
        ({258: ("H", (5, 6, 5))}, "channels of different depths"),
        ({262: ("H", (32845,))}, "colours of kind 32845"),
        ({317: ("H", (9,)), 259: ("H", (8,))}, "predictor 9"),
    ],
)
def test_kinds_that_cannot_be_read_rightly_are_unsupported(tmp_path: Path, changed: Any, reason: str) -> None:
    (tmp_path / "x.tif").write_bytes(tiff(quadrants(in_type(COLOURS, "u2"), "u2"), RGB, tags=changed))

    row = skipped(tmp_path / "x.tif")

    assert row.error == "unsupported"
    assert reason in row.message


def turned(orientation: int) -> dict[int, tuple[str, tuple[int, ...]]]:
    return {274: ("H", (orientation,))}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_samples_read_here_are_turned_as_those_that_pillow_reads(tmp_path: Path, orientation: int) -> None:
    by_pillow = shown(tiff(quadrants(COLOURS), RGB, tags=turned(orientation)), tmp_path)

    assert_shown(tiff(quadrants(in_type(COLOURS, "u2"), "u2"), RGB, tags=turned(orientation)), by_pillow, tmp_path)


def test_a_picture_opened_by_the_caller_is_read_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(tiff(quadrants(in_type(COLOURS, "u2"), "u2"), RGB, planar=True))

    with Image.open(tmp_path / "x.tif") as opened:
        seen = np.asarray(as_seen(opened))

    assert np.array_equal(seen, quadrants(COLOURS))


def test_broken_tags_that_no_pixel_needs_do_not_cost_the_picture(tmp_path: Path) -> None:
    far: Iterable[tuple[int, tuple[str, tuple[int, ...]]]] = [
        (34665, ("I", (2**32 - 1,))),  # EXIF behind the end
        (34665, ("I", (9,))),  # EXIF in the middle of samples
        (34675, ("B", (7,) * 100)),  # a profile that is none
        (700, ("B", (60,) * 50)),
    ]
    for tag, value in far:
        assert_shown(tiff(quadrants(COLOURS), RGB, tags={tag: value}), COLOURS, tmp_path)
        assert_shown(tiff(quadrants(in_type(COLOURS, "u2"), "u2"), RGB, tags={tag: value}), COLOURS, tmp_path)
