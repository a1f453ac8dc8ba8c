"""TIFFs with tags of more values than any picture needs."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from profiles import PROPHOTO, matrix_profile
from test_decode import SIMPLE, skipped
from tiffs import BLACK_IS_ZERO, PALETTE, RGB, tiff

from zsclip.pixels.decode import decode_image

STRIPS, TILES = (
    tiff(np.full((4, 4, 4), 9, "u1"), RGB, extra=(0,)),
    tiff(np.full((16, 16, 3), 9, "u1"), RGB, tile=(16, 16)),
)
INDEXED = tiff(np.full((4, 4, 1), 9, "u1"), PALETTE, tags={320: ("H", (9,) * 768)})


def with_many(data: bytes, tag: int, count: int, *, is_there: bool = True) -> bytes:
    """Let a tag that is in the file have very many values, bytes 1 behind the end of the file; or so it says."""
    (at,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[at : at + 2])
    for place in range(at + 2, at + 2 + 12 * entries, 12):
        if struct.unpack("<H", data[place : place + 2]) == (tag,):
            (kind,) = struct.unpack("<H", data[place + 2 : place + 4])
            size = count * {1: 1, 3: 2, 4: 4}[kind]
            entry = struct.pack("<HHII", tag, kind, count, len(data))
            return data[:place] + entry + data[place + 12 :] + (b"\1" * size if is_there else b"")
    raise KeyError(tag)


@pytest.mark.parametrize(
    ("data", "tag"),
    [(STRIPS, 258), (STRIPS, 273), (STRIPS, 279), (STRIPS, 338), (TILES, 324), (TILES, 325), (INDEXED, 320)],
)
def test_millions_of_values_are_refused_by_their_count(tmp_path: Path, data: bytes, tag: int) -> None:
    assert isinstance(decode_image(str(write(tmp_path, data)), SIMPLE), np.ndarray)
    path = write(tmp_path, with_many(data, tag, 1 << 21))
    tracemalloc.start()

    row = skipped(path)

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000
    assert row.error == "too-large"
    assert row.message == f"a TIFF with 2,097,152 values of tag {tag}, more than any image needs"


@pytest.mark.parametrize(("tag", "value"), [(341, ("H", (9, 9, 9))), (34675, ("B", (0,) * 5))])
def test_a_tag_that_can_be_done_without_does_not_cost_the_picture(
    tmp_path: Path, tag: int, value: tuple[str, tuple[int, ...]]
) -> None:
    samples = np.full((4, 4, 1), 9, "u2")
    plain = decode_image(str(write(tmp_path, tiff(samples, BLACK_IS_ZERO))), SIMPLE)
    data = with_many(tiff(samples, BLACK_IS_ZERO, tags={tag: value}), tag, (1 << 24) + 1)

    assert np.array_equal(decode_image(str(write(tmp_path, data)), SIMPLE), plain)


def test_samples_read_here_have_the_colours_of_their_profile(tmp_path: Path) -> None:
    profile = {34675: ("B", tuple(matrix_profile(PROPHOTO)))}
    greens = np.full((4, 4, 3), (40, 200, 90))

    by_pillow, here = (
        decode_image(str(write(tmp_path, tiff((greens * scale).astype(dtype), RGB, tags=profile))), SIMPLE)
        for dtype, scale in (("u1", 1), ("u2", 257))
    )

    assert np.array_equal(by_pillow, here)
    assert np.abs(np.asarray(here)[:, 0, 0] - (40.0, 200, 90)).max() > 20


def test_values_that_the_file_does_not_have_are_left_out(tmp_path: Path) -> None:
    data = with_many(tiff(np.full((4, 4, 3), 9, "u1"), RGB, tags={274: ("H", (1,))}), 274, 1 << 31, is_there=False)

    assert isinstance(decode_image(str(write(tmp_path, data)), SIMPLE), np.ndarray)


def write(folder: Path, data: bytes) -> Path:
    (folder / "x.tif").write_bytes(data)
    return folder / "x.tif"
