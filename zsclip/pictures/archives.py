"""Labelled pictures in archives: by the files beside each, as webdataset has them, or by the folders inside."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from zsclip.errors import InputError
from zsclip.pictures.containers import find_in_container
from zsclip.pictures.endings import is_taken, picture_endings
from zsclip.pictures.passed_over import PassedOver, ending_of
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.source import Names, Source
from zsclip.pictures.splits import splits_of

_ABOUT = (".cls", ".json", ".txt")  # of a picture: its label, both, and its caption
_LARGEST_ABOUT = 1 << 20  # bytes
_CLASS_NAMES = "classnames.txt"  # beside the archives, one a line, for labels that are numbers


@dataclass
class _Held:
    """What an archive holds.

    groups: pictures, and for each of their members its index there and its name. about: labels and captions by the
    path of a picture up to the first dot of its name.
    """

    groups: list[tuple[Pictures, list[tuple[int, str]]]] = field(default_factory=list)
    about: dict[str, dict[str, str]] = field(default_factory=dict)


def find_in_archive(
    path: str, note: Callable[[str], None], passed_over: PassedOver, network: Network, *, all_files: bool
) -> Iterator[Source]:
    """Yield the pictures of a tar or zip archive with their words.

    A label is in `.cls` or as `label` in `.json` beside its picture; a caption is in `.txt`, or as `caption` in
    `.json`. If there are none, the folders in the archive are labels.

    Raises:
        InputError: it holds splits instead of folders for labels.
    """
    is_picture = partial(is_taken, picture_endings(), None, all_files, passed_over)
    held = _read(path, note, lambda name: ending_of(name) in _ABOUT or is_picture(name), passed_over, network)
    members = [name for _, some in held.groups for _, name in some]
    words = _described(path, members, held.about) if held.about else _in_folders(path, members, passed_over)
    wordless = [name for name in members if name not in words]
    if wordless:
        count = f"{len(wordless):,} image{'' if len(wordless) == 1 else 's'}"
        note(f"{path}: skipped: {count} without a label or caption, the first is {wordless[0]!r}")
    for group, some in held.groups:
        places = [place for place, _ in some]
        found = [(f"{os.path.basename(path)}#{name}", words.get(name)) for _, name in some]
        yield Source(path, sum(len(name) for _, name in some), found, list, False, [path], group.only(places))


def _read(
    path: str, note: Callable[[str], None], takes: Callable[[str], bool], passed_over: PassedOver, network: Network
) -> _Held:
    """Walk through an archive once, and read what is said beside the pictures."""
    held = _Held()
    for group in find_in_container(path, None, takes, lambda name: False, passed_over, network):
        some = []
        for place, full in enumerate(group.names):
            name = full[len(path) + 1 :]
            if not name:  # it breaks off, or cannot be read
                note(f"{path}: {_reason(group, place)}")
            elif (ending := ending_of(name)) in _ABOUT:
                key, about = _key(name), _about(ending, _text(group, place))
                known = held.about.get(key, {})
                if about:  # a file of its own says more than a field of many
                    held.about[key] = about | known if ending == ".json" else known | about
            else:
                some.append((place, name))
        if some:
            held.groups.append((group, some))
    return held


def _reason(group: Pictures, place: int) -> str:
    try:
        group.open(place).close()
    except Refused as e:
        return e.message
    except Exception as e:  # whatever the system says of a file
        return str(e)
    return "cannot be read"


def _text(group: Pictures, place: int) -> str:
    """Read what is said about a picture; nothing if it cannot be read or is not text."""
    try:
        with group.open(place) as file:
            return file.read(_LARGEST_ABOUT).decode("utf-8-sig").strip()
    except (Refused, OSError, UnicodeDecodeError):
        return ""


def _about(ending: str, text: str) -> dict[str, str]:
    """Take the label and the caption from a file beside a picture, whichever it has."""
    if ending != ".json":
        return {"label" if ending == ".cls" else "caption": text} if text else {}
    try:
        record: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    found = {name: record[name] for name in ("label", "caption") if name in record}
    return {
        name: str(value).strip()
        for name, value in found.items()
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip()
    }


def _key(name: str) -> str:
    """Give what a picture and the files about it share: the path up to the first dot of the last name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _described(path: str, members: Iterable[str], about: dict[str, dict[str, str]]) -> dict[str, Names]:
    """Give the words of the pictures that have some beside them."""
    classes = _class_names(path)
    words = {}
    for name in members:
        found = about.get(_key(name), {})
        label, caption = found.get("label", ""), found.get("caption", "")
        if label.isdecimal() and int(label) < len(classes):
            label = classes[int(label)]
        if label or caption:
            words[name] = Names(label, captions=(caption,) if caption else ())
    return words


def _class_names(path: str) -> Sequence[str]:
    try:
        with open(os.path.join(os.path.dirname(path), _CLASS_NAMES), encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError):
        return ()


def _in_folders(path: str, members: Sequence[str], passed_over: PassedOver) -> dict[str, Names]:
    """Give each picture the folder that it is in as its label: the first one that not all of them are in."""
    parts = {name: [part for part in name.split("/") if part not in ("", ".")] for name in members}
    depth = 0
    while all(len(each) > depth + 2 for each in parts.values()) and len({e[depth] for e in parts.values()}) == 1:
        depth += 1
    words = {name: Names(each[depth]) for name, each in parts.items() if len(each) > depth + 1}
    passed_over.unlabelled.update(Counter(ending_of(name) for name in members if name not in words))
    labels = {each.label for each in words.values()}
    splits = splits_of(labels)
    if len(splits) > 1 or (splits and labels == {*splits}):
        raise InputError(f"{path}: holds the splits {' and '.join(splits[:3])}; make an archive of each")
    return words
