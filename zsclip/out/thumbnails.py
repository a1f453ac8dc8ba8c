"""Paths -> small pictures to look at, decoded on threads."""

import io
from collections.abc import Callable, Sequence

from zsclip.pixels.ahead import Ahead
from zsclip.pixels.decode import upright
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.formats import set_up_pillow
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS, Decoding

WIDTH, HEIGHT = 160, 130  # pixels; at most


def thumbnails(
    paths: Sequence[str],
    *,
    threads: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    read: Callable[[str], bytes] | None = None,
) -> list[bytes | None]:
    """Make small pictures, upright, in order; None of what cannot be decoded any more.

    Args:
        read: gives the encoded picture where paths are names of pictures that are in no file of their own.

    Returns:
        WebP files.
    """
    if not paths:
        return []
    decoding = Decoding(max_pixels, fast_jpeg=True)
    wanted = Preprocess(size=(HEIGHT, WIDTH), mean=(0, 0, 0), std=(1, 1, 1), resize_mode="longest")

    def thumbnail(path: str) -> bytes | None:
        try:
            with io.BytesIO(read(path)) if read else open(path, "rb") as file, upright(file, decoding, wanted) as image:
                image.thumbnail((WIDTH, HEIGHT))
                small = io.BytesIO()
                image.save(small, "WEBP", quality=60, method=2)
                return small.getvalue()
        except Exception:  # decoders raise anything at all, and the answer is there without it
            return None

    with set_up_pillow(max_pixels), Ahead(paths, thumbnail, batch_size=len(paths), threads=threads) as ahead:
        return [small for batch in ahead.batches(len(paths)) for _, small in batch]
