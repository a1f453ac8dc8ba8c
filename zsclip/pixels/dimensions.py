"""How large pictures are, by their headers. Nothing is decoded."""

from collections.abc import Sequence

from PIL import Image

from zsclip.pictures.pictures import Pictures
from zsclip.pixels.pillow_setup import readable_formats, set_up_pillow


def pixel_counts(pictures: Pictures, places: Sequence[int], *, max_pixels: int) -> list[int]:
    """Give the number of pixels of the pictures at some indices; 0 for those whose size cannot be read."""

    def count(place: int) -> int:
        try:
            with pictures.open(place) as file, Image.open(file, formats=readable_formats()) as image:
                return image.width * image.height
        except Exception:  # decoders raise anything at all
            return 0

    with set_up_pillow(max_pixels):
        return list(map(count, places))
