"""Messages for people: lines on stderr, and numbers and names in words. Results never go through here."""

import re
import sys
from typing import TextIO


def say(message: str) -> None:
    """Write one line to stderr, whatever characters the message has; ignore a closed stderr."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: found[0].encode("unicode_escape").decode(), message)
    try:
        sys.stderr.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal; a closed stream is None."""
    return stream is not None and stream.isatty()


def counted(number: int, noun: str) -> str:
    """Give a number with its noun, in the singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sized(size: int) -> str:
    """Format a size in bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return counted(size, "byte")


def rated(number: float) -> str:
    """Format a number of things a second for people."""
    return f"{number:{',.0f' if number >= 1 else '.1g'}}"


def duration(seconds: float) -> str:
    """Format a waiting time for people."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
