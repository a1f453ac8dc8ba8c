"""WordNet's nouns: which words mean a thing, what it is a kind of, and how it is defined."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import timm

# Lexicographer files (wordnet(5WN)): animals, artifacts, body, food, objects, people, plants, substances and the like.
THINGS = frozenset({3, 5, 6, 8, 13, 15, 17, 18, 19, 20, 25, 27})
SCENES = frozenset({4, 11, 14, 28})  # acts such as sports, events, groups, times of day: seen in pictures at times


@dataclass(frozen=True)
class Synset:
    """One meaning. words: its synonyms, the commonest first; parents: positions of what it is a kind of."""

    offset: str
    words: tuple[str, ...]
    parents: tuple[str, ...]
    gloss: str
    file: int
    is_instance: bool


@dataclass(frozen=True)
class WordNet:
    """All noun meanings.

    synsets: in the order of the file. senses: by `key_of` a word, positions in `synsets`, the commonest meaning first.
    """

    synsets: list[Synset]
    senses: dict[str, list[int]]
    at: dict[str, int] = field(repr=False)

    @cached_property
    def ancestors(self) -> list[frozenset[int]]:
        """For each synset the positions of itself and of all that it is a kind of."""
        known: dict[int, frozenset[int]] = {}

        def of(i: int) -> frozenset[int]:
            if i not in known:
                known[i] = frozenset({i}).union(*(of(self.at[parent]) for parent in self.synsets[i].parents))
            return known[i]

        return [of(i) for i in range(len(self.synsets))]

    def names(self, i: int) -> list[str]:
        """The words of a synset as people write them."""
        return [word.lower() for word in self.synsets[i].words]


def key_of(word: str) -> str:
    """The form under which a word is looked up."""
    return word.lower().replace("-", " ").replace("_", " ").strip()


def read_wordnet(folder: Path) -> WordNet:
    """Read `data.noun` and `index.noun` (formats: wndb(5WN))."""
    synsets: list[Synset] = []
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        facts, _, gloss = line.partition("|")
        parts = facts.split()
        count = int(parts[3], 16)
        words = tuple(parts[4 + 2 * i].replace("_", " ").partition("(")[0] for i in range(count))
        pointers = parts[5 + 2 * count :]
        up = [(pointers[i], pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")]
        definition = gloss.strip().partition('; "')[0]
        is_instance = any(symbol == "@i" for symbol, _ in up)
        parents = tuple(target for _, target in up)
        synsets.append(Synset(parts[0], words, parents, definition, int(parts[1]), is_instance))
    at = {synset.offset: i for i, synset in enumerate(synsets)}
    senses: dict[str, list[int]] = {}
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            word, *parts = line.split()
            found = senses.setdefault(key_of(word), [])
            found.extend(at[offset] for offset in parts[-int(parts[1]) :] if at[offset] not in found)
    return WordNet(synsets, senses, at)


def imagenet_synsets(wordnet: WordNet) -> list[int]:
    """The positions of ImageNet's 1,000 classes, in their usual order, from timm's list."""
    file = Path(timm.__file__).parent / "data/_info/imagenet_synsets.txt"
    return [wordnet.at[line.removeprefix("n")] for line in file.read_text().split()]
