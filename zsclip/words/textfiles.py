"""The user's small text, YAML, JSON and CSV files, read so that every error can name the line."""

import io
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from unicodedata import normalize

from zsclip.errors import InputError
from zsclip.pictures.tables import TABLES, check_single, csv_records, delimiter_of, not_utf_8

TREES = (".yaml", ".yml", ".json", ".jsonl", *TABLES)
LARGEST = 1 << 25  # bytes: a million labels take about half of it
_YAML_NULLS = ("", "~", "null", "Null", "NULL")
# Byte order marks, soft hyphens, marks of direction and the like. Joiners are stripped too, except between the
# letters that they affect (Arabic to Mongolian) and inside an emoji.
_JOINED = "[\u0600-\u18af\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]"
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    f"|(?<!{_JOINED})[\u200c\u200d]|[\u200c\u200d](?!{_JOINED})"
)

PLACEHOLDERS = ("{}", "{c}", "{label}")
WORDNET = re.compile(r"n\d{8}")
_ID = re.compile(rf"\d+|{WORDNET.pattern}|/[mgt]/\w+")


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
    """Strip a text and remove invisible characters; refuse an empty one, or one that is not Unicode."""
    text = visible(text)
    if not text:
        raise InputError(f"{place}: empty text; write a word, or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as e:  # a stray byte on the command line, or half of \ud83d\ude00 in JSON
        raise InputError(f"{place}: {text!r} is not valid Unicode; write it in UTF-8") from e
    return text


def visible(text: str) -> str:
    """Strip a text and remove invisible characters."""
    return _INVISIBLE.sub("", text).strip()


def comparable(text: str) -> str:
    """Give the form in which words are compared: visible, with single spaces, in Unicode's composed form."""
    return " ".join(normalize("NFC", visible(text)).split())


def listed(names: Sequence[str], most: int = 3) -> str:
    """Quote a few names and count the rest."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def is_id(text: str) -> bool:
    """Return whether a text is an id: a number, or one of WordNet or Freebase."""
    return _ID.fullmatch(text) is not None


def count_placeholders(template: str) -> int:
    """Count the placeholders for a label."""
    return sum(template.count(placeholder) for placeholder in PLACEHOLDERS)


def is_tree(file: str) -> bool:
    """Return whether a file's name ends like one of YAML, JSON or CSV."""
    return file.lower().endswith(TREES)


def read_lines(file: str) -> list[Text]:
    """Read a text file with one text per line; `#` at the start or after white space begins a comment."""
    lines = (re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in _read(file).split("\n"))
    return [Text(Place(file, number), line) for number, line in enumerate(lines, start=1) if line]


def read_tree(file: str) -> Node:
    """Read a file by its ending, without one as YAML; scalars stay text as written (`no`, `1e3`).

    A table is a list of mappings, and so are JSON lines of objects.
    """
    text = _read(file)
    ending = os.path.splitext(file)[1].lower()
    try:
        if ending == ".json":
            return json_tree(Place(file), text, is_file=True)
        if ending == ".jsonl":
            lines = enumerate(text.split("\n"), start=1)
            return Node(Place(file), [json_tree(Place(file, number), line) for number, line in lines if line.strip()])
        return _table(file, text) if ending in TABLES else _yaml_tree(file, text)
    except RecursionError as e:
        raise InputError(f"{file}: nested too deeply; keep to a list or a mapping") from e


def tree_of(place: Place, value: object) -> Node:
    """Make a tree of a program's own mappings, lists and texts."""
    if value is None or isinstance(value, str):
        return Node(place, value)
    if isinstance(value, Mapping):
        return Node(place, tuple((tree_of(place, key), tree_of(place, item)) for key, item in value.items()))
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise InputError(f"{place}: {value!r} is not a str; write words as str")
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
        raise InputError(f"{node.place}: expected text, found {found}; put words with : or {{}} in quotes")
    return Text(node.place, checked(node.place, node.value))


def before(first: Place, place: Place) -> str:
    """Say where something was given first, relative to where it is given again."""
    if first.source != place.source:
        return f" in {first}"
    return "" if first.line is None else f" on line {first.line}"


def _read(file: str) -> str:
    try:
        status = os.stat(file)
        if not any(is_kind(status.st_mode) for is_kind in (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISDIR)):
            raise InputError(f"{file}: not a file; check the path")
        with open(file, "rb") as stream:
            content = stream.read(LARGEST + 1) if status.st_size <= LARGEST else b""
        if max(len(content), status.st_size) > LARGEST:
            raise InputError(f"{file}: larger than {LARGEST >> 20} MB, too large for a list of words; check the path")
        text = content.decode()
    except FileNotFoundError as e:
        raise InputError(f"{file}: no such file; check the path") from e
    except OSError as e:
        raise InputError(f"{file}: cannot be read: {e.strerror}; check the path and its permissions") from e
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise InputError(f"{file}:{line}: {not_utf_8(content[:64])}") from e
    if "\0" in text:  # UTF-16 without its byte order mark is valid UTF-8
        what = not_utf_8(content[:64])
        raise InputError(f"{file}: {what if 'workbook' in what else 'contains NUL bytes; save it as UTF-8 text'}")
    return _INVISIBLE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


_JSON_FAULTS = {  # what the json module says, in words for people
    "Expecting value": "a value is missing",
    "Expecting ',' delimiter": "a comma or a closing bracket is missing",
    "Expecting ':' delimiter": "a colon is missing",
    "Extra data": "extra text after the end",
}


def json_tree(place: Place, text: str, *, is_file: bool = False) -> Node:
    """Read JSON; the place of every value is where the JSON begins, as the json module reports no line numbers.

    Args:
        is_file: whether it may be a file of another tool, with labels among much else.
    """

    def tree(value: Any) -> Node:
        if isinstance(value, tuple):
            return Node(place, tuple((Node(place, key), tree(item)) for key, item in value))
        if isinstance(value, list):
            return Node(place, [tree(item) for item in value])
        if not isinstance(value, str | None):
            raise InputError(f"{place}: {json.dumps(value)} is not text; put it in quotes")
        return Node(place, value)

    try:
        value = json.loads(text, object_pairs_hook=tuple, parse_int=str, parse_float=str)
        return tree(_labels_in(value) if is_file else value)
    except json.JSONDecodeError as e:
        place = place._replace(line=place.line or e.lineno)
        raise InputError(f"{place}: not valid JSON: {_JSON_FAULTS.get(e.msg, e.msg)}; correct this line") from e


def _labels_in(value: Any) -> Any:
    """Give only the labels of a file that has much else: COCO's `categories`, or `id2label` of Hugging Face, by number.

    Args:
        value: JSON, with tuples of pairs for mappings.
    """
    for key, inner in value if isinstance(value, tuple) else ():
        if key == "categories" and isinstance(inner, list):
            names = [dict(each).get("name") for each in inner if isinstance(each, tuple)]
            if names and len(names) == len(inner) and all(isinstance(name, str) for name in names):
                return names
        if key == "id2label" and isinstance(inner, tuple) and inner:
            if not all(number.isdecimal() and isinstance(name, str) for number, name in inner):
                continue
            return tuple(sorted(inner, key=lambda pair: int(pair[0])))
    return value


def _table(file: str, text: str) -> Node:
    """Read a CSV or TSV file with a header."""
    delimiter = delimiter_of(file, text.partition("\n")[0])

    def columns(names: list[str]) -> list[str]:
        names = [name.strip().lower() for name in names]
        check_single(file, names, ("label", "name", "group", "synonyms", "prompts"))
        return names

    rows = []
    for line, record in csv_records(file, io.StringIO(text), columns, delimiter=delimiter, is_labelled=True):
        place = Place(file, line)
        if not any(cell and cell.strip() for cell in record.values()):  # spreadsheets add rows of nothing but commas
            continue
        cells = ((Node(place, name), Node(place, cell or None)) for name, cell in record.items() if name)
        rows.append(Node(place, tuple(cells)))
    return Node(Place(file), list(rows))


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
        raise InputError(f"{place}: not valid YAML: {problem}; {_yaml_cure(problem)}") from e
    root = opened[0][2]
    return root[0] if root else Node(Place(file), None)


def _yaml_cure(problem: str) -> str:
    if "',' or" in problem or "end of stream" in problem:
        return "close the bracket or quote before it"
    if "depth" in problem or "characters are not allowed" in problem:
        return "correct this line"
    return "put words with : or {} in quotes"


def _at(file: str, mark: Any) -> Place:
    return Place(file, mark.line + 1 if mark else None)
