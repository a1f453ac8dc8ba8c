"""How many bytes a picture takes on its way to the model, by what its header says."""

from PIL import Image

from zsclip.pixels.layout import Layout

# Measured with pictures of 9 to 36 megapixels and Pillow 11.3 to 13; tests/test_costs.py checks them.
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}  # bytes per pixel; 4 for all others
_WORKING = {"WEBP": 8, "AVIF": 9, "HEIF": 9, "JPEG2000": 17}  # of the decoder itself, beside the picture
_PROGRESSIVE = 6  # coefficients, kept until the last scan
_ROW = 2 * 12  # bytes per row, for two pictures: its pointer and its padding
_BAND, _MOST_BANDS = 32, 32_000_000  # bytes per pixel of the bands being converted, and their limit


def bytes_for(opened: Image.Image, is_turned: bool) -> int:
    """Give the most bytes that decoding, converting, turning and resizing an opened picture take at one time."""
    pixels, stored = opened.width * opened.height, _STORED.get(opened.mode, 4)
    working = _WORKING.get(opened.format or "", 0) + (_PROGRESSIVE if opened.info.get("progressive") else 0)
    is_as_stored = opened.mode in ("RGB", "L") and not opened.has_transparency_data
    converted = 0 if is_as_stored else 1 if opened.mode in ("I", "F") or opened.mode.startswith("I;16") else 4
    turned = (converted or stored) if is_turned else 0
    most = max(stored + working, stored + converted, turned + max(stored, converted))
    return pixels * most + _bands(pixels) + _ROW * (max(opened.size) if is_turned else opened.height)


def bytes_for_samples(layout: Layout) -> int:
    """Give the same for a TIFF whose samples are read here."""
    pixels, planes = layout.width * layout.height, layout.channels + (layout.alpha is not None)
    working = max(layout.unpacking, pixels * 2 * (4 if layout.channels > 1 else 1))
    return pixels * planes + working + _bands(pixels) + _ROW * max(layout.width, layout.height)


def _bands(pixels: int) -> int:
    return min(pixels * _BAND, _MOST_BANDS)
