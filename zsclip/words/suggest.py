"""Labels -> more words for them from WordNet, as a label file that a person can edit."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

from zsclip.errors import InputError
from zsclip.words.labels import Label
from zsclip.words.textfiles import WORDNET, comparable
from zsclip.words.wordnet import Sense, WordNet

Kind = Literal["synonyms", "broader", "gloss"]
_MEANINGS = 5  # of a label, that are shown
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 _-]*")  # needs no quotes in YAML, as we read it
_ABOUT = """\
# Made by `zsclip prompts suggest` from WordNet 3.0. Where a label has the wrong meaning, use the line of another one
# instead. `zsclip compare` says whether it helps: give it this file, and the labels alone, as --labels-file."""


def kinds_of(given: Sequence[str]) -> list[Kind]:
    """Check the kinds of words to add; none given means synonyms."""
    known = get_args(Kind)
    for each in given:
        if each not in known:
            raise InputError(f"--add: {each!r} is not a kind of words; use {', '.join(known)}")
    return [each for each in known if each in (given or ["synonyms"])]


def suggested_lines(labels: Sequence[Label], wordnet: WordNet, kinds: Sequence[Kind]) -> Iterator[str]:
    """Yield the lines of a YAML label file: each label with its likeliest meaning, and its other ones as comments.

    Args:
        kinds: what is added: `synonyms`, those that mostly have this meaning; `broader`, what the label is a kind of;
            `gloss`, its definition.
    """
    keys = [label.found_as if WORDNET.fullmatch(label.found_as) else label.name for label in labels]
    found = {key: likeliest_first(senses)[:_MEANINGS] for key, senses in wordnet.senses(keys).items()}
    commonest = wordnet.first_ids({word for senses in found.values() for sense in senses for word in sense.words})
    taken = {_compared(name) for label in labels for name in (label.name, *label.synonyms)}
    yield _ABOUT
    for label, key in zip(labels, keys, strict=True):
        senses = found[key]
        is_id = WORDNET.fullmatch(label.name) is not None
        name = senses[0].words[0] if is_id else label.name
        found_as = label.name if is_id else label.found_as
        yield f"{_quoted(found_as or name)}:" + ("" if senses else "  # not in WordNet")
        if found_as and found_as != name:
            yield f"  name: {_quoted(name)}"
        for place, sense in enumerate(senses or [None]):
            new = [] if sense is None else more_words(name, sense, kinds, commonest, taken)
            if sense is not None:
                yield f"  # {f'a kind of {sense.broader[0]}: ' if sense.broader else ''}{sense.gloss}"
            if names := [*label.synonyms, *new]:
                yield f"  {'# ' * (place > 0)}synonyms: [{', '.join(map(json_text, names))}]"
            if place == 0:
                taken |= set(map(_compared, new))
        if label.prompts:
            yield f"  prompts: [{', '.join(map(json_text, label.prompts))}]"
        if label.group:
            yield f"  group: {_quoted(label.group)}"


def likeliest_first(senses: Sequence[Sense]) -> list[Sense]:
    """Put first what there are pictures of, then other things, then people, and names last; then the commonest first.

    To WordNet, a whale is first of all a large person. With synonyms of meanings in this order, `tiny` is 1.9 points
    better on CIFAR-100 than with those of the commonest thing.
    """

    def unlikely(sense: Sense) -> tuple[bool, ...]:
        return sense.is_name, not sense.is_pictured, not sense.is_thing, sense.is_person

    return sorted(senses, key=unlikely)


def more_words(
    name: str, sense: Sense, kinds: Sequence[Kind], commonest: Mapping[str, str], taken: set[str]
) -> list[str]:
    """Give what a label can be called besides its name.

    Args:
        commonest: the id of the commonest meaning of words: a synonym that mostly means another thing, such as
            `machine` for a car, is left out. taken: names that other labels have.
    """
    found = []
    if "synonyms" in kinds:
        found += [word for word in sense.words if _compared(word) not in taken and commonest.get(word) == sense.id]
    if "broader" in kinds and sense.broader:
        found.append(f"{name}, a kind of {sense.broader[0]}")
    if "gloss" in kinds:
        found.append(f"{name}, {sense.gloss.partition(';')[0].strip()}")
    return found


def json_text(text: str) -> str:
    """Quote a text for JSON, and so for YAML."""
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text == text.strip() else json_text(text)


def _compared(name: str) -> str:
    return comparable(name).lower()
