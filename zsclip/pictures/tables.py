"""Rows of CSV files, whoever reads them: lists of pictures and lists of labels."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TextIO

from zsclip.errors import InputError

TABLES = (".csv", ".tsv")
_ANSWERED = ("rank", "score", "cosine")  # columns that only answers have
_ZIP, _OLD_OFFICE, _UTF_16 = b"PK\3\4", b"\xd0\xcf\x11\xe0", (b"\xff\xfe", b"\xfe\xff")
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r"}


def delimiter_of(path: str, header: str) -> str:
    """Give the character between the cells: a comma, though a spreadsheet may write semicolons or tabs, or a tab."""
    is_tsv = path.lower().endswith(".tsv")
    return next((mark for mark in "\t;" if mark in header and (is_tsv or "," not in header)), ",")


def table_records(
    path: str,
    columns: Callable[[list[str]], Sequence[str]],
    opened: Callable[..., TextIO],
    *,
    errors: str = "strict",
    is_labelled: bool = False,
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the rows of a list of pictures, also of zsclip's own rows; see `csv_records`.

    Args:
        opened: `open`, or what opens a URL, too.
        errors: of the encoding; `surrogateescape` keeps the bytes of a name that is not UTF-8.
        is_labelled: as in `csv_records`.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    with opened(path, encoding="utf-8-sig", errors=errors, newline="") as file:
        header = file.readline()
        if "\0" in header:  # with surrogateescape, it is read all the same
            raise InputError(f"{path}: {not_utf_8(header[:64].encode(errors='surrogateescape'))}")
        mark = delimiter_of(path, header)
        is_escaped = mark == "\t" and "score_kind" in header.split(mark)  # as zsclip's own rows are
        yield from csv_records(
            path, chain([header], file), columns, delimiter=mark, is_escaped=is_escaped, is_labelled=is_labelled
        )


def is_ours(record: Mapping[str, Any]) -> bool:
    """Whether a row of a list was written by zsclip, so that its path is as it was given to that run."""
    return "score_kind" in record and ("candidate" in record or "predictions" in record)


def is_further_rank(record: Mapping[str, Any]) -> bool:
    """Whether a row of zsclip's own is about the same picture as the one before."""
    return is_ours(record) and record.get("rank") not in (None, "", "1", "1.0")  # pandas writes 1.0


def csv_records(
    path: str,
    lines: Iterable[str],
    columns: Callable[[list[str]], Sequence[str]],
    *,
    delimiter: str,
    is_escaped: bool = False,
    is_labelled: bool = False,
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the rows of a CSV file by column, each with the line that it ends on.

    Args:
        path: only for messages.
        columns: gives the names of the columns in a header, or raises.
        delimiter: as `delimiter_of` gives it.
        is_escaped: whether cells have backslashes instead of quotes, as in the TSV that we write.
        is_labelled: refuse a row with more cells than the header, as a label may have been cut at a comma in it.

    Raises:
        InputError: it is not a CSV file, or such a row is refused.
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
            elif is_labelled and any(cell.strip() for cell in record.pop(None, ())):  # a last comma adds an empty one
                place = f"{path}:{reader.line_num}"
                cure = f"put cells that contain {delimiter!r} in quotes"
                raise InputError(f"{place}: has more cells than the header; {cure}")
            yield reader.line_num, record
    except csv.Error as e:
        raise InputError(f"{path}: not a CSV file in UTF-8: {e}; save it as one") from e


def check_single(path: str, header: Sequence[str], wanted: Iterable[str]) -> None:
    """Refuse a header in which one of the wanted columns occurs twice, as only one of the two would be read."""
    for name in wanted:
        if header.count(name) > 1:
            raise InputError(f"{path}:1: has {header.count(name)} columns named {name}; rename all but one")


def check_true(path: str, columns: Iterable[str]) -> None:
    """Refuse rows whose labels are answers, whoever gave them, as all of them would count as right."""
    answered = [name for name in _ANSWERED if name in columns]
    if answered and "label" in columns and "truth" not in columns:
        raise InputError(
            f"{path}: these labels are answers, as the column {answered[0]} shows; put the true labels in a column "
            f"named truth, or remove {answered[0]} if they are true"
        )


def not_utf_8(start: bytes) -> str:
    """Say what a file is that is not UTF-8, and what to do, going by how it begins."""
    if start.startswith(_ZIP):
        return "an Excel workbook, or another zip archive; save it as CSV"
    if start.startswith(_OLD_OFFICE):
        return "an Excel workbook; save it as CSV"
    halves = [half for half in (start[::2], start[1::2]) if half and not any(half)]
    if start.startswith(_UTF_16) or len(halves) == 1:  # ASCII in UTF-16 has a zero byte beside each letter
        return "UTF-16; save it as UTF-8"
    return "not UTF-8; save the file as UTF-8"


def _unescaped(cell: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPED.get(found[1], found[1]), cell)
