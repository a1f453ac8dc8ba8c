"""The segments of a JPEG: its header, tables, metadata and scans."""

import re
import struct
from collections.abc import Iterator

MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # one that ends the data of a scan
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
PROGRESSIVE = frozenset({0xC2, 0xCA})
METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})
SCAN, END = 0xDA, 0xD9
END_MARKER = b"\xff\xd9"


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPEG, and where it begins and ends; lengths may be wrong.

    A scan ends with its header. The last segment is the end marker, if there is one.
    """
    at = 2
    while (found := MARKER.search(data, at)) is not None:
        code, begin = found[1][0], found.end()
        if code in (0x01, 0xD8):
            at = begin
            continue
        if code == END:
            yield code, begin, begin
        if code == END or begin + 2 > len(data):
            return
        at = begin + int.from_bytes(data[begin : begin + 2], "big")
        if code in METADATA and data[at : at + 1] != b"\xff":
            at = _resumed(data, begin, at)
        yield code, begin, at


def header_of(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments up to the first scan."""
    for code, begin, end in segments(data):
        if code == END:
            return
        yield code, begin, end
        if code == SCAN:
            return


def _resumed(data: bytes, begin: int, end: int) -> int:
    """Find where a segment of wrong length ends: where the largest picture begins, as it may hold a thumbnail."""
    places = [found.start() for found in re.finditer(rb"\xff[\xc0-\xc4\xdb\xdd\xe0-\xee]", data[: end + 65536], 0)]
    sizes = {place: _frame_size(data, place) for place in places if place >= begin}
    return max(sizes, key=lambda place: (sizes[place], -place), default=end)


def _frame_size(data: bytes, at: int) -> int:
    """Count the pixels of the picture whose segments follow one another from here; 0 if there is none."""
    pixels = 0
    while data[at : at + 1] == b"\xff" and at + 9 < len(data):
        code, begin = data[at + 1], at + 2
        if code in FRAMES:
            height, width = struct.unpack(">HH", data[begin + 3 : begin + 7])
            pixels = height * width
        if code == SCAN:
            return pixels
        at = begin + int.from_bytes(data[begin : begin + 2], "big")
    return 0
