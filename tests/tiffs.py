"""TIFFs of any kind, written by hand: Pillow writes few kinds, and each test says which one it means."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COMPRESSION, PREDICTOR = 259, 317
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
CODECS = {"raw": 1, "lzw": 5, "deflate": 8, "packbits": 32773, "lzma": 34925, "zstd": 50000}
_FORMATS = {"u": 1, "i": 2, "f": 3}


def quadrants(values: Any, dtype: str = "u1", height: int = 24, width: int = 40) -> NDArray[Any]:
    """Four areas: top left, top right, bottom left, bottom right; (height, width, samples)."""
    each = np.array(values, dtype).reshape(4, -1)
    out = np.empty((height, width, each.shape[1]), dtype)
    top, left = height // 2, width // 2
    out[:top, :left], out[:top, left:], out[top:, :left], out[top:, left:] = each
    return out


def tiff(
    samples: NDArray[Any],
    photometric: int,
    *,
    order: str = "<",
    planar: bool = False,
    tile: tuple[int, int] | None = None,
    rows_per_strip: int = 7,
    extra: tuple[int, ...] = (),
    codec: str = "raw",
    predictor: int = 1,
    bits: int | None = None,
    tags: Mapping[int, tuple[str, tuple[Any, ...]]] | None = None,
) -> bytes:
    """Write (H, W, S) samples.

    Args:
        tile: its height and width; None: strips.
        bits: of a sample, where that is not a whole type; packed with the highest bit first.
        tags: more of them, each with the struct letter of its values.
    """
    height, width, count = samples.shape
    planes = [samples[..., i : i + 1] for i in range(count)] if planar else [samples]
    parts = [
        _packed(_encoded(piece, order, predictor, bits), codec)
        for plane in planes
        for piece in _pieces(plane, tile, rows_per_strip)
    ]
    depth = bits or samples.dtype.itemsize * 8
    ours: dict[int, tuple[str, tuple[Any, ...]]] = {
        256: ("I", (width,)), 257: ("I", (height,)), 258: ("H", (depth,) * count), COMPRESSION: ("H", (CODECS[codec],)),
        262: ("H", (photometric,)), 277: ("H", (count,)), 284: ("H", (2 if planar else 1,)),
        339: ("H", (_FORMATS[samples.dtype.kind],) * count),
    }  # fmt: skip
    if tile:
        ours |= {322: ("I", (tile[1],)), 323: ("I", (tile[0],))}
    else:
        ours[278] = ("I", (rows_per_strip,))
    if extra:
        ours[338] = ("H", extra)
    if predictor != 1:
        ours[PREDICTOR] = ("H", (predictor,))
    return with_tags(ours | dict(tags or {}), parts, order=order, is_tiled=tile is not None)


def with_tags(
    tags: Mapping[int, tuple[str, tuple[Any, ...]]], parts: list[bytes], *, order: str = "<", is_tiled: bool = False
) -> bytes:
    """Write a directory and the strips or tiles it is for."""
    types = {"B": 1, "H": 3, "I": 4, "b": 6, "h": 8, "i": 9, "f": 11, "d": 12}
    places = np.cumsum([8, *map(len, parts)]).tolist()
    both = {(324 if is_tiled else 273): ("I", (*places[:-1],)), (325 if is_tiled else 279): ("I", (*map(len, parts),))}
    tags = {**tags, **both}
    data = b"".join(parts)
    data += bytes(len(data) % 2)
    start = 8 + len(data)
    behind, entries = b"", []
    for tag in sorted(tags):
        letter, values = tags[tag]
        value = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(value) > 4:
            place = start + 2 + 12 * len(tags) + 4 + len(behind)
            behind += value + bytes(len(value) % 2)
            value = struct.pack(f"{order}I", place)
        entries.append(struct.pack(f"{order}HHI", tag, types[letter], len(values)) + value.ljust(4, b"\0"))
    mark = b"II" if order == "<" else b"MM"
    header = mark + struct.pack(f"{order}HI", 42, start)
    return header + data + struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4) + behind


def _pieces(plane: NDArray[Any], tile: tuple[int, int] | None, rows: int) -> list[NDArray[Any]]:
    height, width = plane.shape[:2]
    if tile is None:
        return [plane[y : y + rows] for y in range(0, height, rows)]
    whole = np.pad(plane, ((0, -height % tile[0]), (0, -width % tile[1]), (0, 0)))
    return [
        whole[y : y + tile[0], x : x + tile[1]] for y in range(0, height, tile[0]) for x in range(0, width, tile[1])
    ]


def _encoded(piece: NDArray[Any], order: str, predictor: int, bits: int | None) -> list[bytes]:
    """Give the bytes of each row."""
    if bits is not None:
        wide = piece.reshape(len(piece), -1, 1).astype(np.int64)
        if bits % 8 == 0:
            each = (wide >> np.arange(bits - 8, -1, -8)) & 255  # (rows, samples, bytes)
            each = each if order == ">" else each[..., ::-1]
            return [row.astype(np.uint8).tobytes() for row in each]
        each = (wide >> np.arange(bits - 1, -1, -1)) & 1
        return [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in each]
    if predictor == 2:
        piece = np.diff(piece.view(piece.dtype.str.replace("i", "u")), axis=1, prepend=piece.dtype.type(0).astype("u1"))
    if predictor == 3:
        size, count = piece.dtype.itemsize, piece.shape[2]
        each = piece.astype(piece.dtype.newbyteorder(">")).view(np.uint8).reshape(len(piece), -1, size)
        each = each.transpose(0, 2, 1).reshape(len(piece), -1, count)
        return [row.tobytes() for row in np.diff(each, axis=1, prepend=np.uint8(0))]
    return [row.tobytes() for row in piece.astype(piece.dtype.newbyteorder(order))]


def _packed(rows: list[bytes], codec: str) -> bytes:
    data = b"".join(rows)
    if codec == "raw":
        return data
    if codec == "deflate":
        return zlib.compress(data)
    file = io.BytesIO()  # as 8-bit grey; the other codings know nothing of pixels either
    grey = Image.frombytes("L", (len(rows[0]), len(rows)), data)
    grey.save(file, "TIFF", compression={"lzw": "tiff_lzw"}.get(codec, codec), tiffinfo={278: len(rows)})
    with Image.open(io.BytesIO(file.getvalue())) as written:
        (place,), (count,) = written.tag_v2[273], written.tag_v2[279]
        return file.getvalue()[place : place + count]
