"""JPEGs that end before their pixels do: a decoder makes up the rest, and Pillow does not report it."""

from collections.abc import Iterator
from typing import IO

from PIL import Image, JpegImagePlugin

_SCAN, _HUFFMAN_FRAMES = 0xDA, (0xC0, 0xC1)
_END = b"\xff\xd9"
# 64 one bits, as many as a decoder looks ahead for its last code. No code is all ones: they make up less than 2 blocks.
_ONES = b"\xff\0" * 8
_CHUNK = 65536  # bytes


def watch_end(opened: Image.Image, file: IO[bytes]) -> None:
    """Let loading a JPEG raise an OSError where its data end before its pixels do, even if an end marker follows.

    A decoder makes up pixels once it has seen the end marker, so that is held back: one that has found all pixels is
    done without it. This holds where all channels are in one scan; others are decoded behind the end marker.
    """
    begin = _only_scan(file)
    if begin is not None and isinstance(opened, JpegImagePlugin.JpegImageFile):
        parts = _parts(file, begin)
        opened.load_read = lambda read_bytes: next(parts, b"")  # type: ignore[method-assign]


def _only_scan(file: IO[bytes]) -> int | None:
    """Find where the data of a scan with all channels begin; None if there is none, or it is not Huffman-coded."""
    place, channels = file.tell(), 0
    file.seek(2)
    try:
        while len(head := file.read(4)) == 4 and head[0] == 0xFF:
            if head[1] == 0xFF:  # a filler
                file.seek(-3, 1)
                continue
            content = file.read(int.from_bytes(head[2:], "big") - 2)
            if head[1] in _HUFFMAN_FRAMES and len(content) > 5:
                channels = content[5]
            if head[1] == _SCAN:
                return file.tell() if content and content[0] == channels else None
        return None
    finally:
        file.seek(place)


def _parts(file: IO[bytes], begin: int) -> Iterator[bytes]:
    """Give the bytes from here on; ones in the place of the end marker, and an error if they were not enough."""
    place, kept = file.tell(), b""
    while more := file.read(_CHUNK):
        data = kept + more
        end = data.find(_END, max(0, begin - place))
        if end >= 0:
            yield data[:end] + _ONES
            raise OSError("image file is truncated")
        kept = data[-1:] if data[-1] == 0xFF else b""
        place += len(data) - len(kept)
        yield data[: len(data) - len(kept)]
    yield kept
