"""What libjpeg warns of as it decodes a JPEG. Pillow keeps that to itself, but libtiff passes it on."""

import io
import re
import struct

from PIL import TiffImagePlugin

from zsclip.pixels.jpeg_segments import FRAMES, METADATA, header_of
from zsclip.pixels.layout import (
    BITS,
    BLACK_IS_ZERO,
    CMYK,
    COMPRESSION,
    HEIGHT,
    PHOTOMETRIC,
    ROWS_PER_STRIP,
    SAMPLES,
    STRIP_BYTES,
    STRIP_OFFSETS,
    WIDTH,
    YCBCR,
    YCBCR_SUBSAMPLING,
)
from zsclip.pixels.libtiff import whole_pixels
from zsclip.pixels.pillow_setup import set_up_pillow

_JPEG = 7  # the compression
_PHOTOMETRIC = {1: BLACK_IS_ZERO, 3: YCBCR, 4: CMYK}  # by the number of channels
_LONG, _SHORT = 4, 3  # types of tags
_WARNING = re.compile("Corrupt JPEG data: (.+)")


def warning_about(data: bytes) -> str:
    """Decode a JPEG, and give libjpeg's first warning of corrupt data.

    Returns:
        An empty text if there was none, libtiff does not read such a JPEG, or Pillow hides its libtiff.
    """
    parts, frame, end = [b"\xff\xd8"], b"", 2
    for code, begin, end in header_of(data):
        if code not in METADATA:  # whose damage would be the first warning
            parts.append(bytes((0xFF, code)) + data[begin:end])
        if code in FRAMES:
            frame = data[begin + 2 : end]
    if len(frame) < 8 or frame[5] not in _PHOTOMETRIC:
        return ""
    try:
        _decode(b"".join(parts) + data[end:], frame)
    except Exception as e:  # libtiff refuses it, or has something to report
        found = _WARNING.search(str(e))
        return "" if found is None else found[1]
    return ""


def _decode(jpeg: bytes, frame: bytes) -> None:
    """Decode a JPEG as the only strip of a TIFF.

    Args:
        frame: what its frame header says, from the bits of a sample on.
    """
    height, width, channels = struct.unpack(">HHB", frame[1:6])
    tags = {WIDTH: width, HEIGHT: height, BITS: 8, COMPRESSION: _JPEG, PHOTOMETRIC: _PHOTOMETRIC[channels]}
    tags |= {STRIP_OFFSETS: 0, SAMPLES: channels, ROWS_PER_STRIP: height, STRIP_BYTES: len(jpeg)}
    if channels == 3:
        tags[YCBCR_SUBSAMPLING] = frame[7] >> 4 | (frame[7] & 15) << 16  # two numbers of 16 bits
    tags[STRIP_OFFSETS] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, *((_SHORT, 2) if tag == YCBCR_SUBSAMPLING else (_LONG, 1)), tags[tag])
        for tag in sorted(tags)
    )
    file = io.BytesIO(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + jpeg)
    with (
        set_up_pillow(width * height),
        TiffImagePlugin.TiffImageFile(file) as image,
        whole_pixels(image, _WARNING),
    ):
        image.load()
