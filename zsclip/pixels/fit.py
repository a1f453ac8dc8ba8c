"""Resize and crop as the model's own preprocessing says.

Pillow is imported where it is used: what a model wants is known long before a picture is decoded, if one ever is.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

RULES = "decode-v6"  # change it when a file gives other pixels than before; kept embeddings depend on it
FAST_JPEG_MARGIN = (
    3  # at twice the size 5 of 41 photographs differed by a cosine below 0.999 (a tower of 64 pixels), at 3 none
)
MAX_RESIZED_PIXELS = 16_000_000  # of a resized picture larger than this, only the crop is computed
MAX_SIDE = 1_000_000  # Pillow's weights for a side take 32 bytes per pixel
_MOST_AVERAGED = 64  # pixels at a time; Pillow loses precision with many


@dataclass(frozen=True)
class Preprocess:
    """How a model wants its pictures, in open_clip's terms.

    size: (H, W); mean, std: of channels in [0, 1], applied by the model itself; interpolation: `bicubic` or
    `bilinear`; resize_mode: `shortest` side to the size and cropped, `longest` side and padded with `fill_color`, or
    `squash`.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0


def fit(image: "Image.Image", preprocess: Preprocess) -> "Image.Image":
    """Resize and crop (or pad) as open_clip's inference transform does, to the pixel, and convert to sRGB.

    Returns:
        Mode RGB or L.
    """
    from PIL import Image

    from zsclip.pixels.colours import in_srgb

    height, width = preprocess.size
    new_width, new_height = _resized_size(image.width, image.height, preprocess)
    # open_clip's `shortest` for a size that is not square knows only bicubic.
    only_bicubic = preprocess.resize_mode == "shortest" and height != width
    bilinear = preprocess.interpolation == "bilinear" and not only_bicubic
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    left, top = _margin(new_width, width), _margin(new_height, height)
    if new_width * new_height > MAX_RESIZED_PIXELS:
        # A strip of 1 x 50000 would first grow to gigabytes. This is within 2 grey levels of resizing all of it
        # (Pillow orders its two passes by cost), or more where bicubic overshoots black or white in between.
        x, y = image.width / new_width, image.height / new_height
        box = (left * x, top * y, (left + width) * x, (top + height) * y)
        return in_srgb(image.resize((width, height), resample, box))
    if max(image.size) > MAX_SIDE:
        image = _averaged(image, new_width, new_height)
    if image.size != (new_width, new_height):
        image = image.resize((new_width, new_height), resample)
    image = in_srgb(image)
    fill = preprocess.fill_color if preprocess.resize_mode == "longest" else 0
    fitted = Image.new(image.mode, (width, height), fill if image.mode == "L" else (fill, fill, fill))
    fitted.paste(image, (-left, -top))
    return fitted


def _averaged(image: "Image.Image", width: int, height: int) -> "Image.Image":
    """Bring a picture near a size by plain averages, as the weights of a long side would take gigabytes."""
    across = down = 0
    while (across, down) != (1, 1):
        across, down = (
            min(max(1, side // (16 * new)), _MOST_AVERAGED)
            for side, new in zip(image.size, (width, height), strict=True)
        )
        image = image.reduce((across, down))
    return image


def _resized_size(width: int, height: int, preprocess: Preprocess) -> tuple[int, int]:
    target_height, target_width = preprocess.size
    if preprocess.resize_mode == "squash":
        return target_width, target_height
    if preprocess.resize_mode == "shortest" and target_height == target_width:
        # torchvision's Resize rounds the long side down; the others round to nearest.
        side = target_width
        return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    ratios = height / target_height, width / target_width
    ratio = max(ratios) if preprocess.resize_mode == "longest" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _margin(size: int, target: int) -> int:
    """Return how much to cut off at the left or top; negative where padding is needed."""
    return round((size - target) / 2) if size >= target else -((target - size) // 2)


def jpeg_scale(size: tuple[int, int], preprocess: Preprocess) -> int:
    """Give the factor by which the decoder may reduce an upright JPEG without losing detail or a border."""
    times = min(side / needed for side, needed in zip(size, _resized_size(*size, preprocess), strict=True))
    for scale in (8, 4, 2):
        if times >= FAST_JPEG_MARGIN * scale and not size[0] % scale and not size[1] % scale:
            return scale
    return 1


@dataclass(frozen=True)
class Area:
    """The part of a picture that a model sees.

    size: width and height of the upright picture. seen: left, top, right and bottom of the part, in pixels of the
    picture; beyond its borders where the model gets a margin.
    """

    size: tuple[int, int]
    seen: tuple[float, float, float, float]

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """What is seen of the picture itself, in whole pixels; at least one each way."""
        left, top, right, bottom = map(round, self.seen)
        left, top = min(max(0, left), self.size[0] - 1), min(max(0, top), self.size[1] - 1)
        return left, top, min(self.size[0], max(right, left + 1)), min(self.size[1], max(bottom, top + 1))


def seen_area(size: tuple[int, int], preprocess: Preprocess) -> Area:
    """Give the part of a picture that `fit` keeps.

    Args:
        size: width and height of the upright picture.
    """
    height, width = preprocess.size
    new_width, new_height = _resized_size(*size, preprocess)
    left, top = _margin(new_width, width), _margin(new_height, height)
    x, y = size[0] / new_width, size[1] / new_height
    return Area(size, (left * x, top * y, (left + width) * x, (top + height) * y))
