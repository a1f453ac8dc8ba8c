"""Why a picture has no pixels, in words."""

import errno
import os
import re
import stat
from importlib.util import find_spec

from zsclip.pictures.decoding_thread import WALL_SECONDS, is_waiting
from zsclip.pictures.endings import ARCHIVES, LISTS, RAW_ENDINGS
from zsclip.pictures.refused import ErrorKind, Refused
from zsclip.pictures.sampling import VIDEO_ENDINGS
from zsclip.pictures.stdin import PICTURE_OF_THE_WEB
from zsclip.pictures.urls import is_url, name_in
from zsclip.pixels.kinds import DRAWING, RAW, VIDEO
from zsclip.pixels.limits import DEFAULT_DECODING, Decoding
from zsclip.pixels.skipped import Skipped

DRAWING_ENDINGS = frozenset({".ai", ".eps", ".pdf", ".ps", ".svg", ".svgz"})
START_BYTES = 16  # that tell a picture of the web
CONTAINER = "an archive or a list; name it on the command line to read the images in it"
REFUSED_ENDINGS: dict[frozenset[str], tuple[ErrorKind, str]] = {
    RAW_ENDINGS: ("unsupported", RAW),
    VIDEO_ENDINGS: ("unsupported", VIDEO),
    DRAWING_ENDINGS: ("unsupported", DRAWING),
    frozenset({*ARCHIVES, *LISTS}): ("unsupported", CONTAINER),
}


def check_file(path: str) -> None:
    """Refuse files that must not be opened; opening a pipe or a device could block for ever."""
    if "\0" in path:
        raise Refused("missing", "the path holds a NUL byte; paths separated by NUL need --null")
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK):
        raise Refused("permission", "no permission to read this folder")
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not-a-file", "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device")
    if status.st_size == 0:
        raise Refused("unreadable", "the file is empty")
    if _reason_of(path) is not None:
        with open(path, "rb") as file:
            check_start(path, file.read(START_BYTES))


def check_start(name: str, start: bytes) -> None:
    """Refuse a file by its extension, unless its first bytes are a picture's. TIFF's do not count: RAW files have them.

    Args:
        start: its first bytes, START_BYTES or more.
    """
    reason = _reason_of(name)
    if reason is not None and not PICTURE_OF_THE_WEB.match(start):
        raise Refused(*reason)


def _reason_of(name: str) -> tuple[ErrorKind, str] | None:
    ending = os.path.splitext(name)[1].lower()
    return next((reason for endings, reason in REFUSED_ENDINGS.items() if ending in endings), None)


def skipped(error: Exception, path: str, decoding: Decoding = DEFAULT_DECODING) -> Skipped:
    """Make the row for a picture that could not be read."""
    return Skipped(path, *_explain(error, path, decoding.max_pixels))


def _explain(error: Exception, path: str, max_pixels: int) -> tuple[ErrorKind, str]:
    from PIL import Image  # here, as the endings above are wanted when no picture is opened

    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    match error:
        case Refused(message=message) if message == VIDEO:
            return error.kind, _video_at(path)
        case Refused(message=message) if message == CONTAINER and _is_in_archive(path):
            return error.kind, "an archive or a list in an archive; unpack it first"
        case Refused():
            return error.kind, error.message
        case MemoryError():
            return "out-of-memory", "not enough memory to decode it; use fewer --threads"
        case Image.DecompressionBombError():
            # Pillow raises above twice its limit, before we know the size, but its message has it.
            count = re.search(r"\d+(?= pixels)", text)
            return "too-large", f"{count[0] if count else 'too many'} pixels, more than --max-pixels {max_pixels}"
        case PermissionError():
            return "permission", text.lower()
        case OSError(errno=errno.ENOENT | errno.ENOTDIR | errno.ELOOP | errno.ENAMETOOLONG):
            return "missing", text.lower()
    if re.fullmatch(r"decoder error -?\d+", text):  # all that Pillow says when libtiff gives up
        return "unreadable", "cannot decode: its data are damaged"
    return "unreadable", f"cannot decode: {text:.200}"


def _is_in_archive(path: str) -> bool:
    return "#" in path and not os.path.lexists(path)


def _video_at(path: str) -> str:
    """Say what to do about a video that is met as an image, going by where it is."""
    if _is_in_archive(path):
        return "a video; videos in archives are not read; unpack it first"
    if find_spec("av") and os.path.splitext(name_in(path))[1].lower() not in VIDEO_ENDINGS:
        if is_url(path):
            return "a video, but its URL does not end in .mp4 or the like; download it first"
        return "a video, but not named like one; rename it .mp4 or what it is, and name it on the command line"
    return VIDEO


def given_up(path: str, thread: int, decoding: Decoding = DEFAULT_DECODING) -> Skipped | None:
    """Make a row for a picture whose decoder hangs, and release its pixels; None if it only waits."""
    if decoding.budget.is_waiting_for_memory(thread) or is_waiting(thread):
        return None
    seconds = decoding.budget.cpu_seconds(thread)
    decoding.budget.give_back(thread)
    limits = f"{seconds:.0f} s of CPU time or {WALL_SECONDS} s of waiting"
    return Skipped(path, "timeout", f"not decoded within {limits}; convert it first")
