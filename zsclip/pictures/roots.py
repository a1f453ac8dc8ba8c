"""What the inputs of a run mean: files, folders and URLs, also by globs and brace ranges. No folder is walked here."""

import glob
import itertools
import os
from collections.abc import Iterable, Sequence

from zsclip.errors import InputError
from zsclip.pictures.bucket_globs import expand_bucket_glob, is_bucket_glob
from zsclip.pictures.containers import archive_of, expand_braces
from zsclip.pictures.endings import ENDINGS, HEIC_ENDINGS, SKIPPED_NAMES
from zsclip.pictures.globs import expand_glob, without_last_stars
from zsclip.pictures.remote import Network
from zsclip.pictures.stdin import STDIN
from zsclip.pictures.urls import is_url, without_file


def roots_of(inputs: Sequence[str], stdin_fd: int = 0, network: Network | None = None) -> list[str]:
    """Check every input, and give the files, folders and URLs that they mean.

    Args:
        network: lists what globs in URLs match; None leaves such URLs as they are.

    Raises:
        InputError: as `zsclip.pictures.files.find_images`.
    """
    if list(inputs).count(STDIN) > 1:
        raise InputError("'-' was given twice; stdin can be read only once")
    return list(itertools.chain.from_iterable(_check(text, stdin_fd, network) for text in inputs))


def may_find(roots: Sequence[str], files: Iterable[str], *, all_files: bool) -> bool:
    """Whether a walk of the folders among some roots may meet one of some files, other than by a symbolic link.

    It may if the file lies below one of them and is named like a picture. It may also if the file has another hard
    link, which may be anywhere, or if its place is unknown, as that of /dev/stdout.
    """
    folders = [os.path.join(os.path.realpath(root), "") for root in roots if os.path.isdir(root)]
    for file in files if folders else ():
        try:
            status = os.stat(file)
        except (OSError, ValueError):
            continue
        if status.st_nlink > 1 or file.startswith(("/dev/", "/proc/")):
            return True
        real = os.path.realpath(file)
        if (all_files or real[real.rfind(".") :].lower() in ENDINGS | HEIC_ENDINGS) and real.startswith((*folders,)):
            return True
    return False


def _check(text: str, stdin_fd: int, network: Network | None) -> list[str]:
    """Return the files and folders that one input means: itself, or the matches of a glob."""
    if text == STDIN:
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
    if (local := without_file(text)) != text:
        return _check(local, stdin_fd, network)
    if archive_of(text):  # a member, as rows name it; whether it is there, its row will say
        return [text]
    if (several := expand_braces(text)) != [text]:
        return [path for each in several for path in _check(each, stdin_fd, network)]
    if is_url(text):
        return [text] if network is None or not is_bucket_glob(text) else expand_bucket_glob(text, network)
    if not glob.has_magic(text):
        raise InputError(f"no such file or folder: {text!r}")
    pattern = without_last_stars(text) or "."
    not_asked_for = SKIPPED_NAMES.difference(text.split("/"))
    matches = [match for match in expand_glob(pattern) if not_asked_for.isdisjoint(match.split("/"))]
    if not matches:
        raise InputError(f"no file or folder matches {text!r}")
    return sorted(matches, key=lambda match: os.fsencode(match) + b"/" * os.path.isdir(match))


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
