"""Which files are tried as pictures, and what Pillow would otherwise say."""

import logging
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_decode import RED, colours, png, run_python, skipped

from zsclip.pixels.pillow_setup import set_up_pillow


def test_ghostscript_and_formats_that_match_anything_are_never_tried(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "y.png", format="TGA")

    assert skipped(tmp_path / "x.jpg").error == "unsupported"
    assert skipped(tmp_path / "y.png").error == "unreadable"


def test_an_icon_that_may_hold_more_pixels_than_it_says_is_never_tried(tmp_path):
    picture = png(100, 100, 8, 2, b"")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), 22)  # 16 x 16, it says
    (tmp_path / "x.png").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + picture)
    Image.new("RGB", (16, 16)).save(tmp_path / "y.png", format="ICO")

    assert skipped(tmp_path / "x.png").error == "unsupported"
    assert skipped(tmp_path / "y.png").error == "unsupported"


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), RED)).save(str(tmp_path / "x.heic"), quality=100)

    assert np.abs(colours(tmp_path / "x.heic").astype(int) - RED).max() < 20


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


@pytest.mark.parametrize("own", [100, None])
@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_pillow_is_as_it_was_once_the_last_of_two_readers_has_left(
    monkeypatch: pytest.MonkeyPatch, own: int | None, first_leaves_first: bool
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", own)

    def state() -> tuple[int | None, int, int]:
        quiet = [each for each in warnings.filters if getattr(each[3], "pattern", "") == r"PIL\."]
        return Image.MAX_IMAGE_PIXELS, len(quiet), len(logging.getLogger("PIL").handlers)

    limit, filters, handlers = state()
    first, second = set_up_pillow(1000), set_up_pillow(50)
    first.__enter__()
    second.__enter__()

    changed = (own and 1000, filters + 1, handlers + 1)
    assert state() == changed
    for reader, expected in (
        [(first, (own, filters + 1, handlers + 1)), (second, (limit, filters, handlers))]
        if first_leaves_first
        else [(second, changed), (first, (limit, filters, handlers))]
    ):
        reader.__exit__(None, None, None)
        assert state() == expected


def test_pillows_warnings_stay_quiet_where_others_set_filters_meanwhile() -> None:
    with set_up_pillow(1000), warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("error")
        with set_up_pillow(1000):
            warnings.warn_explicit("quiet", UserWarning, "x.py", 1, module="PIL.Image")
            with pytest.raises(UserWarning, match="heard"):
                warnings.warn("heard", stacklevel=1)


def test_what_pillow_logs_stays_off_stderr(tmp_path):
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 2, 273: 200, 277: 3000, 278: 1, 279: 3}  # 277: samples per pixel
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "x.tif").write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(100))
    code = """
        from zsclip.pixels.decode import *
        print(decode_image("x.tif", Preprocess((8, 8), (0,) * 3, (1,) * 3)).error)
    """

    assert run_python(code, cwd=tmp_path).stdout == "unreadable\n"  # and nothing on stderr


def test_what_libtiff_says_stays_off_stderr_only_while_we_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))
    noise.save(tmp_path / "damaged.tif", compression="tiff_lzw")
    data = bytearray((tmp_path / "damaged.tif").read_bytes())
    data[300:20_000:97] = bytes(len(data[300:20_000:97]))
    (tmp_path / "damaged.tif").write_bytes(data)

    def read() -> str:
        with Image.open(tmp_path / "damaged.tif") as image, pytest.raises(OSError, match="decoder error"):
            image.load()
        return capfd.readouterr().err

    assert "LZWDecode: Not enough data" in read()
    with set_up_pillow(100_000):
        assert read() == ""
        assert skipped(tmp_path / "damaged.tif").message == "cannot decode: its data are damaged"
    assert "LZWDecode: Not enough data" in read()
