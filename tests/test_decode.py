"""Odd files to pixels, held against open_clip's own transform."""

import math
import os
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from conftest import HANGS
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from zsclip.pixels.decode import decode_image, upright
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import Decoding
from zsclip.pixels.skipped import Skipped

SIMPLE = Preprocess((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
WHITE, RED, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 0)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values if mode == "RGB" else values[..., 0])


def by_open_clip(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """The slow twin: open_clip's inference transform, its normalisation undone."""
    settings = PreprocessCfg(
        size=preprocess.size,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=preprocess.interpolation,
        resize_mode=preprocess.resize_mode,
        fill_color=preprocess.fill_color,
    )
    pixels = image_transform_v2(settings, is_train=False)(image).numpy() * 255  # (3, H, W)
    assert np.abs(pixels - pixels.round()).max() < 1e-3
    return pixels.round().astype(np.uint8)


def colours(path: Path, **options: int) -> NDArray[np.uint8]:
    """Decode a file that must be good to (H, W, 3)."""
    pixels = decode_image(str(path), SIMPLE, Decoding(**options))
    assert not isinstance(pixels, Skipped), pixels.message
    return pixels.transpose(1, 2, 0)


def skipped(path: "Path | str", **options: int) -> Skipped:
    outcome = decode_image(str(path), SIMPLE, Decoding(**options))
    assert isinstance(outcome, Skipped)
    assert outcome.file_name == str(path)
    assert outcome.message == " ".join(outcome.message.split())
    return outcome


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG by hand, for what Pillow itself does not write. Each row starts with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


# Orientation, transparency, modes.


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(tmp_path, orientation, ending):
    # Stored so that showing it by its orientation gives red at the left and blue below.
    upright = Image.new("RGB", (64, 64), WHITE)
    upright.paste(RED, (0, 0, 24, 64))
    upright.paste((0, 0, 255), (0, 48, 64, 64))
    turns = Image.Transpose
    undo = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE]
    undo += [turns.ROTATE_90, turns.TRANSVERSE, turns.ROTATE_270]
    turn = undo[orientation - 1]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"x.{ending}", exif=exif)

    shown = colours(tmp_path / f"x.{ending}").astype(int)

    for (x, y), colour in {(1, 1): RED, (6, 1): WHITE, (6, 7): (0, 0, 255), (1, 7): (0, 0, 255)}.items():
        assert np.abs(shown[y, x] - colour).max() < 40


def test_orientation_comes_before_the_resize(tmp_path):
    image = noise(40, 21)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.png", exif=exif)

    expected = by_open_clip(image.transpose(Image.Transpose.ROTATE_270), SIMPLE)

    assert np.array_equal(decode_image(str(tmp_path / "x.png"), SIMPLE), expected)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0"])
def test_a_broken_exif_block_is_ignored(tmp_path, exif, name):
    Image.new("RGB", (16, 16), RED).save(tmp_path / name, exif=exif, quality=100)

    assert np.abs(colours(tmp_path / name).astype(int) - RED).max() < 5


def half_clear(mode: str) -> Image.Image:
    """Black at the left, clear (over red) at the right."""
    image = Image.new("RGBA", (16, 16), (*BLACK, 255))
    image.paste((*RED, 0), (8, 0, 16, 16))
    if mode == "P":
        palette = Image.new("P", (16, 16), 0)
        palette.putpalette([*BLACK, *RED])
        palette.paste(1, (8, 0, 16, 16))
        return palette
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGBA", "x.png", {}),
        ("LA", "x.png", {}),
        ("RGBA", "x.webp", {"lossless": True}),
        ("RGBA", "x.tif", {}),
        ("RGBA", "x.gif", {}),
        ("LA", "x.tif", {}),
        ("P", "x.png", {"transparency": 1}),
        ("P", "x.png", {"transparency": b"\xff\x00"}),
        ("P", "x.gif", {"transparency": 1}),
        ("RGB", "x.png", {"transparency": RED}),
        ("L", "x.png", {"transparency": 76}),
    ],
)
def test_transparent_pixels_become_white(tmp_path, mode, name, options):
    half_clear(mode).save(tmp_path / name, **options)

    shown = colours(tmp_path / name)

    assert tuple(shown[4, 1]) == BLACK
    assert tuple(shown[4, 6]) == WHITE


