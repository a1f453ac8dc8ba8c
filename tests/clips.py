"""Clips for the tests: every frame has one colour, which tells its number."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

LEVELS = (0, 85, 170, 255)  # of each channel, so that lossy codecs leave 64 numbers apart
NUMBERS = len(LEVELS) ** 3


def colour_of(number: int) -> tuple[int, int, int]:
    """The colour of a frame."""
    number %= NUMBERS
    return LEVELS[number % 4], LEVELS[number // 4 % 4], LEVELS[number // 16]


def number_of(pixels: NDArray[Any]) -> int:
    """The number of the frame with this colour, modulo NUMBERS. (H, W, 3)"""
    r, g, b = (round(float(channel) / 85) for channel in pixels.reshape(-1, 3).mean(axis=0))
    return r + 4 * g + 16 * b


def make_clip(
    path: Path,
    numbers: Sequence[int] | int = 50,
    *,
    codec: str = "libx264",
    rate: int = 25,
    size: tuple[int, int] = (64, 48),
    times: Sequence[int] | None = None,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    rotation: tuple[float, bool] | None = None,
    aspect: Fraction | None = None,
    sound: float = 0,
    gop: int | None = None,
    coding: str | None = None,
    **container: str,
) -> Path:
    """Write a clip.

    Args:
        times: of the frames, in milliseconds. pictures: instead of colours. rotation: degrees, counterclockwise, and
            whether it is mirrored. sound: seconds of silence beside it. gop: frames from one key frame to the next.
            coding: x264's own options. container: options of the muxer.
    """
    numbers = range(numbers) if isinstance(numbers, int) else numbers
    base = Fraction(1, 1000) if times is not None else Fraction(1, rate)
    with av.open(str(path), "w", options=container) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if gop is not None:
            stream.codec_context.gop_size = gop
        if coding is not None:
            stream.codec_context.options = {"x264-params": coding}
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        speech: Any = file.add_stream("aac", rate=8000) if sound else None
        for place, number in enumerate(numbers):
            pixels = np.full((size[1], size[0], 3), colour_of(number), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels if pictures is None else pictures[place], format="rgb24")
            frame.pts, frame.time_base = place if times is None else times[place], base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        for start in range(0, int(sound * 8000), 1024):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, start
            file.mux(speech.encode(samples))
        if speech is not None:
            file.mux(speech.encode())
    return path


def noise(count: int, size: tuple[int, int] = (64, 48), seed: int = 0) -> list[NDArray[np.uint8]]:
    """Pictures that take many bytes, so that files can be cut and damaged in their middle."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(count)]
