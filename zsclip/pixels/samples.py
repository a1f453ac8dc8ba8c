"""Samples of any depth and sign -> 8-bit pictures on white."""

from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsclip.pixels.layout import CMYK as CMYK_INKS
from zsclip.pixels.layout import COLOR_MAP, ICC_LAB, LAB, PALETTE, WHITE_IS_ZERO, YCBCR, Layout, check_samples
from zsclip.pixels.sample_range import DIM, Range, find_range, highest
from zsclip.pixels.tiff import Band, read_bands

FULL_16 = (0, 65535)
_BAND_PIXELS = 1 << 20


def tiff_picture(file: IO[bytes], layout: Layout) -> Image.Image:
    """Read a TIFF's first picture, as stored, on white where it is transparent.

    Returns:
        Mode L, RGB, CMYK or LAB.

    Raises:
        Refused: samples of this kind are not read.
        OSError: samples are missing.
    """
    check_samples(layout)
    spread = _range_of_colours(file, layout)
    to_levels = _lookup(layout) or _scaled(layout, spread)
    opaque = _range_of_alpha(file, layout, spread) if layout.alpha is not None else spread
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
            alpha[rows] = levels(band.values[..., layout.alpha if band.plane is None else 0], opaque)
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
        colours = (palette if layout.has_small_palette else palette // 256).astype(np.uint8)
        return lambda values: colours[values[..., 0].astype(np.intp)]
    if layout.photometric in (LAB, ICC_LAB):
        return lambda values: np.right_shift(values, layout.bits - 8).astype(np.uint8)
    return None


def _scaled(layout: Layout, spread: Range) -> Callable[[NDArray[np.generic]], NDArray[np.uint8]]:
    """Return the function from values to levels."""
    inverted = 255 if layout.photometric == WHITE_IS_ZERO else 0
    return lambda values: levels(values, spread) ^ np.uint8(inverted)


def _range_of_colours(file: IO[bytes], layout: Layout) -> Range:
    """Find what is black and what is white; reads all values where that matters."""
    if layout.photometric in (PALETTE, LAB, ICC_LAB):
        return 0, layout.full
    samples = layout.channels
    if layout.kind == "u":
        if layout.bits <= 8 or layout.photometric in (YCBCR, CMYK_INKS):
            return 0, layout.full
        if layout.is_multiplied:  # a transparent picture may have no bright colour: its alpha tells the range
            if not _is_shallow(highest(_alphas(file, layout)), layout):
                return 0, layout.full
            samples += 1

    def read() -> Iterator[NDArray[np.generic]]:
        kept = *range(layout.channels), *([layout.alpha] if samples > layout.channels else [])
        for band in read_bands(file, layout):
            if band.plane is None:
                yield band.values[..., kept] if samples > layout.channels else _colours(band, layout)
            elif band.plane in kept:
                yield band.values

    count = layout.width * layout.height * samples
    spread = find_range(read, count, layout.kind, layout.bits, layout.declared, layout.no_data)
    return spread if samples == layout.channels else (0, spread[1])


def _range_of_alpha(file: IO[bytes], layout: Layout, colours: Range) -> Range:
    """Find what is transparent and what is opaque: the colours' range if alpha uses as few bits as they do."""
    if layout.kind == "f":
        most = highest(_alphas(file, layout)) if colours[1] > 1 else 1
        return (0, 1) if most <= DIM else (0, max(most, colours[1]))
    if colours[1] >= layout.full:
        return 0, layout.full
    most = highest(_alphas(file, layout))
    if most <= colours[1] and (colours == layout.declared or _is_shallow(most, layout)):
        return 0, colours[1]
    return 0, most if _is_shallow(most, layout) else layout.full


def _is_shallow(highest_alpha: float, layout: Layout) -> bool:
    """Whether alpha uses fewer bits than its type has; scaled by all of them, it would be nearly transparent."""
    return 0 < highest_alpha <= (layout.full + 1) // 16 - 1


def _alphas(file: IO[bytes], layout: Layout) -> Iterator[NDArray[np.generic]]:
    for band in read_bands(file, layout):
        if band.plane in (None, layout.alpha):
            yield band.values[..., layout.alpha if band.plane is None else 0]


def _colours(band: Band, layout: Layout) -> NDArray[np.generic]:
    return band.values if band.plane is not None else band.values[..., : layout.channels]


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
        spread = find_range(
            lambda: (np.asarray(band) for _, band in bands_of(image)), image.width * image.height, kind, bits
        )
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
