"""Pictures that say which colours they have in ways that Pillow does not read."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from profiles import ADOBE_RGB, D65, DISPLAY_P3, SRGB, matrix_profile
from test_colours import SHOWN, SPACES, WIDE, stored_in
from test_decode import SIMPLE

from zsclip.pixels.declared_colours import profile_of
from zsclip.pixels.decode import decode_image
from zsclip.pixels.skipped import Skipped

SAFE = [(200, 120, 40), (60, 70, 160), (128, 128, 128), (90, 150, 100), (255, 255, 255), (0, 0, 0)]  # in each space
P3_CHUNK = struct.pack(">8I", 31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)
SRGB_CHUNK = struct.pack(">8I", 31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)


def saved(stored: tuple[int, ...], name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), stored).save(file, name, **options)
    return file.getvalue()


def seen(data: bytes, folder: Path) -> list[int]:
    (folder / "x").write_bytes(data)
    pixels = decode_image(str(folder / "x"), SIMPLE)
    assert not isinstance(pixels, Skipped), pixels.message
    return pixels[:, 4, 4].tolist()


def assert_near(found: list[int], expected: tuple[int, ...], tolerance: int = 4) -> None:
    assert np.abs(np.subtract(found, expected)).max() <= tolerance, (found, expected)


def png(stored: tuple[int, ...], **chunks: bytes) -> bytes:
    data = saved(stored, "PNG")
    extra = b"".join(
        struct.pack(">I", len(content)) + (name := kind.encode()) + content
        + struct.pack(">I", zlib.crc32(name + content)) for kind, content in chunks.items()
    )  # fmt: skip
    return data[:33] + extra + data[33:]


def jp2(stored: tuple[int, ...], profile: bytes, method: int = 2) -> bytes:
    data = saved(stored, "JPEG2000")
    header, colr = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    old = int.from_bytes(data[colr : colr + 4], "big")
    new = struct.pack(">I4s", 11 + len(profile), b"colr") + bytes((method, 0, 0)) + profile
    size = int.from_bytes(data[header : header + 4], "big") - old + len(new)
    return data[:header] + struct.pack(">I", size) + data[header + 4 : colr] + new + data[colr + old :]


def bmp(stored: tuple[int, ...], profile: bytes, kind: bytes = b"DEBM") -> bytes:
    pixels = bytes(stored[::-1]) * 64
    head = struct.pack("<IiiHHIIiiII", 124, 8, 8, 1, 24, 0, len(pixels), 2835, 2835, 0, 0) + bytes(16) + kind
    head += bytes(48) + struct.pack("<IIII", 4, 124 + len(pixels), len(profile), 0)
    total = 14 + len(head) + len(pixels) + len(profile)
    return b"BM" + struct.pack("<IHHI", total, 0, 0, 138) + head + pixels + profile


def gif(stored: tuple[int, ...], profile: bytes, name: bytes = b"ICCRGBG1012") -> bytes:
    data = saved(stored, "GIF")
    begin = 13 + (3 * (2 << (data[10] & 7)) if data[10] & 0x80 else 0)
    parts = b"".join(bytes((len(part),)) + part for part in (profile[i : i + 255] for i in range(0, len(profile), 255)))
    return data[:begin] + b"!\xff\x0b" + name + parts + b"\0" + data[begin:]


def exif_of(colour_space: int, interoperability: str) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = colour_space
    exif.get_ifd(0xA005)[1] = interoperability
    exif.get_ifd(0x8769)[0xA005] = exif.get_ifd(0xA005)
    exif[0x8769] = exif.get_ifd(0x8769)
    return exif


@pytest.mark.parametrize("write", [jp2, bmp, gif])
@pytest.mark.parametrize("space", SPACES)
def test_a_profile_that_pillow_does_not_read_is_used(tmp_path: Path, space: str, write: Any) -> None:
    for colour in SHOWN if space != "ProPhoto" else SAFE:
        assert_near(seen(write(stored_in(space, colour), WIDE[space]), tmp_path), colour)


@pytest.mark.parametrize("profile", [b"x" * 300, matrix_profile(SRGB)[:200]])
def test_a_broken_profile_does_not_cost_the_picture(tmp_path: Path, profile: bytes) -> None:
    for write in (jp2, bmp, gif):
        assert seen(write((200, 100, 50), profile), tmp_path) == [200, 100, 50]
    wide = WIDE["ProPhoto"]
    assert seen(bmp((200, 100, 50), wide, b"KNIL"), tmp_path) == [200, 100, 50]  # in another file
    assert seen(gif((200, 100, 50), wide, b"XMP DataXMP"), tmp_path) == [200, 100, 50]


def test_colour_codes_in_a_png_are_used(tmp_path: Path) -> None:
    for colour in SHOWN:
        stored = stored_in("Display P3", colour)
        assert_near(seen(png(stored, cICP=bytes((12, 13, 0, 1))), tmp_path), colour)
        for other in (matrix_profile(ADOBE_RGB, D65, 2.2), matrix_profile(SRGB)):  # the codes count more
            icc = b"x\0\0" + zlib.compress(other)
            assert_near(seen(png(stored, iCCP=icc, cICP=bytes((12, 13, 0, 1))), tmp_path), colour)
    for codes in (bytes((1, 13, 0, 1)), bytes((2, 2, 0, 1)), bytes((9, 16, 0, 1)), bytes((12, 13, 1, 1)), b"\x0c"):
        assert seen(png((200, 100, 50), cICP=codes), tmp_path) == [200, 100, 50]


@pytest.mark.parametrize("colour", SAFE)
def test_colour_codes_in_an_avif_are_used(tmp_path: Path, colour: tuple[int, ...]) -> None:
    plain = saved(stored_in("Display P3", colour), "AVIF", quality=100, subsampling="4:4:4")
    srgb = b"colrnclx" + struct.pack(">HH", 1, 13)
    assert plain.count(srgb) == 1

    for codes, shown in (((12, 13), colour), ((12, 16), None), ((1, 13), None), ((2, 2), None)):
        data = plain.replace(srgb, b"colrnclx" + struct.pack(">HH", *codes))
        assert_near(seen(data, tmp_path), shown or tuple(seen(plain, tmp_path)), 5 if shown else 0)
    assert_near(seen(plain, tmp_path), stored_in("Display P3", colour), 3)


def test_colour_codes_in_a_heic_are_used(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    stored = stored_in("Display P3", (200, 120, 40))
    for primaries, shown in ((12, (200, 120, 40)), (1, stored)):
        codes = {"color_primaries": primaries, "transfer_characteristic": 13, "matrix_coefficients": 6}
        assert_near(seen(saved(stored, "HEIF", quality=100, **codes), tmp_path), shown, 5)


def test_the_gamma_and_primaries_of_a_png_are_used(tmp_path: Path) -> None:
    usual, linear = struct.pack(">I", 45_455), struct.pack(">I", 100_000)
    for colour in SAFE:
        light = np.array(colour) / 255
        light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
        stored = tuple(np.rint(light * 255).astype(int).tolist())
        assert_near(seen(png(stored, gAMA=linear), tmp_path), colour, 3)
        assert_near(seen(png(stored, cHRM=SRGB_CHUNK, gAMA=linear), tmp_path), colour, 3)
        assert_near(seen(png(stored_in("Display P3", colour), gAMA=usual, cHRM=P3_CHUNK), tmp_path), colour)


@pytest.mark.parametrize(
    "chunks",
    [
        {"gAMA": struct.pack(">I", 45_455)},
        {"gAMA": struct.pack(">I", 45_455), "cHRM": SRGB_CHUNK},
        {"gAMA": struct.pack(">I", 100_000), "sRGB": b"\0"},
        {"cHRM": P3_CHUNK},
        {"gAMA": bytes(4)},
        {"gAMA": struct.pack(">I", 45_455), "cHRM": bytes(32)},
        {"gAMA": struct.pack(">I", 100_000), "iCCP": b"x\0\0" + zlib.compress(matrix_profile(SRGB))},
    ],
)
def test_a_png_in_srgb_stays_as_it_is(tmp_path: Path, chunks: dict[str, bytes]) -> None:
    assert seen(png((200, 100, 50), **chunks), tmp_path) == [200, 100, 50]
    assert seen(png((20, 5, 9), **chunks), tmp_path) == [20, 5, 9]


def test_adobe_rgb_is_recognised_as_cameras_declare_it(tmp_path: Path) -> None:
    for colour in SAFE:
        stored = stored_in("Adobe RGB", colour)
        how = {"quality": 100, "subsampling": 0}
        assert_near(seen(saved(stored, "JPEG", exif=exif_of(0xFFFF, "R03"), **how), tmp_path), colour, 4)
        plain = seen(saved(stored, "JPEG", **how), tmp_path)
        for exif in (exif_of(1, "R03"), exif_of(0xFFFF, "R98"), exif_of(0xFFFF, "xR03")):
            assert seen(saved(stored, "JPEG", exif=exif, **how), tmp_path) == plain
        tagged = saved(stored, "JPEG", exif=exif_of(0xFFFF, "R03"), icc_profile=matrix_profile(SRGB), **how)
        assert seen(tagged, tmp_path) == plain


def test_profiles_are_written_as_the_icc_defines_them() -> None:
    for primaries, gamma in ((DISPLAY_P3, 0), (ADOBE_RGB, 2.2), (SRGB, 1.0)):
        ours, twin = profile_of((*D65, *np.ravel(primaries).tolist()), gamma), matrix_profile(primaries, D65, gamma)
        for name in (b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC"):
            found, expected = (
                np.frombuffer(data[slice(*_place(data, name))][8:], ">i4").astype(int) for data in (ours, twin)
            )
            assert np.abs(found - expected).max() <= 20, name  # of 65536; the white points have four digits


def _place(profile: bytes, name: bytes) -> tuple[int, int]:
    at = profile.index(name, 128)
    begin, size = struct.unpack(">II", profile[at + 4 : at + 12])
    return begin, begin + size // 4 * 4
