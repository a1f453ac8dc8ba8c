"""Which formats are read, and how Pillow is set up to read them."""

import contextlib
import functools
import importlib
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from zsclip.pixels.libtiff import listen, stop_listening

# Never EPS (runs Ghostscript), TGA (no magic number: takes any bytes) nor ICO (Pillow decodes what is in it before its
# size is known). JPEG opens MPO too.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF")
PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif", "Jpeg2K", "Ppm")
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # a filter as `warnings` stores it
_NO_LOG = logging.NullHandler()

_changing = threading.Lock()
_limits: list[int] = []  # of all active blocks
_before: list[int | None] = []  # Pillow's own limit, while any block is active


@contextmanager
def set_up_pillow(max_pixels: int) -> Iterator[None]:
    """Let Pillow read up to max_pixels and keep its warnings to itself while the block runs, on any thread.

    Its limit, the warning filters, the log and libtiff's handlers belong to the whole process: the first block changes
    them, and the last one restores them. Blocks may be nested: an outer one makes the inner ones cheap.
    """
    readable_formats()
    with _changing:
        if not _limits:
            _before.append(Image.MAX_IMAGE_PIXELS)
            logging.getLogger("PIL").addHandler(_NO_LOG)  # otherwise errors of its TIFF reader go to stderr
            listen()
        if _QUIET not in warnings.filters:  # other code may have set its own filters meanwhile
            warnings.filters.insert(0, _QUIET)  # type: ignore[attr-defined]
        _limits.append(max_pixels)
        _set_limit()
    try:
        yield
    finally:
        with _changing:
            _limits.remove(max_pixels)
            _set_limit()
            if not _limits:
                _before.clear()
                stop_listening()
                logging.getLogger("PIL").removeHandler(_NO_LOG)
                with contextlib.suppress(ValueError):  # as above
                    warnings.filters.remove(_QUIET)  # type: ignore[attr-defined]


def _set_limit() -> None:
    (own,) = _before
    Image.MAX_IMAGE_PIXELS = None if own is None else max([own, *_limits])


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Give Pillow's names of the formats that can be read here; HEIF only if pillow-heif is installed."""
    for plugin in PLUGINS:
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)
