"""Which image files a run covers: files, folders, globs, stdin. No image is opened here."""

import glob
import itertools
import os
import re
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec

from zsclip.errors import InputError
from zsclip.pictures.globs import expand_glob, fits
from zsclip.pictures.pictures import Paths

ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"}
    | {".jp2", ".ppm", ".pgm", ".pbm", ".pnm"}
)
HEIC_ENDINGS = frozenset({".heic", ".heif"})  # read only with zsclip[heic]
SKIPPED_NAMES = frozenset({"@eaDir", "node_modules"})  # thumbnails of a Synology NAS; logos in npm packages
A_URL = "a URL; download it first and give the file"
_LONGEST_NAME = 1 << 20  # bytes; Linux allows no path over 4096
_TOGETHER = 512  # paths of a folder handed on together; one by one would cost more than finding them


def _ignore(message: str) -> None:
    """Ignore a note."""


def find_images(
    inputs: Sequence[str],
    *,
    exclude: Sequence[str] = (),
    limit: int | None = None,
    null: bool = False,
    note: Callable[[str], None] = _ignore,
    stdin_fd: int = 0,
) -> Paths:
    """Check every input, then yield the path of each image of a run, in order, as it is found.

    Args:
        inputs: files, folders, globs or `-` (paths on stdin). A file is taken whatever its ending.
        exclude: globs to leave out. Without a slash, they match the name of any file or folder at any
            depth; with a slash, the path relative to the folder that is walked (for a file, the path as given).
        limit: the largest number of paths to yield, after exclusion.
        null: paths on stdin end in NUL, not in a newline.
        note: called with one line about what is skipped, perhaps from the thread that iterates.
        stdin_fd: the file descriptor that `-` stands for.

    Raises:
        InputError: an input does not exist, matches nothing, is a URL, or is `-` for the second time.
    """
    if list(inputs).count("-") > 1:
        raise InputError("'-' was given twice; stdin can be read only once")
    roots = list(itertools.chain.from_iterable(_check(text, stdin_fd) for text in inputs))
    return Paths(_limited(_find(roots, _exclusion(exclude), null, note, stdin_fd), limit))


