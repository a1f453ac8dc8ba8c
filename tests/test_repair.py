"""Damage in metadata never costs the pixels; missing pixels do."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from profiles import DISPLAY_P3, matrix_profile
from test_decode import SIMPLE, colours, png, scenery, skipped

from zsclip.pixels.decode import decode_image, upright
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import MAX_SCANS, Decoding
from zsclip.pixels.skipped import Skipped

PROFILE = matrix_profile(DISPLAY_P3)
SIZED = Preprocess((64, 64), (0.0,) * 3, (1.0,) * 3)


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    scenery(200, 150).filter(ImageFilter.GaussianBlur(1)).save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def segment(code: int, content: bytes, length: int | None = None) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(content) + 2 if length is None else length) + content


def chunk(kind: bytes, content: bytes, total: int | None = None, length: int | None = None) -> bytes:
    total = zlib.crc32(kind + content) if total is None else total
    return struct.pack(">I", len(content) if length is None else length) + kind + content + struct.pack(">I", total)


def assert_as_whole(data: bytes, whole: bytes, folder: Path) -> None:
    (folder / "x").write_bytes(data)
    (folder / "whole").write_bytes(whole)
    seen, expected = (decode_image(str(folder / name), SIZED) for name in ("x", "whole"))
    assert not isinstance(seen, Skipped), seen.message
    assert np.array_equal(seen, expected)


BROKEN_SEGMENTS = {
    "profile without numbers": segment(0xE2, b"ICC_PROFILE\0"),
    "profile with one number": segment(0xE2, b"ICC_PROFILE\0\1"),
    "profile that lacks a part": segment(0xE2, b"ICC_PROFILE\0\1\2" + PROFILE),
    "profile that is none": segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(300)),
    "short JFIF": segment(0xE0, b"JFIF\0"),
    "JFIF without a density": segment(0xE0, b"JFIF\0\1\2\1"),
    "density of 0": segment(0xE0, b"JFIF\0\1\2\1\0\0\0\0\0\0"),
    "short Adobe": segment(0xEE, b"Adobe"),
    "Adobe without a transform": segment(0xEE, b"Adobe\0d\0\0"),
    "short EXIF": segment(0xE1, b"Exif\0\0"),
    "EXIF that points outside": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "EXIF with a huge count": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\3\xff\xff\xff\xff" * 8),
    "short Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\3\xed\0"),
    "broken MPF": segment(0xE2, b"MPF\0MM\0*\0\0"),
    "empty comment": segment(0xFE, b""),
    "length that is too large": segment(0xE1, b"Exif\0\0II*\0", 700),
    "length past the end": segment(0xE5, b"abc", 65_535),
    "length of 0": segment(0xE5, b"", 0),
    "length that is too small": segment(0xE5, b"abcdefgh", 4),
    "profile that is too long": segment(0xE2, b"ICC_PROFILE\0\1\1abc", 500),
}


@pytest.mark.parametrize("name", BROKEN_SEGMENTS)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_jpeg_with_a_broken_segment_is_read(tmp_path: Path, name: str, is_first: bool) -> None:
    whole = jpeg()
    place = 2 if is_first else 20  # before or behind the JFIF segment

    assert_as_whole(whole[:place] + BROKEN_SEGMENTS[name] + whole[place:], whole, tmp_path)


def test_undamaged_metadata_still_count(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for whole in (jpeg(icc_profile=PROFILE, exif=exif), jpeg(exif=exif)):
        assert_as_whole(whole[:20] + BROKEN_SEGMENTS["profile without numbers"] + whole[20:], whole, tmp_path)
        assert_as_whole(whole[:-2], whole, tmp_path)


def test_a_thumbnail_in_a_segment_of_wrong_length_is_not_the_picture(tmp_path: Path) -> None:
    small = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(small, "JPEG")
    whole = jpeg()

    assert_as_whole(whole[:20] + segment(0xE1, b"Exif\0\0" + small.getvalue(), 30_000) + whole[20:], whole, tmp_path)


TRAILERS = {
    "nothing": b"",
    "half a marker": b"\xff",
    "a video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\xff\xe1\0\x04\xff\xc0\0\x11\x08" + bytes(range(256)) * 40,
    "Samsung's": b"\0\0\x01\n\x0e\0\0\0Image_UTC_Data1500000000000SEFHk\0\0\0\1\0\0\0SEFT",
    "zeros": bytes(5000),
    "text": b"hello " * 100,
}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_a_jpeg_without_an_end_marker_is_read(tmp_path: Path, options: dict[str, object], trailer: str) -> None:
    whole = jpeg(**options)

    assert_as_whole(whole[:-2] + TRAILERS[trailer], whole, tmp_path)


@pytest.mark.parametrize("trailer", ["nothing", "Samsung's", "a video", "zeros"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, -30, -8, -4])
def test_a_jpeg_with_pixels_missing_stays_an_error(
    tmp_path: Path, kept: float, options: dict[str, object], trailer: str
) -> None:
    whole = jpeg(**options)
    cut = whole[: round(len(whole) * kept) if kept > 0 else int(kept)]
    (tmp_path / "x.jpg").write_bytes(cut + TRAILERS[trailer])

    assert skipped(tmp_path / "x.jpg").error == "unreadable"


def test_zeros_do_not_take_the_last_byte_of_a_scan(tmp_path: Path) -> None:
    def narrow(width: int) -> bytes:
        file = io.BytesIO()
        scenery(width, 16).convert("L").save(file, "JPEG", quality=100, optimize=True)
        return file.getvalue()

    whole = next(data for data in map(narrow, range(8, 300)) if data.endswith(b"\xff\0\xff\xd9"))

    assert_as_whole(whole[:-2] + bytes(5000), whole, tmp_path)


def mostly_empty(**options: object) -> bytes:
    """A JPEG that is mostly black, which short codes may store as zeros."""
    file = io.BytesIO()
    image = Image.new("RGB", (1500, 600))
    image.paste(scenery(200, 150), (700, 400))
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def test_zeros_within_a_scan_are_no_trailer(tmp_path: Path) -> None:
    whole = mostly_empty(optimize=True)
    assert bytes(64) in whole

    assert_as_whole(whole[:-2], whole, tmp_path)
    assert_as_whole(whole[:-2] + bytes(5000), whole, tmp_path)


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("place", [0.3, 0.9, 65_536])
def test_a_hole_in_a_jpeg_is_missing_pixels(
    tmp_path: Path, mode: str, options: dict[str, object], place: float
) -> None:
    file = io.BytesIO()
    scenery(500, 420).convert(mode).save(file, "JPEG", quality=95, **options)
    whole = file.getvalue()
    begin = int(place if place > 1 else len(whole) * place) - 200  # one hole lies across two readings
    (tmp_path / "x.jpg").write_bytes(whole[:begin] + bytes(512) + whole[begin + 512 :])

    row = skipped(tmp_path / "x.jpg")

    assert (row.error, "zeros stand where some of its data should be" in row.message) == ("unreadable", True)


@pytest.mark.parametrize("zeros", [1, 255, 256, 70_000])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
def test_zeros_that_are_no_hole(tmp_path: Path, options: dict[str, object], zeros: int) -> None:
    for whole in (jpeg(**options), mostly_empty(**options)):
        assert_as_whole(whole[:-2] + bytes(zeros) + whole[-2:], whole, tmp_path)  # behind the last pixel
        assert_as_whole(whole[:2] + segment(0xE9, bytes(min(zeros, 60_000))) + whole[2:], whole, tmp_path)


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("is_fast", [False, True])
@pytest.mark.parametrize("trailer", [b"", b"behind", bytes(70_000)])
def test_an_end_marker_does_not_hide_that_pixels_are_missing(
    tmp_path: Path, mode: str, options: dict[str, object], is_fast: bool, trailer: bytes
) -> None:
    file = io.BytesIO()
    scenery(500, 420).convert(mode).save(file, "JPEG", **{"quality": 95, **options})
    whole = file.getvalue()[:-2]
    scan = whole.rindex(b"\xff\xda") + 14
    how = Decoding(fast_jpeg=is_fast)

    (tmp_path / "x.jpg").write_bytes(whole + b"\xff\xd9" + trailer)
    assert not isinstance(decode_image(str(tmp_path / "x.jpg"), SIMPLE, how), Skipped)
    for kept in (-60, -3000, (scan - len(whole)) // 2, scan - len(whole)):
        (tmp_path / "x.jpg").write_bytes(whole[:kept].rstrip(b"\xff") + b"\xff\xd9" + trailer)
        assert skipped(tmp_path / "x.jpg", fast_jpeg=is_fast).error == "unreadable", kept


def test_the_end_marker_may_lie_across_two_readings(tmp_path: Path) -> None:
    whole = jpeg()

    for length in range(65_536 - 24, 65_536 - 16):
        comment = segment(0xFE, b"\xff\xd9" * ((length - len(whole) - 4) // 2) + b"x" * ((length - len(whole)) % 2))
        assert_as_whole(whole[:20] + comment + whole[20:] + b"\xff\xd9", whole, tmp_path)


@pytest.mark.parametrize("kept", [0.3, 0.5])
def test_an_end_marker_does_not_hide_that_a_progressive_jpeg_lacks_scans(tmp_path: Path, kept: float) -> None:
    whole = jpeg(progressive=True)
    (tmp_path / "x.jpg").write_bytes(whole[: round(len(whole) * kept)] + b"\xff\xd9")

    assert skipped(tmp_path / "x.jpg").error == "unreadable"


def test_a_progressive_jpeg_may_do_without_its_last_scans(tmp_path: Path) -> None:
    whole = jpeg(progressive=True)
    tables = [i for i in range(len(whole)) if whole.startswith(b"\xff\xc4", i)]
    (tmp_path / "x.jpg").write_bytes(whole[: tables[-1]] + b"\xff\xd9")

    assert not isinstance(decode_image(str(tmp_path / "x.jpg"), SIZED), Skipped)


def test_a_progressive_jpeg_without_its_last_scan_is_an_error(tmp_path: Path) -> None:
    whole = jpeg(progressive=True)
    scans = [i for i in range(len(whole)) if whole.startswith(b"\xff\xda", i)]
    tables = [i for i in range(len(whole)) if whole.startswith(b"\xff\xc4", i)]
    for last in scans[1:]:
        cut = max((place for place in tables if place < last), default=last)
        (tmp_path / "x.jpg").write_bytes(whole[:cut])
        assert skipped(tmp_path / "x.jpg").error == "unreadable"


def test_a_jpeg_without_an_end_marker_is_read_the_same_when_it_is_reduced(tmp_path: Path) -> None:
    file = io.BytesIO()
    scenery(1024, 1024).save(file, "JPEG", quality=90)
    (tmp_path / "whole.jpg").write_bytes(file.getvalue())
    (tmp_path / "x.jpg").write_bytes(file.getvalue()[:-2])
    (tmp_path / "cut.jpg").write_bytes(file.getvalue()[:-200])
    fast = Decoding(fast_jpeg=True)

    whole, seen, cut = (decode_image(str(tmp_path / f"{name}.jpg"), SIMPLE, fast) for name in ("whole", "x", "cut"))

    assert np.array_equal(whole, seen)
    assert isinstance(cut, Skipped)


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path: Path) -> None:
    whole = jpeg(progressive=True)
    scan = whole.rindex(b"\xff\xda")
    (tmp_path / "x.jpg").write_bytes(whole[:-2] + whole[scan:-2] * 3000 + b"\xff\xd9")

    row = skipped(tmp_path / "x.jpg")

    assert row.error == "unreadable"
    assert f"(limit {MAX_SCANS})" in row.message


def encoded(size: tuple[int, int] = (240, 180), mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    image = scenery(*size).filter(ImageFilter.GaussianBlur(1)).convert(mode)
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def in_scans_of_one_channel(data: bytes) -> bytes:
    """Make a sequential JPEG of one with three scans, by the marker: such files are rare, and Pillow writes none."""
    channels = []
    for channel in range(3):
        with Image.open(io.BytesIO(data)) as opened:
            file = io.BytesIO()
            opened.convert("YCbCr").getchannel(channel).save(file, "JPEG", quality=90)
            channels.append(file.getvalue())
    first = channels[0]
    frame = first.index(b"\xff\xc0")
    height, width = first[frame + 5 : frame + 7], first[frame + 7 : frame + 9]
    described = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    parts = [first[:frame], segment(0xC0, b"\x08" + height + width + b"\x03" + described)]
    for number, one in enumerate(channels, 1):
        tables, scan = one.index(b"\xff\xc4"), one.index(b"\xff\xda")
        header = segment(0xDA, bytes((1, number, 0, 0, 63, 0)))
        parts += [one[tables:scan] if number == 1 else b"", header, one[scan + 10 : -2]]
    return b"".join(parts) + b"\xff\xd9"


SCANS = {
    "progressive": {"progressive": True},
    "progressive, grey": {"progressive": True, "mode": "L"},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
    "progressive, all pixels in colour": {"progressive": True, "subsampling": 0},
    "optimized": {"optimize": True},
    "optimized, coarse": {"optimize": True, "quality": 30},
}


@pytest.mark.parametrize("name", SCANS)
def test_a_hole_anywhere_in_the_scans_is_missing_pixels(tmp_path: Path, name: str) -> None:
    whole = encoded(**SCANS[name])  # type: ignore[arg-type]
    first = whole.index(b"\xff\xda") + 14
    assert_as_whole(whole, whole, tmp_path)

    for begin in range(first, len(whole) - 600, 211):
        (tmp_path / "x.jpg").write_bytes(whole[:begin] + bytes(512) + whole[begin + 512 :])
        assert skipped(tmp_path / "x.jpg").error == "unreadable", begin


def test_a_hole_in_one_of_three_scans_is_missing_pixels(tmp_path: Path) -> None:
    whole = in_scans_of_one_channel(encoded())
    assert_as_whole(whole, whole, tmp_path)

    begin = whole.rindex(b"\xff\xda") - 2000
    (tmp_path / "x.jpg").write_bytes(whole[:begin] + bytes(512) + whole[begin + 512 :])

    assert "zeros stand where" in skipped(tmp_path / "x.jpg").message


@pytest.mark.parametrize("name", [name for name in SCANS if "progressive" in name])
def test_a_progressive_jpeg_cut_in_its_last_scan_is_an_error(tmp_path: Path, name: str) -> None:
    whole = encoded(**SCANS[name])  # type: ignore[arg-type]
    last = whole.rindex(b"\xff\xda") + 12

    for trailer in (b"", bytes(3000)):
        assert_as_whole(whole[:-2] + trailer, whole, tmp_path)
        for kept in range(last, len(whole) - 3, max(1, (len(whole) - last) // 60)):
            (tmp_path / "x.jpg").write_bytes(whole[:kept] + trailer)
            assert skipped(tmp_path / "x.jpg").error == "unreadable", kept


FLAT = {
    "white": lambda: Image.new("RGB", (1600, 1200), "white"),
    "a photo on white": lambda: pasted(Image.new("RGB", (1600, 1200), "white")),
    "a gradient": lambda: Image.linear_gradient("L").rotate(90).resize((6000, 64)).convert("RGB"),
    "tiles": lambda: tiled(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)),
}


def pasted(image: Image.Image) -> Image.Image:
    image.paste(scenery(200, 150), (700, 400))
    return image


def tiled(tile: np.ndarray) -> Image.Image:
    return Image.fromarray(np.tile(tile, (100, 150, 1)))


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize(
    "options", [{"optimize": True}, {"progressive": True}, {"progressive": True, "restart_marker_rows": 2}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_zeros_may_be_what_a_flat_picture_is_stored_as(
    tmp_path: Path, mode: str, options: dict[str, object], name: str
) -> None:
    file = io.BytesIO()
    FLAT[name]().convert(mode).save(file, "JPEG", quality=90, **options)
    whole = file.getvalue()

    assert_as_whole(whole, whole, tmp_path)
    assert_as_whole(whole[:-2] + bytes(600) + whole[-2:], whole, tmp_path)
    assert_as_whole(whole[:-2], whole, tmp_path)
    assert_as_whole(whole + bytes(5000) + b"behind", whole, tmp_path)


# Of each first band and its symbol, which mozjpeg and jpegtran choose for slopes and stripes.
@pytest.mark.parametrize(("last", "symbol"), [(1, 0x01), (2, 0x11), (2, 0x01), (2, 0x12), (5, 0x41), (8, 0x71)])
def test_zeros_may_be_what_a_slope_is_stored_as(tmp_path: Path, last: int, symbol: int) -> None:
    count = last // ((symbol >> 4) + 1)
    codes = count * (1 + (symbol & 15))  # bits of a block: each code is a zero, as are the bits behind it
    bands = [
        (0, 0, 0x00, 0x00, bytes(2048)),  # of 16,384 blocks of the same mean
        (1, last, 0x10, symbol, bytes(2048 * codes - 1) + b"\1"),  # the last coefficient is positive
        (last + 1, 63, 0x10, 0xE0, b"\0\1"),  # nothing in as many blocks
    ]
    whole = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([8]) * 64)
    whole += segment(0xC2, b"\x08" + struct.pack(">HHB", 1024, 1024, 1) + b"\x01\x11\0")
    for begin, end, table, first, data in bands:
        whole += segment(0xC4, bytes((table, 1, *bytes(15), first))) + segment(0xDA, bytes((1, 1, 0, begin, end, 0)))
        whole += data
    whole += b"\xff\xd9"
    (tmp_path / "x.jpg").write_bytes(whole)
    with Image.open(tmp_path / "x.jpg") as opened:
        expected = np.asarray(opened)

    with open(tmp_path / "x.jpg", "rb") as file, upright(file) as image:
        assert np.array_equal(np.asarray(image), expected)
        assert len(np.unique(expected[:-8])) > 1
    assert_as_whole(whole[:-2], whole, tmp_path)

    # Where zeros may be data, damage still shows in what follows: here, too few blocks.
    (tmp_path / "x.jpg").write_bytes(whole[:-600] + whole[-40:])
    assert skipped(tmp_path / "x.jpg").error == "unreadable"


# PNG and WebP.

TEXT = b"workflow\0\0" + zlib.compress(b"x" * (2 << 20))
BROKEN_CHUNKS = {
    "huge zTXt": chunk(b"zTXt", TEXT),
    "huge iTXt": chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"x" * (2 << 20))),
    "70 MB of text": chunk(b"tEXt", b"k\0" + b"x" * 1_000_000) * 70,
    "text of an unknown method": chunk(b"zTXt", b"k\0\7abc"),
    "text with a wrong sum": chunk(b"tEXt", b"a\0b", 1),
    "profile with a wrong sum": chunk(b"iCCP", b"p\0\0abc", 1),
    "profile of an unknown method": chunk(b"iCCP", b"p\0\7abc"),
    "empty profile": chunk(b"iCCP", b""),
    "huge profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2 << 20))),
    "short gamma": chunk(b"gAMA", b"\0"),
    "gamma with a wrong sum": chunk(b"gAMA", struct.pack(">I", 45455), 1),
    "short colours": chunk(b"cHRM", bytes(7)),
    "short density": chunk(b"pHYs", b"\0\0"),
    "short intent": chunk(b"sRGB", b""),
    "broken EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "EXIF with a wrong sum": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff", 7),
    "short animation": chunk(b"acTL", b"\0"),
    "length past the end": chunk(b"tEXt", b"a\0b", length=1 << 30),
    "length that is too large": chunk(b"tEXt", b"a\0b", length=20),
    "length that is too small": chunk(b"tEXt", b"a\0bcdefghijk", length=3),
}


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_png_with_a_broken_chunk_is_read(tmp_path: Path, name: str, is_first: bool) -> None:
    file = io.BytesIO()
    scenery(80, 60).save(file, "PNG")
    whole = file.getvalue()
    place = 33 if is_first else whole.rindex(b"IEND") - 4

    assert_as_whole(whole[:place] + BROKEN_CHUNKS[name] + whole[place:], whole, tmp_path)


def test_a_png_with_a_broken_chunk_keeps_its_palette_transparency_and_profile(tmp_path: Path) -> None:
    for mode, options in (("P", {"transparency": 3}), ("RGBA", {}), ("L", {"transparency": 90}), ("RGB", {})):
        file = io.BytesIO()
        scenery(80, 60).convert(mode).save(file, "PNG", icc_profile=PROFILE, **options)
        whole = file.getvalue()
        assert_as_whole(whole[:33] + BROKEN_CHUNKS["huge zTXt"] + whole[33:], whole, tmp_path)


def test_a_png_whose_transparent_colour_is_broken_is_read(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes([i]) * 8 for i in range(8))
    whole = png(8, 8, 8, 0, rows)
    for content, total in ((b"\0", None), (b"\0\3", 1), (bytes(6), 5)):
        assert_as_whole(whole[:33] + chunk(b"tRNS", content, total) + whole[33:], whole, tmp_path)


def test_a_png_with_pixels_missing_stays_an_error(tmp_path: Path) -> None:
    file = io.BytesIO()
    scenery(80, 60).save(file, "PNG")
    whole = file.getvalue()[:33] + BROKEN_CHUNKS["huge zTXt"] + file.getvalue()[33:]
    for kept in (len(whole) - 3000, len(whole) - 200, 40):
        (tmp_path / "x.png").write_bytes(whole[:kept])
        assert skipped(tmp_path / "x.png").error == "unreadable"


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_webp_with_broken_metadata_is_read(tmp_path: Path, mode: str, options: dict[str, object]) -> None:
    image = scenery(80, 60).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    files = []
    for extra in ({}, {"exif": b"Exif\0\0" + bytes(40)}):
        file = io.BytesIO()
        image.save(file, "WEBP", **options, **extra)
        files.append(bytearray(file.getvalue()))
    plain, with_exif = files
    place = with_exif.rindex(b"EXIF")
    with_exif[place + 4 : place + 8] = (1 << 20).to_bytes(4, "little")

    assert_as_whole(bytes(with_exif), bytes(plain), tmp_path)


def test_a_whole_picture_needs_no_second_try(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg())

    assert colours(tmp_path / "x.jpg").shape == (8, 8, 3)