def test_premultiplied_grey_lies_on_white_too(tmp_path):
    half_clear("LA").save(tmp_path / "x.tif")
    straight, premultiplied = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes().replace(straight, premultiplied))
    with Image.open(tmp_path / "x.tif") as image:
        assert image.mode == "La"

    shown = colours(tmp_path / "x.tif")

    assert (tuple(shown[4, 1]), tuple(shown[4, 6])) == (BLACK, WHITE)


def test_half_transparent_is_halfway_to_white(tmp_path):
    Image.new("RGBA", (8, 8), (*BLACK, 128)).save(tmp_path / "x.png")

    assert np.abs(colours(tmp_path / "x.png").astype(int) - 127).max() <= 1


def test_the_key_colour_of_a_16_bit_png_is_transparent(tmp_path):
    # A row of four black and four key pixels; the key colour is kept in 16 bits.
    row = b"\0" + struct.pack(">3H", 0, 0, 0) * 4 + struct.pack(">3H", 60_000, 0, 0) * 4
    (tmp_path / "x.png").write_bytes(png(8, 8, 16, 2, row * 8, (b"tRNS", struct.pack(">3H", 60_000, 0, 0))))
    row = b"\0" + struct.pack(">8H", *[0] * 4, *[300] * 4)
    (tmp_path / "y.png").write_bytes(png(8, 8, 16, 0, row * 8, (b"tRNS", struct.pack(">H", 300))))

    for name in ("x.png", "y.png"):
        shown = colours(tmp_path / name)
        assert (tuple(shown[0, 0]), tuple(shown[0, 7])) == (BLACK, WHITE)


def test_a_palette_is_resized_as_colours(tmp_path):
    image = noise(64, 64).convert("P")
    image.save(tmp_path / "x.png")

    expected = by_open_clip(image.convert("RGB"), SIMPLE)

    assert np.array_equal(decode_image(str(tmp_path / "x.png"), SIMPLE), expected)


def test_one_bit_becomes_black_white_and_the_greys_between(tmp_path):
    image = Image.new("1", (64, 64), 0)
    for x in range(32, 64, 2):
        image.paste(1, (x, 0, x + 1, 64))
    image.save(tmp_path / "x.png")

    shown = colours(tmp_path / "x.png")

    assert shown[4, 1].tolist() == [0, 0, 0]
    assert (np.abs(shown[4, 6].astype(int) - 127) < 20).all()


@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
def test_cmyk_becomes_rgb(tmp_path, name):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / name)

    assert np.abs(colours(tmp_path / name).astype(int) - RED).max() < 5


def ramp(values: Iterable[float], dtype: str, path: Path) -> list[int]:
    """Save eight values as eight columns, and return the grey each became."""
    array = np.tile(np.fromiter(values, np.float64).astype(dtype), (8, 1))
    Image.fromarray(array).save(path)
    shown = colours(path)
    assert (shown == shown[..., :1]).all()
    return shown[0, :, 0].tolist()


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, name):
    values = [0, 128, 129, 257, 25_700, 32_896, 65_278, 65_535]

    assert ramp(values, "uint16", tmp_path / name) == [0, 0, 1, 1, 100, 128, 254, 255]


def test_32_bit_grey_is_16_bit_where_that_fits_and_stretched_elsewhere(tmp_path):
    assert ramp([0, 257, 514, 771, 1028, 1285, 1542, 65_535], "int32", tmp_path / "x.tif") == [0, 1, 2, 3, 4, 5, 6, 255]
    assert ramp([-255, 0, 255, 0, 0, 0, 0, 0], "int32", tmp_path / "x.tif")[:3] == [0, 128, 255]
    assert ramp([70_000] * 8, "int32", tmp_path / "x.tif") == [0] * 8
    assert ramp([2_000_000_000 + i * 51 for i in range(6)] + [2_000_000_000] * 2, "int32", tmp_path / "x.tif")[:6] == [
        0, 51, 102, 153, 204, 255
    ]  # fmt: skip


