"""Odd files to pixels, and pixels in batches, held against open_clip's own transform."""

import math
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from zsclip.pixels.decode import MAX_RESIZED_PIXELS, Decoding, PixelBudget, Preprocess, decode_image, given_up
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
    assert outcome.path == str(path)
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


# Resize and crop, to the pixel.

SHAPES = [(8, 8), (20, 8), (8, 21), (1, 1), (1, 50), (50, 1), (33, 47), (301, 200), (7, 5), (9, 64), (1000, 3)]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (17, 17), (12, 20), (21, 8)])
def test_opaque_upright_pictures_look_as_open_clip_sees_them(tmp_path, size, resize_mode, interpolation, mode):
    preprocess = Preprocess(size, (0.0,) * 3, (1.0,) * 3, interpolation, resize_mode, fill_color=7)
    for width, height in SHAPES:
        image = noise(width, height, mode, seed=width + height)
        image.save(tmp_path / "x.png")
        if resize_mode == "longest" and min(size[0] / height, size[1] / width) * min(width, height) <= 0.5:
            continue  # open_clip rounds the short side to 0 and fails

        assert np.array_equal(decode_image(str(tmp_path / "x.png"), preprocess), by_open_clip(image, preprocess))


def test_a_thin_picture_keeps_at_least_a_pixel_when_padded(tmp_path):
    Image.new("RGB", (500, 1), RED).save(tmp_path / "x.png")
    preprocess = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3, resize_mode="longest", fill_color=9)

    pixels = decode_image(str(tmp_path / "x.png"), preprocess)

    assert not isinstance(pixels, Skipped)
    assert [tuple(pixels[:, y, 4]) for y in (2, 3, 4)] == [(9, 9, 9), RED, (9, 9, 9)]


def test_a_strip_is_not_blown_up_to_gigabytes(tmp_path):
    # 224 x 112,000,000 in between, were the crop not taken first.
    strip = Image.fromarray(np.arange(500_000, dtype=np.uint32).astype(np.uint8).reshape(-1, 1))
    strip.save(tmp_path / "x.png")
    code = f"""
        import resource
        from zsclip.pixels.decode import *
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
        pixels = decode_image({str(tmp_path / "x.png")!r}, Preprocess((224, 224), (0,) * 3, (1,) * 3))
        print(pixels.shape, pixels[0].std(axis=1).max())
    """

    assert run_python(code).stdout == "(3, 224, 224) 0.0\n"


@pytest.mark.parametrize(("width", "height"), [(1, 330), (330, 1), (3, 1001), (34, 11_000), (11_000, 34)])
def test_a_strip_is_within_two_grey_levels_of_open_clip(tmp_path, width, height):
    preprocess = Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3)
    image = noise(width, height, "L").point([64 + value // 2 for value in range(256)])  # nothing is clipped in between
    image.save(tmp_path / "x.png")
    assert 224 * 224 * max(width, height) / min(width, height) > MAX_RESIZED_PIXELS

    pixels = decode_image(str(tmp_path / "x.png"), preprocess)

    assert np.abs(np.subtract(pixels, by_open_clip(image, preprocess), dtype=int)).max() <= 2


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
def test_what_is_transparent_lies_on_white(tmp_path, mode, name, options):
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
def test_formats_are_told_by_content_not_by_name(tmp_path, name):
    image = Image.new("1" if name == "x.pbm" else "RGB", (32, 32), 1 if name == "x.pbm" else RED)
    image.save(tmp_path / name, format="JPEG" if name == "x" else None)
    os.rename(tmp_path / name, tmp_path / "y.png")

    assert np.abs(colours(tmp_path / "y.png").astype(int) - (WHITE if name == "x.pbm" else RED)).max() < 5


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), RED)).save(str(tmp_path / "x.heic"), quality=100)

    assert np.abs(colours(tmp_path / "x.heic").astype(int) - RED).max() < 20


