"""How cli/ writes to people: lines on stderr, and numbers and names in words. Results never pass here."""

import re
import sys
from collections.abc import Sequence
from typing import TextIO


def say(message: str) -> None:
    """Write one line to stderr, whatever the message holds; a stderr that is gone is no reason to stop."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: found[0].encode("unicode_escape").decode(), message)
    try:
        sys.stderr.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person looks at a stream; a closed one is None."""
    return stream is not None and stream.isatty()


def listed(names: Sequence[str], most: int = 3) -> str:
    """Quote a few names and count the rest."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def counted(number: int, noun: str) -> str:
    """Give a number of things, in the singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sized(size: int) -> str:
    """Give a size in bytes as people read it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return counted(size, "byte")


def lasting(seconds: float) -> str:
    """Give a time to wait as people read it."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
