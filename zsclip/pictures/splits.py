"""Folders that hold splits of a data set instead of the pictures of a label, recognised by their names."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile

from zsclip.errors import InputError

# Names of splits, those that are held out for tests first: val, test_set, train2017, fold_1.
_SPLITS = ("val", "valid", "validation", "dev", "test", "testing", "train", "training", "fold")
_SPLIT = re.compile(rf"({'|'.join(_SPLITS)})[ _-]?(set|data|images|\d+)?", re.IGNORECASE)
# Names of folders that hold all pictures of a data set, though each may be a label, too.
_COLLECTIONS = frozenset(
    {"classes", "data", "dataset", "image", "images", "img", "imgs", "jpegimages", "photos", "pics", "pictures"}
)
# Names of splits, too, where all folders have them and hold the same folders; by themselves they may be labels.
_PART = re.compile(
    r"(eval|evaluation|hold[ _-]?out|held[ _-]?out|query|gallery|probe|un?labell?ed|part|split|subset|shard|batch|"
    r"k?fold)([ _-]?(set|data|images|\d+))?|\w+=.*",
    re.IGNORECASE,
)
_NAMED = 3  # splits in a message; there may be ten folds


def check_depth(root: str, found: Mapping[str, Sequence[str]], note: Callable[[str], None]) -> None:
    """Refuse folders of splits, and label folders one level too deep, where label folders are expected.

    Args:
        found: the paths of each label's pictures, all below `root/label`.
    """
    _check_alike(root, found, note)
    for label, paths in found.items():
        start = len(os.path.join(root, label, ""))
        folders = {tuple(path[start:].split("/")[:-1]) for path in paths}
        in_line = takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
        shared = [names[0] for names in in_line] if len(found) == 1 else []
        inner, below = os.path.join(root, label, *shared), [folder[len(shared) :] for folder in folders]
        first = {parts[0] if parts else "" for parts in below}
        splits = splits_of({parts[0] for parts in below if len(parts) > 1})  # with folders for the labels
        if len(splits) > 1 or (splits and first == {*splits} and len(found) == 1):
            raise holds_splits(inner, splits)
        if len(found) > 1 or len(first) == 1 or "" in first or first == {*splits_of(first)}:
            continue
        if splits_of((label, *shared)) or not _COLLECTIONS.isdisjoint(name.lower() for name in (label, *shared)):
            raise InputError(f"{root!r}: all its images are in {label!r}, which is not a label; give {inner}")
        note(f"{root}: all its images have one label, {label!r}; if the folders in it are labels, give {inner}")


def _check_alike(root: str, found: Mapping[str, Sequence[str]], note: Callable[[str], None]) -> None:
    """Refuse folders that hold the same folders and have names of splits; note those with other names.

    These may be labels with the same views of each, such as front and back.
    """
    inside: list[set[str]] = []
    for label, paths in found.items():
        start = len(os.path.join(root, label, ""))
        below = [path[start:].split("/") for path in paths]
        if any(len(parts) == 1 for parts in below):  # it has pictures of its own
            return
        inside.append({parts[0] for parts in below})
    shared = set.intersection(*inside) if len(inside) > 1 else set()
    if len(shared) < 2 or splits_of(shared):
        return
    if all(_PART.fullmatch(label) or splits_of((label,)) for label in found):
        raise holds_splits(root, [*(known := splits_of(found)), *sorted(found.keys() - {*known})])
    if all(each == shared for each in inside):
        first, *others = sorted(shared)
        named = f"{first} and {others[0]}" if len(others) == 1 else f"{first} and {len(others)} more"
        note(
            f"{root}: each of its {len(found)} folders holds the same folders, {named}; if those are the labels, give "
            f"one of the {len(found)}, such as {os.path.join(root, min(found))}"
        )


def splits_of(names: Iterable[str]) -> list[str]:
    """Select the names of splits, those that are held out for tests first."""
    found = []
    for name in names:
        match = _SPLIT.fullmatch(name)
        if match is not None and (match[1].lower() != "fold" or match[2]):  # `fold` alone may be a label
            found.append(
                (_SPLITS.index(match[1].lower()), re.sub(r"\d+", lambda digits: digits[0].zfill(9), name), name)
            )
    return [name for *_, name in sorted(found)]


def holds_splits(folder: str, splits: Sequence[str]) -> InputError:
    """Make the error for a folder with these splits in it."""
    some = splits[:_NAMED]
    more = len(splits) - len(some)
    named, inside = " and ".join(some), " or ".join(os.path.join(folder, name) for name in some)
    if more:
        named, inside = f"{', '.join(some)} and {more} more", f"{inside} or another of them"
    return InputError(f"{folder!r}: holds the splits {named}, not a folder for each label; give {inside}")
