"""Pairs drawn afresh each time: a caption from a picture's names, and a part of the picture.

Every draw is a function of numbers in [0, 1) that are given: no random state here, no files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from zsclip.decode import Preprocess
from zsclip.prompts import PromptSet, fill_template

CAPTION_DRAWS, PICTURE_DRAWS = 3, 13  # random numbers a pair
_WIDEST = 4 / 3  # of a crop's sides, in proportion to the picture's


@dataclass(frozen=True)
class Names:
    """What is known about a picture in words.

    kinds: broader words, the nearest first; captions: free sentences, which are used as they are; source: the data set
    it is from, if it is one of several.
    """

    label: str
    synonyms: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Drawing:
    """How pairs become batches.

    kinds, synonyms: shares of the captions that name a broader kind or a synonym, where a picture has some. Of the
    kinds the nearest is named most often ("cat" of a tabby): "animal" is said of enough others.
    kinds_are_true: whether a caption is a positive of every picture its name is true of ("animal" of a dog's), not
    only of those with the same label or caption.
    across: how much a picture and a caption of different sources count for each other where the caption is not true,
    from 0 to 1. Below 1 a model gains little by telling sources apart, and with the source the label.
    crop_scale: the least share of a picture's area that is kept; 1 keeps all.
    colour: how far brightness, contrast and tint stray; 0 leaves them.
    blur: share of the pictures that are first scaled down, to between a third and two thirds of the size, so that
    sharpness does not give away the source, and with it the label.
    chroma: share of the pictures whose colours are made softer or crisper than they are; brightness stays. JPEG stores
    colours at half the size: a small picture has softer ones than a photograph that was scaled down.
    """

    prompts: PromptSet
    preprocess: Preprocess
    batch_size: int = 256
    seed: int = 0
    kinds: float = 0.2
    synonyms: float = 0.2
    kinds_are_true: bool = False
    across: float = 1.0
    crop_scale: float = 0.35
    flip: bool = True
    colour: float = 0.2
    blur: float = 0.0
    chroma: float = 0.0


def draw_caption(names: Names, drawing: Drawing, what: float, which: float, how: float) -> tuple[str, str]:
    """Write a caption for a picture, and tell which name is in it, from three numbers in [0, 1)."""
    if names.captions:
        caption = names.captions[int(which * len(names.captions))]
        return caption, caption
    name = names.label
    if names.kinds and what < drawing.kinds:
        name = names.kinds[int(which**2 * len(names.kinds))]
    elif names.synonyms and what >= 1 - drawing.synonyms:
        name = names.synonyms[int(which * len(names.synonyms))]
    templates = drawing.prompts.prompts.get(name) or drawing.prompts.templates
    return fill_template(templates[int(how * len(templates))], name), name


def same_positives(names: Sequence[Names], captions: Sequence[str]) -> NDArray[np.bool_]:
    """Compare all pairs with all: same label or same caption. (B, B) bool."""
    labels = [one.label or f"\0{number}" for number, one in enumerate(names)]  # none is like no other
    return _equal(captions) | _equal(labels)


def true_positives(names: Sequence[Names], said: Sequence[str]) -> NDArray[np.bool_]:
    """Tell for each picture i whether the name in caption j is one of its own. (B, B) bool."""
    rows = {one: {one.label, *one.synonyms, *one.kinds} for one in set(names)}
    return np.array([[name in rows[one] for name in said] for one in names]).reshape(len(names), len(said))


def pair_weights(names: Sequence[Names], positives: NDArray[np.bool_], across: float) -> NDArray[np.float32]:
    """Give how much picture i and caption j count for each other: 1 if true or of one source. (B, B) float32."""
    of_one_source = _equal([one.source for one in names])
    return np.where(positives | of_one_source, 1, across).astype(np.float32)


def _equal(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Compare all texts with all. (B, B) bool."""
    numbers: dict[str, int] = {}
    places = np.array([numbers.setdefault(text, len(numbers)) for text in texts])  # cheaper to compare than texts
    return places[:, None] == places


def augmented(image: Image.Image, draws: NDArray[np.float64], drawing: Drawing) -> NDArray[np.uint8]:
    """Cut out a random part, resize, mirror and tint it, from thirteen numbers in [0, 1). (H, W, 3) uint8."""
    area, ratio, x, y, mirror, brightness, contrast, *tints, detail, colours, crispness = draws.tolist()
    height, width = drawing.preprocess.size
    area = image.width * image.height * (drawing.crop_scale + (1 - drawing.crop_scale) * area)
    ratio = _WIDEST ** ((2 * ratio - 1) * (drawing.crop_scale < 1)) * image.width / image.height
    crop_width = min(image.width, math.sqrt(area * ratio))
    crop_height = min(image.height, math.sqrt(area / ratio))
    left, top = x * (image.width - crop_width), y * (image.height - crop_height)
    bilinear = drawing.preprocess.interpolation == "bilinear"
    resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    box = (left, top, left + crop_width, top + crop_height)
    share = (1 + detail / drawing.blur) / 3 if detail < drawing.blur else 1
    small = (math.ceil(width * share), math.ceil(height * share))
    image = image.resize(small, resample, box=box).resize((width, height), resample).convert("RGB")
    if colours < drawing.chroma:
        change = _sharpen_colours if colours < drawing.chroma / 2 else _soften_colours
        image = change(image, crispness)
    if drawing.flip and mirror < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image)  # (H, W, 3)
    if not drawing.colour:
        return pixels
    gain = 1 + drawing.colour * (2 * contrast - 1)  # about middle grey
    shift = 128 * (1 - gain) + 255 * drawing.colour * (brightness - 0.5)
    tint = 1 + drawing.colour / 2 * (2 * np.array(tints, np.float32) - 1)  # (3,)
    # As rows of 3 W numbers: 11 us for 64 px, where Pillow's own `point` takes 87.
    tinted = pixels.reshape(height, -1) * np.tile(gain * tint, width) + np.tile(shift * tint, width)  # (H, 3 W)
    return tinted.clip(0, 255).astype(np.uint8).reshape(height, width, 3)


def _soften_colours(image: Image.Image, share: float) -> Image.Image:
    """Scale the colours down, to between a fifth and a half of the size, and up again; brightness stays as it is."""
    small = [math.ceil(side * (0.2 + 0.3 * share)) for side in image.size]
    light, *colours = image.convert("YCbCr").split()
    soft = [
        colour.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR) for colour in colours
    ]
    return Image.merge("YCbCr", [light, *soft]).convert("RGB")


def _sharpen_colours(image: Image.Image, share: float) -> Image.Image:
    """Make what a blur takes from the colours up to five times as strong; brightness stays as it is."""
    light, *colours = image.convert("YCbCr").split()
    crisp = [
        colour.filter(ImageFilter.UnsharpMask(radius=1.5, percent=round(400 * share), threshold=0))
        for colour in colours
    ]
    return Image.merge("YCbCr", [light, *crisp]).convert("RGB")
