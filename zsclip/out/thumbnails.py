"""Pictures -> small pictures to look at, decoded on threads."""

import io
from collections.abc import Sequence
from typing import Any

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
    if not places:
        return []
    decoding = Decoding(max_pixels, fast_jpeg=True)
    wanted = Preprocess(size=(HEIGHT, WIDTH), mean=(0, 0, 0), std=(1, 1, 1), resize_mode="longest")

    def thumbnail(_: Pictures, number: int) -> bytes | None:
        try:
            with pictures.open(places[number]) as file, upright(file, decoding, wanted) as image:
                image.thumbnail((WIDTH, HEIGHT))
                small = io.BytesIO()
                in_srgb(image).save(small, "WEBP", quality=60, method=2)
                return small.getvalue()
        except Exception:  # decoders raise anything at all, and the row is useful without a thumbnail
            return None

    some = Pictures([pictures.names[place] for place in places])
    with set_up_pillow(max_pixels):
        ahead: Ahead[bytes | None, Any] = Ahead([some], thumbnail, batch_size=len(places), threads=threads)
        with ahead:
            return [small for batch in ahead.batches(len(places)) for _, small in batch]
