"""Samples of any depth and sign -> 8-bit pictures on white."""

from collections.abc import Callable, Iterable, Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsclip.pixels.layout import CMYK as CMYK_INKS
from zsclip.pixels.layout import COLOR_MAP, ICC_LAB, LAB, PALETTE, WHITE_IS_ZERO, YCBCR, Layout, check_samples
from zsclip.pixels.tiff import Band, read_bands

FULL_16 = (0, 65535)
DARK_16 = 4095  # 16-bit samples that are all below this are of 12 bits or fewer: as 16 bits they would be black
_BAND_PIXELS = 1 << 20

Range = tuple[float, float]  # of samples: black, white


def tiff_picture(file: IO[bytes], layout: Layout) -> Image.Image:
    """Read a TIFF's first picture, as stored, on white where it is transparent.

    Returns:
        Mode L, RGB, CMYK or LAB.

    Raises:
        Refused: samples of this kind are not read.
        OSError: samples are missing.
    """
    check_samples(layout)
    to_levels = _lookup(layout) or _scaled(file, layout)
    channels = 3 if layout.photometric == PALETTE else layout.channels
    out = np.zeros((layout.height, layout.width, channels), np.uint8)
    alpha = np.zeros(out.shape[:2], np.uint8) if layout.alpha is not None else None
    for band in read_bands(file, layout):
        rows = slice(band.y, band.y + band.values.shape[0]), slice(band.x, band.x + band.values.shape[1])
        if band.plane is None:
            out[rows] = to_levels(band.values[..., : layout.channels])
        elif band.plane < layout.channels:
            part = slice(None) if layout.photometric == PALETTE else slice(band.plane, band.plane + 1)
            out[rows][..., part] = to_levels(band.values)
        if alpha is not None and band.plane in (None, layout.alpha):
            alpha[rows] = _alpha_levels(band.values[..., layout.alpha if band.plane is None else 0], layout)
    if alpha is not None and alpha.any():
        _put_on_white(out, alpha, layout)
    return _as_image(out, layout)


def _as_image(out: NDArray[np.uint8], layout: Layout) -> Image.Image:
    if layout.photometric in (LAB, ICC_LAB):
        if layout.photometric == ICC_LAB:
            out[..., 1:] ^= 0x80  # to signed a and b
        return Image.frombytes("LAB", (layout.width, layout.height), out.tobytes())
    if layout.photometric == YCBCR:
        return Image.fromarray(out, "YCbCr").convert("RGB")
    if layout.photometric == CMYK_INKS:
        return Image.frombuffer("CMYK", (layout.width, layout.height), out, "raw", "CMYK", 0, 1)
    return Image.fromarray(out[..., 0] if out.shape[2] == 1 else out)


