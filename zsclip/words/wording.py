"""Labels whose words get in each other's way: what can be said of them without a model."""

import re
from collections.abc import Container, Iterator, Sequence

from zsclip.words.labels import Label, singular
from zsclip.words.textfiles import listed

# Labels for what is left over. The text of a picture says what is in it, never what is not.
_REST = frozenset({
    "anything", "anything else", "else", "everything else", "misc", "miscellaneous", "n/a", "na", "none",
    "none of the above", "none of these", "not applicable", "other", "others", "rest", "something else", "undefined",
    "unknown", "unlabeled", "unlabelled", "various",
})  # fmt: skip
_ARTICLES = r"(?:an?|the|any)\s+"
# "no" and "non" begin names, too, such as "no parking sign": those count only before the name of another label.
_BEGINS_WITH_NO = re.compile(rf"(?:no|non)[\s-]+(?:{_ARTICLES})?(.+)")
_HAS_NOT = re.compile(r"\b(?:not|without)\b")


def shared_names(labels: Sequence[Label]) -> Iterator[str]:
    """Yield a line about each synonym that another label has, too, as a synonym or as its name."""
    owners: dict[tuple[str, ...], list[str]] = {}
    for label in labels:
        for words in dict.fromkeys(map(_words, (label.name, *label.synonyms))):
            owners.setdefault(words, []).append(label.name)
    synonyms = {_words(name): name for label in labels for name in label.synonyms}
    for words, name in synonyms.items():
        if len(owners[words]) > 1:
            yield f"{name!r} is a name of {listed(owners[words])}; keep it for one of them"


def contained(labels: Sequence[Label]) -> Iterator[str]:
    """Yield a line about each label that is part of others, word by word, as "dog" is of "hot dog"."""
    names = {_words(label.name): label.name for label in labels}
    inside: dict[str, list[str]] = {}
    for words, name in names.items():
        parts = {words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)} - {words}
        for part in parts & names.keys() if not _denies(name, names) else ():
            inside.setdefault(names[part], []).append(name)
    for name in filter(inside.get, names.values()):
        yield (
            f"{name!r} is part of {listed(inside[name])}; if one is a kind of the other, put both into a group "
            "(see --by group), else describe them in other words"
        )


def negations(labels: Sequence[Label]) -> Iterator[str]:
    """Yield a line about each label that says what is not in a picture, or that stands for all the rest.

    Source: Alhamoud et al. 2025 (NegBench): models like CLIP hardly notice a "no" or a "without".
    """
    known = {_words(name) for label in labels for name in (label.name, *label.synonyms)}
    for label in labels:
        if " ".join(label.name.lower().split()) in _REST and not label.prompts:
            yield f"{label.name!r} describes no image; leave it out, and use --none-of-these or --threshold"
        elif _denies(label.name, known) and not label.prompts:
            yield (
                f"{label.name!r} says what is not there, which models hardly notice; say what is seen instead, or use "
                "--multi-label"
            )


def _denies(name: str, known: Container[tuple[str, ...]]) -> bool:
    """Whether a label says what is not there; known: the words of all labels."""
    if _HAS_NOT.search(name.lower()):
        return True
    begins = _BEGINS_WITH_NO.fullmatch(name.lower())
    return begins is not None and _words(begins[1]) in known


def _words(name: str) -> tuple[str, ...]:
    return tuple(singular(name).split())