def is_url(text: str) -> bool:
    """Return whether a text starts like a URL."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def read_paths(fd: int, *, null: bool = False, note: Callable[[str], None] = _ignore) -> Iterator[str]:
    """Yield the paths written to a file descriptor, each as soon as its line is complete.

    Reads the descriptor itself: a daemon thread that waits in `sys.stdin.buffer` holds its lock, and the interpreter
    aborts at exit when it cannot take it.

    Args:
        null: a path ends in NUL, not in a newline; the last terminator may be missing.
        note: called with one line about each folder, which is skipped.

    Raises:
        InputError: the descriptor cannot be read.
    """
    for some in _read_together(fd, null, note):
        yield from some


def _read_together(fd: int, null: bool, note: Callable[[str], None]) -> Iterator[list[str]]:
    """Yield lists of the paths that arrived together."""
    for names in _read_names(fd, b"\0" if null else b"\n"):
        paths = []
        for path in map(os.fsdecode, names):
            if os.path.isdir(path):
                note(f"stdin: {path!r} is a folder and was skipped; name it on the command line to search it")
            else:
                paths.append(path)
        yield paths


def _read_names(fd: int, end: bytes) -> Iterator[list[bytes]]:
    rest = b""
    while chunk := _read_some(fd):
        *names, rest = (rest + chunk).split(end)
        yield list(filter(None, names))
        if len(rest) > _LONGEST_NAME:
            raise InputError("stdin: a path is too long; end each with a newline, or with NUL and --null")
    if rest:
        yield [rest]


def _read_some(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, 1 << 16)
        except BlockingIOError:  # the parent process made our stdin non-blocking
            select.select([fd], [], [])
        except OSError as e:
            raise InputError(f"stdin: cannot be read: {_reason(e)}") from e


def _check(text: str, stdin_fd: int) -> list[str]:
    """Return the files and folders that one input means: itself, or the matches of a glob."""
    if text == "-":
        try:
            os.fstat(stdin_fd)
        except OSError as e:
            raise InputError(f"stdin: cannot be read: {_reason(e)}; '-' needs paths on stdin") from e
        return [text]
    try:
        os.stat(text)
        return [text]
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as e:
        raise InputError(f"cannot read {text!r}: {_reason(e)}") from e
    if is_url(text):
        raise InputError(f"{text!r} is {A_URL}")
    if not glob.has_magic(text):
        raise InputError(f"no such file or folder: {text!r}")
    # A trailing `**` matches folders and everything in them; walking only the folders gives each file once.
    pattern = re.sub(r"(^|/)(\*\*/*)+$", r"\1", text) or "."
    not_asked_for = SKIPPED_NAMES.difference(text.split("/"))
    matches = [match for match in expand_glob(pattern) if not_asked_for.isdisjoint(match.split("/"))]
    if not matches:
        raise InputError(f"no file or folder matches {text!r}")
    return sorted(matches, key=lambda match: _sort_key(match, os.path.isdir(match)))


def _exclusion(patterns: Sequence[str]) -> Callable[[str], bool] | None:
    """Return a test of a path relative to the walked folder; None where nothing is excluded."""
    if not patterns:
        return None
    stripped = [pattern.rstrip("/").removeprefix("./") for pattern in patterns]
    # `**/x` means x at any depth, also at the top, where fnmatch alone would demand a slash.
    globs = [*stripped, *(pattern[3:] for pattern in stripped if pattern.startswith("**/"))]

    def excluded(path: str) -> bool:
        path, name = path.removeprefix("./"), os.path.basename(path)
        return any(fits(path if "/" in pattern else name, pattern) for pattern in globs)

    return excluded


def _limited(found: Iterable[list[str]], limit: int | None) -> Iterator[list[str]]:
    """Leave out empty lists, and stop looking after `limit` paths."""
    left = limit
    if left == 0:
        return
    for some in found:
        if left is not None:
            some = some[:left]
            left -= len(some)
        if some:
            yield some
        if left == 0:
            return


def _find(
    roots: list[str],
    excluded: Callable[[str], bool] | None,
    null: bool,
    note: Callable[[str], None],
    stdin_fd: int,
) -> Iterator[list[str]]:
    files: list[str] = []  # files named one after the other
    for root in roots:
        is_folder = os.path.isdir(root)
        if files and (root == "-" or is_folder or len(files) == _TOGETHER):
            yield files
            files = []
        if root == "-":
            for some in _read_together(stdin_fd, null, note):
                yield [path for path in some if not excluded(path)] if excluded else some
        elif is_folder:
            yield from _walk(root, excluded, note)
        elif not (excluded and excluded(root)):
            files.append(root)
    yield files


def _walk(root: str, excluded: Callable[[str], bool] | None, note: Callable[[str], None]) -> Iterator[list[str]]:
    """Yield the images under a folder; a subfolder sorts as its name with a slash, as in git."""
    endings = ENDINGS | HEIC_ENDINGS if find_spec("pillow_heif") else ENDINGS
    passed_over = HEIC_ENDINGS - endings
    visited: set[tuple[int, int]] = set()
    found: list[str] = []
    listings = [("", iter(["/"]))]  # the prefix of names, and the names still to come; the root is first
    while listings:
        before, names = listings[-1]
        for name in names:
            if name[-1] == "/":
                if found:  # the folder may be slow to list
                    yield found
                    found = []
                path = before + name[:-1] if before else root
                entries = _entries(path, root, visited, excluded)
                if entries is None:  # its pictures are lost; an error row makes that visible
                    found.append(path)
                    continue
                listings.append((os.path.join(path, ""), iter(entries)))
                break
            ending = name[name.rfind(".") :].lower()
            if ending in endings:
                found.append(before + name)
                if len(found) == _TOGETHER:
                    yield found
                    found = []
            elif ending in passed_over:
                passed_over = frozenset()  # one note per input folder, not one per picture
                path = before + name
                note(f"{root!r}: HEIC pictures were skipped, {path!r} first; to read them: pip install 'zsclip[heic]'")
        else:
            listings.pop()
    if found:
        yield found


def _entries(
    folder: str,
    root: str,
    visited: set[tuple[int, int]],
    excluded: Callable[[str], bool] | None,
) -> list[str] | None:
    """List a folder in order, subfolders with a slash; nothing if it was visited before, None if it is unreadable."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            return []
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            names = [entry.name + "/" if _is_folder(entry) else entry.name for entry in entries]
    except OSError:
        return None
    names.sort(key=None if "".join(names).isascii() else os.fsencode)
    names = [name for name in names if name[0] != "." and name.removesuffix("/") not in SKIPPED_NAMES]
    if excluded:
        below = folder[len(root) :].lstrip("/")
        names = [name for name in names if not excluded(os.path.join(below, name.removesuffix("/")))]
    return names


def _sort_key(name: str, is_folder: bool) -> bytes:
    return os.fsencode(name) + b"/" * is_folder


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or a folder we may not search
        return False


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
