"""A label list from the command line or from files."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zsclip.errors import InputError
from zsclip.kept.cache import remember
from zsclip.pictures.tables import TABLES
from zsclip.words.lines import labels_of_lines
from zsclip.words.textfiles import (
    TREES,
    WORDNET,
    Node,
    Place,
    before,
    checked,
    comparable,
    count_placeholders,
    fields,
    is_id,
    is_tree,
    json_tree,
    listed,
    read_lines,
    read_tree,
    text_of,
    texts,
    tree_of,
)

BUILT_IN = "imagenet"
COMMON = "common"
LEVELS = "|"  # between the levels of a group
_QUOTED = r"""'[^'\\]*'|"[^"\\]*\""""
_PYTHON_LIST = re.compile(rf"\s*\[\s*(?:{_QUOTED})(?:\s*,\s*(?:{_QUOTED}))*\s*,?\s*\]\s*")
_KEYS_OF_LISTS = frozenset({"labels", "classes", "names"})  # where the list is all that a file has
_OF_YOLO = frozenset({"nc", "path", "train", "val", "test"})  # other keys of its data.yaml
_NAMED = 8  # labels in a message
_DISTRACTORS = Path(__file__).parents[1] / "data" / "distractors.txt"
# open_clip has 'missile' and 'sunglasses' twice; these two are the WordNet synsets n04008634 and n04355933.
IMAGENET_REPEATS = {(744, "missile"): "projectile missile", (836, "sunglasses"): "sunglass"}


