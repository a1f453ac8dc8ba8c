"""Files whose pixels are whole but which Pillow refuses -> the parts that pixels depend on, for a second try.

Only metadata is left out. No pixel is made up: a picture with pixels missing stays an error.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from zsclip.pixels.jpeg_segments import END, END_MARKER, FRAMES, MARKER, METADATA, PROGRESSIVE, SCAN, header_of

_MOST_PROFILE = 1 << 24  # bytes of an unpacked profile
# Endings to try after a JPEG without an end marker: if pixels are missing, the results differ.
_ENDINGS = (END_MARKER, b"\x55\xaa\x3c" * 100 + END_MARKER)
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})
# What phones put behind a picture; a decoder would take it for pixels.
_TRAILER = re.compile(rb"\0\0\0.ftyp|.{8}Image_UTC_Data|.{8}MotionPhoto_Data|SEFH", re.DOTALL)
_FEWEST_ZEROS = 64  # at the end: of a copy that was not finished
_CHUNK = re.compile(rb"[A-Za-z]{4}")
_WEBP_PIXELS = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"})


@dataclass(frozen=True)
class Repaired:
    """A file without its metadata, and the metadata that was found.

    endings: what to put behind the data; the pixels are equal with each, or some are missing. is_cut: whether a JPEG
    has no end marker, so that anything may be behind its last scan.
    """

    data: bytes
    profile: bytes | None = None
    exif: bytes | None = None
    endings: tuple[bytes, ...] = (b"",)
    is_cut: bool = False


def repaired(data: bytes) -> Repaired | None:
    """Take the metadata out of a file; None if nothing can be done for it.

    Raises:
        Exception: of any type.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def may_lack_pixels(data: bytes) -> bool:
    """Whether a JPEG has no end marker, or lacks scans, so that a decoder may have made up pixels."""
    try:
        end, frame, is_progressive, scans = 2, b"", False, list[bytes]()
        for code, begin, end in header_of(data):
            if code in FRAMES:
                frame, is_progressive = data[begin + 2 : end], code in PROGRESSIVE
        scans.append(data[begin + 2 : end])
        for code, begin, stop in _after_scan(data, end, frame):
            if code == SCAN:
                scans.append(data[begin + 2 : stop])
        return code != END or (is_progressive and not _has_all_scans(frame, scans, is_progressive))
    except Exception:  # it has no frame, or a strange one
        return False


def count_scans(data: bytes) -> int:
    """Count the scans of a JPEG, including its thumbnails' scans, which are few."""
    return data.count(b"\xff\xda")


def _jpeg(data: bytes) -> Repaired | None:
    parts, profile, exif, frame, is_progressive = [b"\xff\xd8"], dict[int, bytes](), None, b"", False
    end = 0
    for code, begin, end in header_of(data):
        content = data[begin + 2 : end]
        if code in FRAMES:
            frame, is_progressive = content, code in PROGRESSIVE
        if code not in METADATA or _says_how_colours_are_stored(code, content):
            parts.append(bytes((0xFF, code)) + data[begin:end])
        elif code == 0xE2 and content.startswith(b"ICC_PROFILE\0") and len(content) > 14:
            profile[content[12]] = content[14:]
        elif code == 0xE1 and content.startswith(b"Exif\0\0") and exif is None:
            exif = content
    if not frame or parts[-1][1] != SCAN:
        return None
    scans, stop, has_end = [parts[-1][4:]], end, False
    for code, begin, stop in _after_scan(data, end, frame):
        if code == SCAN:
            scans.append(data[begin + 2 : stop])
        has_end = code == END
    found = Repaired(
        b"".join(parts) + data[end:stop], b"".join(profile[number] for number in sorted(profile)) or None, exif
    )
    has_all = _has_all_scans(frame, scans, is_progressive)
    if has_end and (has_all or not is_progressive):
        return found
    if has_end:
        return replace(found, data=found.data.removesuffix(END_MARKER), endings=_ENDINGS)
    if not has_all:
        return None
    trailer = _TRAILER.search(found.data, found.data.rindex(b"\xff\xda"))
    body = found.data if trailer is None else found.data[: trailer.start()]
    short = body.rstrip(b"\0")
    if len(body) - len(short) < _FEWEST_ZEROS:
        return replace(found, data=body.rstrip(b"\xff"), endings=_ENDINGS, is_cut=True)
    # A zero after 255 belongs to the scan. Any other zero may be data, or stand for missing pixels.
    return replace(found, data=short + b"\0" * short.endswith(b"\xff"), endings=_ENDINGS, is_cut=True)


