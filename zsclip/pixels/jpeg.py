"""JPEGs that lack some of their pixels: a decoder makes those up, and Pillow does not report it."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import IO

from PIL import Image, JpegImagePlugin

from zsclip.pictures.refused import Refused
from zsclip.pixels.jpeg_segments import END, END_MARKER, FRAMES, METADATA, PROGRESSIVE, SCAN, segments
from zsclip.pixels.jpeg_warnings import warning_about
from zsclip.pixels.limits import MAX_SCANS
from zsclip.pixels.repair import Repaired, count_scans, may_lack_pixels

_CODES, _HUFFMAN_FRAMES = 0xC4, (0xC0, 0xC1)
_ENDING = 32  # bytes at the end of a file, where its end marker is
# 64 one bits, as many as a decoder looks ahead for its last code. No code is all ones: they make up less than 2 blocks.
_ONES = b"\xff\0" * 8
_HOLE = bytes(256)  # what is left of a part that was never copied
_SOME_ZEROS = bytes(2)  # at the begin of a hole, as they may still belong to the data
_CHUNK = 65536  # bytes
# The longest difference of two means, in bits, that may be all zeros throughout a hole: each lowers the mean by 3.
# Higher ones would soon leave the range of colours.
_LONGEST_STEP = 2
# The most coefficients of a band that are the same in many blocks: more are in no slope, nor in stripes.
_MOST_IN_BAND = 5
_MOST_BLOCKS = 0xE0  # of the symbols 0, 0x10 and so on, the last one that ends a number of blocks
_ZEROS = "zeros stand where some of its data should be"
_MADE_UP = re.compile("premature end of data|bad Huffman code|instead of RST")
_UNUSED = re.compile("([0-9]+) extraneous bytes before marker 0x([0-9a-f]{2})")


def check_jpeg(opened: Image.Image, file: IO[bytes], found: Repaired | None = None) -> None:
    """Raise an OSError for a JPEG that lacks pixels, or let loading it raise one; Pillow would fill them with grey.

    A file with all its scans and an end marker is searched for zeros, which takes next to no time. Only where they
    may be data or damage, or the end marker is missing, it is decoded once more.

    Args:
        found: what the file was repaired to, with its one ending; None in the first try.
    """
    is_progressive, scan = bool(opened.info.get("progressive")), _only_scan(file)
    may_be_cut = not _has_end(file) if found is None else len(found.endings[0]) > 0
    if is_progressive or may_be_cut or scan is None or scan[1]:
        data = _whole(file)
        if is_progressive and (scans := count_scans(data)) > MAX_SCANS:
            message = f"a JPEG with {scans} scans (limit {MAX_SCANS}), which would keep a decoder busy"
            raise Refused("unreadable", message)
        if found is None and (is_progressive or may_be_cut) and may_lack_pixels(data):
            raise OSError("image file is truncated")
        if found is not None and found.endings == (END_MARKER,) and _MADE_UP.search(warning_about(data)):
            raise OSError("image file is truncated")
        is_as_stored = found is None or found.endings[0] in (b"", END_MARKER)
        if is_as_stored and _has_hole(data, has_end=found is None or not found.is_cut):
            raise OSError(_ZEROS)
    if scan is not None and isinstance(opened, JpegImagePlugin.JpegImageFile):
        _watch(opened, file, *scan)


def _has_end(file: IO[bytes]) -> bool:
    """Whether the file ends with an end marker, but for padding."""
    place = file.tell()
    file.seek(-min(_ENDING, file.seek(0, io.SEEK_END)), io.SEEK_END)
    ending = file.read(_ENDING)
    file.seek(place)
    return ending.rstrip(b"\0\r\n ").endswith(END_MARKER)


def _whole(file: IO[bytes]) -> bytes:
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return data


def _has_hole(data: bytes, *, has_end: bool) -> bool:
    """Whether a part of a scan was never copied. Zeros at its end may be padding.

    Args:
        has_end: whether the last scan ends with its data, not with anything that is behind the picture.
    """
    if _HOLE not in data:
        return False
    is_doubtful = False
    for begin, end, may_be_zeros in _stretches(data) if has_end else list(_stretches(data))[:-1]:
        at = data.find(_HOLE, begin, end)
        if at >= 0 and data[at:end].strip(b"\0\xff"):
            if not may_be_zeros:
                return True
            is_doubtful = True
    return is_doubtful and _is_damage(warning_about(data), data, has_end=has_end)


def _is_damage(warning: str, data: bytes, *, has_end: bool) -> bool:
    """Whether a warning is of more than zeros in front of a marker, or of what is behind a picture."""
    if not warning:
        return False
    unused = _UNUSED.match(warning)
    if unused is None:
        return True
    marker = bytes((0xFF, int(unused[2], 16)))
    return bytes(int(unused[1])) + marker not in data and (has_end or marker != END_MARKER)


def _stretches(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield where the data of each scan begin and end, and whether they may be nothing but zeros for a while.

    Tables are yielded, too: a hole may begin there.
    """
    frame, firsts, before = 0, dict[int, int](), None
    for code, begin, end in segments(data):
        if before is not None:
            yield before[0], begin - 2, before[1]
        content, before = data[begin + 2 : end], None if code in METADATA or code == END else (begin, False)
        if code in FRAMES:
            frame = code
        if code == _CODES:
            firsts |= _first_symbols(content)
        if code == SCAN:
            before = end, _may_be_zeros(content, firsts, is_progressive=frame in PROGRESSIVE)
    if before is not None:
        yield before[0], len(data), before[1]


