"""What is transparent lies on white, and an alpha channel that means nothing is ignored."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_decode import BLACK, RED, WHITE, colours, noise, png
from tiffs import RGB, quadrants, tiff

from zsclip.pixels.animation import MAX_EMPTY_FRAMES


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("key", [0, 1])
def test_the_transparent_grey_of_a_png_has_the_depth_of_its_samples(tmp_path: Path, depth: int, key: int) -> None:
    """The left half is of grey 0, the right one of grey 1."""
    if depth == 16:
        row = struct.pack(">8H", *[0] * 4, *[1] * 4)
    else:
        row = int("".join(f"{grey:0{depth}b}" for grey in [0] * 4 + [1] * 4), 2).to_bytes(depth, "big")
    (tmp_path / "x.png").write_bytes(png(8, 8, depth, 0, (b"\0" + row) * 8, (b"tRNS", struct.pack(">H", key))))

    left, right = colours(tmp_path / "x.png")[4, [1, 6], 0].tolist()

    grey = round(255 / (2**depth - 1))
    assert (left, right) == ((255, grey) if key == 0 else (0, 255))


def test_all_bits_of_a_transparent_colour_count(tmp_path: Path) -> None:
    """The left half differs from the transparent colour in the lower byte of one channel."""
    for key in ((60_000, 513, 2), (257, 257, 257)):
        near = (key[0], key[1] ^ 1, key[2])
        row = b"\0" + struct.pack(">24H", *near * 4, *key * 4)
        (tmp_path / "x.png").write_bytes(png(8, 8, 16, 2, row * 8, (b"tRNS", struct.pack(">3H", *key))))
        shown = colours(tmp_path / "x.png")
        assert tuple(shown[4, 1]) == tuple(each >> 8 for each in key)
        assert tuple(shown[4, 6]) == WHITE


def test_transparent_palette_entries_turn_white_at_every_depth(tmp_path: Path) -> None:
    for depth in (1, 2, 4, 8):
        row = int("".join(f"{entry:0{depth}b}" for entry in [0] * 4 + [1] * 4), 2).to_bytes(depth, "big")
        chunks = (b"PLTE", bytes((*RED, *BLACK))), (b"tRNS", b"\xff\0")
        (tmp_path / "x.png").write_bytes(png(8, 8, depth, 3, (b"\0" + row) * 8, *chunks))
        shown = colours(tmp_path / "x.png")
        assert (tuple(shown[4, 1]), tuple(shown[4, 6])) == (RED, WHITE)


def bmp_with_alpha(image: Image.Image, alpha: int) -> bytes:
    """A BMP with a V4 header that says that there is alpha."""
    rows = np.asarray(image)[::-1, :, ::-1]
    data = np.dstack((rows, np.full(rows.shape[:2], alpha, np.uint8))).tobytes()
    size = len(data)
    header = struct.pack("<IiiHHIIiiII", 108, image.width, image.height, 1, 32, 3, size, 2835, 2835, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return b"BM" + struct.pack("<IHHI", 122 + size, 0, 0, 122) + (header + masks).ljust(108, b"\0") + data


def test_alpha_that_is_zero_everywhere_is_ignored(tmp_path: Path) -> None:
    image = noise(16, 16)
    image.save(tmp_path / "plain.png")
    expected = colours(tmp_path / "plain.png")
    clear = image.convert("RGBA")
    clear.putalpha(0)

    (tmp_path / "x.bmp").write_bytes(bmp_with_alpha(image, 0))
    clear.save(tmp_path / "x.png")
    clear.save(tmp_path / "x.tif")
    clear.save(tmp_path / "x.webp", lossless=True, exact=True)
    samples = np.asarray(clear).astype("u2") * 257
    (tmp_path / "deep.tif").write_bytes(tiff(samples, RGB, extra=(2,)))

    for name in ("x.bmp", "x.png", "x.tif", "x.webp", "deep.tif"):
        assert np.array_equal(colours(tmp_path / name), expected), name
    (tmp_path / "x.bmp").write_bytes(bmp_with_alpha(image, 1))  # one level is enough to mean something
    assert colours(tmp_path / "x.bmp").min() >= 253


def test_grey_and_palette_pictures_that_are_transparent_everywhere_show_their_colours(tmp_path: Path) -> None:
    grey = Image.new("LA", (16, 16), (90, 0))
    grey.save(tmp_path / "grey.png")
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([*BLACK, *RED])
    palette.save(tmp_path / "palette.png", transparency=1)
    (tmp_path / "key.png").write_bytes(png(8, 8, 8, 0, (b"\0" + b"\7" * 8) * 8, (b"tRNS", b"\0\7")))

    assert tuple(colours(tmp_path / "grey.png")[4, 4]) == (90, 90, 90)
    assert tuple(colours(tmp_path / "palette.png")[4, 4]) == RED
    assert tuple(colours(tmp_path / "key.png")[4, 4]) == (7, 7, 7)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp"])
def test_of_an_animation_the_first_frame_that_is_not_empty_counts(tmp_path: Path, name: str) -> None:
    empty, half, full = (Image.new("RGBA", (16, 16)) for _ in range(3))
    half.paste((*RED, 255), (0, 0, 8, 16))
    full.paste((*BLACK, 255), (0, 0, 16, 16))
    options = {"lossless": True} if name == "x.webp" else {"disposal": 2} if name == "x.gif" else {}
    empty.save(tmp_path / name, save_all=True, append_images=[half, full], duration=[100, 120, 140], **options)

    shown = colours(tmp_path / name)

    assert (tuple(shown[4, 1]), tuple(shown[4, 6])) == (RED, WHITE)


def test_an_animation_of_empty_frames_comes_to_an_end(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (8, 8), (i % 250, 0, 0, 0)) for i in range(MAX_EMPTY_FRAMES + 20)]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True, exact=True)
    frames[0].save(tmp_path / "y.webp", save_all=True, append_images=frames[1:3], lossless=True, exact=True)

    assert colours(tmp_path / "x.webp").shape == (8, 8, 3)
    assert colours(tmp_path / "y.webp").shape == (8, 8, 3)


def test_premultiplied_8_bit_samples_are_shown_on_white(tmp_path: Path) -> None:
    stored = quadrants([(128, 0, 0, 128), (0, 64, 0, 64), (0, 0, 0, 0), (255, 255, 255, 255)])
    for planar in (False, True):
        (tmp_path / "x.tif").write_bytes(tiff(stored, RGB, extra=(1,), planar=planar))
        shown = colours(tmp_path / "x.tif").astype(int)[[1, 1, 6, 6], [1, 6, 1, 6]]
        expected = [(255, 127, 127), (191, 255, 191), WHITE, WHITE]
        assert np.abs(shown - expected).max() <= 1
