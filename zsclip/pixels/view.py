"""A picture for two: as a person sees it, and as the model does."""

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsclip.pictures.pictures import Pictures
from zsclip.pixels.fit import Area, Preprocess, seen_area
from zsclip.pixels.limits import Decoding
from zsclip.pixels.skipped import Skipped

if TYPE_CHECKING:
    from PIL import Image

MOST_SHOWN = 1024  # pixels of the longer side of the picture for a person


@dataclass(frozen=True, eq=False)
class View:
    """A picture, decoded once.

    pixels: (3, H, W) uint8, for the model. image: RGB, upright and whole, reduced to MOST_SHOWN pixels. area: what
    the model sees of it, in pixels of the file.
    """

    pixels: NDArray[np.uint8]
    image: "Image.Image"
    area: Area


def read_view(pictures: Pictures, place: int, preprocess: Preprocess, decoding: Decoding) -> View | Skipped:
    """Decode the picture at an index, or say why that failed. Nothing but a signal is raised."""
    from zsclip.pixels.reasons import START_BYTES, check_file, check_start, skipped

    name = pictures.names[place]
    try:
        if pictures.read is None:
            check_file(name)
        with pictures.open(place) as file:
            check_start(name, file.read(START_BYTES))
            file.seek(0)
            return _view(file, preprocess, decoding)
    except Exception as e:  # decoders raise anything at all, and one bad file must not end the run
        return skipped(e, name, decoding)


def _view(file: IO[bytes], preprocess: Preprocess, decoding: Decoding) -> View:
    from zsclip.pixels.colours import in_srgb
    from zsclip.pixels.decode import to_pixels, upright

    with upright(file, decoding) as image:
        pixels, area = to_pixels(image, preprocess), seen_area(image.size, preprocess)
        image.thumbnail((MOST_SHOWN, MOST_SHOWN))
        return View(pixels, in_srgb(image).convert("RGB").copy(), area)
