"""Pairs drawn afresh each time: a caption from a picture's names, and a part of the picture.

Every draw is a function of numbers in [0, 1) that are given: no random state here, no files.
"""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from zsclip.pictures.sources import Names
from zsclip.pixels.fit import Preprocess
from zsclip.words.prompts import PromptSet, fill_template

CAPTION_DRAWS, PICTURE_DRAWS = 3, 15  # random numbers a pair
_WIDEST = 4 / 3  # of a crop's sides, in proportion to the picture's


@dataclass(frozen=True)
class Drawing:
    """How pairs become batches.

    kinds, synonyms: shares of the captions that name a broader kind or a synonym, where a picture has some. Of the
    kinds the nearest is named most often ("cat" of a tabby): "animal" is said of enough others.
    kinds_are_true: whether a caption that is true of another picture than its own ("animal" of a dog's) is not held
    against it; nor is it asked for, which would drown the one label in dozens of broader words.
    across: how much a picture and a caption count for each other whose word occurs nowhere in the picture's source,
    from 0 to 1. Below 1 a model gains little by telling sources apart, and with the source the label.
    all_labels: whether every picture is compared with a caption of every label there is, besides those of its batch.
    crop_scale: the least share of a picture's area that is kept; 1 keeps all.
    colour: how far brightness, contrast and tint stray; 0 leaves them.
    blur: share of the pictures that are first scaled down, to between a third and two thirds of the size, so that
    sharpness does not give away the source, and with it the label.
    sharpen: share of the pictures that are made crisper at last, edges up to five times as strong, for the same reason.
    chroma: share of the pictures whose colours are made softer or crisper than they are; brightness stays. JPEG stores
    colours at half the size: a small picture has softer ones than a photograph that was scaled down.
    saturation: share of the pictures whose colours are made paler, down to grey, or up to half as strong again, so that
    shapes count beside colours.
    """

    prompts: PromptSet
    preprocess: Preprocess
    batch_size: int = 256
    seed: int = 0
    kinds: float = 0.2
    synonyms: float = 0.2
    kinds_are_true: bool = False
    across: float = 1.0
    all_labels: bool = False
    crop_scale: float = 0.35
    flip: bool = True
    colour: float = 0.2
    blur: float = 0.0
    sharpen: float = 0.0
    chroma: float = 0.0
    saturation: float = 0.0


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


@dataclass(frozen=True)
class Text:
    """A caption: the name that is in it, and the label of the picture or the label it was drawn for."""

    caption: str
    name: str
    label: str


def draw_texts(
    names: Sequence[Names], labels: Sequence[Names], drawing: Drawing, draws: NDArray[np.float64]
) -> list[Text]:
    """Write B captions for the pictures, then one for each of L labels.

    Args:
        draws: (B + L, CAPTION_DRAWS) numbers in [0, 1).
    """
    texts = []
    for one, row in zip((*names, *labels), draws.tolist(), strict=True):
        caption, name = draw_caption(one, drawing, *row)
        texts.append(Text(caption, name, one.label or caption))
    return texts


def positives(names: Sequence[Names], texts: Sequence[Text]) -> NDArray[np.bool_]:
    """Tell which of T texts, the first B its own, have the label or the caption of each picture. (B, T) bool."""
    count = len(names)
    return _equal([text.caption for text in texts], count) | _equal([text.label for text in texts], count)


def pair_weights(
    names: Sequence[Names],
    texts: Sequence[Text],
    positives: NDArray[np.bool_],
    drawing: Drawing,
    sources: Mapping[str, AbstractSet[str]],
) -> NDArray[np.float32]:
    """Give how much picture i and text j count for each other. (B, T) float32.

    Args:
        sources: for each name, where it occurs.
    """
    here = {source: np.array([source in sources[text.name] for text in texts]) for source in {n.source for n in names}}
    shape = len(names), len(texts)  # none, where no picture of the batch can be read
    weights = np.where(np.array([here[one.source] for one in names], bool).reshape(shape), 1, drawing.across)
    if drawing.kinds_are_true:
        own = {one: {one.label, *one.synonyms, *one.kinds} for one in set(names)}
        true = {one: np.array([text.name in own[one] for text in texts]) for one in own}
        weights[np.array([true[one] for one in names], bool).reshape(shape)] = 0
    weights[positives] = 1
    return weights.astype(np.float32)


def _equal(texts: Sequence[str], count: int) -> NDArray[np.bool_]:
    """Compare the first so many texts with all. (B, T) bool."""
    numbers: dict[str, int] = {}
    places = np.array([numbers.setdefault(text, len(numbers)) for text in texts])  # cheaper to compare than texts
    return places[:count, None] == places


def augmented(image: Image.Image, draws: NDArray[np.float64], drawing: Drawing) -> NDArray[np.uint8]:
    """Cut out a random part, resize, mirror and tint it, from fifteen numbers in [0, 1). (H, W, 3) uint8."""
    area, ratio, x, y, mirror, brightness, contrast, *tints, detail, colours, crispness, strength, edges = (
        draws.tolist()
    )
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
    if strength < drawing.saturation:
        image = ImageEnhance.Color(image).enhance(1.5 * strength / drawing.saturation)
    if edges < drawing.sharpen:
        image = image.filter(_crisper(edges / drawing.sharpen))
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


def _crisper(share: float) -> ImageFilter.UnsharpMask:
    """Make what a blur takes away up to five times as strong."""
    return ImageFilter.UnsharpMask(radius=1.5, percent=round(400 * share), threshold=0)


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
    crisp = [colour.filter(_crisper(share)) for colour in colours]
    return Image.merge("YCbCr", [light, *crisp]).convert("RGB")