def test_heic_without_pillow_heif_names_the_cure(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(100))
    code = f"""
        import sys
        sys.modules["pillow_heif"] = None  # as if it were not installed
        from zsclip.pixels.decode import *
        print(decode_image({str(tmp_path / "x.jpg")!r}, Preprocess((8, 8), (0,) * 3, (1,) * 3)).message)
    """

    assert run_python(code).stdout == "a HEIC picture; to read it: pip install 'zsclip[heic]'\n"


# Files that give no pixels.


def run_python(code: str, **options: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in a Python of its own."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, **options)
    assert run.stderr == ""
    return run


def test_every_bad_file_becomes_a_skipped_of_its_kind(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "page.jpg").write_text("\n<!doctype html><html>")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    noise(64, 64).save(tmp_path / "whole.jpg")
    noise(64, 64).save(tmp_path / "whole.png")
    for name in ("whole.jpg", "whole.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut{name[-4:]}").write_bytes(whole[: len(whole) // 2])

    seen = {name: skipped(tmp_path / name) for name in (
        "empty.jpg", "text.jpg", "page.jpg", "folder.jpg", "broken.jpg", "loop.jpg", "cut.jpg", "cut.png", "none.jpg",
        "text.jpg/x.jpg", "x" * 300, "a\0b",
    )}  # fmt: skip

    assert {name: (row.error, row.message) for name, row in seen.items() if not name.startswith("cut")} == {
        "empty.jpg": ("unreadable", "the file is empty"),
        "text.jpg": ("unreadable", "damaged, or not a picture of a kind that is read"),
        "page.jpg": ("unreadable", "a web page or drawing (HTML, SVG), not a picture"),
        "folder.jpg": ("not-a-file", "a folder"),
        "broken.jpg": ("missing", "no such file or directory"),
        "loop.jpg": ("missing", "too many levels of symbolic links"),
        "none.jpg": ("missing", "no such file or directory"),
        "text.jpg/x.jpg": ("missing", "not a directory"),
        "x" * 300: ("missing", "file name too long"),
        "a\0b": ("missing", "the path holds a NUL byte; paths separated by NUL need --null"),
    }
    for name in ("cut.jpg", "cut.png"):
        assert seen[name].error == "unreadable"
        assert seen[name].message.startswith("cannot decode: image file is truncated")


def test_a_pipe_a_socket_and_a_device_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for a writer
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")

        for path in (tmp_path / "pipe.jpg", tmp_path / "s.jpg", "/dev/null"):
            assert skipped(path).error == "not-a-file"


def test_a_file_without_permission_says_so(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    tmp_path.chmod(0o755)
    code = """
        import os
        from zsclip.pixels.decode import *
        preprocess = Preprocess((8, 8), (0,) * 3, (1,) * 3)
        decode_image("nope", preprocess)  # loads what it needs while it may
        if os.geteuid() == 0:
            os.setuid(65534)  # to root nothing is unreadable
        print(decode_image("x.png", preprocess))
    """

    run = run_python(code, cwd=tmp_path)

    assert run.stdout == "Skipped(path='x.png', error='permission', message='permission denied', truth=None)\n"


def test_urls_raw_videos_and_drawings_are_refused_with_the_reason(tmp_path):
    for name in ("x.CR2", "x.dng", "x.mp4", "x.svg", "x.pdf"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="TIFF")  # as RAW is: Pillow would show its thumbnail

    assert "camera RAW is not read" in skipped(tmp_path / "x.CR2").message
    assert "camera RAW is not read" in skipped(tmp_path / "x.dng").message
    assert "a video" in skipped(tmp_path / "x.mp4").message
    assert "export it as PNG" in skipped(tmp_path / "x.svg").message
    assert "export it as PNG" in skipped(tmp_path / "x.pdf").message
    assert skipped("http://example.com/x.jpg").error == "not-a-file"
    assert "a URL; download it first" in skipped("http://example.com/x.jpg").message


def test_ghostscript_and_formats_that_match_anything_are_never_tried(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "y.png", format="TGA")

    assert skipped(tmp_path / "x.jpg").error == "unreadable"
    assert skipped(tmp_path / "y.png").error == "unreadable"


def test_an_icon_that_may_hold_more_pixels_than_it_says_is_never_tried(tmp_path):
    picture = png(100, 100, 8, 2, b"")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), 22)  # 16 x 16, it says
    (tmp_path / "x.png").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + picture)
    Image.new("RGB", (16, 16)).save(tmp_path / "y.png", format="ICO")

    assert skipped(tmp_path / "x.png").error == "unreadable"
    assert skipped(tmp_path / "y.png").error == "unreadable"


def test_too_many_pixels_are_refused_by_the_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png(100_000, 100_000, 8, 2, b""))
    Image.new("1", (100, 101)).save(tmp_path / "x.png")
    message = "10000000000 pixels, more than --max-pixels 178956970"

    assert skipped(tmp_path / "bomb.png") == Skipped(str(tmp_path / "bomb.png"), "too-large", message)
    assert skipped(tmp_path / "bomb.png", max_pixels=10**9).error == "too-large"
    assert skipped(tmp_path / "x.png", max_pixels=10_099).message == "10100 pixels, more than --max-pixels 10099"
    assert colours(tmp_path / "x.png", max_pixels=10_100).shape == (8, 8, 3)