def _only_scan(file: IO[bytes]) -> tuple[int, bool] | None:
    """Find a scan with all channels; None if there is none, or it is not Huffman-coded.

    Returns:
        Where its data begin, and whether they may be nothing but zeros for a while.
    """
    place, channels, firsts = file.tell(), 0, dict[int, int]()
    file.seek(2)
    try:
        while len(head := file.read(4)) == 4 and head[0] == 0xFF:
            if head[1] == 0xFF:  # a filler
                file.seek(-3, 1)
                continue
            content = file.read(int.from_bytes(head[2:], "big") - 2)
            if head[1] in _HUFFMAN_FRAMES and len(content) > 5:
                channels = content[5]
            if head[1] == _CODES:
                firsts |= _first_symbols(content)
            if head[1] == SCAN:
                if not content or content[0] != channels:
                    return None
                return file.tell(), _may_be_zeros(content, firsts, is_progressive=False)
        return None
    finally:
        file.seek(place)


def _first_symbols(tables: bytes) -> Iterator[tuple[int, int]]:
    """Yield the number of each table of codes, and the symbol whose code is nothing but zeros."""
    at = 0
    while at + 17 < len(tables):
        yield tables[at], tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])


def _may_be_zeros(scan: bytes, firsts: dict[int, int], *, is_progressive: bool) -> bool:
    """Whether zeros stand for blocks of about the same colour.

    Args:
        scan: what its header says.
        firsts: of each table, the symbol whose code is nothing but zeros.
    """
    channels = scan[0]
    tables = scan[2 : 2 * channels + 1 : 2]
    first, last, bits = scan[1 + 2 * channels : 4 + 2 * channels] if is_progressive else (0, 63, 0)
    if is_progressive and first == 0 and bits >> 4:  # the last bits of means, which may all be even
        return True
    has_means, has_others = first == 0, first > 0 or not is_progressive
    steps = [firsts.get(table >> 4, 0) for table in tables] if has_means else []
    ends = [firsts.get(0x10 | table & 15, 0) for table in tables] if has_others else []
    most = _MOST_BLOCKS if is_progressive else 0
    return all(step <= _LONGEST_STEP for step in steps) and all(
        _fills_band(end, last + 1 - first) if end & 15 else end <= most for end in ends
    )


def _fills_band(symbol: int, length: int) -> bool:
    """Whether a symbol for a coefficient leads from one block's band to the next one's, so that no other is needed."""
    count, left = divmod(length, (symbol >> 4) + 1)
    return not left and count <= _MOST_IN_BAND


def _watch(opened: JpegImagePlugin.JpegImageFile, file: IO[bytes], begin: int, may_be_zeros: bool) -> None:
    """Let loading a JPEG raise an OSError where its data end before its pixels do, even if an end marker follows.

    A decoder makes up pixels once it has seen the end marker, so that is held back: one that has found all pixels is
    done without it. The same goes for a hole in the data, which would be decoded as noise. This holds where all
    channels are in one scan; others are decoded behind the end marker.
    """
    parts = _parts(file, begin, (END_MARKER,) if may_be_zeros else (END_MARKER, _HOLE))
    opened.load_read = lambda read_bytes: next(parts, b"")  # type: ignore[method-assign]


def _parts(file: IO[bytes], begin: int, ends: Sequence[bytes]) -> Iterator[bytes]:
    """Give the bytes from here on; ones in the place of an end, and an error if what came before was not enough."""
    place, kept = file.tell(), b""
    while more := file.read(_CHUNK):
        data = kept + more
        found = {at: end for end in ends if (at := data.find(end, max(0, begin - place))) >= 0}
        if found:
            end = found[min(found)]
            yield data[: min(found)] + (b"" if end == END_MARKER else _SOME_ZEROS) + _ONES
            raise OSError("image file is truncated" if end == END_MARKER else _ZEROS)
        kept = data[-1:] if data[-1] == 0xFF else data[max(len(data.rstrip(b"\0")), len(data) - len(_HOLE) + 1) :]
        place += len(data) - len(kept)
        if len(data) > len(kept):  # nothing would be the end of the file
            yield data[: len(data) - len(kept)]
    yield kept
