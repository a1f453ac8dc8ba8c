"""Where the rows go: standard output, or a file that appears only when it is complete."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from zsclip.errors import InputError, OutputError

FORMAT_OF_ENDING = {".csv": "csv", ".jsonl": "jsonl", ".tsv": "tsv"}


def format_of(target: str | None, is_terminal: bool) -> str:
    """Choose the format that was not asked for: by the ending of the target, or by who reads standard output.

    Args:
        target: the file of `-o`; None is standard output. What is not a file (a pipe, a device) gets JSONL.
        is_terminal: whether standard output is a terminal.

    Raises:
        InputError: the ending says nothing.
    """
    if target is None:
        return "table" if is_terminal else "jsonl"
    ending = os.path.splitext(target)[1].lower()
    if ending in FORMAT_OF_ENDING:
        return FORMAT_OF_ENDING[ending]
    if not _is_replaceable(target):
        return "jsonl"
    raise InputError(f"{target}: the ending names no format; use one of {', '.join(FORMAT_OF_ENDING)}, or --format")


@contextmanager
def open_output(target: str | None, *, overwrite: bool = False) -> Iterator[TextIO]:
    """Open the stream for the rows: standard output, or a file that appears only when it is complete.

    Rows for a file go to `FILE.part`, renamed over FILE when the block ends. If the block fails, the rows so far stay
    in `FILE.part`; it is removed only if there were none. A pipe or a device is written directly.
    Enter it before anything slow, so that a target that cannot be written is known at once.

    Raises:
        InputError: an earlier run left a `FILE.part`, and `overwrite` is not set.
        OutputError: the target cannot be opened or written. A closed pipe stays a BrokenPipeError.
    """
    part = None
    if target is None:
        descriptor = _stdout_descriptor()
        if descriptor is None:
            yield sys.stdout
            return
        out = _open_stream(descriptor, "w", "standard output")
    elif _is_replaceable(target):
        target = os.path.realpath(target) if os.path.islink(target) else target  # a link stays a link
        part = target + ".part"
        try:
            out = _open_stream(part, "w" if overwrite else "x", target)
        except FileExistsError as e:
            raise InputError(f"{part}: left by an earlier run; add --overwrite to start again") from e
    else:
        out = _open_stream(target, "w", target)

    try:
        yield out
        out.flush()
        if part and target:
            with _told_as_output_error(target):
                os.fsync(out.fileno())
                out.close()
                os.replace(part, target)
        out.close()
    except BaseException:
        # What is still in the buffer goes out if it can. If it cannot, the first failure is the one to tell, and a
        # stream left open would complain once more when the interpreter ends.
        with suppress(OSError, OutputError):
            out.close()
        with suppress(OSError):
            if part and os.path.getsize(part) == 0:
                os.unlink(part)
        raise


class _RowsFile(io.FileIO):
    """A file that tells a failed write as an OutputError: only here is an OSError known to be the output's."""

    def __init__(self, file: str | int, mode: str, name_for_user: str) -> None:
        super().__init__(file, mode, closefd=isinstance(file, str))
        self.name_for_user = name_for_user

    def write(self, data: Any, /) -> int:
        with _told_as_output_error(self.name_for_user):
            return super().write(data)


def _open_stream(file: str | int, mode: str, name_for_user: str) -> TextIO:
    with _told_as_output_error(name_for_user):
        raw = _RowsFile(file, mode, name_for_user)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="surrogateescape", newline="\n")


@contextmanager
def _told_as_output_error(name_for_user: str) -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, FileExistsError):
        raise
    except OSError as e:
        cure = {
            errno.ENOSPC: "free some and run again",
            errno.EDQUOT: "free some and run again",
            errno.ENOENT: "make its folder first",
        }.get(e.errno or 0, "choose a place that can be written")
        raise OutputError(f"{name_for_user}: {(e.strerror or str(e)).lower()}; {cure}") from e


def _is_replaceable(target: str) -> bool:
    """Whether the target is or will be a regular file; /dev/stdout may lead to one, but is not ours to rename over."""
    if target.startswith(("/dev/std", "/dev/fd/", "/proc/")):
        return False
    return os.path.isfile(target) or not os.path.exists(target)


def _stdout_descriptor() -> int | None:
    """The descriptor of standard output; None if a test or a notebook has put a stream without one in its place."""
    if sys.stdout is None:
        raise OutputError("standard output: it is closed; open it or add -o FILE")
    try:
        return sys.stdout.fileno()
    except io.UnsupportedOperation:
        return None
