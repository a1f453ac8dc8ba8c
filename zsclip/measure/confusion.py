"""A confusion matrix -> a table, or a picture of it."""

import csv
from collections.abc import Sequence
from typing import BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from zsclip.out.text import UNKNOWN

_WIDEST = 3000  # the widest matrix in pixels, if its cells can be that small
_LARGEST, _SMALLEST = 30, 1  # pixels of a cell
_LEGIBLE = 9  # pixels of a font
_DARK = (8, 48, 107)


def write_csv(confusion: NDArray[np.int64], labels: Sequence[str], out: TextIO) -> None:
    """Write a table: a row for each true label, a column for each answer, with a header.

    Args:
        confusion: (C, C) counts, or (C, C + 1) with a last column for pictures without an answer.
    """
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["truth", *_answers(confusion, labels)])
    rows.writerows([label, *row] for label, row in zip(labels, confusion.tolist(), strict=True))


def write_png(confusion: NDArray[np.int64], labels: Sequence[str], out: BinaryIO) -> None:
    """Draw the table: a row for each true label, as dark as the share of its pictures that got the column's answer.

    Counts are written where they fit; with more than about 330 labels, no names fit either.
    """
    from PIL import Image, ImageDraw

    from zsclip.out.fonts import Font

    cell = max(_SMALLEST, min(_LARGEST, _WIDEST // len(labels)))
    font = Font(min(14, max(_LEGIBLE, cell * 0.6)))
    small = Font(_LEGIBLE)
    columns = _answers(confusion, labels)
    names = [_shortened(label) for label in columns] if cell >= _LEGIBLE else ["" for _ in columns]
    margin = 12 + max(18, *(int(font.length(name)) + 10 for name in names))
    side = margin + cell * len(labels) + 12
    image = Image.new("RGB", (margin + cell * len(columns) + 12, side + 16), "white")
    draw = ImageDraw.Draw(image)
    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(1)  # (C, C)
    for place, name in enumerate(names):
        middle = margin + cell * place + cell // 2
        if place < len(labels):
            font.draw(draw, (margin - 6, middle), name, "black", "rm")
        upright = Image.new("L", (max(1, int(font.length(name)) + 4), cell))
        font.draw(ImageDraw.Draw(upright), (2, cell // 2), name, 255, "lm")
        turned = upright.transpose(Image.Transpose.ROTATE_90)
        image.paste("black", (middle - cell // 2, margin - 6 - turned.height), turned)
    for row, column in zip(*confusion.nonzero(), strict=True):
        share, count = shares[row, column], str(confusion[row, column])
        left, top = margin + cell * int(column), margin + cell * int(row)
        shade = tuple(round(255 - (255 - dark) * share**0.7) for dark in _DARK)
        draw.rectangle((left, top, left + cell - 1, top + cell - 1), shade)
        if small.length(count) < cell - 2 and cell >= _LEGIBLE + 4:
            ink = "white" if share > 0.4 else "black"
            small.draw(draw, (left + cell // 2, top + cell // 2), count, ink, "mm")
    right, bottom = margin + cell * len(columns), margin + cell * len(labels)
    draw.rectangle((margin - 1, margin - 1, right, bottom), outline=(120, 120, 120))
    small.draw(draw, (6, side), "rows: the truth; columns: the answers", "black")
    image.save(out, "PNG")


def _answers(confusion: NDArray[np.int64], labels: Sequence[str]) -> list[str]:
    """Name the columns; where pictures may have no answer, there is one more than there are labels."""
    return [*labels, *[UNKNOWN] * (confusion.shape[1] - len(labels))]


def _shortened(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "\N{HORIZONTAL ELLIPSIS}"
