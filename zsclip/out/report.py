"""Rows -> one self-contained HTML page: thumbnails by label, to search, sort, filter and correct."""

import hashlib
import json
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import numpy as np

from zsclip.answers.answers import Answers, Candidate, Row
from zsclip.out.text import decoded, six_digits, without_surrogates
from zsclip.out.thumbnails import thumbnails
from zsclip.pictures.pictures import Member, Pictures, pictures_named
from zsclip.pictures.urls import is_remote, protocol_of
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS
from zsclip.pixels.skipped import Skipped

_AT_ONCE = 32  # thumbnails; a batch of stored pictures has 1,024, and its rows would wait for all of them
CANDIDATES = 5  # on a card
MAX_PAGE_BYTES = 150_000_000  # later pictures get no thumbnail, so that a browser can still open the page
_PAGE = Path(__file__).parents[1] / "data" / "report"  # its parts
_STYLE, _SCRIPT = ("page.css",), ("grid.js", "corrections.js", "enlarged.js", "measures.js")
_ABOUT, _ROWS, _FACTS = "SETTINGS_OF_THE_RUN", "ROWS_OF_THE_REPORT", "FACTS_OF_THE_RUN"
_OF_URLS, _OF_FRAGMENTS = "/:?#[]@!$&'()*+,;=%~", "/=:,"  # characters that stay as they are


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
    before, after = page_around_rows(about)
    folder = os.path.abspath(folder)
    run = hashlib.sha256(_json([folder, {**about, "made": ""}]).encode("utf-8", "surrogatepass"))
    labels: dict[str, None] = {}
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
            name = part.names[place]
            is_file = source.read is None or (pictures is None and not isinstance(name, Member))
            out.write(separator + _line(row, _link_to(name, folder, is_file=is_file), picture))
            run.update(os.fsencode(name) + b"\0")
            separator = ",\n"
        labels |= dict.fromkeys(part.vocabulary)
        seen += len(part)
        out.flush()
        yield part
    out.write("\n]" + end_of_page(after, labels, id=run.hexdigest()[:32]))


def _parts(batches: Iterable[Answers]) -> Iterator[Answers]:
    for batch in batches:
        for start in range(0, len(batch), _AT_ONCE):
            yield batch.take(np.arange(start, min(start + _AT_ONCE, len(batch))))


def _line(row: Row, link: str | None, picture: bytes | None) -> str:
    """Format a row for the page, as JSON."""
    offered: Sequence[Candidate] = ()
    if not isinstance(row, Skipped):
        offered = row.predictions[:CANDIDATES] or (row.best,)
    return _json(
        row_of_page(
            decoded(row.file_name),
            link=link,
            labels=() if isinstance(row, Skipped) else row.labels,
            score=row.score,
            failure=(row.error, row.message) if isinstance(row, Skipped) else (None, None),
            truth=row.truth,
            thumbnail=picture,
            candidates=[(each.label, each.score) for each in offered],
            beaten_by=row.beaten_by,
        )
    )


def row_of_page(
    name: str,
    *,
    link: str | None,
    labels: Iterable[str],
    score: float | None,
    failure: tuple[str | None, str | None],
    truth: str | None,
    thumbnail: bytes | None,
    candidates: Iterable[tuple[str, float | None]],
    beaten_by: str | None,
) -> list[Any]:
    """Put what a page knows of a picture in the order in which its script expects it; None is what does not apply.

    Args:
        name: for display. failure: the kind of error, and the message.
    """
    return [
        name,
        link,
        [without_surrogates(label) for label in labels],
        _rounded(score),
        failure[0],
        _shown(failure[1]),
        _shown(truth),
        None if thumbnail is None else b64encode(thumbnail).decode(),
        [[without_surrogates(label), _rounded(each)] for label, each in candidates],
        _shown(beaten_by),
    ]


def page_around_rows(about: Mapping[str, str]) -> tuple[str, str]:
    """Give what stands on the page before its rows and after them; `end_of_page` completes the second part.

    Args:
        about: what the header says about the run: settings by their names.
    """
    page = _parts_of_page(("page.html",))
    page = page.replace("STYLE_OF_THE_PAGE", _parts_of_page(_STYLE)).replace(
        "SCRIPT_OF_THE_PAGE", _parts_of_page(_SCRIPT)
    )
    before, after = page.split(_ROWS)
    return before.replace(_ABOUT, _json({name: without_surrogates(text) for name, text in about.items()})), after


def _parts_of_page(names: Iterable[str]) -> str:
    return "\n".join((_PAGE / name).read_text(encoding="utf-8") for name in names)


def end_of_page(after: str, labels: Iterable[str], **facts: object) -> str:
    """Put into the end of the page what its script must know: the labels to choose from, and other facts."""
    return after.replace(_FACTS, _json({"labels": [without_surrogates(label) for label in labels], **facts}))


def _link_to(name: str, folder: str, *, is_file: bool) -> str | None:
    """Give the link to a picture: to its file, to its container, or its URL; None if it has none of these.

    Percent-decoding a link to a file gives the bytes of the name, relative to the folder.

    Args:
        is_file: whether the name is certainly that of a file, which may be gone.
    """
    if is_remote(name):
        return quote(name, safe=_OF_URLS) if protocol_of(name) in ("http", "https") else None
    path, member = name, ""
    if not is_file and not os.path.isfile(name):
        path, _, member = name.partition("#")
        if not member or not os.path.isfile(path):
            return None
    link = quote(os.path.relpath(os.fsencode(path), os.fsencode(folder)))
    return f"{link}#{quote(os.fsencode(member), safe=_OF_FRAGMENTS)}" if member else link


def _shown(text: str | None) -> str | None:
    return None if text is None else without_surrogates(text)


def _rounded(score: float | None) -> float | None:
    return None if score is None else six_digits(score)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")  # only this can end a script element