@dataclass(frozen=True)
class Label:
    """A word that the user gave and gets back as an answer.

    synonyms: more names for the same thing; prompts: its own sentences, which replace a set's templates; found_as:
    its name in labelled data if that is not a word, such as an id; else empty. group: the group that the user put it
    into, with `|` between its levels; empty if none.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    found_as: str = ""
    group: str = ""


def read_labels(
    words: str | None = None, single: Sequence[str] = (), files: Sequence[str] = (), *, alone: bool = False
) -> list[Label]:
    """Read every label that was given, in the order of the arguments.

    Args:
        words: the value of `--labels`, split on commas; None if it was not given.
        single: the values of `--label`, each taken as it is.
        files: the values of `--labels-file`, each a path or the built-in name `imagenet`; an existing file wins.
        alone: whether one label is enough, as labels are scored one by one, or others may compete with it.

    Raises:
        InputError: there is no label or only one, one is given twice, or a file cannot be read.
    """
    given: list[tuple[Place, Label]] = []
    if words is not None:
        given += _split(words)
    given += [(Place("--label"), Label(checked(Place("--label"), word))) for word in single]
    for file in files:
        given += _read_file(file)
    if not given:
        raise InputError('labels: none given; use --labels "cat,dog", --label WORD or --labels-file FILE')
    return _together(given, alone)


def labels_of(given: object, *, alone: bool = False) -> list[Label]:
    """Read the labels that a program gives.

    Args:
        given: words, a mapping like that of a labels file, the path of a labels file, or the name of a built-in list.
        alone: as in `read_labels`.

    Raises:
        InputError: as in `read_labels`, or the labels are of another type.
    """
    if isinstance(given, str | os.PathLike):
        file = os.fsdecode(given)
        if isinstance(given, str) and file != BUILT_IN and not os.path.exists(file):
            words = [word for each in given.split(",") if (word := each.strip())] or ["cat", "dog"]
            raise InputError(
                f"labels: no such file, and no built-in list: {given!r}; give words as a list, as in labels={words}"
            )
        return read_labels(files=[file], alone=alone)
    labels = list(_labels_of(tree_of(Place("labels"), given)))
    if not labels:
        raise InputError('labels: none given; give words as a list, as in labels=["cat", "dog"]')
    return _together(labels, alone)


def _together(given: list[tuple[Place, Label]], alone: bool) -> list[Label]:
    """Refuse one label alone, and labels that are the same but for spaces or their Unicode form."""
    known: dict[str, tuple[Place, Label]] = {}
    firsts = [known.setdefault(comparable(each[1].name), each) for each in given]
    twice = [(first, each) for first, each in zip(firsts, given, strict=True) if first is not each]
    if twice:
        raise _given_twice(twice)
    if len(given) == 1 and not alone:
        place, label = given[0]
        raise InputError(f"{place}: label {label.name!r} is the only one; {_cure_for_one(place, label.name)}")
    return [label for _, label in given]


def _given_twice(pairs: Sequence[tuple[tuple[Place, Label], tuple[Place, Label]]]) -> InputError:
    """Make the error for repeated labels, each paired with its first occurrence."""
    (first, same), (place, label) = pairs[0]
    how = "" if same.name == label.name else f" as {same.name!r}, the same text"
    how += before(first, place)
    cure = "remove one of the two"
    if same.found_as and label.found_as:  # both are needed
        how += f", for {same.found_as} and for {label.found_as}"
        of_imagenet = f", or use --labels-file {BUILT_IN}" * bool(WORDNET.fullmatch(label.found_as))
        cure = f"give one of the two another name{of_imagenet}"
    others = list(dict.fromkeys(other.name for _, (_, other) in pairs if other.name != label.name))
    also = f"; also given twice: {listed(others, _NAMED)}" if others else ""
    return InputError(f"{place}: label {label.name!r} was already given{how}; {cure}{also}")


def _cure_for_one(place: Place, name: str) -> str:
    """Say what to do about a label that is the only one, going by what it looks like."""
    is_line = place.line is not None and not is_tree(place.source)
    words = [word for each in re.split(r"[,;|\t]" if is_line else r"[;|\t]", name) if (word := each.strip())]
    if len(words) > 1 and is_line:
        return f"write one label per line if you meant {len(words)}, or give another to compare it with"
    if len(words) > 1:
        return f"put commas between words, as in {','.join(words)!r}"
    if name == BUILT_IN or os.path.isfile(name):
        what = "the built-in list" if name == BUILT_IN else "that file"
        return f"give another to compare it with, or use --labels-file {name} for {what}"
    return "give another to compare it with, or use --none-of-these or --multi-label"


def read_distractors(labels: Sequence[Label], file: str = COMMON) -> list[Label]:
    """Read words that compete with labels; leave out those that contain, or are part of, a label's names or group.

    Args:
        file: a file like a labels file, or `common`, the list that comes with zsclip.
    """
    given = _read_file(str(_DISTRACTORS) if file == COMMON and not os.path.isfile(file) else file)
    names = [
        singular(name) for label in labels for name in (label.name, *label.synonyms, *label.group.split(LEVELS)) if name
    ]
    words = [(word, singular(word.name)) for _, word in given]
    return [word for word, spelt in words if not any(spelt in name or name in spelt for name in names)]


def in_other_scripts(labels: Iterable[str]) -> list[str]:
    """Give the labels that are mostly written in non-Latin letters."""
    return [label for label in labels if _is_in_another_script(label)]


def _is_in_another_script(label: str) -> bool:
    letters = [c for c in unicodedata.normalize("NFKC", label) if c.isalpha()]
    others = sum("LATIN" not in unicodedata.name(c, "") for c in letters)
    return others * 2 > len(letters)  # more than half: one Greek letter, as in "5 µm", does not make a label Greek


def own_prompts(node: Node) -> tuple[str, ...]:
    """Give one label's own prompts: sentences as they stand, or with one placeholder for the label's names."""
    prompts = texts(node)
    for place, prompt in prompts:
        if count_placeholders(prompt) > 1:
            raise InputError(f"{place}: prompt {prompt!r} has {count_placeholders(prompt)} placeholders; keep one")
    return tuple(prompt for _, prompt in prompts)


def singular(name: str) -> str:
    """Spell words so that whole words can be searched for: "Cats" as " cat "."""
    return " " + " ".join(word.removesuffix("s") for word in comparable(name).lower().split()) + " "


def _split(words: str) -> list[tuple[Place, Label]]:
    place = Place("--labels")
    if words.lstrip().startswith("["):
        try:
            return list(_labels_of(json_tree(place, words)))
        except (InputError, RecursionError) as e:
            if _PYTHON_LIST.fullmatch(words):
                return [(place, Label(checked(place, word[1:-1]))) for word in re.findall(_QUOTED, words)]
            raise InputError(
                f"{place}: begins with [ but is not a JSON list of words; write words with commas between them, "
                "or --label WORD for a word that begins with ["
            ) from e
    # A line break separates words, too, as in --labels "$(cat words.txt)".
    names = [checked(place, word) for word in re.split("[,\n]", words) if word.strip()]
    for name in names:
        if name.lower().endswith((".txt", *TREES)) and os.path.isfile(name):
            raise InputError(f"{place}: {name!r} is a file; use --labels-file {name}")
    if not names:
        raise InputError(f'{place}: no label in {words!r}; write words with commas between them, as in "cat,dog"')
    return [(place, Label(name)) for name in names]


def _read_file(file: str) -> list[tuple[Place, Label]]:
    if file == BUILT_IN and not os.path.isfile(file):  # a folder named imagenet is likely, but not meant
        return [(Place(file), Label(name)) for name in _imagenet_names()]
    ending = os.path.splitext(file)[1].lower()
    if is_tree(file):
        given = list(_labels_of(read_tree(file)))
    elif ending in ("", ".txt") or not os.path.exists(file):
        given = [(place, Label(line)) for place, line in labels_of_lines(read_lines(file))]
    else:
        raise InputError(
            f"{file}: a {ending} file is not a list of labels; use .txt with one label per line, or {', '.join(TREES)}"
        )
    if not given:
        raise InputError(f"{file}: no labels found; write at least two")
    return given


def _labels_of(tree: Node) -> Iterator[tuple[Place, Label]]:
    if isinstance(tree.value, str):
        raise InputError(
            f"{tree.place}: expected a list or a mapping, found a single string; start each label with a dash"
        )
    if isinstance(tree.value, tuple):
        if (names := _only_list(tree)) is not None:
            yield from _labels_of(names)
            return
        of_ids = [_of_id(key, value) for key, value in tree.value]
        for (key, value), of_id in zip(tree.value, of_ids, strict=True):
            place, name = text_of(key)
            yield place, of_id if of_id and all(of_ids) else _label(name, value)
        return
    for node in tree.value or ():
        yield node.place, _of_row(node) if isinstance(node.value, tuple) else Label(text_of(node).text)


def _only_list(tree: Node) -> Node | None:
    """Give the list under the only key, or the names in a data.yaml of YOLO; None if this is neither."""
    assert isinstance(tree.value, tuple)
    keys = {key.value for key, _ in tree.value if isinstance(key.value, str)}
    if "names" in keys and (len(keys) == 1 or keys & _OF_YOLO):
        return fields(tree)["names"]
    if len(tree.value) != 1 or keys.isdisjoint(_KEYS_OF_LISTS):
        return None
    only = tree.value[0][1]
    is_list = isinstance(only.value, list) or (
        isinstance(only.value, tuple) and bool(only.value) and all(_of_id(key, value) for key, value in only.value)
    )
    return only if is_list else None


def _of_id(key: Node, value: Node) -> Label | None:
    """Read an id and a name, or a number with an id and a name as in ImageNet's class_index.json; None if neither."""
    if not _is_id(key):
        return None
    if isinstance(value.value, list) and len(value.value) == 2 and _is_id(value.value[0]):
        identity, name = texts(value)
        return Label(name.text.replace("_", " "), found_as=identity.text)
    return Label(text_of(value).text, found_as=text_of(key).text) if isinstance(value.value, str) else None


