"""What the tags of a TIFF declare, and its raw samples. Pillow reads many kinds wrongly, or not at all."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from zsclip.pictures.refused import Refused

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
MIN_VALUE, MAX_VALUE, PLANAR, PREDICTOR, COLOR_MAP = 280, 281, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SUB_IFDS = 322, 323, 324, 325, 330
EXTRA_SAMPLES, SAMPLE_FORMAT, S_MIN_VALUE, S_MAX_VALUE, YCBCR_SUBSAMPLING = 338, 339, 340, 341, 530
SUBFILE_TYPE, ICC_PROFILE, DNG_VERSION = 254, 34675, 50706
_WANTED = frozenset(
    {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP}
    | {STRIP_BYTES, MIN_VALUE, MAX_VALUE, PLANAR, PREDICTOR, COLOR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS}
    | {TILE_BYTES, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT, S_MIN_VALUE, S_MAX_VALUE, YCBCR_SUBSAMPLING, SUBFILE_TYPE}
    | {ICC_PROFILE, DNG_VERSION}
)
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q"}
_MOST_VALUES = 50_000_000  # of one tag
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # 4 is "undefined"
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3, ICC_LAB: 3}
_RAW, _DEFLATE = 1, (8, 32946)
_BYTE_CODECS = frozenset({_RAW, *_DEFLATE, 5, 32773, 34925, 50000})  # of bytes, not pixels; LZW, PackBits, LZMA, Zstd
_BAND_SAMPLES = 1 << 20  # decoded at a time
_MOST_ROW_BYTES = 1 << 28
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]  # (256,)

Tags = dict[int, tuple[float, ...]]


@dataclass(frozen=True)
class Layout:
    """The first picture of a TIFF, as its tags declare it.

    order: `<` or `>`. kind: `u`, `i` or `f`. samples: of a pixel, with `extra` ones of these types (1: alpha that the
    colours are multiplied with, 2: other alpha). declared: the lowest and highest value. width, height: as stored.
    """

    order: str
    width: int
    height: int
    bits: int
    kind: str
    samples: int
    extra: tuple[int, ...]
    photometric: int
    is_planar: bool
    compression: int
    tags: Tags

    @property
    def channels(self) -> int:
        """Samples of a pixel that are its colour."""
        return CHANNELS[self.photometric]

    @property
    def alpha(self) -> int | None:
        """The sample that is alpha."""
        if self.extra:
            return next((self.channels + i for i, kind in enumerate(self.extra) if kind in (1, 2)), None)
        return self.channels if self.samples == self.channels + 1 else None

    @property
    def is_multiplied(self) -> bool:
        """Whether the colours have been multiplied with alpha."""
        if self.alpha is None or not self.extra:
            return False
        return self.extra[self.alpha - self.channels] == 1

    @property
    def declared(self) -> tuple[float, float] | None:
        """The lowest and highest value."""
        for lowest, highest in ((S_MIN_VALUE, S_MAX_VALUE), (MIN_VALUE, MAX_VALUE)):
            if highest in self.tags:
                low = min(self.tags.get(lowest, (0,))[: self.channels])
                if (high := max(self.tags[highest][: self.channels])) > low:
                    return low, high
        return None

    @property
    def profile(self) -> bytes | None:
        """The colour profile."""
        return bytes(int(value) & 255 for value in self.tags[ICC_PROFILE]) if ICC_PROFILE in self.tags else None

    @property
    def is_for_pillow(self) -> bool:
        """Whether Pillow reads this kind rightly, or nobody here does."""
        if self.compression not in _BYTE_CODECS:
            return True
        return self.bits in (1, 2, 4, 8) and self.kind == "u" and not self.is_planar and self.blocks == (1, 1)

    @property
    def blocks(self) -> tuple[int, int]:
        """Columns and rows of pixels that share a colour in samples without compression, which Pillow does not know."""
        if self.photometric != YCBCR or self.compression != _RAW or self.is_planar:
            return 1, 1
        across, down = (int(value) for value in self.tags.get(YCBCR_SUBSAMPLING, (1, 1))[:2])
        return across, down

    @property
    def unpacking(self) -> int:
        """Bytes that unpacking takes where strips or tiles are unpacked whole; 0 if some rows are read at a time."""
        if self.compression in (_RAW, *_DEFLATE):
            return 0
        columns, rows = self.block_size
        unpacked = (columns * (1 if self.is_planar else self.samples) * self.bits + 7) // 8 * rows
        packed = int(max(self.tags.get(TILE_BYTES if self.is_tiled else STRIP_BYTES, (0,))))
        return 3 * unpacked + 2 * packed  # as libtiff's picture, Pillow's pieces of it, and the whole; and twice packed

    @property
    def block_size(self) -> tuple[int, int]:
        """Columns and rows of a strip or tile."""
        if self.is_tiled:
            return int(self.tags[TILE_WIDTH][0]), int(self.tags[TILE_HEIGHT][0])
        return self.width, min(int(self.tags.get(ROWS_PER_STRIP, (self.height,))[0]), self.height)

    @property
    def is_tiled(self) -> bool:
        """Whether it is stored in tiles, not in strips."""
        return TILE_OFFSETS in self.tags and STRIP_OFFSETS not in self.tags

    @property
    def is_raw(self) -> bool:
        """Whether it is a camera's RAW file, whose first picture is a preview."""
        is_preview = bool(int(self.tags.get(SUBFILE_TYPE, (0,))[0]) & 1) and SUB_IFDS in self.tags
        return DNG_VERSION in self.tags or is_preview or self.photometric in (32803, 34892)