def test_float_grey_is_understood_by_its_range(tmp_path):
    path, rest = tmp_path / "x.tif", [0.0] * 5

    assert ramp([0.0, 0.2, 1.0, *rest], "float32", path)[:3] == [0, 51, 255]
    assert ramp([0.0, 51.0, 200.0, *rest], "float32", path)[:3] == [0, 51, 200]
    assert ramp([-1.0, 0.0, 1.0, *rest], "float32", path)[:3] == [0, 128, 255]
    assert ramp([1000.0, 500.0, 0.0, *rest], "float32", path)[:3] == [255, 128, 0]
    assert ramp([math.nan, 0.2, 1.0, *rest], "float32", path)[:3] == [0, 51, 255]
    assert ramp([-math.inf, math.inf, 1.0, *rest], "float32", path)[:3] == [0, 255, 255]
    assert ramp([-3e38, 3e38, 0.0, *rest], "float32", path)[:3] == [0, 255, 128]
    assert ramp([math.nan] * 8, "float32", path) == [0] * 8


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp", "x.tif", "x.avif"])
def test_of_an_animation_the_first_frame_counts(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, WHITE, BLACK)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])

    assert np.abs(colours(tmp_path / name).astype(int) - RED).max() < 5


@pytest.mark.parametrize("name", ["x.jpg", "x.bmp", "x.dib", "x.jp2", "x.ppm", "x.pbm", "x.mpo", "x"])
def test_formats_are_recognised_by_content_not_by_name(tmp_path, name):
    image = Image.new("1" if name == "x.pbm" else "RGB", (32, 32), 1 if name == "x.pbm" else RED)
    image.save(tmp_path / name, format="JPEG" if name == "x" else None)
    os.rename(tmp_path / name, tmp_path / "y.png")

    assert np.abs(colours(tmp_path / "y.png").astype(int) - (WHITE if name == "x.pbm" else RED)).max() < 5


def run_python(code: str, **options: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in a Python of its own."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANGS, **options)
    assert run.stderr == ""
    return run


# JPEGs that are decoded smaller.


def scenery(width: int, height: int) -> Image.Image:
    """Large soft shapes with fine noise on them, as photographs have."""
    random = np.random.default_rng(0)
    shapes = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height))
    noise = random.normal(0, 8, (height, width, 1))
    return Image.fromarray((np.asarray(shapes) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize(
    ("size", "orientation", "decoded"),
    [
        ((1152, 1152), 1, (144, 144)),  # an eighth is three times the 48 px that are needed
        ((1024, 768), 1, (256, 192)),  # an eighth would be less
        ((768, 1024), 6, (192, 256)),  # lies on its side
        ((1020, 764), 1, (255, 191)),  # divides by four, not by eight
        ((1150, 1150), 1, (575, 575)),  # an eighth or a quarter would lose a border
        ((1023, 767), 1, (1023, 767)),  # so would any
        ((200, 150), 1, (200, 150)),  # a half would be less than three times
    ],
)
def test_fast_jpeg_decodes_no_smaller_than_three_times_what_is_needed(tmp_path, mode, size, orientation, decoded):
    preprocess = Preprocess((48, 48), (0,) * 3, (1,) * 3, resize_mode=mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    scenery(*size).save(tmp_path / "x.jpg", quality=90, exif=exif)
    path = str(tmp_path / "x.jpg")

    fast = decode_image(path, preprocess, Decoding(fast_jpeg=True))
    full = decode_image(path, preprocess)
    with open(path, "rb") as file, upright(file, Decoding(fast_jpeg=True), preprocess) as image:
        assert image.size == (decoded if orientation == 1 else decoded[::-1])

    assert np.abs(fast.astype(int) - full).max() <= 6
    assert decoded != size or np.array_equal(fast, full)


def test_fast_jpeg_leaves_other_formats_as_they_are(tmp_path):
    scenery(1024, 768).save(tmp_path / "x.png")
    scenery(1024, 768).save(tmp_path / "x.webp")

    for name in ("x.png", "x.webp"):
        path = str(tmp_path / name)
        assert np.array_equal(decode_image(path, SIMPLE, Decoding(fast_jpeg=True)), decode_image(path, SIMPLE))