def _is_id(node: Node) -> bool:
    return isinstance(node.value, str) and is_id(node.value)


def _of_row(node: Node) -> Label:
    """Read a row of a table: its `label`, or its `name` where that is only a number; what else it has is left alone."""
    cells = fields(node)
    found = {key: value for key, value in cells.items() if value.value is not None}
    names = [found[key] for key in ("label", "name") if key in found]
    if not names:
        if not cells.keys().isdisjoint(("label", "name")):
            raise InputError(f"{node.place}: its label is empty; write a word, or leave the row out")
        if node.place.source.lower().endswith(TABLES):
            header = node.place._replace(line=1)
            raise InputError(
                f"{header}: no column named label or name, only {' and '.join(cells)}; rename one, or add a header"
            )
        raise InputError(
            f"{node.place}: expected text, found a mapping without label or name; put words with : or {{}} in quotes"
        )
    name = names[-1] if _is_id(names[0]) else names[0]
    if _is_id(name) and not all(map(_is_id, found.values())):
        raise InputError(f"{node.place}: {name.value!r} is only a number; put the words under label or name")
    return _described(text_of(name).text, found)


def _label(name: str, node: Node) -> Label:
    if isinstance(node.value, str) and is_id(node.value):
        raise InputError(
            f"{node.place}: {node.value!r} after label {name!r} is only a number; write it before the label, as in "
            f"`{node.value}: {name}`, or leave it out"
        )
    if isinstance(node.value, str):
        raise InputError(
            f"{node.place}: {node.value!r} after label {name!r} could be a synonym or a prompt; "
            "write a list of prompts, or a mapping with synonyms or prompts"
        )
    if not isinstance(node.value, tuple):
        return Label(name, prompts=own_prompts(node))
    found = fields(node, ("name", "group", "synonyms", "prompts"))
    return _described(text_of(found["name"]).text, found, name) if "name" in found else _described(name, found)


def _described(name: str, found: Mapping[str, Node], found_as: str = "") -> Label:
    absent = Node(Place(""), None)
    synonyms = tuple(text for _, text in texts(found.get("synonyms", absent)))
    prompts = own_prompts(found.get("prompts", absent))
    return Label(name, synonyms, prompts, found_as, _group(found["group"]) if "group" in found else "")


def _group(node: Node) -> str:
    """Read a group, a text or a list of its levels; give its levels, outer ones first, with `|` between them."""
    if not isinstance(node.value, list):
        return LEVELS.join(level for part in text_of(node).text.split(LEVELS) if (level := part.strip()))
    for place, level in (levels := texts(node)):
        if LEVELS in level:
            raise InputError(f"{place}: {level!r} has {LEVELS} in it, which separates levels; use another character")
    return LEVELS.join(level for _, level in levels)


def _imagenet_names() -> list[str]:
    def build() -> list[str]:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES  # takes seconds: it imports torch

        return list(IMAGENET_CLASSNAMES)

    from importlib.metadata import version  # takes 10 ms to import

    names = remember("imagenet-names", [version("open_clip_torch")], build)
    return [IMAGENET_REPEATS.get((number, name), name) for number, name in enumerate(names)]
