"""Pictures with a colour profile, as a colour-managed viewer shows them."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from profiles import (
    ADOBE_RGB,
    D50,
    D65,
    DISPLAY_P3,
    PROPHOTO,
    SRGB,
    grey_profile,
    matrix_of,
    matrix_profile,
    table_profile,
)
from test_decode import SIMPLE, noise

from zsclip.api import _encoded
from zsclip.pixels.colours import in_srgb
from zsclip.pixels.decode import decode_file, decode_image, upright
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import Decoding

SPACES = {"Display P3": (DISPLAY_P3, D65, 0), "Adobe RGB": (ADOBE_RGB, D65, 2.2), "ProPhoto": (PROPHOTO, D50, 1.8)}
WIDE = {name: matrix_profile(*each) for name, each in SPACES.items()}
BUILT_IN = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SHOWN = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (60, 70, 160), (128, 128, 128), (0, 0, 0), (255,) * 3]
INKS = {
    inks: (100 * (1 - inks[3]) * (1 - 0.3 * sum(inks[:3]) / 3), 60.0 * (inks[1] - inks[0]), 70.0 * (inks[2] - inks[0]))
    for inks in itertools.product((0, 1), repeat=4)
}


def colour(image: Image.Image, path: Path, profile: bytes | None, **options: object) -> NDArray[np.int64]:
    image.save(path, icc_profile=profile, **options)
    pixels = decode_image(str(path), SIMPLE)
    assert not hasattr(pixels, "message"), pixels
    return pixels[:, 4, 4].astype(int)


def stored_in(space: str, shown: tuple[int, ...]) -> tuple[int, ...]:
    """Give the numbers that a colour of sRGB has in a wide space, by the definitions of both."""
    primaries, white, gamma = SPACES[space]
    levels = np.array(shown) / 255
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    there = np.linalg.solve(matrix_of(primaries, white), matrix_of(SRGB) @ light).clip(0, 1)
    curved = (
        there ** (1 / gamma)
        if gamma
        else np.where(there <= 0.0031308, there * 12.92, 1.055 * there ** (1 / 2.4) - 0.055)
    )
    return tuple(np.rint(curved * 255).astype(int).tolist())


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tif", "x.jpg"])
@pytest.mark.parametrize("space", WIDE)
def test_wide_colours_are_converted_to_srgb(tmp_path: Path, space: str, name: str) -> None:
    options = {"lossless": True} if name == "x.webp" else {"quality": 100, "subsampling": 0} if name == "x.jpg" else {}
    for expected in SHOWN:
        stored = stored_in(space, expected)
        seen = colour(Image.new("RGB", (16, 16), stored), tmp_path / name, WIDE[space], **options)
        assert np.abs(seen - expected).max() <= (26 if name == "x.jpg" else 16), (stored, seen)
        assert np.abs(seen - expected).mean() <= 6
        assert min(expected) != max(expected) or np.abs(seen - expected).max() <= 2  # greys have no rounded neighbours


def test_pure_red_has_the_numbers_that_are_known_from_wide_files() -> None:
    known = [(234, 51, 35), (219, 0, 0), (179, 70, 26)]

    assert np.abs(np.subtract([stored_in(space, (255, 0, 0)) for space in SPACES], known)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_and_palette_pictures_are_converted_too(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (234, 51, 35, 255)).convert(mode)

    assert np.abs(colour(image, tmp_path / "x.png", WIDE["Display P3"]) - (255, 0, 0)).max() <= 9


@pytest.mark.parametrize(
    "profile", [matrix_profile(SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_in_srgb_stay_as_they_are(tmp_path: Path, profile: bytes, mode: str) -> None:
    image = noise(64, 48, mode)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "x.png", icc_profile=profile)

    assert np.array_equal(
        decode_image(str(tmp_path / "x.png"), SIMPLE), decode_image(str(tmp_path / "plain.png"), SIMPLE)
    )


def test_grey_profiles_are_applied(tmp_path: Path) -> None:
    linear = grey_profile(1.0)
    for mode in ("L", "LA", "I;16"):
        image = Image.new("I;16", (16, 16), 55 * 257) if mode == "I;16" else Image.new("L", (16, 16), 55).convert(mode)
        seen = colour(image, tmp_path / "x.png", linear)
        assert np.abs(seen - 128).max() <= 2, mode  # 0.2157 of the light is the middle of sRGB


def test_a_profile_for_colours_is_applied_to_a_grey_picture(tmp_path: Path) -> None:
    assert (
        np.abs(colour(Image.new("L", (16, 16), 55), tmp_path / "x.png", matrix_profile(SRGB, gamma=1.0)) - 128).max()
        <= 2
    )


@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
def test_inks_are_converted_as_their_press_prints_them(tmp_path: Path, name: str) -> None:
    press = table_profile(b"CMYK", INKS)
    lab = {
        (0, 0, 0, 0): (100, 0, 0),
        (0, 255, 255, 0): (80, 60, 70),
        (0, 0, 0, 255): (0, 0, 0),
        (255, 0, 0, 0): (90, -60, -70),
    }
    to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    for inks, (light, a, b) in lab.items():
        one = Image.frombytes("LAB", (1, 1), bytes((round(light * 2.55), a % 256, b % 256)))
        expected = np.array(ImageCms.applyTransform(one, to_srgb).getpixel((0, 0)))
        seen = colour(
            Image.new("CMYK", (16, 16), inks), tmp_path / name, press, **({"quality": 100} if name == "x.jpg" else {})
        )
        assert np.abs(seen - expected).max() <= 4, (inks, seen, expected)


def test_a_table_that_swaps_colours_as_xyb_does_is_applied(tmp_path: Path) -> None:
    swapped = table_profile(b"RGB ", {rgb: (100 * rgb[2], 0, 0) for rgb in itertools.product((0, 1), repeat=3)})

    assert colour(Image.new("RGB", (16, 16), (255, 255, 0)), tmp_path / "x.png", swapped).max() <= 3
    assert colour(Image.new("RGB", (16, 16), (0, 0, 255)), tmp_path / "x.png", swapped).min() >= 252


GREYS = {rgb: (100 * sum(rgb) / 3, 0.0, 0.0) for rgb in itertools.product((0, 1), repeat=3)}


@pytest.mark.parametrize("level", [0, 10, 20, 40, 128, 255])
def test_the_only_table_of_a_profile_says_how_dark_black_is(tmp_path: Path, level: int) -> None:
    """XYB has one for all intents, and its black is black; for a perceptual one, version 4 sets another."""
    light = Image.frombytes("LAB", (1, 1), bytes((level, 0, 0)))
    to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    expected = np.array(ImageCms.applyTransform(light, to_srgb).getpixel((0, 0)))
    grey = Image.new("RGB", (16, 16), (level,) * 3)

    seen = colour(grey, tmp_path / "x.png", table_profile(b"RGB ", GREYS, version=4))

    assert np.abs(seen - expected).max() <= 2, (seen, expected)
    by_cms = ImageCms.profileToProfile(
        grey, io.BytesIO(table_profile(b"RGB ", GREYS, version=4, intents=2)), ImageCms.createProfile("sRGB")
    )
    seen = colour(grey, tmp_path / "x.png", table_profile(b"RGB ", GREYS, version=4, intents=2))
    assert seen.tolist() == list(by_cms.getpixel((0, 0)))
    assert level not in (10, 20, 40) or np.abs(seen - expected).max() > 2


def test_a_press_whose_black_is_dark_grey_is_shown_as_littlecms_shows_it(tmp_path: Path) -> None:
    press = table_profile(b"CMYK", {inks: (20 + 0.8 * light, a, b) for inks, (light, a, b) in INKS.items()})
    for inks in ((0, 0, 0, 255), (255, 255, 255, 0), (90, 200, 30, 120)):
        image = Image.new("CMYK", (16, 16), inks)
        twin = ImageCms.profileToProfile(image, io.BytesIO(press), ImageCms.createProfile("sRGB"), outputMode="RGB")

        assert colour(image, tmp_path / "x.tif", press).tolist() == list(twin.getpixel((0, 0)))


@pytest.mark.parametrize(
    "profile", [b"", b"x", bytes(200), WIDE["Display P3"][:150], WIDE["Display P3"][:-400], grey_profile(1.0)]
)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_profile_that_is_broken_or_for_other_pictures_is_ignored(tmp_path: Path, profile: bytes, mode: str) -> None:
    image = noise(32, 32).convert(mode)
    image.save(tmp_path / "plain.tif")
    image.save(tmp_path / "x.tif", icc_profile=profile)

    assert np.array_equal(
        decode_image(str(tmp_path / "x.tif"), SIMPLE), decode_image(str(tmp_path / "plain.tif"), SIMPLE)
    )


def test_colours_are_converted_after_resizing(tmp_path: Path) -> None:
    """The slow twin: resized in the space of the picture, then converted by ImageCms itself."""
    image = noise(33, 21)
    image.save(tmp_path / "x.png", icc_profile=WIDE["ProPhoto"])
    preprocess = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3, resize_mode="squash")

    small = image.resize((8, 8), Image.Resampling.BICUBIC)
    twin = ImageCms.profileToProfile(small, io.BytesIO(WIDE["ProPhoto"]), ImageCms.createProfile("sRGB"))

    assert np.array_equal(decode_image(str(tmp_path / "x.png"), preprocess), np.asarray(twin).transpose(2, 0, 1))


def test_padding_keeps_its_colour(tmp_path: Path) -> None:
    Image.new("RGB", (40, 10), (234, 51, 35)).save(tmp_path / "x.png", icc_profile=WIDE["Display P3"])
    preprocess = Preprocess((8, 8), (0.0,) * 3, (1.0,) * 3, resize_mode="longest", fill_color=114)

    pixels = decode_image(str(tmp_path / "x.png"), preprocess)

    assert pixels[:, 0, 0].tolist() == [114, 114, 114]
    assert np.abs(pixels[:, 4, 4].astype(int) - (255, 0, 0)).max() <= 9


def test_an_upright_picture_is_converted_after_resizing(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.tif", icc_profile=table_profile(b"CMYK", INKS))

    with open(tmp_path / "x.tif", "rb") as file, upright(file) as image:
        assert image.mode == "CMYK"
        seen = in_srgb(image.resize((8, 8)))
    with open(tmp_path / "x.tif", "rb") as file:
        pixels = decode_file(file, SIMPLE, Decoding())

    assert (seen.mode, seen.info.get("icc_profile")) == ("RGB", None)
    assert np.array_equal(np.asarray(seen).transpose(2, 0, 1), pixels)


def test_a_picture_in_memory_keeps_its_profile(tmp_path: Path) -> None:
    for mode, profile in (("RGB", WIDE["ProPhoto"]), ("CMYK", table_profile(b"CMYK", INKS)), ("LAB", None)):
        Image.new(mode, (16, 16), (90, 120, 60, 10)[: len(mode)]).save(tmp_path / "x.tif", icc_profile=profile)
        with Image.open(tmp_path / "x.tif") as opened:
            data = _encoded(opened, {}, {}, None)
        seen = decode_file(io.BytesIO(data), SIMPLE, Decoding())
        assert np.array_equal(seen, decode_image(str(tmp_path / "x.tif"), SIMPLE)), mode