def _says_how_colours_are_stored(code: int, content: bytes) -> bool:
    return len(content) >= 12 and (
        (code == 0xE0 and content.startswith(b"JFIF\0")) or (code == 0xEE and content.startswith(b"Adobe"))
    )


def _after_scan(data: bytes, at: int, frame: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments from the first scan's data on that belong to this picture, and where each begins and ends.

    A scan ends with its header. The last segment is the end marker. If that is missing, a segment with marker 0 runs to
    the end of the data, or to what a phone appends.
    """
    channels = {frame[6 + 3 * i] for i in range(frame[5])}
    while True:
        found = MARKER.search(data, at)
        if found is None:
            yield 0, at, len(data)
            return
        code, begin = found[1][0], found.end()
        if code == END:
            yield code, begin, begin
            return
        end = begin + int.from_bytes(data[begin : begin + 2], "big")
        content = data[begin + 2 : end]
        is_scan = code == SCAN and len(content) > 3 and {*content[1 : 2 * content[0] + 1 : 2]} <= channels
        if end > len(data) or not (is_scan or code in _TABLES or code in METADATA):
            yield 0, at, found.start()
            return
        yield code, begin, end
        at = end


def _has_all_scans(frame: bytes, scans: list[bytes], is_progressive: bool) -> bool:
    """Whether each coefficient of each channel was sent to its last bit."""
    channels = [frame[6 + 3 * i] for i in range(frame[5])]
    missing = np.ones((len(channels), 64), np.int8)  # bits
    for scan in scans:
        count = scan[0]
        first, last, bits = scan[1 + 2 * count : 4 + 2 * count] if is_progressive else (0, 63, 0)
        for channel in scan[1 : 1 + 2 * count : 2]:
            missing[channels.index(channel), first : last + 1] = bits & 15
    return not missing.any()


def _png(data: bytes) -> Repaired:
    parts, profile, exif, at = [data[:8]], None, None, 8
    while at + 8 <= len(data):
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        content = data[at + 8 : end - 4]
        is_needed = name in (b"IHDR", b"PLTE", b"IDAT", b"IEND")
        is_placed = end <= len(data) and (end + 8 > len(data) or _CHUNK.fullmatch(data, end + 4, end + 8) is not None)
        if not is_needed and not is_placed:
            at = _next_needed(data, at + 8)
            continue
        if is_needed or (name == b"tRNS" and _has_right_sum(data, at, end) and _is_whole_key(content, data[25])):
            parts.append(data[at:end])
        elif name == b"iCCP":
            profile = _inflated(content.partition(b"\0")[2][1:])
        elif name == b"eXIf":
            exif = b"Exif\0\0" + content
        at = end if name != b"IEND" else len(data)
    return Repaired(b"".join(parts), profile, exif)


def _is_whole_key(content: bytes, colour_type: int) -> bool:
    return len(content) <= 256 if colour_type == 3 else len(content) == {0: 2, 2: 6}.get(colour_type)


def _next_needed(data: bytes, at: int) -> int:
    """Find the next chunk that pixels depend on, behind one of wrong length."""
    for found in re.compile(rb"IDAT|PLTE|tRNS|IEND").finditer(data, at):
        begin = found.start() - 4
        if _has_right_sum(data, begin, begin + 12 + int.from_bytes(data[begin : begin + 4], "big")):
            return begin
    return len(data)


def _has_right_sum(data: bytes, begin: int, end: int) -> bool:
    return end <= len(data) and zlib.crc32(data[begin + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _inflated(data: bytes) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(data, _MOST_PROFILE)
    except zlib.error:
        return None


def _webp(data: bytes) -> Repaired:
    parts, found, at = list[bytes](), dict[bytes, bytes](), 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        content = data[at + 8 : at + 8 + size]
        if name == b"VP8X":  # its flags say which metadata there are
            content = bytes((content[0] & 0x12,)) + content[1:]
        if name in _WEBP_PIXELS:
            parts.append(name + data[at + 4 : at + 8] + content + bytes(len(content) & 1))
        elif len(content) == size:
            found.setdefault(name, content)
        at += 8 + size + (size & 1)
    body = b"WEBP" + b"".join(parts)
    return Repaired(b"RIFF" + len(body).to_bytes(4, "little") + body, found.get(b"ICCP"), found.get(b"EXIF"))
