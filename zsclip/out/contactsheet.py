"""Rows -> one picture of many small ones, each with its label and score."""

import io
import math
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw

from zsclip.answers.answers import Answers, Row
from zsclip.out.fonts import Font
from zsclip.out.text import unknown_of
from zsclip.out.thumbnails import HEIGHT, WIDTH, thumbnails
from zsclip.pictures.pictures import pictures_named
from zsclip.pixels.skipped import Skipped

MAX_PICTURES = 400  # the rest of a run is left out
_GAP, _LINE = 8, 16  # pixels


def with_contact_sheet(
    batches: Iterable[Answers],
    out: BinaryIO,
    *,
    threads: int,
    max_pixels: int,
) -> Iterator[Answers]:
    """Pass batches on, and draw the first MAX_PICTURES pictures of the run, in order, as a PNG when it has ended."""
    shown: list[tuple[Row, bytes | None]] = []
    for batch in batches:
        some = batch.take(np.arange(min(MAX_PICTURES - len(shown), len(batch))))
        answered = np.flatnonzero(some.was_read()).tolist()
        small = thumbnails(pictures_named(some.names), answered, threads=threads, max_pixels=max_pixels)
        pictures = dict(zip(answered, small, strict=True))
        shown += [(row, pictures.get(place)) for place, row in enumerate(some.rows())]
        yield batch
    _sheet(shown).save(out, "PNG")


def _sheet(shown: list[tuple[Row, bytes | None]]) -> Image.Image:
    """Draw the sheet, with enough columns to be about as wide as a screen."""
    height, width = HEIGHT + 2 * _LINE + _GAP, WIDTH + _GAP
    columns = max(1, min(len(shown), round(math.sqrt(len(shown) * 1.6 * height / width))))
    rows = max(1, math.ceil(len(shown) / columns))
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), Font(12)
    for place, (row, small) in enumerate(shown):
        left, top = _GAP + place % columns * width, _GAP + place // columns * height
        draw.rectangle((left, top, left + WIDTH - 1, top + HEIGHT - 1), (238, 238, 238))
        if small is not None:
            with Image.open(io.BytesIO(small)) as picture:
                sheet.paste(picture, (left + (WIDTH - picture.width) // 2, top + (HEIGHT - picture.height) // 2))
        for number, (text, ink) in enumerate(_lines(row)):
            font.draw(draw, (left, top + HEIGHT + 1 + number * _LINE), font.cut_to(WIDTH, text), ink)
    return sheet


def _lines(row: Row) -> list[tuple[str, str]]:
    name = row.file_name.rpartition("/")[2].encode("utf-8", "replace").decode()
    if isinstance(row, Skipped):
        return [(row.error, "firebrick"), (name, "dimgray")]
    label = unknown_of(row) if row.label is None else ", ".join(row.labels)
    return [(f"{row.best.score:.2f} {label}", "black" if row.label is not None else "dimgray"), (name, "dimgray")]
