"""What libtiff reports of damaged pictures: it makes up their pixels and goes on, and Pillow does not report it."""

import ctypes
import functools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from PIL import _imaging

Functions = tuple[int | None, int | None, int | None]  # C functions: on errors, on warnings, on each file opened

_Report = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)  # the reporter, a format, a va_list
_Opened = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_LONGEST = 200  # bytes of a message
# Warnings of lines and blocks that are made up. Others are of strips that end late, or without their end marker.
_LACKING = re.compile("Premature EO|Line length mismatch|premature end of data segment")


class _Heard(threading.local):
    """The first damage of the picture that a thread decodes."""

    damage: str | None = None


_heard = _Heard()
_others: Functions = (None, None, None)


def listen() -> None:
    """Let libtiff report to this module, not to stderr. Where Pillow hides its libtiff, nothing changes."""
    global _others
    _others = _set(_error, _warning, _opened)


def stop_listening() -> None:
    """Let libtiff report as it did before."""
    _set(*_others)


@contextmanager
def whole_pixels() -> Iterator[None]:
    """Raise an OSError if libtiff reports that pixels are missing or made up, on this thread while the block runs."""
    _heard.damage = None
    yield
    if _heard.damage is not None:
        raise OSError(f"its data are damaged: {_heard.damage}")


@functools.cache
def _setter(name: str) -> Callable[[object], int | None]:
    change = getattr(ctypes.CDLL(_imaging.__file__), name, None)
    if change is None:
        return lambda function: None
    change.argtypes, change.restype = [ctypes.c_void_p], ctypes.c_void_p
    return cast(Callable[[object], int | None], change)


def _set(error: object, warning: object, opened: object) -> Functions:
    return (
        _setter("TIFFSetErrorHandler")(error),
        _setter("TIFFSetWarningHandler")(warning),
        _setter("TIFFSetTagExtender")(opened),
    )


@_Report
def _error(reporter: bytes | None, form: bytes | None, values: int) -> None:
    if b"Decode" in (reporter or b""):  # others read tags, which pixels may not depend on
        _note(form, values)


@_Report
def _warning(reporter: bytes | None, form: bytes | None, values: int) -> None:
    if (reporter or b"").startswith(b"Fax") or reporter == b"JPEGLib":
        _note(form, values, _LACKING)


@_Opened
def _opened(tiff: int) -> None:
    """Hear warnings, too: Pillow turns them off just before it opens a file."""
    if _others[2] is not None:
        _Opened(_others[2])(tiff)
    _setter("TIFFSetWarningHandler")(_warning)


def _note(form: bytes | None, values: int, only: re.Pattern[str] | None = None) -> None:
    if _heard.damage is None:
        message = ctypes.create_string_buffer(_LONGEST)
        write = ctypes.pythonapi.PyOS_vsnprintf
        write(message, ctypes.c_size_t(_LONGEST), ctypes.c_char_p(form), ctypes.c_void_p(values))
        text = message.value.decode(errors="replace")
        _heard.damage = text if only is None or only.search(text) else None