def read_layout(file: IO[bytes]) -> Layout | None:
    """Read what the first picture declares; None if this is no TIFF, or one without the tags that a picture needs."""
    file.seek(0)
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or not {42, 43} & set(start[2:4]):
        return None
    try:
        tags = _read_tags(file, order, start)
        width, height = int(tags[WIDTH][0]), int(tags[HEIGHT][0])
        bits = tags.get(BITS, (1,))
        photometric = int(tags.get(PHOTOMETRIC, (0,))[0])
        samples = int(tags.get(SAMPLES, (len(bits),))[0])
        formats = set(tags.get(SAMPLE_FORMAT, (1,))[:samples])
        kind = _KINDS.get(int(formats.pop()), "?") if len(formats) == 1 else "?"
        extra = tuple(int(value) for value in tags.get(EXTRA_SAMPLES, ()))
        is_even = len(set(bits[:samples])) == 1
        return Layout(
            order, width, height, int(bits[0]) if is_even else 0, kind, samples, extra, photometric,
            int(tags.get(PLANAR, (1,))[0]) == 2, int(tags.get(COMPRESSION, (1,))[0]), tags,
        )  # fmt: skip
    except (KeyError, IndexError, ValueError, OverflowError, struct.error):
        return None


def _read_tags(file: IO[bytes], order: str, start: bytes) -> Tags:
    """Read the wanted tags of the first directory; one that lies outside the file is left out."""
    is_big = 43 in start[2:4]
    (place,) = struct.unpack(f"{order}{'Q' if is_big else 'I'}", start[8:16] if is_big else start[4:8])
    entry = struct.Struct(f"{order}HH{'Q8s' if is_big else 'I4s'}")
    file.seek(place)
    count_form = f"{order}{'Q' if is_big else 'H'}"
    (entries,) = struct.unpack(count_form, file.read(struct.calcsize(count_form)))
    directory = file.read(min(entries, 65_535) * entry.size)
    tags: Tags = {}
    for at in range(0, len(directory) - entry.size + 1, entry.size):
        tag, kind, count, value = entry.unpack_from(directory, at)
        if tag not in _WANTED or kind not in _TYPES or not 0 < count <= _MOST_VALUES:
            continue
        size = count * struct.calcsize(_TYPES[kind])
        if size > len(value):
            file.seek(struct.unpack(f"{order}{'Q' if is_big else 'I'}", value)[0])
            value = file.read(size)
        if len(value) >= size:
            tags[tag] = struct.unpack(f"{order}{count}{_TYPES[kind]}", value[:size])
    return tags