def test_max_pixels_may_be_more_than_pillow_allows(tmp_path):
    # In a process of its own, as Pillow's limit is for the whole process.
    Image.new("RGB", (40, 40)).save(tmp_path / "warned.png")
    Image.new("RGB", (100, 100)).save(tmp_path / "refused.png")
    code = """
        from zsclip.pixels.decode import *
        Image.MAX_IMAGE_PIXELS = 1000
        preprocess = Preprocess((8, 8), (0,) * 3, (1,) * 3)
        print(decode_image("warned.png", preprocess, Decoding(1000)).message)
        print(decode_image("warned.png", preprocess, Decoding(1600)).shape)
        print(decode_image("refused.png", preprocess, Decoding(10_000)).shape)
    """

    assert run_python(code, cwd=tmp_path).stdout == "1600 pixels, more than --max-pixels 1000\n(3, 8, 8)\n(3, 8, 8)\n"


def test_no_memory_left_is_a_row_too(tmp_path):
    (tmp_path / "x.png").write_bytes(png(12_000, 12_000, 1, 0, bytes(12_000 * 1501)))
    code = """
        import resource
        from zsclip.pixels.decode import *
        preprocess = Preprocess((8, 8), (0,) * 3, (1,) * 3)
        decode_image("nope", preprocess)
        resource.setrlimit(resource.RLIMIT_DATA, (100 << 20, 100 << 20))
        print(decode_image("x.png", preprocess).error)
    """

    assert run_python(code, cwd=tmp_path).stdout == "out-of-memory\n"


def test_pillows_warnings_stay_quiet_and_other_filters_as_they_were(tmp_path):
    Image.new("P", (8, 8)).save(tmp_path / "x.png", transparency=b"\x80" * 256)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0"  # more values than the file has
    Image.new("RGB", (8, 8)).save(tmp_path / "y.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        colours(tmp_path / "x.png")
        colours(tmp_path / "y.jpg")
        warnings.warn("mine", stacklevel=1)

    assert [str(warning.message) for warning in seen] == ["mine"]


def test_what_pillow_logs_stays_off_stderr(tmp_path):
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 2, 273: 200, 277: 3000, 278: 1, 279: 3}  # 277: samples per pixel
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "x.tif").write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(100))
    code = """
        from zsclip.pixels.decode import *
        print(decode_image("x.tif", Preprocess((8, 8), (0,) * 3, (1,) * 3)).error)
    """

    assert run_python(code, cwd=tmp_path).stdout == "unreadable\n"  # and nothing on stderr


# The budget of decoded pixels, and JPEGs that are decoded smaller.


