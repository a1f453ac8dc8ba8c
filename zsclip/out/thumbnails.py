"""Pictures -> small pictures to look at, decoded on threads."""

import io
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from PIL import Image

from zsclip.pictures.pictures import Pictures
from zsclip.pixels.ahead import Ahead
from zsclip.pixels.colours import in_srgb
from zsclip.pixels.decode import upright
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS, Decoding
from zsclip.pixels.pillow_setup import set_up_pillow

WIDTH, HEIGHT = 160, 130  # pixels; at most


def thumbnails(
    pictures: Pictures, places: Sequence[int], *, threads: int, max_pixels: int = DEFAULT_MAX_PIXELS
) -> list[bytes | None]:
    """Make upright thumbnails of the pictures at some indices, in order; None for those that can no longer be decoded.

    Returns:
        WebP files.
    """
    decoding = Decoding(max_pixels, fast_jpeg=True)
    wanted = Preprocess(size=(HEIGHT, WIDTH), mean=(0, 0, 0), std=(1, 1, 1), resize_mode="longest")

    def made(place: int) -> bytes:
        with pictures.open(place) as file, upright(file, decoding, wanted) as image:
            image.thumbnail((WIDTH, HEIGHT))
            return _written(in_srgb(image), "WEBP", quality=60, method=2)

    return _all_made(pictures, places, made, threads, max_pixels)


def as_jpeg(pictures: Pictures, place: int) -> bytes | None:
    """Make a JPEG of a whole picture, for a browser that cannot show it as it is; None if it cannot be decoded."""

    def made(place: int) -> bytes:
        with pictures.open(place) as file, upright(file) as image:
            return _written(in_srgb(image), "JPEG", quality=90)

    return _all_made(pictures, [place], made, 1, DEFAULT_MAX_PIXELS)[0]


def as_png(file: BinaryIO) -> BinaryIO:
    """Encode a picture anew, without loss."""
    with set_up_pillow(DEFAULT_MAX_PIXELS), Image.open(file) as image:
        return io.BytesIO(_written(image, "PNG"))


def _all_made(
    pictures: Pictures, places: Sequence[int], make: Callable[[int], bytes], threads: int, max_pixels: int
) -> list[bytes | None]:
    """Make something of some pictures on threads; None where that fails."""
    if not places:
        return []

    def made(_: Pictures, number: int) -> bytes | None:
        try:
            return make(places[number])
        except Exception:  # decoders raise anything at all, and the row is useful without its picture
            return None

    some = Pictures([pictures.names[place] for place in places])
    with set_up_pillow(max_pixels):
        ahead: Ahead[bytes | None, Any] = Ahead([some], made, batch_size=len(places), threads=threads)
        with ahead:
            return [each for batch in ahead.batches(len(places)) for _, each in batch]


def _written(image: Image.Image, form: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
