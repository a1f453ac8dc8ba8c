"""What comes through standard input: the paths of pictures, or one picture. No picture is decoded here."""

import errno
import os
import re
import select
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial

from zsclip.errors import InputError
from zsclip.pictures.pictures import Pictures

STDIN = "-"
_LONGEST_NAME = 1 << 20  # bytes; Linux allows no path over 4096
_LARGEST_PICTURE = 1 << 30  # bytes; a stream of many pictures, or one without an end, would fill the memory
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_CHUNK = 1 << 16

_OF_THE_WEB = (
    rb"\xff\xd8\xff",  # JPEG
    rb"\x89PNG\r\n\x1a\n",
    rb"RIFF.{4}WEBP",
)
# How pictures begin. No list of paths begins like this: a path cannot contain these bytes there.
_SIGNATURES = (
    *_OF_THE_WEB,
    # GIF: width and height of up to 8,191 pixels; or, after any size, flags, a background and no aspect ratio
    rb"GIF8[79]a(?:(?:.[\0-\x1f]){2}|.{4}(?:[\x80-\xff].|.\0)\0)",
    rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    rb"II[*+]\0|MM\0[*+]",  # TIFF, and many kinds of camera RAW
    rb"\0\0..ftyp",  # AVIF, HEIC
    rb"\0{3}\x0c(?:jP  |JXL )\r\n\x87\n|\xff\x4f\xff\x51|\xff\x0a",  # JPEG 2000, JPEG XL
    rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+(?:#[^\n]*\n\s*)*\d+\s|P7\nWIDTH |P[Ff]\s+\d+\s+\d+\s",  # PPM and its kin
    rb"8BPS\0[\1\2]",  # Photoshop
)
# How other files begin that may be piped here by mistake: each is a picture that cannot be read, and its row says why.
_NO_PICTURES = (
    rb"version https://git-lfs",  # a Git LFS pointer
    rb"(?:\xef\xbb\xbf)?\s*<(?i:!doctype\s|html[\s>]|\?xml\s|svg[\s>])",
    rb"%PDF-\d\.\d",
    rb"PK\x03\x04|\x1f\x8b\x08|BZh\d1AY&SY|\xfd7zXZ\0|7z\xbc\xaf'\x1c|Rar!\x1a\x07",  # archives
    rb"RIFF.{4}(?:AVI |WAVE)|\x1a\x45\xdf\xa3|\0\0\x01[\xb3\xba]|OggS\0|fLaC\0|ID3[\x02-\x04]\0",  # videos, sound
)
_ONE_FILE = re.compile(b"|".join((*_SIGNATURES, *_NO_PICTURES)), re.DOTALL)
PICTURE_OF_THE_WEB = re.compile(b"|".join((*_OF_THE_WEB, b"GIF8[79]a")), re.DOTALL)  # of files, not for lists
_LONGEST_SIGNATURE = 32  # bytes; of a PPM it may be longer, but nobody writes that in pieces
_PNG = b"\x89PNG\r\n\x1a\n"


def read_stdin(
    fd: int,
    *,
    null: bool = False,
    note: Callable[[str], None] = lambda message: None,
    why_none: Callable[[str], None] = lambda reason: None,
) -> Iterator[Pictures]:
    """Yield the files named on a descriptor, in groups as they arrive; or the one picture that it holds.

    Another file that is surely not a list, such as a web page, counts as a picture that cannot be read.

    Reads the descriptor itself: a daemon thread that waits in `sys.stdin.buffer` holds its lock, and the interpreter
    aborts at exit when it cannot take it.

    Args:
        null: a path ends in NUL, not in a newline; the last terminator may be missing. Lines lose a byte order mark
            and a carriage return, which Windows adds.
        note: called with one line about each folder, which is skipped.
        why_none: called with the reason if there is neither a path nor a picture.

    Raises:
        InputError: the descriptor cannot be read, or is in UTF-16.
    """
    return _read(partial(_read_some, fd), null, note, why_none)


def paths_in_file(fd: int, *, null: bool = False) -> Iterator[str]:
    """Yield the paths that stdin will give, without taking them from it; none unless it is a regular file."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        place = os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return

    def peek() -> bytes:
        nonlocal place
        some = os.pread(fd, _CHUNK, place)
        place += len(some)
        return some

    for pictures in _read(peek, null, lambda message: None, lambda reason: None):
        yield from pictures.names if pictures.read is None else ()


def _read(
    more: Callable[[], bytes], null: bool, note: Callable[[str], None], why_none: Callable[[str], None]
) -> Iterator[Pictures]:
    start = _beginning(more, b"\0" if null else b"\n")
    if _ONE_FILE.match(start):
        yield Pictures((STDIN,), _rest_of(more, start))
        return
    if start.startswith(_UTF16) and not null:
        raise InputError("stdin: a list in UTF-16; save it in UTF-8")
    found = folders = 0
    for names in _names(more, start, null):
        paths = []
        for path in map(os.fsdecode, names):
            if os.path.isdir(path):
                folders += 1
                note(f"stdin: {path!r} is a folder and was skipped; name it on the command line to search it")
            else:
                paths.append(path)
        found += len(paths)
        yield Pictures(paths)
    if not found:
        why_none("stdin names only folders" if folders else "stdin has only empty lines" if start else "stdin is empty")


def _beginning(more: Callable[[], bytes], end: bytes) -> bytes:
    """Read until it is clear whether a picture or a list of paths begins there; complete paths are never held back."""
    start = b""
    while some := more():
        start += some
        if len(start) >= _LONGEST_SIGNATURE or _ONE_FILE.match(start):
            break
        path, is_complete, _ = start.lstrip(end).partition(end)
        may_be_ppm = re.fullmatch(rb"P[1-7Ff]\r?", path) and not os.path.lexists(path)
        if is_complete and not (re.search(rb"[\0-\x08\x0e-\x1f]", path) or _PNG.startswith(start) or may_be_ppm):
            break
    return start


def _rest_of(more: Callable[[], bytes], start: bytes) -> Callable[[int], bytes]:
    """Give a function that reads the picture that stdin is, which may be asked for more than once."""
    lock = threading.Lock()
    whole: list[bytes] = []

    def read(_: int) -> bytes:
        with lock:
            if not whole:
                parts, size = [start], len(start)
                while some := more():
                    parts.append(some)
                    size += len(some)
                    if size > _LARGEST_PICTURE:
                        raise OSError(errno.EFBIG, f"more than {_LARGEST_PICTURE:,} bytes on stdin")
                whole.append(b"".join(parts))
            return whole[0]

    return read


def _names(more: Callable[[], bytes], start: bytes, null: bool) -> Iterator[list[bytes]]:
    end = b"\0" if null else b"\n"
    rest, chunk = b"", start
    while chunk:
        *names, rest = (rest + chunk).split(end)
        yield list(filter(None, names if null else map(_without_marks, names)))
        if len(rest) > _LONGEST_NAME:
            raise InputError("stdin: a path is too long; end each with a newline, or with NUL and --null")
        chunk = more()
    if last := rest if null else _without_marks(rest):
        yield [last]


def _without_marks(line: bytes) -> bytes:
    """Drop what Windows adds to a line. Two lists put together have a byte order mark in the middle, too."""
    return line.removeprefix(_BOM).rstrip(b"\r")


def _read_some(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:  # the parent process made our stdin non-blocking
            select.select([fd], [], [])
        except OSError as e:
            raise InputError(f"stdin: cannot be read: {(e.strerror or type(e).__name__).lower()}") from e
