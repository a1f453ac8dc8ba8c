"""The values that samples have -> which of them is black and which is white."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DARK_16 = 4095  # 16-bit samples that are all below this are of 12 bits or fewer: as 16 bits they would be black
DIM = 16  # floats up to this that go over 1 are lights brighter than white; as floats up to 255 they would be black
UNDERSHOOT = -0.1  # floats from 0 to 1 may go below 0 by this much, as sharpening leaves them
NO_DATA = (-9999.0, -99999.0, -32768.0, -32767.0)  # floats that mark missing data, where nothing else is near them
_LARGEST = 3.4e38  # floats from here on mark missing data, too
_MOST_SAMPLED = 500_000
_FEWEST = 1000  # values, of which one in a thousand may be a fault
_FAR = 16  # times the range of nearly all values: a range as wide as that would leave them without contrast

Range = tuple[float, float]  # of samples: black, white
Parts = Iterable[NDArray[Any]]


@dataclass(frozen=True)
class _Seen:
    """The lowest and highest valid value, and a sample of the values, (S,)."""

    low: float
    high: float
    some: NDArray[np.float64]


def find_range(
    read: Callable[[], Parts],
    count: int,
    kind: str,
    bits: int,
    declared: Range | None = None,
    no_data: float | None = None,
) -> Range:
    """Choose what is black and what is white by the values of a picture.

    NaN, infinities, no_data, and floats that usually stand for no data count as no values. Neither do faults: up to
    one value in a thousand, if all others lie within a sixteenth of the range and there are none in between.

    Args:
        read: gives all values, part by part; it is called again if there may be faults.
        count: of all values.
        kind: `u`, `i` or `f`.
    """
    step = _step(count)

    def look(no_data: float | None) -> _Seen:
        return _see((_valid(part, no_data) for part in read()), step)

    seen = look(no_data)
    if kind == "f" and seen.low in NO_DATA and (others := look(seen.low)).low > seen.low / 2:
        seen, no_data = others, seen.low
    over_1 = _share_over_1(seen.some) if kind == "f" else 1
    spread = range_of((seen.low, seen.high), kind, bits, declared, over_1)
    if spread == declared or count < _FEWEST or (kind == "u" and bits < 16):
        return spread
    nearly_all = _nearly_all(seen)
    if nearly_all is None:
        return spread
    actual = _without_faults((_valid(part, no_data) for part in read()), nearly_all, count // _FEWEST)
    return spread if actual is None else range_of(actual, kind, bits, declared, over_1)


def range_of(actual: Range, kind: str, bits: int, declared: Range | None = None, over_1: float = 1) -> Range:
    """Choose what is black and what is white.

    The first of these that fits decides:

    samples                                                        black, white
    more than 8 bits, all in the range that the file declares      that range
    unsigned, under 16 bits, or 16 bits with some over DARK_16     0, the highest of that depth
    signed, 8 bits                                                 -128, 127, or lowest, highest if none is below 0
    floats in [0, 1], or nearly all of them, and others clipped    0, 1
    floats in [0, DIM], some of them not over 1                    0, highest
    any in [0, 255], some of them over 1                           0, 255
    any others                                                     lowest, highest

    Args:
        actual: the lowest and the highest value.
        kind: `u`, `i` or `f`.
        over_1: of the values over 0 that are not 1, the share over 1. Up to half of them may be lights brighter than
            white, and up to a tenth if the brightest are over DIM.
    """
    low, high = actual
    if declared is not None and bits > 8 and declared[0] <= low and high <= declared[1]:
        return declared
    if kind == "u" and (bits < 16 or (bits == 16 and high > DARK_16)):
        return 0, 2.0**bits - 1
    if kind == "i" and bits == 8:
        return (-128, 127) if low < 0 else (low, high)
    if kind == "f" and low >= 0 and high <= 1:
        return 0, 1
    if kind == "f" and low >= UNDERSHOOT and high > 1 and over_1 <= (0.5 if high <= DIM else 0.1):
        return 0, 1
    if kind == "f" and low >= 0 and high <= DIM and over_1 < 1:
        return 0, high
    if low >= 0 and 1 < high <= 255:
        return 0, 255
    return low, high


def highest(parts: Parts) -> float:
    """Find the highest value that is finite; 0 if there is none."""
    return _see(_valid(part, None) for part in parts).high


def _step(count: int) -> int:
    """Choose how many values to skip, so that all channels are seen: by no multiple of 2 or 3."""
    step = max(1, count // _MOST_SAMPLED) | 1
    return step + 2 if step % 3 == 0 else step


def _valid(part: NDArray[np.generic], no_data: float | None) -> NDArray[np.generic]:
    """Leave out what stands for no data; (N,)."""
    values = part.ravel()
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        values = values[np.abs(values) < _LARGEST]  # and no NaN
    return values if no_data is None else values[~np.isclose(values, no_data, rtol=1e-6, atol=0)]


def _see(parts: Parts, step: int = 1) -> _Seen:
    lows, highs, some = [], [], [np.empty(0)]
    for part in parts:
        if part.size:
            lows.append(float(part.min()))
            highs.append(float(part.max()))
            some.append(part[::step].astype(np.float64))
    return _Seen(min(lows), max(highs), np.concatenate(some)) if lows else _Seen(0, 0, some[0])


def _nearly_all(seen: _Seen) -> Range | None:
    """Give the range of all values but one in a thousand at each end; None unless it is a small part of the whole."""
    if not len(seen.some):
        return None
    low, high = np.quantile(seen.some, (1 / _FEWEST, 1 - 1 / _FEWEST)).tolist()
    return (low, high) if 0 < _FAR * (high - low) <= seen.high - seen.low else None


def _without_faults(parts: Parts, nearly_all: Range, most: int) -> Range | None:
    """Give the range without the faults; None if they are too many, or values in between show that they are none."""
    low, high = nearly_all
    width = high - low
    lows, highs, faults = [low], [high], 0
    for part in parts:
        is_near = (part >= low - width) & (part <= high + width)
        is_far = (part < low - _FAR / 2 * width) | (part > high + _FAR / 2 * width)
        faults += int(is_far.sum())
        near = part[is_near]
        if faults > most or len(near) + int(is_far.sum()) < len(part):
            return None
        if len(near):
            lows.append(float(near.min()))
            highs.append(float(near.max()))
    return min(lows), max(highs)


def _share_over_1(values: NDArray[np.float64]) -> float:
    """Of the values over 0 that are not 1, give the share over 1; whole numbers have no others."""
    over, under = int((values > 1).sum()), int(((values > 0) & (values < 1)).sum())
    return over / max(1, over + under) if over else 0
