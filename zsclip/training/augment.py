"""Augment a picture: a random crop, mirrored, tinted, blurred or sharpened.

Every change is a function of given numbers in [0, 1): no random state here, no files.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from zsclip.pixels.colours import in_srgb
from zsclip.training.sampling import Sampling

PICTURE_DRAWS = 15  # random numbers per picture
_WIDEST = 4 / 3  # aspect ratio of a crop, relative to the picture's


def augmented(image: Image.Image, draws: NDArray[np.float64], sampling: Sampling) -> NDArray[np.uint8]:
    """Crop, resize, mirror and tint a picture, from fifteen numbers in [0, 1). (H, W, 3) uint8."""
    area, ratio, x, y, mirror, brightness, contrast, *tints, detail, colours, crispness, strength, edges = (
        draws.tolist()
    )
    height, width = sampling.preprocess.size
    area = image.width * image.height * (sampling.crop_scale + (1 - sampling.crop_scale) * area)
    ratio = _WIDEST ** ((2 * ratio - 1) * (sampling.crop_scale < 1)) * image.width / image.height
    crop_width = min(image.width, math.sqrt(area * ratio))
    crop_height = min(image.height, math.sqrt(area / ratio))
    left, top = x * (image.width - crop_width), y * (image.height - crop_height)
    bilinear = sampling.preprocess.interpolation == "bilinear"
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    box = (left, top, left + crop_width, top + crop_height)
    share = (1 + detail / sampling.blur) / 3 if detail < sampling.blur else 1
    small = (math.ceil(width * share), math.ceil(height * share))
    image = in_srgb(image.resize(small, resample, box=box).resize((width, height), resample)).convert("RGB")
    if colours < sampling.chroma:
        change = _sharpen_colours if colours < sampling.chroma / 2 else _soften_colours
        image = change(image, crispness)
    if strength < sampling.saturation:
        image = ImageEnhance.Color(image).enhance(1.5 * strength / sampling.saturation)
    if edges < sampling.sharpen:
        image = image.filter(_crisper(edges / sampling.sharpen))
    if sampling.flip and mirror < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image)  # (H, W, 3)
    if not sampling.colour:
        return pixels
    gain = 1 + sampling.colour * (2 * contrast - 1)  # around middle grey
    shift = 128 * (1 - gain) + 255 * sampling.colour * (brightness - 0.5)
    tint = 1 + sampling.colour / 2 * (2 * np.array(tints, np.float32) - 1)  # (3,)
    # As rows of 3 W numbers: 11 us for 64 px, where Pillow's own `point` takes 87.
    tinted = pixels.reshape(height, -1) * np.tile(gain * tint, width) + np.tile(shift * tint, width)  # (H, 3 W)
    return tinted.clip(0, 255).astype(np.uint8).reshape(height, width, 3)


def _crisper(share: float) -> ImageFilter.UnsharpMask:
    """Amplify the details that a blur removes, up to five times."""
    return ImageFilter.UnsharpMask(radius=1.5, percent=round(400 * share), threshold=0)


def _soften_colours(image: Image.Image, share: float) -> Image.Image:
    """Scale the colours down to between a fifth and a half of the size, and up again; brightness is unchanged."""
    small = [math.ceil(side * (0.2 + 0.3 * share)) for side in image.size]
    light, *colours = image.convert("YCbCr").split()
    soft = [
        colour.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR) for colour in colours
    ]
    return Image.merge("YCbCr", [light, *soft]).convert("RGB")


def _sharpen_colours(image: Image.Image, share: float) -> Image.Image:
    """Amplify the colour details that a blur removes, up to five times; brightness is unchanged."""
    light, *colours = image.convert("YCbCr").split()
    crisp = [colour.filter(_crisper(share)) for colour in colours]
    return Image.merge("YCbCr", [light, *crisp]).convert("RGB")
