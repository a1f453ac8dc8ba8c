"""Damaged TIFFs that Pillow reads without a word."""

import contextlib
import ctypes
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import HANGS
from PIL import Image, _imaging, features
from test_decode import SIMPLE, skipped
from tiffs import WHITE_IS_ZERO, with_tags

from zsclip.pixels import libtiff
from zsclip.pixels.decode import as_seen, decode_image
from zsclip.pixels.libtiff import whole_pixels
from zsclip.pixels.pillow_setup import set_up_pillow
from zsclip.pixels.skipped import Skipped

DAMAGE = {
    "group3": ("1", "Line length mismatch at line 32 of strip 0 (got 70, expected 64)"),
    "group4": ("1", "Bad code word at line 33 of strip 0 (x 0)"),
    "tiff_ccitt": ("1", "Line length mismatch at line 32 of strip 0 (got 82, expected 64)"),
    "jpeg": ("RGB", "Corrupt JPEG data: premature end of data segment"),
}


def write(path: Path, codec: str, *, is_damaged: bool = True, size: int = 64) -> Path:
    """Write a gradient; damaged from the middle of its last strip on."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).convert(DAMAGE[codec][0]).save(file, "TIFF", compression=codec)
    data = bytearray(file.getvalue())
    with Image.open(file) as opened:
        place, count = opened.tag_v2[273][-1], opened.tag_v2[279][-1]
    if is_damaged:
        middle = place + count // 2
        data[middle : middle + 20] = b"\x55" * 20
    path.write_bytes(data)
    return path


def assert_read_by_pillow(path: Path) -> None:
    try:
        with Image.open(path) as opened:
            opened.load()
    except OSError:
        assert features.version("libtiff") in ("4.7.0", "4.6.0"), path  # which give up by themselves
        pytest.skip("an older libtiff")


@pytest.mark.parametrize("codec", DAMAGE)
def test_pixels_that_libtiff_makes_up_are_an_error(tmp_path: Path, codec: str) -> None:
    path = write(tmp_path / "x.tif", codec)
    assert_read_by_pillow(path)

    row = skipped(path)

    assert (row.error, row.message) == ("unreadable", f"cannot decode: its data are damaged: {DAMAGE[codec][1]}")
    assert isinstance(decode_image(str(write(path, codec, is_damaged=False)), SIMPLE), np.ndarray)


def test_samples_read_here_are_checked_too(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).save(file, "TIFF", compression="lzma")
    data = bytearray(file.getvalue())
    with Image.open(file) as opened:
        (place,), (count,) = opened.tag_v2[273], opened.tag_v2[279]
    strip = bytearray(data[place : place + count])
    strip[-9] ^= 1  # in the sums behind the pixels
    tags = {256: ("I", (16,)), 257: ("I", (64,)), 258: ("H", (32,)), 259: ("H", (34925,)), 262: ("H", (1,))}
    for packed, is_good in ((data[place : place + count], True), (strip, False)):
        (tmp_path / "x.tif").write_bytes(with_tags(tags, [bytes(packed)]))

        assert isinstance(decode_image(str(tmp_path / "x.tif"), SIMPLE), np.ndarray) == is_good


def test_a_picture_opened_by_the_caller_is_checked_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Image.open(write(tmp_path / "x.tif", "group4")) as opened, pytest.raises(OSError, match="Bad code word"):
        as_seen(opened)

    assert capfd.readouterr().err == ""


def test_fax_data_without_line_markers_are_complete(tmp_path: Path) -> None:
    white, black = "1101100110101", "0011010100000011110000110111"  # lines of 64 pixels
    bits = (white + black) * 12 + "0000"
    strip = int(bits, 2).to_bytes(len(bits) // 8, "big")
    tags = {256: ("I", (64,)), 257: ("I", (24,)), 259: ("H", (3,)), 262: ("H", (WHITE_IS_ZERO,)), 292: ("I", (0,))}
    (tmp_path / "x.tif").write_bytes(with_tags(tags, [strip]))
    assert_read_by_pillow(tmp_path / "x.tif")

    pixels = decode_image(str(tmp_path / "x.tif"), SIMPLE)

    assert isinstance(pixels, np.ndarray)
    assert 120 < pixels.mean() < 136  # every other line is black


def test_damage_is_attributed_to_the_picture_that_its_thread_decodes(tmp_path: Path) -> None:
    paths = [str(write(tmp_path / f"{i}.tif", "group4", is_damaged=i % 2 == 0)) for i in range(2)]
    wrong: list[str] = []

    def decode(number: int) -> None:
        for _ in range(200):
            for i in (number, 1 - number):
                if isinstance(decode_image(paths[i], SIMPLE), np.ndarray) == (i % 2 == 0):
                    wrong.append(paths[i])

    threads = [threading.Thread(target=decode, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


@pytest.mark.parametrize("codec", ["group3", "jpeg"])
def test_damage_is_noticed_while_other_threads_open_files(tmp_path: Path, codec: str) -> None:
    """Pillow turns libtiff's warnings off at every opening, and it takes a busy interpreter to turn them on again."""
    damaged, other = str(write(tmp_path / "x.tif", codec, size=512)), tmp_path / "y.tif"
    Image.new("L", (64, 64)).save(other, compression="tiff_lzw")
    is_done = threading.Event()

    def open_files() -> None:
        while not is_done.is_set():
            assert isinstance(decode_image(str(other), SIMPLE), np.ndarray)

    def keep_busy() -> None:
        while not is_done.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=run) for run in (open_files, keep_busy)]
    for thread in threads:
        thread.start()
    try:
        found = [decode_image(damaged, SIMPLE) for _ in range(150)]
    finally:
        is_done.set()
        for thread in threads:
            thread.join()

    assert {type(each) for each in found} == {Skipped}


def test_a_thread_that_hangs_holds_up_others_only_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libtiff, "_STUCK_SECONDS", 0.1)
    path, is_held, may_end = write(tmp_path / "x.tif", "group3"), threading.Event(), threading.Event()

    def hang() -> None:
        with set_up_pillow(1000), Image.open(path) as opened, contextlib.suppress(OSError), whole_pixels(opened):
            opened.load()
            is_held.set()
            may_end.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        assert is_held.wait(HANGS)
        rows = [decode_image(str(path), SIMPLE) for _ in range(3)]
    finally:
        may_end.set()
        thread.join()

    assert [type(row) for row in rows] == [Skipped] * 3
    assert (libtiff._phases._opening, libtiff._phases._decoding) == (0, 0)


def test_handlers_of_other_libraries_are_called_and_restored(tmp_path: Path) -> None:
    change = getattr(ctypes.CDLL(_imaging.__file__), "TIFFSetTagExtender", None)
    if change is None:
        pytest.skip("Pillow hides its libtiff")
    change.argtypes, change.restype = [ctypes.c_void_p], ctypes.c_void_p
    opened: list[int] = []
    theirs = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(opened.append)
    path = write(tmp_path / "x.tif", "group4")
    before = change(theirs)
    try:
        assert skipped(path).error == "unreadable"
    finally:
        assert change(before) == ctypes.cast(theirs, ctypes.c_void_p).value

    assert opened
