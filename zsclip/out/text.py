"""How names, labels and numbers are spelt in rows, tables and pages."""

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsclip.answers.answers import Prediction

UNKNOWN = "unknown"  # what --only, tables and pages call a picture without an answer


def escaped(text: str) -> str:
    """Spell out control characters, line breaks and changes of writing direction: a name must not move the cursor."""
    controls = r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
    return re.sub(controls, lambda found: found[0].encode("unicode_escape").decode(), text)


def in_utf8(path: str) -> str:
    """Give the text that UTF-8 encodes to the bytes of the path, whatever the locale."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "surrogateescape")


def from_utf8(name: str) -> str:
    """Give the path whose bytes are those of the text in UTF-8, whatever the locale; undoes `in_utf8`."""
    return name if name.isascii() else os.fsdecode(name.encode("utf-8", "surrogateescape"))


def decoded(path: str) -> str:
    """Give the path for display, with U+FFFD for bytes that are not UTF-8."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "replace")


def without_surrogates(text: str) -> str:
    """Give the text for display, with U+FFFD for what is not Unicode."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)


def unknown_of(row: "Prediction") -> str:
    """Say that a picture has no answer, and which word was better than every label, or which label came nearest."""
    return f"{UNKNOWN} ({f'{row.best.label}?' if row.beaten_by is None else f'{row.beaten_by} won'})"


def six_digits(number: float) -> float:
    """Round to six significant digits."""
    return float(f"{number:.6g}")
