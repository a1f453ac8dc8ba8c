"""What the pictures and the head know: things, their names, and what is true of a picture of each."""

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from image_tower import Picture
from numpy.typing import NDArray
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from wordnet import THINGS, WordNet, imagenet_synsets, key_of

CLASSES = 1000  # of ImageNet; they are the first things


@dataclass(frozen=True)
class Label:
    """A row of classes.tsv. kinds: broader words, the nearest first."""

    name: str
    synonyms: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Things:
    """All that has pictures or a direction in the head, T of them: classes, labels, and what they are kinds of.

    synsets: by thing its position in WordNet, or None where WordNet has none. names: what people call it, best first.
    of_label: by label the thing it means. of_kind: by broader word the thing it means.
    is_kind: (T,) bool, broader words; is_broad: those of them that are the broadest of some label.
    true_of_class, true_of_label: (1000, T) and (labels, T) bool, what may be said of a picture of it.
    """

    labels: list[Label]
    synsets: list[int | None]
    names: list[list[str]]
    of_label: dict[str, int]
    of_kind: dict[str, int]
    is_kind: NDArray[np.bool_]
    is_broad: NDArray[np.bool_]
    true_of_class: NDArray[np.bool_]
    true_of_label: NDArray[np.bool_]


def read_labels(data: Path) -> list[Label]:
    """Read classes.tsv."""
    with (data / "classes.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Label(row["label"], _words(row["synonyms"]), _words(row["kinds"])) for row in rows]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(", ") if word)


def find_things(labels: list[Label], pictures: list[Picture], wordnet: WordNet) -> Things:
    """Match labels, broader words, ImageNet's classes and WordNet's meanings with one another."""
    classes = imagenet_synsets(wordnet)
    things: dict[int | str, int] = {synset: i for i, synset in enumerate(classes)}  # by synset, or a name without one

    def thing(key: int | str) -> int:
        return things.setdefault(key, len(things))

    below = Counter(ancestor for synset in classes for ancestor in wordnet.ancestors[synset])
    for synset, count in below.items():
        if 2 <= count <= CLASSES // 2:  # "entity" and "object" say nothing
            thing(synset)
    by_label: dict[str, list[Picture]] = {label.name: [] for label in labels}
    for picture in pictures:
        by_label[picture.label].append(picture)
    of_label = {label.name: thing(_meaning(label, by_label[label.name], wordnet, set(classes))) for label in labels}
    of_kind: dict[str, int] = {}
    for kind in dict.fromkeys(kind for label in labels for kind in label.kinds):
        best = _best_sense([kind], (), wordnet, set(classes))
        meaning = thing(best[1] if best is not None and below[best[1]] else kind)  # a thing, whatever labels there are
        of_kind[kind] = of_label.get(kind, meaning)
    keys = list(things)
    names: list[list[str]] = [[] for _ in keys]
    for label in labels:
        names[of_label[label.name]] += [label.name, *label.synonyms]
    for kind, i in of_kind.items():
        names[i].append(kind)
    for i, name in enumerate(IMAGENET_CLASSNAMES):
        names[i].append(name.lower())

    def truths(i: int) -> set[int]:
        key = keys[i]
        return {i} if isinstance(key, str) else {i} | {things[j] for j in wordnet.ancestors[key] if j in things}

    of_labels = [truths(of_label[one.name]).union(*(truths(of_kind[kind]) for kind in one.kinds)) for one in labels]
    of_classes = [truths(i) for i in range(CLASSES)]
    for label, true in zip(labels, of_labels, strict=True):
        if of_label[label.name] < CLASSES:
            of_classes[of_label[label.name]] |= true
    is_kind, is_broad = np.zeros((2, len(keys)), bool)
    is_kind[list(of_kind.values())] = True
    is_broad[[of_kind[label.kinds[-1]] for label in labels if label.kinds]] = True
    return Things(
        labels, [None if isinstance(key, str) else key for key in keys], [list(dict.fromkeys(some)) for some in names],
        of_label, of_kind, is_kind, is_broad, _as_matrix(of_classes, len(keys)), _as_matrix(of_labels, len(keys)),
    )  # fmt: skip


def _meaning(label: Label, pictures: list[Picture], wordnet: WordNet, classes: set[int]) -> int | str:
    """The synset that most file names of a label's pictures say, else the best sense of its names, else its name."""
    said = Counter(picture.synset for picture in pictures if picture.synset)
    if said and said.total() > len(pictures) / 2:
        (offset, count), *_ = said.most_common()
        if count > 0.8 * said.total():
            return wordnet.at[offset]
    best = _best_sense([label.name, *label.synonyms], label.kinds, wordnet, classes)
    return best[1] if best is not None and best[0] >= 1 else label.name  # at least one broader word must agree


def _best_sense(
    names: list[str], kinds: tuple[str, ...], wordnet: WordNet, classes: set[int]
) -> tuple[float, int] | None:
    """Choose the meaning whose ancestors have most of the broader words; common meanings and first names go before."""
    best: tuple[float, int] | None = None
    for place, name in enumerate(names):
        for rank, i in enumerate(wordnet.senses.get(key_of(name), [])):
            if wordnet.synsets[i].is_instance or wordnet.synsets[i].file not in THINGS:
                continue
            above = {key_of(word) for j in wordnet.ancestors[i] for word in wordnet.synsets[j].words}
            agree = sum(key_of(kind) in above for kind in kinds)
            score = 2 * agree - 0.8 * rank - 0.8 * place + 0.2 * (i in classes)
            if best is None or score > best[0]:
                best = score, i
    return best


def _as_matrix(sets: list[set[int]], width: int) -> NDArray[np.bool_]:
    matrix = np.zeros((len(sets), width), bool)
    for row, members in zip(matrix, sets, strict=True):
        row[list(members)] = True
    return matrix


def plural_of(phrase: str) -> str:
    """The plural of a phrase by the rules of thumb, for regular nouns."""
    if re.search(r"[^aeiou]y$", phrase):
        return phrase[:-1] + "ies"
    return phrase + ("es" if re.search(r"(s|x|z|ch|sh)$", phrase) else "s")
