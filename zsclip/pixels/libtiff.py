"""What libtiff reports of damaged pictures: it makes up their pixels and goes on, and Pillow does not report it."""

import ctypes
import functools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

from PIL import Image, TiffImagePlugin, _imaging

Functions = tuple[int | None, int | None, int | None]  # C functions: on errors, on warnings, on each file opened

_Report = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)  # the reporter, a format, a va_list
_Opened = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_LONGEST = 200  # bytes of a message
# Warnings of lines and blocks that are made up. Others are of strips that end late, or without their end marker.
LACKING = re.compile("Premature EO|Line length mismatch|premature end of data segment")


# The compressions whose damage only warnings report: faxes and JPEG.
_WARNS_ONLY = (2, 3, 4, 6, 7, 32771)
_COMPRESSION = 259  # the tag
_STUCK_SECONDS = 60.0  # after which a thread that others wait for is taken to hang


class _Phases:
    """Keeps apart the opening of files, which turns warnings off, and decoding that depends on them.

    Pillow turns warnings off for the whole process as it opens a file, and `_opened` turns them on again. Any number
    of threads may open files at a time, and any number may decode; only not both.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._opening = self._decoding = 0

    def begin(self) -> bool:
        """Wait until a file may be opened; False if a thread hangs that had to end first."""
        with self._changed:
            while self._decoding:
                if not self._changed.wait(_STUCK_SECONDS):
                    return False
            self._opening += 1
            return True

    def opened(self, *, needs_warnings: bool) -> None:
        """Say that a file is open; wait until all others are open, too, if decoding it depends on warnings."""
        with self._changed:
            self._opening -= 1
            self._decoding += needs_warnings
            self._changed.notify_all()
            while needs_warnings and self._opening and self._changed.wait(_STUCK_SECONDS):
                pass

    def end(self) -> None:
        """Say that a file is decoded that depended on warnings."""
        with self._changed:
            self._decoding -= 1
            self._changed.notify_all()


class _Heard(threading.local):
    """The first damage of the picture that a thread decodes, and what is left to say once it is open.

    warnings: those that are damage.
    """

    damage: str | None = None
    warnings: re.Pattern[str] = LACKING
    on_opened: Callable[[], None] | None = None


_phases = _Phases()
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
def whole_pixels(image: Image.Image, warnings: re.Pattern[str] = LACKING) -> Iterator[None]:
    """Raise an OSError if libtiff reports that pixels are missing or made up, while the block loads a picture.

    Args:
        warnings: those that count as such a report.
    """
    _heard.damage, _heard.warnings = None, warnings
    with _in_phase(image) if _is_for_libtiff(image) else nullcontext():
        yield
    if _heard.damage is not None:
        raise OSError(f"its data are damaged: {_heard.damage}")


def _is_for_libtiff(image: Image.Image) -> bool:
    return isinstance(image, TiffImagePlugin.TiffImageFile) and any(tile[0] == "libtiff" for tile in image.tile)


@contextmanager
def _in_phase(image: Image.Image) -> Iterator[None]:
    """Keep what the block does with libtiff apart from what other threads do with it."""
    global _phases
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    needs_warnings = image.tag_v2.get(_COMPRESSION) in _WARNS_ONLY
    while not (phases := _phases).begin():
        if phases is _phases:
            _phases = _Phases()  # the thread that hangs keeps the old ones
    _heard.on_opened = functools.partial(phases.opened, needs_warnings=needs_warnings)
    try:
        yield
    finally:
        was_opened, _heard.on_opened = _heard.on_opened is None, None
        if not was_opened:
            phases.opened(needs_warnings=False)
        elif needs_warnings:
            phases.end()


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
        _note(form, values, _heard.warnings)


@_Opened
def _opened(tiff: int) -> None:
    """Hear warnings, too: Pillow turns them off just before it opens a file."""
    if _others[2] is not None:
        _Opened(_others[2])(tiff)
    _setter("TIFFSetWarningHandler")(_warning)
    if (say := _heard.on_opened) is not None:
        _heard.on_opened = None
        say()


def _note(form: bytes | None, values: int, only: re.Pattern[str] | None = None) -> None:
    if _heard.damage is None:
        message = ctypes.create_string_buffer(_LONGEST)
        write = ctypes.pythonapi.PyOS_vsnprintf
        write(message, ctypes.c_size_t(_LONGEST), ctypes.c_char_p(form), ctypes.c_void_p(values))
        text = message.value.decode(errors="replace")
        _heard.damage = text if only is None or only.search(text) else None
