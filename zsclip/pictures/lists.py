"""Lists of pictures: the paths in a table or in JSON lines. No picture is opened here."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zsclip.errors import InputError, either
from zsclip.pictures.columns import PATH_COLUMNS, path_groups, relative_to
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.shards import Takes, failed
from zsclip.pictures.tables import TABLES, is_further_rank, is_ours, table_records
from zsclip.pictures.urls import name_in

_Record = tuple[int, Mapping[str, Any]]


def check_list(path: str, wanted: str | None, network: Network) -> None:
    """Find the column with the paths, before anything slow.

    Raises:
        InputError: there is none, or the list cannot be read.
    """
    try:
        for _, record in itertools.islice(_records(path, wanted, network), 1):
            _column(path, list(record), wanted)
    except Refused:  # its server does not send it; its row will say why
        return
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {(e.strerror or str(e)).lower()}") from e


def find_in_list(path: str, wanted: str | None, takes: Takes, network: Network) -> Iterator[Pictures]:
    """Yield the files that a list names, relative to it; in zsclip's own rows, they are as they were given to that run.

    Args:
        wanted: the column with their paths; None finds it.
        takes: whether a file of this path is a picture of the run.
        network: fetches a list on a server.
    """
    try:
        yield from path_groups(_listed(path, wanted, network), takes)
    except (OSError, InputError, Refused) as e:
        what = str(e).removeprefix(f"{path}: ") if isinstance(e, InputError) else ""
        yield failed(path, Refused("unreadable", what) if what else e)


def _listed(path: str, wanted: str | None, network: Network) -> Iterator[tuple[str, str | Refused | None]]:
    folder = os.path.dirname(path)
    for line, record in _records(path, wanted, network):
        if is_further_rank(record):
            continue
        value = next((record[name] for name in _names(wanted) if record.get(name) is not None), None)
        yield f"{path}:{line}", relative_to(folder, value, is_given=is_ours(record))


def _records(path: str, wanted: str | None, network: Network) -> Iterator[_Record]:
    """Yield the lines of a list with their numbers; one that is not an object has no fields."""

    def columns(header: list[str]) -> list[str]:
        header = [name.strip() for name in header]
        _column(path, header, wanted)
        return header

    if name_in(path).lower().endswith(TABLES):
        yield from table_records(path, columns, network.open_text, errors="surrogateescape")
        return
    with network.open_text(path, encoding="utf-8-sig", errors="surrogateescape") as file:
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
        raise InputError(f"{path}: needs a column of image paths named {either(_names(wanted))}; {found}")


def _names(wanted: str | None) -> Sequence[str]:
    return PATH_COLUMNS if wanted is None else (wanted,)