def _lookup(layout: Layout) -> Callable[[NDArray[np.generic]], NDArray[np.uint8]] | None:
    """Return the function from values to levels where it does not depend on the other values."""
    if layout.photometric == PALETTE:
        palette = np.array(layout.tags[COLOR_MAP][: 3 << layout.bits], np.uint32).reshape(3, -1).T  # (entries, 3)
        colours = (palette if palette.max() <= 255 else palette // 256).astype(np.uint8)
        return lambda values: colours[values[..., 0].astype(np.intp)]
    if layout.photometric in (LAB, ICC_LAB):
        return lambda values: np.right_shift(values, layout.bits - 8).astype(np.uint8)
    return None


def _scaled(file: IO[bytes], layout: Layout) -> Callable[[NDArray[np.generic]], NDArray[np.uint8]]:
    """Return the function from values to levels; reads all values where their range matters."""
    is_small = layout.kind == "u" and layout.bits <= 8
    if layout.kind == "u" and (is_small or layout.is_multiplied or layout.photometric in (YCBCR, CMYK_INKS)):
        spread: Range = (0, 2.0**layout.bits - 1)
    else:
        colours = (band for band in read_bands(file, layout) if band.plane is None or band.plane < layout.channels)
        actual = _actual(_colours(band, layout) for band in colours)
        spread = range_of(actual, layout.kind, layout.bits, layout.declared)
    inverted = 255 if layout.photometric == WHITE_IS_ZERO else 0
    return lambda values: levels(values, spread) ^ np.uint8(inverted)


def _colours(band: Band, layout: Layout) -> NDArray[np.generic]:
    return band.values if band.plane is not None else band.values[..., : layout.channels]


def _actual(parts: Iterable[NDArray[np.generic]]) -> Range:
    """Find the lowest and the highest finite value; (0, 0) if there is none."""
    lows, highs = [], []
    for part in parts:
        numbers = part[np.isfinite(part)] if part.dtype.kind == "f" else part
        if numbers.size:
            lows.append(float(numbers.min()))
            highs.append(float(numbers.max()))
    return (min(lows), max(highs)) if lows else (0, 0)


def range_of(actual: Range, kind: str, bits: int, declared: Range | None = None) -> Range:
    """Choose what is black and what is white.

    That is what the file declares, unless values lie outside; for 8 bits, for odd depths such as 12, and for 16 bits
    that use more than 12, all that fit. Values within [0, 255], and floats within [0, 1], count as such; others go
    from the lowest to the highest.

    Args:
        actual: the lowest and the highest value.
        kind: `u`, `i` or `f`.
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
    if low >= 0 and 1 < high <= 255:
        return 0, 255
    return low, high


def levels(values: NDArray[np.generic], spread: Range) -> NDArray[np.uint8]:
    """Scale values to 0..255, clipped; NaN is black. Same shape."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2 and values.size > 65536:
        info = np.iinfo(values.dtype.str)
        table = levels(np.arange(info.min, info.max + 1), spread)  # one for each value that fits
        return table[values.astype(np.int32) - info.min]
    low, high = spread[0] / 2, spread[1] / 2  # halves, as the distance of two float64 may be more than fits
    with np.errstate(all="ignore"):
        halves = values.astype(np.float64).clip(*spread) / 2
        scaled = (halves - low) * (255 / (high - low) if high > low else 0)
        return np.nan_to_num(scaled).clip(0, 255).round().astype(np.uint8)


def _alpha_levels(values: NDArray[np.generic], layout: Layout) -> NDArray[np.uint8]:
    return levels(values, (0, 1) if layout.kind == "f" else (0, 2.0 ** (layout.bits - (layout.kind == "i")) - 1))


def _put_on_white(out: NDArray[np.uint8], alpha: NDArray[np.uint8], layout: Layout) -> None:
    """Composite in place, some rows at a time."""
    white = 0 if layout.photometric == CMYK_INKS else 255
    step = max(1, _BAND_PIXELS // max(1, out.shape[1]))
    for y in range(0, len(out), step):
        colours = out[y : y + step].astype(np.uint16)
        covered = alpha[y : y + step, :, None].astype(np.uint16)
        if layout.is_multiplied and layout.photometric == WHITE_IS_ZERO:
            colours = 255 - colours  # ink, multiplied
            colours = covered - np.minimum(colours, covered)
        if not layout.is_multiplied:
            colours = (colours * covered + 127) // 255
        out[y : y + step] = np.minimum(colours + (white * (255 - covered) + 127) // 255, 255)


def grey_picture(image: Image.Image) -> Image.Image:
    """Bring 16-bit, 32-bit and float grey to mode L; pixels of the transparent value become white.

    The standards of PNG, PPM and JPEG 2000 declare that white is 65535 there.
    """
    kind, bits = {"I": ("i", 32), "F": ("f", 32)}.get(image.mode, ("u", 16))
    if image.format in ("PNG", "PPM", "JPEG2000") and kind != "f":
        spread: Range = FULL_16
    else:
        spread = range_of(_actual(np.asarray(band) for _, band in bands_of(image)), kind, bits)
    key = image.info.get("transparency")
    grey = Image.new("L", image.size)
    for y, band in bands_of(image):
        values = np.asarray(band)  # (rows, W)
        some = levels(values, spread)
        grey.paste(Image.fromarray(some if key is None else np.where(values == key, np.uint8(255), some)), (0, y))
    if "icc_profile" in image.info:
        grey.info["icc_profile"] = image.info["icc_profile"]
    return grey


def bands_of(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut a picture into bands of whole rows, with the row at which each begins; a small one is its only band."""
    step = max(1, _BAND_PIXELS // max(1, image.width))
    if step >= image.height:
        yield 0, image
        return
    for y in range(0, image.height, step):
        yield y, image.crop((0, y, image.width, min(y + step, image.height)))