def check_samples(layout: Layout) -> None:
    """Refuse the kinds of samples that are not read here.

    Raises:
        Refused: naming the kind.
        OSError: there are no pixels.
    """
    if min(layout.width, layout.height) <= 0:
        raise OSError("image file has no pixels")
    bits, kind = layout.bits, layout.kind
    what = ""
    if layout.compression not in _BYTE_CODECS:
        what = f"compression {layout.compression}"
    elif layout.photometric not in CHANNELS:
        what = f"colours of kind {layout.photometric}"
    elif not bits:
        what = "channels of different depths"
    elif kind == "?" or bits > 64 or (kind == "f" and bits not in (16, 32, 64)) or (kind == "i" and bits < 8):
        what = f"samples of {bits} bits in format {layout.tags.get(SAMPLE_FORMAT, (1,))[0]}"
    elif layout.samples < layout.channels:
        what = f"{layout.samples} samples a pixel instead of {layout.channels}"
    elif layout.photometric == PALETTE and (bits > 16 or len(layout.tags.get(COLOR_MAP, ())) < 3 << bits):
        what = "a palette that is not complete"
    elif layout.photometric in (LAB, ICC_LAB) and (bits not in (8, 16) or kind == "f"):
        what = f"Lab colours of {bits} bits"
    elif layout.photometric == YCBCR and layout.blocks != layout.tags.get(YCBCR_SUBSAMPLING, (1, 1)):
        what = "subsampled colours in this arrangement"
    elif layout.blocks != (1, 1) and (bits != 8 or not {*layout.blocks} <= {1, 2, 4} or layout.samples != 3):
        what = "subsampled colours of this kind"
    elif not _is_predictor_known(layout):
        what = f"predictor {layout.tags[PREDICTOR][0]} for {bits} bits"
    if what:
        raise Refused("unsupported", f"a TIFF with {what}; convert it first")


def _is_predictor_known(layout: Layout) -> bool:
    predictor = int(layout.tags.get(PREDICTOR, (1,))[0])
    if layout.compression == _RAW or predictor == 1:
        return True
    return (predictor == 2 and layout.bits in (8, 16, 32, 64)) or (predictor == 3 and layout.kind == "f")


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
    if layout.compression == _RAW:
        read = file.read
    elif layout.compression in _DEFLATE:
        read = _inflate(_forward(file.read(-1 if count is None else count), is_reversed))
    else:
        packed = file.read(-1 if count is None else count)
        read = io.BytesIO(_by_libtiff(packed, layout.compression, is_reversed, row_bytes, rows)).read
    for first in range(0, rows, at_once):
        some = min(at_once, rows - first)
        data = read(some * row_bytes)
        if len(data) < some * row_bytes:
            raise OSError("image file is truncated")
        if is_reversed and layout.compression == _RAW:
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
    try:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(start + packed)) as grey:
            return grey.tobytes()
    except Image.DecompressionBombError as e:  # it counts bytes here, not the pixels of the picture
        raise Refused("too-large", f"a TIFF with {row_bytes * rows:,} bytes packed in one strip or tile") from e


def _samples(rows: NDArray[np.uint8], layout: Layout, width: int, together: int) -> NDArray[np.generic]:
    """Make (height, width, samples) values of (height, bytes)."""
    if layout.blocks != (1, 1):
        return _whole_colours(rows, *layout.blocks)
    bits, kind, height, count = layout.bits, layout.kind, len(rows), width * together
    predictor = 1 if layout.compression == _RAW else int(layout.tags.get(PREDICTOR, (1,))[0])
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
