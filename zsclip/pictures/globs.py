"""Patterns of file names, in which Unicode's composed and decomposed forms are equal; names stay as they are."""

import glob
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from unicodedata import normalize


def fits(path: str, pattern: str) -> bool:
    """Return whether a path or name fits a pattern."""
    return fnmatchcase(_composed(path), _composed(pattern))


def without_last_stars(pattern: str) -> str:
    """Leave out `**` at the end: it matches folders and all in them; walking only the folders gives each file once."""
    return re.sub(r"(^|/)(\*\*/*)+$", r"\1", pattern)


def expand_glob(pattern: str) -> list[str]:
    """Give what a glob matches on disk, in no order; hidden names match only if the glob names them."""
    forms = [_forms(part) for part in pattern.split("/")]
    return list(dict.fromkeys(match for parts in product(*forms) for match in _matches(list(parts))))


def _forms(part: str) -> set[str]:
    if part.isascii() or "[" in part:  # a letter and its accent would be two members of a set
        return {part}
    return {part, normalize("NFC", part), normalize("NFD", part)}


def _composed(text: str) -> str:
    return text if text.isascii() else normalize("NFC", text)


def _matches(parts: list[str]) -> Iterator[str]:
    if "**" not in parts:
        yield from glob.glob("/".join(parts))
        return
    # glob.glob would follow links to folders into endless loops; pathlib's `**` follows none.
    at = parts.index("**")
    root, below = "/".join(parts[:at]), "/".join(parts[at:])
    hidden_wanted = any(part.startswith(".") for part in parts[at:])
    for base in glob.glob(root) if root else ["/" if at else ""]:
        for match in Path(base or ".").glob(below):
            relative = os.path.relpath(match, base or ".")
            if hidden_wanted or not any(part.startswith(".") for part in relative.split("/")):
                yield os.path.join(base, relative)
