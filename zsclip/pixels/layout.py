"""What the tags of a TIFF declare. No samples are read here."""

import io
import struct
from dataclasses import dataclass
from typing import IO

from zsclip.pictures.refused import Refused

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
MIN_VALUE, MAX_VALUE, PLANAR, PREDICTOR, COLOR_MAP = 280, 281, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SUB_IFDS = 322, 323, 324, 325, 330
EXTRA_SAMPLES, SAMPLE_FORMAT, S_MIN_VALUE, S_MAX_VALUE, YCBCR_SUBSAMPLING = 338, 339, 340, 341, 530
SUBFILE_TYPE, ICC_PROFILE, NO_DATA, DNG_VERSION = 254, 34675, 42113, 50706
_WANTED = frozenset(
    {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP}
    | {STRIP_BYTES, MIN_VALUE, MAX_VALUE, PLANAR, PREDICTOR, COLOR_MAP, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS}
    | {TILE_BYTES, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT, S_MIN_VALUE, S_MAX_VALUE, YCBCR_SUBSAMPLING, SUBFILE_TYPE}
    | {ICC_PROFILE, NO_DATA, DNG_VERSION}
)
_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q"}
_MOST_PLACES = 1 << 20  # strips or tiles; even the largest allowed picture has fewer tiles of 16 x 16
_MOST_VALUES = 3 << 16  # of another tag; a palette for 16 bits has as many
_MOST_PROFILE = 1 << 24  # bytes
_PLACES = frozenset({STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES})
_DISPENSABLE = frozenset({MIN_VALUE, MAX_VALUE, S_MIN_VALUE, S_MAX_VALUE, SUB_IFDS, SUBFILE_TYPE, NO_DATA, DNG_VERSION})
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # 4 is "undefined"
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9
CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3, ICC_LAB: 3}
UNPACKED, DEFLATE = 1, (8, 32946)
_BYTE_CODECS = frozenset({UNPACKED, *DEFLATE, 5, 32773, 34925, 50000})  # of bytes; LZW, PackBits, LZMA, Zstd

Tags = dict[int, tuple[float, ...]]


@dataclass(frozen=True)
class Layout:
    """The first picture of a TIFF, as its tags declare it.

    order: `<` or `>`. kind: `u`, `i` or `f`. samples: their number per pixel. extra: the types of the
    additional ones (1: alpha that the colours are multiplied with, 2: other alpha). declared: the lowest and highest
    value. width, height: as stored. profile: for colours.
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
    profile: bytes | None

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
    def full(self) -> float:
        """The highest value that an integer of this depth may have."""
        return 2.0 ** (self.bits - (self.kind == "i")) - 1

    @property
    def no_data(self) -> float | None:
        """The value that marks missing data; None if it is 0, which is black anyway."""
        text = bytes(int(value) for value in self.tags.get(NO_DATA, ()) if 0 < value < 128)
        try:
            return float(text) or None
        except ValueError:
            return None

    @property
    def has_small_palette(self) -> bool:
        """Whether the colours of its palette are of 8 bits, as some writers store them, not of 16."""
        return self.photometric == PALETTE and max(self.tags.get(COLOR_MAP, (0,))) <= 255

    @property
    def is_for_pillow(self) -> bool:
        """Whether to leave this kind to Pillow: it reads it correctly, or we cannot."""
        if self.compression not in _BYTE_CODECS:
            return True
        is_plain = self.kind == "u" and not self.is_planar and self.blocks == (1, 1)
        return self.bits in (1, 2, 4, 8) and is_plain and not self.has_small_palette

    @property
    def blocks(self) -> tuple[int, int]:
        """Chroma subsampling (across, down) of uncompressed samples, which Pillow ignores."""
        if self.photometric != YCBCR or self.compression != UNPACKED or self.is_planar:
            return 1, 1
        across, down = (int(value) for value in self.tags.get(YCBCR_SUBSAMPLING, (1, 1))[:2])
        return across, down

    @property
    def unpacking(self) -> int:
        """Bytes that unpacking takes where strips or tiles are unpacked whole; 0 if some rows are read at a time."""
        if self.compression in (UNPACKED, *DEFLATE):
            return 0
        columns, rows = self.block_size
        unpacked = (columns * (1 if self.is_planar else self.samples) * self.bits + 7) // 8 * rows
        packed = int(max(self.tags.get(TILE_BYTES if self.is_tiled else STRIP_BYTES, (0,))))
        return 3 * unpacked + 2 * packed  # three unpacked copies (libtiff's, Pillow's, ours), two packed

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
    """Read what the first picture declares; None if this is not a TIFF, or one without the tags that a picture needs.

    Raises:
        Refused: a tag that pixels depend on has far more values than any picture needs; each takes 40 bytes in Pillow.
    """
    file.seek(0)
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or not {42, 43} & set(start[2:4]):
        return None
    try:
        tags, profile = _read_tags(file, order, start)
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
            int(tags.get(PLANAR, (1,))[0]) == 2, int(tags.get(COMPRESSION, (1,))[0]), tags, profile,
        )  # fmt: skip
    except (KeyError, IndexError, ValueError, OverflowError, struct.error):
        return None


def _read_tags(file: IO[bytes], order: str, start: bytes) -> tuple[Tags, bytes | None]:
    """Read the wanted tags of the first directory, and the profile; one that lies outside the file is left out."""
    is_big = 43 in start[2:4]
    offset = struct.Struct(f"{order}{'Q' if is_big else 'I'}")
    (place,) = offset.unpack(start[8:16] if is_big else start[4:8])
    entry = struct.Struct(f"{order}HH{'Q8s' if is_big else 'I4s'}")
    end = file.seek(0, io.SEEK_END)
    file.seek(place)
    count_form = f"{order}{'Q' if is_big else 'H'}"
    (entries,) = struct.unpack(count_form, file.read(struct.calcsize(count_form)))
    directory = file.read(min(entries, 65_535) * entry.size)
    tags: Tags = {}
    profile = None
    for at in range(0, len(directory) - entry.size + 1, entry.size):
        tag, kind, count, value = entry.unpack_from(directory, at)
        if tag not in _WANTED or kind not in _TYPES or count == 0:
            continue
        size = count * struct.calcsize(_TYPES[kind])
        place = offset.unpack(value)[0] if size > len(value) else 0
        if place + size > end or not _is_count_possible(tag, count):
            continue
        if size > len(value):
            file.seek(place)
            value = file.read(size)
        if tag == ICC_PROFILE:
            profile = value[:size]
        else:
            tags[tag] = struct.unpack(f"{order}{count}{_TYPES[kind]}", value[:size])
    return tags, profile


def _is_count_possible(tag: int, count: int) -> bool:
    """Whether a tag may have `count` values; with more, an optional tag is ignored."""
    if tag == ICC_PROFILE:
        return count <= _MOST_PROFILE
    is_possible = count <= (_MOST_PLACES if tag in _PLACES else _MOST_VALUES)
    if not is_possible and tag not in _DISPENSABLE:
        raise Refused("too-large", f"a TIFF with {count:,} values of tag {tag}, more than any image needs")
    return is_possible


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
        what = f"{layout.samples} samples per pixel instead of {layout.channels}"
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
    if layout.compression == UNPACKED or predictor == 1:
        return True
    return (predictor == 2 and layout.bits in (8, 16, 32, 64)) or (predictor == 3 and layout.kind == "f")
