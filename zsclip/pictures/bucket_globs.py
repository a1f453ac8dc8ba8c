"""Globs in URLs of buckets: what they match is found by listing folders. No file is opened here."""

import os
from collections.abc import Iterator, Sequence
from glob import has_magic

from zsclip.errors import InputError
from zsclip.pictures.about import About
from zsclip.pictures.endings import SKIPPED_NAMES
from zsclip.pictures.fetch import server_of
from zsclip.pictures.globs import fits, without_last_stars
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.urls import can_be_listed, check_url, without_password

_Match = tuple[str, bool, About]  # a URL, whether it is a folder, and what is known of it


def is_bucket_glob(url: str) -> bool:
    """Whether a URL may be a glob: those of the web have question marks and brackets of their own."""
    return has_magic(url) and can_be_listed(url)


def expand_bucket_glob(url: str, network: Network) -> list[str]:
    """Give what a glob matches, in the order of local files; URLs of folders end in a slash.

    A file or folder that is literally named like this comes first, as it does on the disk.

    Args:
        network: learns what the listings say of the files.

    Raises:
        InputError: nothing matches, or it may not be listed.
    """
    check_url(url, offline=network.offline)
    pattern = without_last_stars(url)
    if not has_magic(pattern) or network.is_there(pattern.rstrip("/")):
        return [pattern]
    bucket, *parts = pattern.rstrip("/").partition("://")[2].split("/")
    root = f"{pattern.partition('://')[0]}://{bucket}"
    not_asked_for = SKIPPED_NAMES.difference(parts)
    try:
        found = {match[0]: match for match in _matches(root, parts) if not_asked_for.isdisjoint(match[0].split("/"))}
    except Refused as e:
        raise InputError(f"cannot read {without_password(url)!r}: {e.message}") from e
    matches = [match for match in found.values() if match[1] or not pattern.endswith("/")]
    if not matches:
        raise InputError(f"no file or folder matches {without_password(url)!r}")
    network.learn({path: about for path, is_folder, about in matches if not is_folder})
    return sorted((path + "/" * is_folder for path, is_folder, _ in matches), key=os.fsencode)


def _matches(folder: str, parts: Sequence[str]) -> Iterator[_Match]:
    """Yield what the parts of a pattern match below a folder, perhaps twice; hidden names only if the part is one."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _matches(folder, rest)
        for path, is_folder, _ in _listed(folder, "*"):
            if is_folder:
                yield from _matches(path, parts)
    elif rest and not has_magic(part):
        yield from _matches(f"{folder}/{part}", rest)
    else:
        for match in _listed(folder, part):
            if not rest:
                yield match
            elif match[1]:
                yield from _matches(match[0], rest)


def _listed(folder: str, part: str) -> Iterator[_Match]:
    try:
        entries = server_of(folder).listed(folder).result()
    except Refused as e:
        if e.kind == "missing":
            return
        raise
    for name, is_folder, about in entries:
        if fits(name, part) and (name[0] != "." or part[0] == "."):
            yield f"{folder}/{name}", is_folder, about
