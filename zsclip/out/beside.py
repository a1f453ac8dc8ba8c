"""The names of the files that show pictures with what was found in them."""

import os
import re
from collections.abc import Iterable, Sequence

from zsclip.out.destinations import numbered, safe_name
from zsclip.pictures.stdin import STDIN

_ENDING = re.compile(r"(?<=.)\.[a-zA-Z][a-zA-Z0-9]{0,4}$", re.DOTALL)  # of a picture, not of a frame or a row


def overlay_names(names: Iterable[str], folder: str) -> list[str]:
    """Give the file for each picture: `photos/a.jpg` becomes `FOLDER/a.where.png`.

    If several pictures have the same name, the second gets `a-2.where.png`.
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # to try next, by stem
    files = []
    for name in names:
        own = "stdin" if name == STDIN else name.rpartition("/")[2]
        stem = safe_name(_ENDING.sub("", own))
        plain, number = f"{stem}.where.png", numbers.get(stem, 1)
        while (file := numbered(plain, plain, stem, number)).casefold() in taken:  # some file systems ignore case
            number += 1
        taken.add(file.casefold())
        numbers[stem] = number + 1
        files.append(os.path.join(folder, file) if folder not in ("", ".") else file)
    return files


def names_as_before(names: Sequence[str], folder: str, since: Iterable[tuple[str, range]]) -> list[str]:
    """Give the file for each picture as an earlier run gave it; pictures that are found only now take what is left.

    Args:
        since: a file that the earlier run could not read, or not further, and the indices of what is found there now.
    """
    before: list[tuple[int | None, str]] = []
    new: list[tuple[int | None, str]] = []
    start = 0
    for name, places in since:
        before += [*enumerate(names[start : places.start], start), (None, name)]
        new += [(place, names[place]) for place in places]
        start = places.stop
    order = [*before, *enumerate(names[start:], start), *new]
    files = dict(zip((place for place, _ in order), overlay_names((name for _, name in order), folder), strict=True))
    return [files[place] for place in range(len(names))]


def without_own(names: Sequence[str], given: Iterable[str], folder: str) -> list[int]:
    """Leave out pictures that an earlier run wrote for others; one that was named by the user stays.

    Returns:
        The indices of those that stay.
    """
    named = set(given)
    written = {_real(file) for file in overlay_names(names, folder)}
    return [place for place, name in enumerate(names) if name in named or _real(name) not in written]


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL byte, from a list: its row will say so
        return path
