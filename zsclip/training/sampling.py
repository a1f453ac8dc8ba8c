"""How pairs are drawn: which caption a picture gets from its names, and how much the two count for each other.

Every draw is a function of given numbers in [0, 1): no random state here, no files, no pixels.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsclip.pictures.source import Names
from zsclip.pixels.fit import Preprocess
from zsclip.words.prompts import PromptSet
from zsclip.words.words import fill_template

CAPTION_DRAWS = 3  # random numbers per caption


@dataclass(frozen=True)
class Sampling:
    """The settings that make batches of pairs: how captions are chosen, and how pictures are cropped and changed.

    broader, synonyms: shares of the captions that name a broader word or a synonym, if a picture has any. Of the
    broader words, the nearest is named most often ("cat" for a tabby), as "animal" is right for many others.
    broader_are_true: whether a caption that is also true of another picture ("animal" of a dog) does not count
    as wrong there; nor does it count as right, which would drown the one label in dozens of broader words.
    other_data_weight: how much a picture and a caption count for each other if the caption's word does not occur in the
    picture's data set, from 0 to 1. Below 1, a model gains less from recognising the data set, and so the label.
    against_all_labels: whether every picture is compared with a caption of every label, not only with those of its
    batch.
    crop_scale: the smallest share of a picture's area to keep; 1 keeps all.
    colour: how much brightness, contrast and tint vary; 0 leaves them unchanged.
    blur: share of the pictures that are first scaled down, to between a third and two thirds of the size, so that
    sharpness does not give away the source, and with it the label.
    sharpen: share of the pictures whose edges are finally made up to five times as strong, for the same reason.
    chroma: share of the pictures whose colours are blurred or sharpened; brightness is unchanged. JPEG stores
    colours at half the size, so a small picture has softer ones than a photograph that was scaled down.
    saturation: share of the pictures whose colours are made paler, down to grey, or up to half as strong again, so that
    shapes count beside colours.
    """

    prompts: PromptSet
    preprocess: Preprocess
    batch_size: int = 256
    seed: int = 0
    broader: float = 0.2
    synonyms: float = 0.2
    broader_are_true: bool = False
    other_data_weight: float = 1.0
    against_all_labels: bool = False
    crop_scale: float = 0.35
    flip: bool = True
    colour: float = 0.2
    blur: float = 0.0
    sharpen: float = 0.0
    chroma: float = 0.0
    saturation: float = 0.0


def draw_caption(names: Names, sampling: Sampling, what: float, which: float, how: float) -> tuple[str, str]:
    """Write a caption for a picture, and say which name is in it, from three numbers in [0, 1)."""
    if names.captions:
        caption = names.captions[int(which * len(names.captions))]
        return caption, caption
    name = names.label
    if names.kinds and what < sampling.broader:
        name = names.kinds[int(which**2 * len(names.kinds))]
    elif names.synonyms and what >= 1 - sampling.synonyms:
        name = names.synonyms[int(which * len(names.synonyms))]
    templates = sampling.prompts.templates_for(name)
    return fill_template(templates[int(how * len(templates))], name), name


@dataclass(frozen=True)
class Caption:
    """A caption: the name in it, and the label of the picture, or the label that it was drawn for."""

    caption: str
    name: str
    label: str


def draw_texts(
    names: Sequence[Names], labels: Sequence[Names], sampling: Sampling, draws: NDArray[np.float64]
) -> list[Caption]:
    """Write B captions for the pictures, then one for each of L labels.

    Args:
        draws: (B + L, CAPTION_DRAWS) numbers in [0, 1).
    """
    texts = []
    for one, row in zip((*names, *labels), draws.tolist(), strict=True):
        caption, name = draw_caption(one, sampling, *row)
        texts.append(Caption(caption, name, one.label or caption))
    return texts


def positives(names: Sequence[Names], texts: Sequence[Caption]) -> NDArray[np.bool_]:
    """Which of T texts (the first B are the pictures' own) have the label or caption of each picture. (B, T) bool."""
    count = len(names)
    return _equal([text.caption for text in texts], count) | _equal([text.label for text in texts], count)


def pair_weights(
    names: Sequence[Names],
    texts: Sequence[Caption],
    positives: NDArray[np.bool_],
    sampling: Sampling,
    sources: Mapping[str, AbstractSet[str]],
) -> NDArray[np.float32]:
    """Give the weight of picture i and text j in the loss. (B, T) float32.

    Args:
        sources: the data sets that each name occurs in.
    """
    here = {source: np.array([source in sources[text.name] for text in texts]) for source in {n.source for n in names}}
    shape = len(names), len(texts)  # 0 if no picture of the batch can be read
    same_data = np.array([here[one.source] for one in names], bool).reshape(shape)
    weights = np.where(same_data, 1, sampling.other_data_weight)
    if sampling.broader_are_true:
        own = {one: {one.label, *one.synonyms, *one.kinds} for one in set(names)}
        true = {one: np.array([text.name in own[one] for text in texts]) for one in own}
        weights[np.array([true[one] for one in names], bool).reshape(shape)] = 0
    weights[positives] = 1
    return weights.astype(np.float32)


def _equal(texts: Sequence[str], count: int) -> NDArray[np.bool_]:
    """Compare the first B texts with all T. (B, T) bool."""
    numbers: dict[str, int] = {}
    places = np.array([numbers.setdefault(text, len(numbers)) for text in texts])  # cheap to compare
    return places[:count, None] == places
