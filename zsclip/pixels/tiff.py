"""The raw samples of a TIFF. Pillow reads many kinds wrongly, or not at all."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from zsclip.pictures.refused import Refused
from zsclip.pixels.layout import (
    BITS,
    BLACK_IS_ZERO,
    COMPRESSION,
    DEFLATE,
    FILL_ORDER,
    HEIGHT,
    PHOTOMETRIC,
    PREDICTOR,
    ROWS_PER_STRIP,
    SAMPLES,
    STRIP_BYTES,
    STRIP_OFFSETS,
    TILE_BYTES,
    TILE_OFFSETS,
    UNPACKED,
    WIDTH,
    Layout,
)
from zsclip.pixels.libtiff import whole_pixels
from zsclip.pixels.pillow_setup import set_up_pillow

_BAND_SAMPLES = 1 << 20  # decoded at a time
_MOST_ROW_BYTES = 1 << 28
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]  # (256,)


@dataclass(frozen=True)
class Band:
    """Some rows of some columns.

    plane: the sample that it holds; None: all of them. values: (rows, columns, samples) in the machine's byte order.
    """

    plane: int | None
    x: int
    y: int
    values: NDArray[np.generic]


def read_bands(file: IO[bytes], layout: Layout) -> Iterator[Band]:
    """Read the samples of all pixels, some rows at a time.

    Raises:
        OSError: samples are missing.
    """
    tags, width, height = layout.tags, layout.width, layout.height
    is_tiled, (columns, rows) = layout.is_tiled, layout.block_size
    if min(columns, rows) <= 0:
        raise OSError("image file has tiles without size")
    offsets = tags.get(TILE_OFFSETS if is_tiled else STRIP_OFFSETS, ())
    counts = tags.get(TILE_BYTES if is_tiled else STRIP_BYTES, ())
    number, together = 0, 1 if layout.is_planar else layout.samples
    across, down = layout.blocks
    in_row = columns * together if layout.blocks == (1, 1) else -(-columns // across) * (across * down + 2)
    for plane in range(layout.samples) if layout.is_planar and layout.samples > 1 else (None,):
        for y in range(0, height, rows):
            stored = rows if is_tiled else min(rows, height - y)
            for x in range(0, width, columns):
                if number >= len(offsets):
                    raise OSError("image file is truncated")
                count = int(counts[number]) if number < len(counts) else None
                place = y
                for data in _unpacked(file, layout, int(offsets[number]), count, in_row, -(-stored // down)):
                    values = _samples(data, layout, columns, together)[: height - place, : width - x]
                    if len(values):
                        yield Band(plane, x, place, values)
                    place += len(data) * down
                number += 1


def _unpacked(
    file: IO[bytes], layout: Layout, offset: int, count: int | None, in_row: int, rows: int
) -> Iterator[NDArray[np.uint8]]:
    """Give the bytes of one strip or tile, some rows at a time; (rows, bytes)."""
    row_bytes = (in_row * layout.bits + 7) // 8
    if row_bytes > _MOST_ROW_BYTES:
        raise Refused("too-large", f"a TIFF with rows of {row_bytes} bytes")
    at_once = max(1, _BAND_SAMPLES // in_row)
    is_reversed = int(layout.tags.get(FILL_ORDER, (1,))[0]) == 2
    file.seek(offset)
    read: Callable[[int], bytes]
    if layout.compression == UNPACKED:
        read = file.read
    elif layout.compression in DEFLATE:
        read = _inflate(_forward(file.read(-1 if count is None else count), is_reversed))
    else:
        packed = file.read(-1 if count is None else count)
        read = io.BytesIO(_by_libtiff(packed, layout.compression, is_reversed, row_bytes, rows)).read
    for first in range(0, rows, at_once):
        some = min(at_once, rows - first)
        data = read(some * row_bytes)
        if len(data) < some * row_bytes:
            raise OSError("image file is truncated")
        if is_reversed and layout.compression == UNPACKED:
            data = _forward(data, is_reversed)
        yield np.frombuffer(data, np.uint8).reshape(some, row_bytes)


def _inflate(packed: bytes) -> Callable[[int], bytes]:
    """Give a function that unpacks the next bytes, so that a large strip is never unpacked whole."""
    stream, rest = zlib.decompressobj(), packed

    def read(count: int) -> bytes:
        nonlocal rest
        parts: list[bytes] = []
        while count > 0 and not stream.eof:
            part = stream.decompress(rest, count)
            if not part and not stream.unconsumed_tail:
                break
            rest = stream.unconsumed_tail
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    return read


def _forward(data: bytes, is_reversed: bool) -> bytes:
    return _REVERSED[np.frombuffer(data, np.uint8)].tobytes() if is_reversed else data


def _by_libtiff(packed: bytes, compression: int, is_reversed: bool, row_bytes: int, rows: int) -> bytes:
    """Let libtiff unpack a strip or tile as if it were 8-bit grey; these codings know nothing of pixels."""
    tags = {WIDTH: row_bytes, HEIGHT: rows, BITS: 8, COMPRESSION: compression, PHOTOMETRIC: BLACK_IS_ZERO}
    tags |= {FILL_ORDER: 2 if is_reversed else 1, STRIP_OFFSETS: 0, SAMPLES: 1, ROWS_PER_STRIP: rows}
    tags[STRIP_BYTES] = len(packed)
    tags[STRIP_OFFSETS] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    start = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    # To Pillow, the bytes are pixels; how many there may be was decided by the memory that they take.
    file = io.BytesIO(start + packed)
    with set_up_pillow(row_bytes * rows), TiffImagePlugin.TiffImageFile(file) as grey, whole_pixels(grey):
        return grey.tobytes()


def _samples(rows: NDArray[np.uint8], layout: Layout, width: int, together: int) -> NDArray[np.generic]:
    """Make (height, width, samples) values of (height, bytes)."""
    if layout.blocks != (1, 1):
        return _whole_colours(rows, *layout.blocks)
    bits, kind, height, count = layout.bits, layout.kind, len(rows), width * together
    predictor = 1 if layout.compression == UNPACKED else int(layout.tags.get(PREDICTOR, (1,))[0])
    if predictor == 3:  # the differences of bytes, the most significant ones of all samples first
        size = bits // 8
        summed = np.cumsum(rows.reshape(height, -1, together), axis=1, dtype=np.uint8).reshape(height, size, count)
        values = np.ascontiguousarray(summed.transpose(0, 2, 1)).view(f">f{size}").astype(f"=f{size}")
        return values.reshape(height, width, together)
    if bits in (8, 16, 32, 64):
        size = bits // 8
        values = rows.view(f"{layout.order}{'u' if predictor == 2 else kind}{size}")
        values = values.astype(values.dtype.newbyteorder("="), copy=False).reshape(height, width, together)
        return np.cumsum(values, axis=1, dtype=values.dtype).view(f"{kind}{size}") if predictor == 2 else values
    return _odd_samples(rows, layout, count).reshape(height, width, together)


def _whole_colours(rows: NDArray[np.uint8], across: int, down: int) -> NDArray[np.uint8]:
    """Give each pixel of a block the colour that they share; (height, width, 3) of (blocks, bytes)."""
    blocks = rows.reshape(len(rows), -1, across * down + 2)
    light = blocks[..., :-2].reshape(len(rows), -1, down, across).transpose(0, 2, 1, 3).reshape(len(rows) * down, -1)
    colours = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)  # (height, width, 2)
    return np.concatenate((light[..., None], colours), axis=2)


def _odd_samples(rows: NDArray[np.uint8], layout: Layout, count: int) -> NDArray[np.generic]:
    """Make integers of any number of bits; (height, count)."""
    bits, height = layout.bits, len(rows)
    if bits % 8 == 0:
        parts = rows[:, : count * bits // 8].reshape(height, count, bits // 8)
        parts, step = (parts if layout.order == ">" else parts[..., ::-1]), 8
    else:
        parts, step = np.unpackbits(rows, axis=1, count=count * bits).reshape(height, count, bits), 1
    wide = np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else np.uint64
    values = np.zeros((height, count), wide)
    for i in range(parts.shape[2]):
        values = (values << wide(step)) | parts[..., i]
    if layout.kind == "i":
        unused = values.dtype.itemsize * 8 - bits
        return (values << wide(unused)).view(values.dtype.str.replace("u", "i")) >> unused
    return values
