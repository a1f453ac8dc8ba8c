"""Which formats are read, and Pillow set up to read them."""

import contextlib
import functools
import importlib
import logging
import re
import warnings

from PIL import Image

# Never EPS (runs Ghostscript), TGA (no magic number: takes any bytes) nor ICO (Pillow decodes what is in it before its
# size is known). JPEG opens MPO too.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF")
PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif", "Jpeg2K", "Ppm")
_PILLOW_MODULES = re.compile(r"PIL\.")
_NO_LOG = logging.NullHandler()


def set_up_pillow(max_pixels: int) -> None:
    """Let Pillow read up to max_pixels and keep its warnings to itself.

    Both are process-wide: Pillow knows no other limit, and `warnings.catch_warnings` is not safe on threads.
    """
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    if not any(module == _PILLOW_MODULES for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)
    logging.getLogger("PIL").addHandler(_NO_LOG)  # else errors of its TIFF reader go to stderr
    readable_formats()


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Give Pillow's names of the formats that can be read here: HEIF only where pillow-heif is installed."""
    for plugin in PLUGINS:
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)
