"""Rows of CSV files, whoever reads them: lists of pictures and lists of labels."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from zsclip.errors import InputError

TABLES = (".csv", ".tsv")
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r"}


def delimiter_of(path: str, header: str) -> str:
    """Give the character between the cells: a comma, though a spreadsheet may write semicolons or tabs, or a tab."""
    is_tsv = path.lower().endswith(".tsv")
    return next((mark for mark in "\t;" if mark in header and (is_tsv or "," not in header)), ",")


def table_records(
    path: str, columns: Callable[[list[str]], Sequence[str]], *, errors: str = "strict"
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the rows of a list of pictures, of ours too; see `csv_records`.

    Args:
        errors: of the encoding; `surrogateescape` keeps the bytes of a name that is not UTF-8.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    with open(path, encoding="utf-8-sig", errors=errors, newline="") as file:
        header = file.readline()
        mark = delimiter_of(path, header)
        is_escaped = mark == "\t" and "score_kind" in header.split(mark)  # as our rows are
        yield from csv_records(path, chain([header], file), columns, delimiter=mark, is_escaped=is_escaped)


def is_ours(record: Mapping[str, Any]) -> bool:
    """Whether a row of a list was written by a run, so that its path is as it was given to that."""
    return "score_kind" in record and ("candidate" in record or "predictions" in record)


def is_further_rank(record: Mapping[str, Any]) -> bool:
    """Whether a row of ours is about the same picture as the one before."""
    return is_ours(record) and record.get("rank") not in (None, "", "1")


def csv_records(
    path: str,
    lines: Iterable[str],
    columns: Callable[[list[str]], Sequence[str]],
    *,
    delimiter: str,
    is_escaped: bool = False,
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the rows of a CSV file by column, each with the line that it ends on.

    Args:
        path: only for messages.
        columns: gives the names of the columns in a header, or raises.
        delimiter: as `delimiter_of` gives it.
        is_escaped: whether cells have backslashes instead of quotes, as in the TSV that we write.

    Raises:
        InputError: it is not a CSV file.
    """
    try:
        # Strict, as an unclosed quote would swallow all rows.
        reader = csv.DictReader(
            lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_NONE if is_escaped else csv.QUOTE_MINIMAL
        )
        reader.fieldnames = columns(list(reader.fieldnames or ()))
        for record in reader:
            if is_escaped:
                record = {name: cell and _unescaped(cell) for name, cell in record.items() if name}
            yield reader.line_num, record
    except csv.Error as e:
        raise InputError(f"{path}: not a CSV file in UTF-8: {e}; save it as one") from e


def _unescaped(cell: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPED.get(found[1], found[1]), cell)
