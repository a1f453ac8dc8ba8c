"""Predictions -> table, JSONL, CSV, TSV or paths.

A sink drains batches of rows into a text stream and flushes once a batch, so that an answer is out as soon as it is
there and a long job does not pay a flush a row. A run that is interrupted
leaves whole rows; one that is killed outright, or finds the disk full, may leave half of its last.
"""

import io
import json
import os
import re
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from zsclip.answers.answers import Candidate, Prediction, Row
from zsclip.pixels.skipped import Skipped

if TYPE_CHECKING:
    from rich.text import Text

# label: the answer, empty where there is none; candidate: the label of this rank.
COLUMNS = ("file_name", "rank", "label", "candidate", "score", "cosine", "score_kind", "error", "message")
BAR_WIDTH = 10


def write_jsonl(batches: Iterable[Sequence[Row]], out: TextIO) -> None:
    """Write one JSON object a row, the same keys in every row."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for rows in batches:
        records: list[dict[str, Any]] = []
        try:
            records.extend(map(_record, rows))
        finally:  # also those before an interruption
            # All in one call, as a call costs what a record does. In a string the quotes would have backslashes.
            listed = _without_controls(encode(records)[1:-1])
            lines = listed.replace('}, {"file_name": ', '}\n{"file_name": ').split("\n") if records else ()
            out.writelines(line + "\n" for line in lines)  # one by one: a signal between two leaves no half of one
        out.flush()


def write_csv(batches: Iterable[Sequence[Row]], out: TextIO, *, header: bool = True, truth: bool = False) -> None:
    """Write comma-separated values, one line per image and rank, with a header; with `truth`, a column more."""
    _write_lines(batches, out, ",", _csv_field, header, truth)


def write_tsv(batches: Iterable[Sequence[Row]], out: TextIO, *, header: bool = True, truth: bool = False) -> None:
    r"""Write tab-separated values: the columns of the CSV, and `\t`, `\n`, `\r`, `\\` for what would break a line."""
    _write_lines(batches, out, "\t", _tsv_field, header, truth)


def write_paths(batches: Iterable[Sequence[Row]], out: TextIO, *, print0: bool = False, unknown: bool = False) -> None:
    """Write only the paths of pictures that have an answer; with `unknown`, of all that could be read.

    One path a line; with `print0`, each is ended by a NUL.
    """
    end = "\0" if print0 else "\n"
    for rows in batches:
        answered = (row.path for row in rows if isinstance(row, Prediction) and (unknown or row.label is not None))
        out.writelines(_in_utf8(path) + end for path in answered)
        out.flush()


def write_table(batches: Iterable[Sequence[Row]], out: TextIO) -> None:
    """Write a table for people: path, score, bar, label; further candidates on lines of their own.

    As wide as $COLUMNS, the terminal, or 100 columns. The path column is fixed at the start, so that rows can stream.
    """
    from rich.cells import set_cell_size
    from rich.console import Console
    from rich.text import Text

    width = max(40, shutil.get_terminal_size((100, 24)).columns)
    path_width = max(12, min(60, width - 40))
    # Writes into memory only: at a closed pipe rich itself would raise SystemExit.
    console = Console(file=io.StringIO(), force_terminal=out.isatty() or None, width=width, highlight=False)
    for rows in batches:
        page = Text(end="")
        for row in rows:
            name = _shortened(escaped(decoded(row.path)), path_width)
            for answer in _answer_texts(row):
                for line in answer.wrap(console, width - path_width - 2):
                    page.append(set_cell_size(name, path_width) + "  ").append_text(line).append("\n")
                    name = ""
        with console.capture() as rendered:
            console.print(page, soft_wrap=True, end="")
        out.write(rendered.get())
        out.flush()


SINKS: dict[str, Callable[[Iterable[Sequence[Row]], TextIO], None]] = {
    "table": write_table,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "tsv": write_tsv,
    "paths": write_paths,
}


def _record(row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {"file_name": decoded(row.path)}
    if record["file_name"] != row.path and record["file_name"].encode() != os.fsencode(row.path):
        record["file_name_base64"] = b64encode(os.fsencode(row.path)).decode()
    if row.truth is not None:
        record["truth"] = without_surrogates(row.truth)
    if isinstance(row, Skipped):
        return record | {
            "label": None,
            "score": None,
            "cosine": None,
            "score_kind": None,
            "predictions": [],
            "beaten_by": None,
            "error": row.error,
            "message": without_surrogates(row.message),
        }
    best = _candidate(row.best)
    return record | {
        "label": None if row.label is None else without_surrogates(row.label),
        "score": best["score"],
        "cosine": best["cosine"],
        "score_kind": row.score_kind,
        "predictions": [best if each is row.best else _candidate(each) for each in row.candidates],
        "beaten_by": None if row.beaten_by is None else without_surrogates(row.beaten_by),
        "error": None,
        "message": None,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "label": without_surrogates(candidate.label),
        "score": six_digits(candidate.score),
        "cosine": six_digits(candidate.cosine),
    }


def _write_lines(
    batches: Iterable[Sequence[Row]],
    out: TextIO,
    separator: str,
    field: Callable[[object], str],
    header: bool,
    truth: bool,
) -> None:
    head = separator.join((*COLUMNS, "truth") if truth else COLUMNS) + "\n" if header else ""
    for rows in batches:
        out.write(head)  # with the first rows: a run that fails before them has written nothing
        head = ""
        out.writelines(
            separator.join(map(field, (*cells, without_surrogates(row.truth or "")) if truth else cells)) + "\n"
            for row in rows
            for cells in _cells(row)
        )
        out.flush()
    out.write(head)


def _cells(row: Row) -> Iterator[tuple[object, ...]]:
    if isinstance(row, Skipped):
        yield _in_utf8(row.path), "", "", "", "", "", "", row.error, without_surrogates(row.message)
        return
    name, label = _in_utf8(row.path), without_surrogates(row.label or "")
    for rank, each in enumerate(row.candidates or (row.best,), 1):
        score, cosine = six_digits(each.score), six_digits(each.cosine)
        yield name, rank, label, without_surrogates(each.label), score, cosine, row.score_kind, "", ""


def _csv_field(cell: object) -> str:
    # Python 3.11's csv module leaves a lone carriage return unquoted, and then cannot read it back.
    text = str(cell)
    return '"' + text.replace('"', '""') + '"' if re.search(r'[,"\r\n]', text) else text


def _tsv_field(cell: object) -> str:
    return str(cell).translate({ord("\\"): r"\\", ord("\t"): r"\t", ord("\n"): r"\n", ord("\r"): r"\r"})


def _answer_texts(row: Row) -> "Iterator[Text]":
    from rich.text import Text

    if isinstance(row, Skipped):
        yield Text.assemble((row.error, "red"), ": ", (escaped(without_surrogates(row.message)), "dim"))
        return
    is_known = row.label is not None
    for rank, answer in enumerate((row.candidates if is_known else ()) or (row.best,)):
        is_answer = rank == 0 and is_known
        label = escaped(without_surrogates(answer.label)) if is_known else "unknown"
        bar = (_bar(answer.score), "green" if is_answer else "dim")
        yield Text.assemble(f"{answer.score:.3f} ", bar, " ", (label, "bold" if is_answer else "dim"))


def _bar(score: float) -> str:
    full, eighths = divmod(round(score * BAR_WIDTH * 8), 8)
    return ("█" * full + " ▏▎▍▌▋▊▉"[eighths])[:BAR_WIDTH].ljust(BAR_WIDTH)


def _shortened(name: str, width: int) -> str:
    """The end of a name, after an ellipsis, where the whole is wider than `width` terminal cells."""
    from rich.cells import cell_len

    if cell_len(name) <= width:
        return name
    tail = name[1 - width :]
    while cell_len(tail) > width - 1:
        tail = tail[1:]
    return "…" + tail


def escaped(text: str) -> str:
    """Control characters, line breaks and changes of writing direction spelt out: a name must not move the cursor."""
    controls = r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
    return re.sub(controls, lambda found: found[0].encode("unicode_escape").decode(), text)


def _in_utf8(path: str) -> str:
    """The text that UTF-8 writes as the bytes of the path, whatever the locale they were read in."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "surrogateescape")


def _without_controls(line: str) -> str:
    """Escape the control characters that JSON leaves as they are, and some terminals obey."""
    if line.isprintable():
        return line
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", line)


def decoded(path: str) -> str:
    """The path for reading: U+FFFD for the bytes that are not UTF-8."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "replace")


def without_surrogates(text: str) -> str:
    """The text for reading: U+FFFD for what is no Unicode."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)


def six_digits(number: float) -> float:
    """Round to six significant digits."""
    return float(f"{number:.6g}")
