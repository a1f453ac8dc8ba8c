"""Rows of CSV files, whoever reads them: lists of pictures and lists of labels."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence

from zsclip.errors import InputError


def csv_records(
    path: str, lines: Iterable[str], columns: Callable[[list[str]], Sequence[str]], *, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the rows of a CSV file by column, each with the line that it ends on.

    Args:
        path: only for messages.
        columns: gives the names of the columns in a header, or raises.

    Raises:
        InputError: it is not a CSV file.
    """
    try:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)  # an unclosed quote would swallow all rows
        reader.fieldnames = columns(list(reader.fieldnames or ()))
        for record in reader:
            yield reader.line_num, record
    except csv.Error as e:
        raise InputError(f"{path}: not a CSV file in UTF-8: {e}; save it as one") from e
