"""Resizing and cropping, to the pixel, held against open_clip's own transform."""

import numpy as np
import pytest
from PIL import Image
from test_decode import RED, by_open_clip, noise, run_python

from zsclip.pixels.decode import decode_image
from zsclip.pixels.fit import MAX_RESIZED_PIXELS, Preprocess
from zsclip.pixels.skipped import Skipped

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
