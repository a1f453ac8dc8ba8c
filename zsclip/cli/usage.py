"""Typer's usage errors, in one line that a person would write."""

import re
from collections.abc import Collection, Sequence

# What Typer and pydantic say, and what we say. Anything else is passed on as it is.
_WORDS = (
    (r"Value error, ", ""),
    (r"Got unexpected extra argument\(s\) \((.*)\)", r"Unexpected argument: \1"),
    (r"\. Did you mean (.*)\?$", r"; did you mean \1?"),
    (r" \(Possible options: (.*)\)$", r"; did you mean \1?"),
    (r", (--[\w-]+)\?$", r" or \1?"),
    (r"Input should be a valid integer.*", "it must be a whole number"),
    (r"Input should be a valid number.*", "it must be a number"),
    (r"Input should be greater than or equal to (.*)", r"it must be at least \1"),
    (r"Input should be less than or equal to (.*)", r"it must be at most \1"),
)


def usage_line(message: str, command: str) -> str:
    """Give the line for a usage error, with the command whose `--help` explains it."""
    line = " ".join(message.split()).rstrip(".")
    for theirs, ours in _WORDS:
        line = re.sub(theirs, ours, line)
    # A question already ends the sentence.
    return f"{line} '{command} --help' shows all" if line.endswith("?") else f"{line}; try '{command} --help'"


def command_in(arguments: Sequence[str], groups: Collection[str], commands: Collection[str]) -> str:
    """Give the command that arguments begin with, for an error that does not name it."""
    words = ["zsclip", *arguments[:1]] if arguments[:1] and arguments[0] in {*groups, *commands} else ["zsclip"]
    if len(words) > 1 and words[1] in groups and len(arguments) > 1 and not arguments[1].startswith("-"):
        words.append(arguments[1])
    return " ".join(words)
