"""Where labels are seen -> rows: one for each picture and label, as JSON lines or as a table."""

import json
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.where import Where
from zsclip.out.jsonl import json_line, json_text
from zsclip.out.text import decoded, escaped, in_utf8, six_digits, without_surrogates
from zsclip.pixels.skipped import Skipped

KEYS = (
    "file_name", "label", "score", "cosine", "score_kind", "grid", "grid_kind", "crop", "box", "overlay", "error",
    "message",
)  # fmt: skip


def write_json_rows(found: Where | Skipped, overlay: str | None, out: TextIO, *, with_boxes: bool) -> None:
    """Write one JSON object for each label, with the same keys in each; one alone for a picture that failed.

    Args:
        overlay: the file that shows the picture with its labels.
    """
    if isinstance(found, Skipped):
        row = dict.fromkeys(KEYS, "null") | {
            "file_name": json_text(in_utf8(found.file_name)),
            "error": json_text(found.error),
            "message": json_text(without_surrogates(found.message)),
        }
        out.write(json_line(row))
    else:
        same = {
            "file_name": json_text(in_utf8(found.file_name)),
            "score_kind": json_text(found.score_kind),
            "grid_kind": json_text("parts" if found.is_exact else "cosines"),
            "crop": json.dumps(found.area.crop),
            "overlay": "null" if overlay is None else json_text(in_utf8(overlay)),
        }
        for place, label in enumerate(found.labels):
            row = dict.fromkeys(KEYS, "null") | same
            row["label"] = json_text(without_surrogates(label))
            row["score"] = json.dumps(six_digits(found.scores[place]))
            row["cosine"] = json.dumps(six_digits(found.cosines[place]))
            row["grid"] = json.dumps([[six_digits(value) for value in line] for line in found.grids[place].tolist()])
            row["box"] = json.dumps(found.boxes[place] if with_boxes else None)
            out.write(json_line(row))
    out.flush()


def write_table_rows(found: Where | Skipped, overlay: str | None, out: TextIO, *, with_boxes: bool) -> None:
    """Write for each label a line with its score, and the grid below, in hundredths."""
    name = escaped(decoded(found.file_name))
    if isinstance(found, Skipped):
        out.write(f"{name}  {found.error}: {escaped(without_surrogates(found.message))}\n")
    else:
        for place, label in enumerate(found.labels):
            box = f"  box {found.boxes[place]}" if with_boxes and found.boxes[place] is not None else ""
            out.write(f"{name}  {found.scores[place]:.3f} {escaped(without_surrogates(label))}{box}\n")
            out.writelines(_table_lines(found.grids[place]))
    out.flush()


def _table_lines(grid: NDArray[np.float32]) -> list[str]:
    return ["  " + "".join(f"{100 * value:5.0f}" for value in line) + "\n" for line in grid.tolist()]
