"""What a picture takes is what was reserved for it: measured, one process for each kind."""

import io
import os
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import HANGS
from PIL import Image
from test_decode import png
from tiffs import BLACK_IS_ZERO, RGB, tiff

SIDE = 2000


def picture(mode: str) -> Image.Image:
    gradient = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint16)
    if mode == "I;16":
        return Image.fromarray(gradient)
    grey = Image.fromarray(gradient.astype(np.uint8))
    if mode in ("L", "P"):
        return grey.convert(mode)
    return Image.merge("RGB", [grey, grey.transpose(0), grey.transpose(1)]).convert(mode)


def saved(mode: str, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, name, **options)
    return file.getvalue()


def exif() -> Image.Exif:
    turned = Image.Exif()
    turned[0x0112] = 6
    return turned


def interlaced() -> bytes:
    """A PNG of 16 bits and four channels, interlaced; all samples are 0 but a few."""
    rows = b""
    for x, y, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        columns = len(range(x, SIDE, across))
        rows += (b"\0" + b"\x12\x34" * 4 * columns) * len(range(y, SIDE, down))
    data = bytearray(png(SIDE, SIDE, 16, 6, rows))
    data[28] = 1
    head = bytes(data[12:29])
    data[29:33] = zlib.crc32(head).to_bytes(4, "big")
    return bytes(data)


def samples(dtype: str, count: int) -> np.ndarray:
    return np.broadcast_to(np.arange(SIDE)[:, None, None], (SIDE, SIDE, count)).astype(dtype)


KINDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved("RGB", "JPEG"),
    "turned jpeg": lambda: saved("RGB", "JPEG", exif=exif()),
    "progressive jpeg": lambda: saved("RGB", "JPEG", progressive=True),
    "cmyk jpeg": lambda: saved("CMYK", "JPEG"),
    "turned cmyk jpeg": lambda: saved("CMYK", "JPEG", exif=exif()),
    "png": lambda: saved("RGB", "PNG", compress_level=1),
    "palette png": lambda: saved("P", "PNG", transparency=3),
    "turned palette png": lambda: saved("P", "PNG", transparency=3, exif=exif()),
    "transparent png": lambda: saved("RGBA", "PNG", compress_level=1),
    "16-bit grey png": lambda: saved("I;16", "PNG"),
    "interlaced 16-bit png": interlaced,
    "webp": lambda: saved("RGB", "WEBP", quality=50, method=0),
    "transparent webp": lambda: saved("RGBA", "WEBP", quality=50, method=0, exif=exif()),
    "avif": lambda: saved("RGB", "AVIF", quality=30, speed=10),
    "jpeg 2000": lambda: saved("RGB", "JPEG2000"),
    "gif": lambda: saved("P", "GIF", transparency=3),
    "bmp": lambda: saved("RGB", "BMP"),
    "tiff": lambda: saved("RGB", "TIFF"),
    "16-bit tiff": lambda: tiff(samples("u2", 3), RGB, planar=True, tags={274: ("H", (6,))}),
    "float tiff": lambda: tiff(samples("f8", 1), BLACK_IS_ZERO),
    "packed 16-bit tiff": lambda: tiff(samples("u2", 3), RGB, codec="zstd", rows_per_strip=SIDE),
    "packed 32-bit tiff": lambda: tiff(samples("f4", 3), RGB, codec="packbits", rows_per_strip=SIDE),
    "transparent 32-bit tiff": lambda: tiff(samples("u4", 4), RGB, extra=(1,), codec="deflate"),
}
OFTEN = {"turned jpeg", "progressive jpeg", "cmyk jpeg", "transparent png", "transparent webp", "16-bit tiff"}
MEASURE = textwrap.dedent("""
    import io, sys
    from zsclip.pixels.decode import Decoding, decode_file
    from zsclip.pixels.fit import Preprocess
    from zsclip.pixels.limits import MemoryBudget
    from PIL import Image

    preprocess = Preprocess((224, 224), (0,) * 3, (1,) * 3)
    small, taken = io.BytesIO(), []

    def memory(name):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

    class Noted(MemoryBudget):
        def held(self, count):
            taken.append(count)
            return super().held(count)

    Image.new("RGB", (300, 300)).save(small, sys.argv[2])
    decode_file(io.BytesIO(small.getvalue()), preprocess, Decoding())
    with open(sys.argv[1], "rb") as file:
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")  # forget the highest so far
        before = memory("VmRSS")
        decode_file(file, preprocess, Decoding(budget=Noted(10**10)))
    print(memory("VmHWM") - before, taken[-1])
""")


@pytest.mark.skipif(sys.platform != "linux", reason="measured as Linux counts")
@pytest.mark.parametrize(
    "kind", [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_no_picture_takes_more_than_was_reserved_for_it(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(KINDS[kind]())
    format_name = "TIFF"
    if "tiff" not in kind:
        with Image.open(tmp_path / "x") as image:
            format_name = str(image.format)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "x"), format_name],
        env=env, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    taken, reserved = map(int, done.stdout.split())
    assert taken <= reserved * 1.05 + 8_000_000  # what the interpreter itself takes meanwhile
    assert taken >= reserved / 20  # it is no guess either
