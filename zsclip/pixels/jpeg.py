"""JPEGs that lack some of their pixels: a decoder makes those up, and Pillow does not report it."""

from collections.abc import Iterator, Sequence
from typing import IO

from PIL import Image, JpegImagePlugin

_SCAN, _CODES, _HUFFMAN_FRAMES = 0xDA, 0xC4, (0xC0, 0xC1)
_END = b"\xff\xd9"
# 64 one bits, as many as a decoder looks ahead for its last code. No code is all ones: they make up less than 2 blocks.
_ONES = b"\xff\0" * 8
_HOLE = bytes(256)  # what is left of a part that was never copied
_SOME_ZEROS = bytes(2)  # at the begin of a hole, as they may still belong to the data
_END_OF_BLOCK = 0
_CHUNK = 65536  # bytes


def watch_end(opened: Image.Image, file: IO[bytes]) -> None:
    """Let loading a JPEG raise an OSError where its data end before its pixels do, even if an end marker follows.

    A decoder makes up pixels once it has seen the end marker, so that is held back: one that has found all pixels is
    done without it. The same goes for a hole in the data, which would be decoded as noise. This holds where all
    channels are in one scan; others are decoded behind the end marker.
    """
    scan = _only_scan(file)
    if scan is not None and isinstance(opened, JpegImagePlugin.JpegImageFile):
        begin, may_be_zeros = scan
        parts = _parts(file, begin, (_END,) if may_be_zeros else (_END, _HOLE))
        opened.load_read = lambda read_bytes: next(parts, b"")  # type: ignore[method-assign]


def _only_scan(file: IO[bytes]) -> tuple[int, bool] | None:
    """Find a scan with all channels; None if there is none, or it is not Huffman-coded.

    Returns:
        Where its data begin, and whether a row of empty blocks may be nothing but zeros there.
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
            if head[1] == _SCAN:
                if not content or content[0] != channels:
                    return None
                tables = [0x10 | number & 15 for number in content[2 : 2 * channels + 1 : 2]]
                return file.tell(), all(firsts.get(table) == _END_OF_BLOCK for table in tables)
        return None
    finally:
        file.seek(place)


def _first_symbols(tables: bytes) -> Iterator[tuple[int, int]]:
    """Yield the number of each table of codes, and the symbol whose code is nothing but zeros."""
    at = 0
    while at + 17 < len(tables):
        yield tables[at], tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])


def _parts(file: IO[bytes], begin: int, ends: Sequence[bytes]) -> Iterator[bytes]:
    """Give the bytes from here on; ones in the place of an end, and an error if what came before was not enough."""
    place, kept = file.tell(), b""
    while more := file.read(_CHUNK):
        data = kept + more
        found = {at: end for end in ends if (at := data.find(end, max(0, begin - place))) >= 0}
        if found:
            end = found[min(found)]
            yield data[: min(found)] + (b"" if end == _END else _SOME_ZEROS) + _ONES
            raise OSError("image file is truncated" if end == _END else "zeros stand where some of its data should be")
        kept = data[-1:] if data[-1] == 0xFF else data[max(len(data.rstrip(b"\0")), len(data) - len(_HOLE) + 1) :]
        place += len(data) - len(kept)
        if len(data) > len(kept):  # nothing would be the end of the file
            yield data[: len(data) - len(kept)]
    yield kept
