"""Rows of any format that zsclip writes -> what was answered for each picture: the sinks, read backwards.

A list of somebody else with a `file_name` and a `label`, such as corrected answers, is read too.
"""

import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from zsclip.errors import InputError
from zsclip.out.text import from_utf8
from zsclip.pictures.tables import check_single, is_further_rank, not_utf_8, table_records

INDEPENDENT = ("sigmoid", "versus-neutral")  # kinds of score with which several labels may apply
_PARQUET = b"PAR1"
_COLUMNS = (
    "file_name", "file_name_bytes", "label", "score", "score_kind", "predictions", "error", "message", "truth",
    "beaten_by",
)  # fmt: skip
_AT_ONCE = 4096  # rows of a Parquet file

Scored = tuple[str, float | None]  # a label and its score


@dataclass(frozen=True, slots=True)
class Answered:
    """What a row says of a picture.

    name: as it was given to the run, undecodable bytes as surrogate escapes. labels: that apply, best first; none if
    the answer is unknown. score: of the best candidate. error, message: why there is no answer. candidates: the labels
    that the row offers, best first. truth: the true label, if the row has it. beaten_by: the distractor that won.
    """

    name: str
    labels: tuple[Scored, ...]
    score: float | None = None
    error: str | None = None
    message: str | None = None
    candidates: tuple[Scored, ...] = ()
    truth: str | None = None
    beaten_by: str | None = None


def read_answers(path: str) -> Iterator[Answered]:
    """Read the rows of a file, or of a folder of parts. The first bytes tell the format.

    Args:
        path: `-` means standard input.

    Raises:
        InputError: it cannot be read, or has no rows like these.
    """
    if os.path.isdir(path):
        parts = sorted(name for name in os.listdir(path) if name.endswith(".parquet") and name[0] != ".")
        if not parts:
            raise InputError(f"{path}: has no Parquet parts; give a file with rows, or the folder of -o FOLDER/")
        for name in parts:
            with open(os.path.join(path, name), "rb") as file:
                yield from _parquet_rows(os.path.join(path, name), file)
        return
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            yield from _rows("standard input" if path == "-" else path, file)
    except FileNotFoundError as e:
        raise InputError(f"{path}: no such file; check the path") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: {not_utf_8(e.object[:64])}") from e
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {(e.strerror or str(e)).lower()}") from e


def _rows(path: str, file: io.BufferedReader) -> Iterator[Answered]:
    start = file.peek(64)[:64]
    if start.startswith(_PARQUET):
        # A pipe cannot be read from its end, where Parquet has its schema.
        yield from _parquet_rows(path, file if file.seekable() else io.BytesIO(file.read()))
        return
    is_json = start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from (_json_rows if is_json else _table_rows)(path, text)


def _json_rows(path: str, lines: TextIO) -> Iterator[Answered]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise InputError(f"{path}:{number}: not valid JSON; is the file complete?") from e
        if not isinstance(record, dict) or not {"file_name", "label"} <= record.keys():
            raise InputError(f"{path}:{number}: not a row with file_name and label; give what `zsclip classify` wrote")
        _check_pictures(path, record)
        yield _answered(path, record)


def _table_rows(path: str, file: TextIO) -> Iterator[Answered]:
    """Read CSV or TSV, whose rows for further ranks follow that of the first."""

    def columns(header: list[str]) -> Sequence[str]:
        header = [name.strip() for name in header]
        if not {"file_name", "label"} <= {*header}:
            found = f"found {', '.join(header)}" if any(header) else "found nothing"
            raise InputError(f"{path}: needs the columns file_name and label, as `zsclip classify` writes; {found}")
        check_single(path, header, ("file_name", "label"))
        _check_pictures(path, header)
        return header

    ranks: list[Mapping[str, Any]] = []
    for line, record in table_records(path, columns, lambda path, **options: file):
        if not is_further_rank(record):
            if ranks:
                yield _of_ranks(path, ranks)
            ranks = []
        elif not ranks or ranks[0]["file_name"] != record["file_name"]:  # a spreadsheet may have sorted them
            what = f"rank {record['rank']} of {record['file_name']!r} does not follow its rank 1"
            raise InputError(f"{path}:{line}: {what}; restore the order of the rows")
        ranks.append(record)
    if ranks:
        yield _of_ranks(path, ranks)


