"""Every error we raise on purpose, and its exit code.

* ZsclipError     1  the base class; catch this to catch them all
  * InputError    2  labels, templates, paths or options that the caller can fix
  * ModelError    3  weights that cannot be found, loaded or run on this device
  * OutputError   4  results that cannot be written: disk full, no permission

A broken image is not an error: it becomes a Skipped and the run goes on.
A broken cache entry is not an error: it is rebuilt.

The message of each is one line, `where: what; what to do`, without the leading `zsclip:`.
"""

from collections.abc import Sequence


class ZsclipError(Exception):
    """The base class of all errors raised on purpose."""

    exit_code = 1


class InputError(ZsclipError):
    """Labels, templates, paths or options that the caller can fix."""

    exit_code = 2


class ModelError(ZsclipError):
    """Weights that cannot be found, loaded or run on this device."""

    exit_code = 3


class OutputError(ZsclipError):
    """Results that cannot be written."""

    exit_code = 4


def either(words: Sequence[str]) -> str:
    """List words to choose from: `a, b or c`."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def first_line(e: BaseException) -> str:
    """Give the first line of what an exception says, or its type if it says nothing."""
    lines = str(e).strip().splitlines()
    return lines[0][:200] if lines else type(e).__name__