def test_decoded_pixels_are_bounded_however_many_threads(tmp_path):
    """Eight threads, pixels for two pictures and a half: two at a time. One larger than all of it goes alone."""
    for i in range(8):
        Image.new("RGB", (100, 100), (i, 0, 0)).save(tmp_path / f"{i}.png")
    Image.new("RGB", (300, 300)).save(tmp_path / "large.png")
    held, most, lock, pair = 0, 0, threading.Lock(), threading.Barrier(2)

    class Counted(PixelBudget):
        @contextmanager
        def held(self, pixels: int) -> Iterator[None]:
            nonlocal held, most
            with super().held(pixels):
                with lock:
                    held += pixels
                    most = max(most, held)
                if pixels == 10_000 and not pair.broken:
                    pair.wait(60)  # there is always another one
                yield
                with lock:
                    held -= pixels

    decoding = Decoding(budget=Counted(25_000))
    with ThreadPoolExecutor(8) as pool:
        small = [pool.submit(decode_image, str(tmp_path / f"{i}.png"), SIMPLE, decoding) for i in range(8)]
        reds = [int(outcome.result()[0, 0, 0]) for outcome in small]
    assert most == 20_000
    assert reds == list(range(8))
    pair.abort()
    with ThreadPoolExecutor(8) as pool:
        names = ["0", "large", "1", "large"]
        both = [pool.submit(decode_image, str(tmp_path / f"{name}.png"), SIMPLE, decoding) for name in names]
        assert all(outcome.result().shape == (3, 8, 8) for outcome in both)
    assert most == 90_000  # never beside another


def test_pixels_are_given_back_by_a_picture_that_cannot_be_decoded(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "x.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "x.png").read_bytes()[:500])
    decoding = Decoding(budget=PixelBudget(64 * 64))

    for _ in range(3):
        assert decode_image(str(tmp_path / "bad.png"), SIMPLE, decoding).error == "unreadable"
    assert decode_image(str(tmp_path / "x.png"), SIMPLE, decoding).shape == (3, 8, 8)


def test_what_a_hanging_decoder_holds_is_freed_once():
    budget, stuck, over = PixelBudget(100), threading.Event(), threading.Event()

    def hang() -> None:
        with budget.held(100):
            stuck.set()
            over.wait(60)

    thread = threading.Thread(target=hang)
    thread.start()
    assert stuck.wait(60)
    row = given_up("x.jpg", thread.ident, Decoding(budget=budget))
    assert (row.path, row.error) == ("x.jpg", "timeout")
    with budget.held(100):
        assert thread.is_alive()  # it has not simply been waited for
        over.set()
        thread.join(60)
    with budget.held(100):
        pass
    assert budget._free == 100


def test_who_waits_for_pixels_does_not_hang():
    budget = PixelBudget(100)

    def wait() -> None:
        with budget.held(100):
            pass

    with budget.held(100):
        thread = threading.Thread(target=wait)
        thread.start()
        while not budget.is_waited_for(thread.ident):
            time.sleep(0.01)
        assert given_up("x.jpg", thread.ident, Decoding(budget=budget)) is None
    thread.join(60)
    assert given_up("x.jpg", thread.ident, Decoding(budget=budget)) is not None


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
    path, taken = str(tmp_path / "x.jpg"), []

    class Noted(PixelBudget):
        def held(self, pixels: int) -> AbstractContextManager[None]:
            taken.append(pixels)
            return super().held(pixels)

    fast = decode_image(path, preprocess, Decoding(fast_jpeg=True, budget=Noted(10**9)))
    full = decode_image(path, preprocess)

    assert taken == [decoded[0] * decoded[1]]
    assert np.abs(fast.astype(int) - full).max() <= 6
    assert decoded != size or np.array_equal(fast, full)


def test_fast_jpeg_leaves_other_formats_as_they_are(tmp_path):
    scenery(1024, 768).save(tmp_path / "x.png")
    scenery(1024, 768).save(tmp_path / "x.webp")

    for name in ("x.png", "x.webp"):
        path = str(tmp_path / name)
        assert np.array_equal(decode_image(path, SIMPLE, Decoding(fast_jpeg=True)), decode_image(path, SIMPLE))
