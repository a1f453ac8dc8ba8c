"""Rows -> one self-contained HTML page: thumbnails by label, to search, sort and filter."""

import json
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import numpy as np

from zsclip.answers.answers import Answers, Row
from zsclip.out.text import decoded, six_digits, without_surrogates
from zsclip.out.thumbnails import thumbnails
from zsclip.pictures.pictures import Pictures, pictures_named
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS
from zsclip.pixels.skipped import Skipped

_AT_ONCE = 32  # thumbnails; a batch of stored pictures has 1,024, and its rows would wait for all of them
_CANDIDATES = 5  # on a card
MAX_PAGE_BYTES = 150_000_000  # later pictures get no thumbnail, so that a browser can still open the page
_PAGE = Path(__file__).parents[1] / "data" / "report.html"
_ABOUT, _ROWS = "SETTINGS_OF_THE_RUN", "ROWS_OF_THE_REPORT"


def with_report(
    batches: Iterable[Answers],
    out: TextIO,
    folder: str,
    *,
    about: Mapping[str, str],
    threads: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    pictures: Pictures | None = None,
) -> Iterator[Answers]:
    """Pass batches on, and write the page as they come.

    Args:
        out: where the page goes. folder: the folder of the page; links to the pictures are relative to it.
        about: what the header says about the run: settings by their names.
        pictures: all pictures of the run, in order; None if the names of the answers tell where they are.
    """
    before, after = _PAGE.read_text(encoding="utf-8").split(_ROWS)
    before = before.replace(_ABOUT, _json({name: without_surrogates(text) for name, text in about.items()}))
    folder = os.path.abspath(folder)
    out.write(before + "[")
    separator, written, seen = "\n", 0, 0
    for part in _parts(batches):
        source, first = (pictures_named(part.names), 0) if pictures is None else (pictures, seen)
        answered = np.flatnonzero(part.was_read()) if written < MAX_PAGE_BYTES else np.arange(0)
        small = thumbnails(source, (first + answered).tolist(), threads=threads, max_pixels=max_pixels)
        shown = dict(zip(answered.tolist(), small, strict=True))
        for place, row in enumerate(part.rows()):
            picture = shown.get(place)
            written += len(picture or b"") * 4 // 3  # in base64
            out.write(separator + _line(row, folder, picture, source.read is None))
            separator = ",\n"
        seen += len(part)
        out.flush()
        yield part
    out.write("\n]" + after)


def _parts(batches: Iterable[Answers]) -> Iterator[Answers]:
    for batch in batches:
        for start in range(0, len(batch), _AT_ONCE):
            yield batch.take(np.arange(start, min(start + _AT_ONCE, len(batch))))


def _line(row: Row, folder: str, picture: bytes | None, has_file: bool) -> str:
    """Format a row for the page.

    Returns:
        JSON: name, link, labels, score, error, message, truth, thumbnail, candidates with their scores, and the
        distractor that won. What does not apply is null.
    """
    path = os.fsencode(row.file_name)
    link = quote(os.path.relpath(path, os.fsencode(folder))) if has_file else None
    if isinstance(row, Skipped):
        about: list[Any] = [[], None, row.error, without_surrogates(row.message)]
        candidates, beaten_by = [], None
    else:
        about = [[without_surrogates(label) for label in row.labels], six_digits(row.best.score), None, None]
        offered = row.predictions[:_CANDIDATES] or (row.best,)
        candidates = [[without_surrogates(each.label), six_digits(each.score)] for each in offered]
        beaten_by = None if row.beaten_by is None else without_surrogates(row.beaten_by)
    truth = None if row.truth is None else without_surrogates(row.truth)
    thumbnail = None if picture is None else b64encode(picture).decode()
    return _json([decoded(row.file_name), link, *about, truth, thumbnail, candidates, beaten_by])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")  # only this can end a script element
