"""Typer's usage errors, in one line that a person would write."""

import re
from collections.abc import Callable, Collection, Sequence

# What Typer and pydantic say, and what we say. Anything else is passed on as it is.
_WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^No such option: (\S+) \(Possible options: (.*)\)$", lambda found: _no_such_option(found[1], found[2])),
    (r"Value error, ", ""),
    (r"Got unexpected extra argument\(s\) \((.*)\)", r"unexpected argument: \1"),
    (r"\. Did you mean (.*)\?$", r"; did you mean \1?"),
    (r" \(Possible options: (.*)\)$", r"; did you mean \1?"),
    (r", (--[\w-]+)\?$", r" or \1?"),
    (r"Input should be a valid integer.*", "it must be a whole number"),
    (r"Input should be a valid number.*", "it must be a number"),
    (r"Input should be greater than or equal to (.*)", r"it must be at least \1"),
    (r"Input should be less than or equal to 1(\.0)?$", "it must be between 0 and 1, such as 0.95"),
    (r"Input should be less than or equal to (.*)", r"it must be at most \1"),
    (r"^[A-Z](?=[a-z])", lambda first: first[0].lower()),
)


def usage_line(message: str, command: str) -> str:
    """Give the line for a usage error, with the command whose `--help` explains it."""
    line = " ".join(message.split()).rstrip(".")
    for theirs, ours in _WORDS:
        line = re.sub(theirs, ours, line)
    if not line.endswith("?"):
        return f"{line}; try '{command} --help'"
    return f"{line} '{command} --help' shows all {'commands' if line.startswith('no such command') else 'options'}"


def _no_such_option(given: str, similar: str) -> str:
    """Suggest the options that begin with what was given; the merely similar ones only if none does."""
    options = similar.split(", ")
    longer = [option for option in options if option.startswith(given)]
    return f"No such option: {given} (Possible options: {', '.join(longer or options)})"


def command_in(arguments: Sequence[str], groups: Collection[str], commands: Collection[str]) -> str:
    """Give the command that arguments begin with, for an error that does not name it."""
    words = ["zsclip", *arguments[:1]] if arguments[:1] and arguments[0] in {*groups, *commands} else ["zsclip"]
    if len(words) > 1 and words[1] in groups and len(arguments) > 1 and not arguments[1].startswith("-"):
        words.append(arguments[1])
    return " ".join(words)
