"""Answers -> a table of small pictures, as notebooks show it."""

from base64 import b64encode
from html import escape

import numpy as np

from zsclip.answers.answers import Answers, Row
from zsclip.out.text import decoded, escaped, unknown_of, without_surrogates
from zsclip.out.thumbnails import thumbnails
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.processors import available_cpus
from zsclip.pixels.skipped import Skipped

SHOWN = 50  # pictures; of more the table would be slow to look at and large in the saved notebook


def html_table(answers: Answers, pictures: Pictures) -> str:
    """Write a table of the first SHOWN pictures with their labels and scores, and how many more there are.

    Args:
        pictures: those that the answers are about, place by place.
    """
    shown = answers[:SHOWN]
    places = np.flatnonzero(shown.was_read()).tolist()
    small = dict(zip(places, thumbnails(pictures, places, threads=available_cpus()), strict=True))
    lines = [_line(row, small.get(place)) for place, row in enumerate(shown.rows())]
    more = len(answers) - len(shown)
    rest = f"<p>and {more:,} more</p>" if more else ""
    head = "<tr><th></th><th>image</th><th>label</th><th>score</th></tr>"
    return f"<table>{head}{''.join(lines)}</table>{rest}"


def _line(row: Row, picture: bytes | None) -> str:
    name = _text(decoded(row.file_name))
    image = "" if picture is None else f'<img src="data:image/webp;base64,{b64encode(picture).decode()}">'
    if isinstance(row, Skipped):
        cells = [image, name, f"<em>{row.error}: {_text(row.message)}</em>", ""]
    else:
        label = f"<em>{_text(unknown_of(row))}</em>" if row.label is None else _text(", ".join(row.labels))
        cells = [image, name, label, f"{row.score:.3f}"]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _text(text: str) -> str:
    return escape(escaped(without_surrogates(text)))