def _of_ranks(path: str, ranks: Sequence[Mapping[str, Any]]) -> Answered:
    """Put the rows of one picture together; of several candidates all apply, of one only what is the answer."""
    first = ranks[0]
    candidates = [{"label": each["candidate"], "score": each.get("score")} for each in ranks if each.get("candidate")]
    has_several = first.get("label") or len(ranks) > 1
    return _answered(path, {**first, "predictions": candidates if has_several else []}, candidates)


def _parquet_rows(path: str, file: BinaryIO) -> Iterator[Answered]:
    try:
        import pyarrow.parquet as pq
    except ImportError as e:
        raise InputError(f"{path}: reading Parquet needs pyarrow: pip install 'zsclip[parquet]'") from e
    try:
        whole = pq.ParquetFile(file)
        names = [name for name in _COLUMNS if name in whole.schema_arrow.names]
        if not {"file_name", "label"} <= {*names}:
            raise InputError(f"{path}: needs the columns file_name and label, as `zsclip classify` writes them")
        for batch in whole.iter_batches(_AT_ONCE, columns=names):
            for record in batch.to_pylist():
                if (raw := record.get("file_name_bytes")) is not None:
                    record["file_name"] = raw.decode("utf-8", "surrogateescape")
                yield _answered(path, record)
    except (InputError, GeneratorExit):
        raise
    except Exception as e:  # pyarrow raises anything on damaged files
        raise InputError(f"{path}: damaged, or not Parquet; write it again") from e


def _answered(path: str, record: Mapping[str, Any], offered: Sequence[Any] | None = None) -> Answered:
    """Make a row of its fields.

    Args:
        offered: its candidates, if those are not its predictions.
    """
    name = record["file_name"]
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{path}: a row has no file_name; give what `zsclip classify` wrote")
    try:
        name = from_utf8(name)
    except UnicodeEncodeError as e:
        raise InputError(f"{path}: {name!r} is not the name of a file; give what `zsclip classify` wrote") from e
    if "score_kind" not in record:  # paths in lists of others are relative to the list
        name = os.path.join(os.path.dirname(path), name)
    label, score = _text(record, "label"), _number(path, record.get("score"))
    if label is None and record.get("label") not in (None, ""):
        raise InputError(f"{path}: {record['label']!r} is not a label; put labels in quotes")
    predictions = _scored(path, (record.get("predictions") if "score_kind" in record else None) or ())
    labels: tuple[Scored, ...] = ((label, score),) if label else ()
    if record.get("score_kind") in INDEPENDENT:
        labels = predictions
    error, message, truth, beaten_by = (_text(record, key) for key in ("error", "message", "truth", "beaten_by"))
    candidates = (predictions if offered is None else _scored(path, offered)) or labels
    return Answered(name, labels, score, error, message, candidates, truth, beaten_by)


def _scored(path: str, offered: Any) -> tuple[Scored, ...]:
    if not isinstance(offered, Sequence) or not all(
        isinstance(each, Mapping) and isinstance(each.get("label"), str) for each in offered
    ):
        raise InputError(f"{path}: a row has predictions without labels; give what `zsclip classify` wrote")
    return tuple((each["label"], _number(path, each.get("score"))) for each in offered)


def _text(record: Mapping[str, Any], key: str) -> str | None:
    """Give a field that holds text; None if it is empty."""
    value = record.get(key)
    return value if isinstance(value, str) and value else None


def _number(path: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
        if math.isinf(number):
            raise ValueError("infinite")
    except (TypeError, ValueError, OverflowError) as e:
        raise InputError(f"{path}: {value!r} is not a score; give what `zsclip classify` wrote") from e
    return None if math.isnan(number) else number  # as other programs write what is missing


def _check_pictures(path: str, names: Iterable[str]) -> None:
    if {"start", "end", "frames"} <= {*names}:
        raise InputError(f"{path}: has rows of segments, which are parts of videos; classify without --segments")
