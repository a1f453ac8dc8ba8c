"""How names, labels and numbers are spelt in rows, tables and pages."""

import os
import re


def escaped(text: str) -> str:
    """Control characters, line breaks and changes of writing direction spelt out: a name must not move the cursor."""
    controls = r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
    return re.sub(controls, lambda found: found[0].encode("unicode_escape").decode(), text)


def in_utf8(path: str) -> str:
    """The text that UTF-8 writes as the bytes of the path, whatever the locale they were read in."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "surrogateescape")


def decoded(path: str) -> str:
    """The path for reading: U+FFFD for the bytes that are not UTF-8."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "replace")


def without_surrogates(text: str) -> str:
    """The text for reading: U+FFFD for what is no Unicode."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)


def six_digits(number: float) -> float:
    """Round to six significant digits."""
    return float(f"{number:.6g}")
