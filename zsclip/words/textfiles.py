"""The user's small text, YAML and JSON files, read so that every error can name the line."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from zsclip.errors import InputError

_YAML_NULLS = ("", "~", "null", "Null", "NULL")


class Place(NamedTuple):
    """Where something was given: a flag or a file, and the line if known."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


class Text(NamedTuple):
    """A text from the user, and where it was given."""

    place: Place
    text: str


class Node(NamedTuple):
    """One value of a YAML or JSON file: a text, null, a list, or the pairs of a mapping, with repeated keys."""

    place: Place
    value: "str | list[Node] | tuple[tuple[Node, Node], ...] | None"


def checked(place: Place, text: str) -> str:
    """Strip a text; refuse an empty one, or one that is not Unicode."""
    text = text.strip()
    if not text:
        raise InputError(f"{place}: empty text; write a word, or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as e:  # a stray byte on the command line, or half of \ud83d\ude00 in JSON
        raise InputError(f"{place}: {text!r} is not valid Unicode; write it in UTF-8") from e
    return text


def is_tree(file: str) -> bool:
    """Return whether a file's name ends like a YAML or JSON file."""
    return file.lower().endswith((".yaml", ".yml", ".json"))


def read_lines(file: str) -> list[Text]:
    """Read a text file with one text per line; `#` at the start or after white space begins a comment."""
    lines = (re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in _read(file).split("\n"))
    return [Text(Place(file, number), line) for number, line in enumerate(lines, start=1) if line]


def read_tree(file: str) -> Node:
    """Read a `.json` file, or any other as YAML; scalars stay text as written (`no`, `1e3`)."""
    text = _read(file)
    try:
        return _json_tree(file, text) if file.lower().endswith(".json") else _yaml_tree(file, text)
    except RecursionError as e:
        raise InputError(f"{file}: nested too deeply; keep to a list or a mapping") from e


def tree_of(place: Place, value: object) -> Node:
    """Make a tree of a program's own mappings, lists and texts."""
    if value is None or isinstance(value, str):
        return Node(place, value)
    if isinstance(value, Mapping):
        return Node(place, tuple((tree_of(place, key), tree_of(place, item)) for key, item in value.items()))
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise InputError(f"{place}: {value!r} is not a text; write words as str")
    return Node(place, [tree_of(place, item) for item in value])


def fields(node: Node, known: Sequence[str] | None = None) -> dict[str, Node]:
    """Give a mapping's values by key; refuse repeated keys and, if known keys are given, all others."""
    if not isinstance(node.value, tuple):
        keys = "a mapping" if known is None else f"a mapping with {', '.join(known)}"
        raise InputError(f"{node.place}: expected {keys}; write `key: value` lines")
    found: dict[str, Node] = {}
    first: dict[str, Place] = {}
    for key, value in node.value:
        place, name = text_of(key)
        if known is not None and name not in known:
            raise InputError(f"{place}: unknown key {name!r}; use {', '.join(known)}")
        if name in found:
            raise InputError(
                f"{place}: key {name!r} was already given{before(first[name], place)}; remove one of the two"
            )
        found[name], first[name] = value, place
    return found


def texts(node: Node) -> list[Text]:
    """Give a text or a list of texts as a list; null gives an empty list."""
    if node.value is None:
        return []
    return [text_of(item) for item in node.value] if isinstance(node.value, list) else [text_of(node)]


def text_of(node: Node) -> Text:
    """Give a text, and refuse anything else."""
    if not isinstance(node.value, str):
        found = "nothing" if node.value is None else "a list" if isinstance(node.value, list) else "a mapping"
        raise InputError(f"{node.place}: expected a text, found {found}; put words with : or {{}} in quotes")
    return Text(node.place, checked(node.place, node.value))


def before(first: Place, place: Place) -> str:
    """Say where something was given first, relative to where it is given again."""
    if first.source != place.source:
        return f" in {first}"
    return "" if first.line is None else f" on line {first.line}"


def _read(file: str) -> str:
    try:
        with open(file, encoding="utf-8-sig") as stream:
            text = stream.read()
    except FileNotFoundError as e:
        raise InputError(f"{file}: no such file; check the path") from e
    except OSError as e:
        raise InputError(f"{file}: cannot be read: {e.strerror}; check the path and its permissions") from e
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise InputError(f"{file}:{line}: not UTF-8; save the file as UTF-8") from e
    if "\0" in text:  # UTF-16 without its byte order mark is valid UTF-8
        raise InputError(f"{file}: has zero bytes, so it is not UTF-8; save the file as UTF-8")
    return text


def _json_tree(file: str, text: str) -> Node:
    place = Place(file)  # the json module reports no line numbers

    def tree(value: Any) -> Node:
        if isinstance(value, tuple):
            return Node(place, tuple((Node(place, key), tree(item)) for key, item in value))
        if isinstance(value, list):
            return Node(place, [tree(item) for item in value])
        if not isinstance(value, str | None):
            raise InputError(f"{place}: {json.dumps(value)} is not text; put it in quotes")
        return Node(place, value)

    try:
        return tree(json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str))
    except json.JSONDecodeError as e:
        raise InputError(f"{file}:{e.lineno}: not valid JSON: {e.msg}; correct it there") from e


def _yaml_tree(file: str, text: str) -> Node:
    import yaml

    # Events, not safe_load or compose: they keep lines and repeated keys, do not read `no` as False, expand no aliases,
    # and do not recurse. The children of an open mapping are key, value, key, value.
    opened: list[tuple[Place, bool, list[Node]]] = [(Place(file), False, [])]  # place, is a mapping, children
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
            place = _at(file, event.start_mark)
            begun, is_mapping, children = opened[-1]
            if isinstance(event, yaml.ScalarEvent):
                null = is_mapping and len(children) % 2 == 1 and event.implicit[0] and event.value in _YAML_NULLS
                children.append(Node(place, None if null else event.value))
            elif isinstance(event, yaml.CollectionStartEvent):
                opened.append((place, isinstance(event, yaml.MappingStartEvent), []))
            elif isinstance(event, yaml.CollectionEndEvent):
                opened.pop()
                pairs = zip(children[::2], children[1::2], strict=is_mapping)
                opened[-1][2].append(Node(begun, tuple(pairs) if is_mapping else children))
            elif isinstance(event, yaml.AliasEvent):
                raise InputError(f"{place}: the alias *{event.anchor} is not supported; write its value in full")
            elif isinstance(event, yaml.DocumentStartEvent) and children:
                raise InputError(f"{place}: a second YAML document starts here; keep one")
    except yaml.YAMLError as e:
        place = _at(file, getattr(e, "problem_mark", None))
        problem = getattr(e, "problem", None) or getattr(e, "reason", None) or "unreadable"
        raise InputError(f"{place}: not valid YAML: {problem}; put words with : or {{}} in quotes") from e
    root = opened[0][2]
    return root[0] if root else Node(Place(file), None)


def _at(file: str, mark: Any) -> Place:
    return Place(file, mark.line + 1 if mark else None)
