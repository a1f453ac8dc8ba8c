"""Lists of pictures: the paths in a table or in JSON lines. No picture is opened here."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zsclip.errors import InputError
from zsclip.pictures.columns import PATH_COLUMNS, path_groups, relative_to
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.shards import Takes, failed
from zsclip.pictures.tables import TABLES, is_further_rank, is_ours, table_records

_Record = tuple[int, Mapping[str, Any]]


def check_list(path: str, wanted: str | None) -> None:
    """Find the column with the paths, before anything slow.

    Raises:
        InputError: there is none, or the list cannot be read.
    """
    try:
        for _, record in itertools.islice(_records(path, wanted), 1):
            _column(path, list(record), wanted)
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {(e.strerror or str(e)).lower()}") from e


def find_in_list(path: str, wanted: str | None, takes: Takes) -> Iterator[Pictures]:
    """Yield the files that a list names, relative to it; in zsclip's own rows, they are as they were given to that run.

    Args:
        wanted: the column with their paths; None finds it.
        takes: whether a file of this path is a picture of the run.
    """
    try:
        yield from path_groups(_listed(path, wanted), takes)
    except (OSError, InputError) as e:
        what = str(e).removeprefix(f"{path}: ") if isinstance(e, InputError) else ""
        yield failed(path, Refused("unreadable", what) if what else e)


def _listed(path: str, wanted: str | None) -> Iterator[tuple[str, str | None]]:
    folder = os.path.dirname(path)
    for line, record in _records(path, wanted):
        if is_further_rank(record):
            continue
        value = next((record[name] for name in _names(wanted) if record.get(name) is not None), None)
        yield f"{path}:{line}", relative_to(None if is_ours(record) else folder, value)


def _records(path: str, wanted: str | None) -> Iterator[_Record]:
    """Yield the lines of a list with their numbers; one that is not an object has no fields."""

    def columns(header: list[str]) -> list[str]:
        header = [name.strip() for name in header]
        _column(path, header, wanted)
        return header

    if path.lower().endswith(TABLES):
        yield from table_records(path, columns, errors="surrogateescape")
        return
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _object(line)


def _object(line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _column(path: str, names: Sequence[str], wanted: str | None) -> None:
    if not set(_names(wanted)) & set(names):
        found = f"found {', '.join(names)}" if names else "found none"
        raise InputError(f"{path}: needs a column of image paths named {' or '.join(_names(wanted))}; {found}")


def _names(wanted: str | None) -> Sequence[str]:
    return PATH_COLUMNS if wanted is None else (wanted,)
