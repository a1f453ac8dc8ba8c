"""A decoded frame of a video -> the picture that a player shows: its colours, its shape, upright."""

import struct
import threading
from fractions import Fraction
from typing import TYPE_CHECKING

from zsclip.pictures.in_memory import as_ppm

if TYPE_CHECKING:
    import numpy as np
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

_MATRIX = struct.Struct("=9i")
_BT709, _BT601 = 1, 5  # as swscale numbers the conversions from YUV to RGB
_UNSPECIFIED = 2
_HD = (1280, 576)  # a stream that does not declare its colours is BT.709 if it is wider or higher, as players have it
_SRGB, _SRGB_PRIMARIES = 13, 1  # as H.273 numbers transfer functions and primaries
_HDR = frozenset({16, 18})  # PQ and HLG
_WIDE = frozenset({9})  # the primaries of BT.2020
_MOST_STRETCHED = 16  # a sample aspect ratio beyond this is a mistake

_local = threading.local()  # a converter for each thread; it keeps tables between frames


def as_picture(frame: "VideoFrame", aspect: Fraction | None) -> bytes:
    """Give a frame as a PPM file.

    Args:
        aspect: width of a pixel as a multiple of its height; None: pixels are square.
    """
    pixels = _in_rgb(frame, *_shown_size(frame.width, frame.height, aspect))
    return as_ppm(_upright(pixels, frame))


def _in_rgb(frame: "VideoFrame", width: int, height: int) -> "NDArray[np.uint8]":
    """Convert to sRGB by what the stream declares, and resize. (H, W, 3) uint8."""
    from av.video.reformatter import Interpolation, VideoReformatter

    if not hasattr(_local, "converter"):
        _local.converter = VideoReformatter()
    space = None
    if frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb:
        space = _BT709 if frame.width >= _HD[0] or frame.height > _HD[1] else _BT601
    is_resized = (width, height) != (frame.width, frame.height)
    way = Interpolation.BICUBIC if is_resized else Interpolation.BILINEAR
    wanted = {"width": width, "height": height, "format": "rgb24", "src_colorspace": space}
    wanted |= {"interpolation": way}  # rounded exactly, it would take four times as long for two grey levels
    if frame.color_trc in _HDR or frame.color_primaries in _WIDE:
        try:
            to_srgb = {"dst_color_trc": _SRGB, "dst_color_primaries": _SRGB_PRIMARIES}
            return _local.converter.reformat(frame, **wanted, **to_srgb).to_ndarray()
        except (OSError, ValueError):  # a combination that swscale does not know; pale colours are better than none
            pass
    return _local.converter.reformat(frame, **wanted, threads=1).to_ndarray()


def _shown_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Give the size with square pixels; the shorter side of the pixels is stretched, so that nothing is lost."""
    if not aspect or not Fraction(1, _MOST_STRETCHED) <= aspect <= _MOST_STRETCHED:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _upright(pixels: "NDArray[np.uint8]", frame: "VideoFrame") -> "NDArray[np.uint8]":
    """Turn and mirror a frame as its display matrix says, by the nearest multiple of 90 degrees."""
    matrix = next((bytes(each) for each in frame.side_data if each.type.name == "DISPLAYMATRIX"), None)  # type: ignore
    if matrix is None or len(matrix) != _MATRIX.size:
        return pixels
    a, b, _, c, d, *_ = _MATRIX.unpack(matrix)  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if d < 0 else pixels
