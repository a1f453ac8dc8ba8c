"""Which images a run covers: those of files, folders, archives, lists, stdin. No image is decoded here."""

import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from zsclip.errors import InputError
from zsclip.pictures.clips import Unread
from zsclip.pictures.containers import (
    archive_of,
    check_container,
    find_in_container,
    has_column,
    is_container,
    is_list,
    note_of,
)
from zsclip.pictures.endings import ARCHIVES, LISTS, SKIPPED_NAMES, is_taken, picture_endings
from zsclip.pictures.globs import fits
from zsclip.pictures.listed import with_listed
from zsclip.pictures.passed_over import PassedOver, ending_of
from zsclip.pictures.pictures import Holder, Paths, Pictures
from zsclip.pictures.remote import Network
from zsclip.pictures.roots import roots_of
from zsclip.pictures.sampling import ANIMATION_ENDINGS, DEFAULT_SAMPLING, VIDEO_ENDINGS, Sampling
from zsclip.pictures.stdin import STDIN, read_stdin
from zsclip.pictures.urls import can_be_listed, is_remote

_TOGETHER = 512  # paths of a folder handed on together; one by one would cost more than finding them


def _ignore(message: str) -> None:
    """Ignore a note."""


@dataclass(frozen=True)
class _Search:
    """How pictures are looked for; see `find_images`. is_far: whether folders of buckets are listed."""

    exclude: Sequence[str]
    null: bool
    all_files: bool
    own: frozenset[str]
    note: Callable[[str], None]
    stdin_fd: int
    visited: "set[tuple[int, int]] | None"
    passed_over: PassedOver
    column: str | None
    enter: bool
    network: Network
    sampling: Sampling
    unread: Unread
    is_far: bool


def find_images(
    inputs: Sequence[str],
    *,
    exclude: Sequence[str] = (),
    limit: int | None = None,
    null: bool = False,
    all_files: bool = False,
    own: Collection[str] = (),
    note: Callable[[str], None] = _ignore,
    stdin_fd: int = 0,
    visited: "set[tuple[int, int]] | None" = None,
    passed_over: PassedOver | None = None,
    column: str | None = None,
    enter: bool = True,
    network: Network | None = None,
    sampling: Sampling | None = None,
) -> Paths:
    """Check every input, then yield the path of each image of a run, in order, as it is found.

    Args:
        inputs: files, folders, globs, brace ranges, URLs or `-` (paths on stdin, or one picture). An archive, a Parquet
            file, a video or a list is entered; any other file is taken whatever its ending.
        exclude: globs to leave out. Without a slash, they match the name of any file or folder at any
            depth; with a slash, the path relative to the folder that is walked (for a file, the path as given).
        limit: the largest number of paths to yield, after exclusion.
        null: paths on stdin end in NUL, not in a newline.
        all_files: take files of folders whatever their ending.
        own: real paths of files that this run is writing; `all_files` would take them for pictures.
        note: called with one line about what is skipped, perhaps from the thread that iterates.
        stdin_fd: the file descriptor that `-` stands for.
        visited: device and inode of folders not to enter; those entered are added. None enters all once per input.
        passed_over: where to count what is left out.
        column: the column with the images of Parquet files and lists.
        enter: whether to enter archives and fetch URLs; if not, archives are yielded as files, and lists before the
            files that they list.
        network: what fetches URLs; None for one that may fetch all where archives are entered. If it is given, folders
            of buckets that may hold videos are listed even if nothing is entered.
        sampling: which frames of videos are taken; None: the first one of every second.

    Raises:
        InputError: an input does not exist, matches nothing, is a URL that cannot be read, or is `-` for the second
            time; or no column of a Parquet file or list holds pictures.
    """
    is_far = enter or (network is not None and sampling is not None and sampling.reads_folders)
    are_read = enter or network is not None  # else only names are wanted
    network = Network() if network is None else network
    roots = roots_of(inputs, stdin_fd, network if is_far else None)
    if is_far:
        network.check(list(dict.fromkeys(archive_of(root) or root for root in roots if is_remote(root))))
    passed_over = PassedOver() if passed_over is None else passed_over
    passed_over.can_read_videos = sampling is not None
    search = _Search(
        exclude, null, all_files, frozenset(own), note, stdin_fd, visited, passed_over, column, enter, network,
        sampling or DEFAULT_SAMPLING, Unread(), is_far,
    )  # fmt: skip
    if enter:
        _check_containers(roots, search)
    found = _find(roots, search)
    found = with_listed(found, column, network, max_pixels=search.sampling.max_pixels) if are_read else found
    return Paths(_limited(found, limit), passed_over, search.unread.close)


def _check_containers(roots: Sequence[str], search: _Search) -> None:
    excluded = _Exclusion(search.exclude, PassedOver())
    left = [root for root in roots if root != STDIN and not excluded(root)]
    containers = [each for each in dict.fromkeys(archive_of(root) or root for root in left) if is_container(each)]
    for root in containers:
        check_container(root, search.column, search.network)
    if search.column is not None and not any(map(has_column, containers)):
        raise InputError("--column: only Parquet files and lists have columns; give one, or leave it out")
    if search.column is None and (said := note_of(containers, search.network)):
        search.note(said)


class _Exclusion:
    """Decides whether a path relative to the walked folder is excluded, and records patterns that matched nothing."""

    def __init__(self, patterns: Sequence[str], passed_over: PassedOver) -> None:
        self.unused = dict.fromkeys(patterns)
        self._passed_over = passed_over
        self._globs: list[tuple[str, str]] = []  # what matches, and the pattern that it comes from
        for pattern in patterns:
            stripped = pattern.rstrip("/").removeprefix("./")
            self._globs.append((stripped, pattern))
            # `**/x` means x at any depth, also at the top, where fnmatch alone would demand a slash.
            if stripped.startswith("**/"):
                self._globs.append((stripped[3:], pattern))

    def __call__(self, path: str) -> bool:
        path, name = path.removeprefix("./"), os.path.basename(path)
        found = [pattern for glob, pattern in self._globs if fits(path if "/" in glob else name, glob)]
        for pattern in found:
            self.unused.pop(pattern, None)
        self._passed_over.excluded += bool(found)
        return bool(found)


def _limited(found: Iterable[Pictures], limit: int | None) -> Iterator[Pictures]:
    """Leave out empty groups, and stop looking after `limit` pictures."""
    left = limit
    if left == 0:
        return
    for some in found:
        if left is not None:
            if len(some) > left:
                some = replace(some, names=some.names[:left])
            left -= len(some)
        if len(some):
            yield some
        if left == 0:
            return


def _find(roots: list[str], search: _Search) -> Iterator[Pictures]:
    excluded = _Exclusion(search.exclude, search.passed_over)
    files: list[str] = []  # files named one after the other
    for root in roots:
        is_folder = os.path.isdir(root)
        is_entered = root != STDIN and not is_folder and is_container(root, search.sampling)
        may_be_far = search.is_far and not is_entered and can_be_listed(root) and is_remote(root)
        is_far = may_be_far and search.network.is_folder(root)
        if files and (root == STDIN or is_folder or is_far or is_entered or len(files) == _TOGETHER):
            yield Pictures(files)
            files = []
        if root == STDIN:
            why_none = search.passed_over.others.append
            for some in read_stdin(search.stdin_fd, null=search.null, note=search.note, why_none=why_none):
                if search.exclude and some.read is None:
                    some = Pictures([path for path in some.names if not excluded(path)])
                yield some
        elif is_folder:
            search.passed_over.folders.append(root)
            found = _walk(root, excluded if search.exclude else None, search)
            yield from _with_clips(found, search) if search.sampling.reads_folders else map(Pictures, found)
        elif is_far:
            search.passed_over.folders.append(root)
            yield from _walk_far(root, excluded if search.exclude else None, search)
        elif search.exclude and excluded(root):
            continue
        elif is_entered:
            yield from _contained(root, excluded, search)
        else:
            files.append(root)
    yield Pictures(files)
    for pattern in excluded.unused:
        search.note(f"--exclude {pattern!r}: matched nothing; check its spelling")


def _contained(root: str, excluded: _Exclusion, search: _Search) -> Iterator[Pictures]:
    """Yield the pictures in an archive or a list."""
    if not search.enter:
        yield Pictures([root])
        if not is_list(root) or is_remote(root):
            return
    if is_remote(root) or root.lower().endswith((*ARCHIVES, *LISTS)):
        search.passed_over.folders.append(root)
    left_out = excluded if search.exclude else None
    takes = partial(is_taken, picture_endings(), left_out, search.all_files, search.passed_over)
    is_left_out = excluded if search.exclude else lambda name: False
    found = find_in_container(
        root, search.column, takes, is_left_out, search.passed_over, search.network, search.sampling, search.unread
    )
    holder = Holder(root)
    yield from (replace(some, holder=holder) for some in found)


def _with_clips(found: Iterable[list[str]], search: _Search) -> Iterator[Pictures]:
    """Yield the files of a folder, and in place of videos and animations their frames."""
    clips = _clip_endings(search)
    for names in found:
        start = 0
        for place, name in enumerate(names):
            is_clip = name[name.rfind(".") :].lower() in clips and is_container(name, search.sampling)
            if is_clip and search.enter:
                yield Pictures(names[start:place])
                yield from _contained(name, _Exclusion((), search.passed_over), search)
                start = place + 1
        yield Pictures(names[start:])


def _walk_far(root: str, excluded: _Exclusion | None, search: _Search) -> Iterator[Pictures]:
    """Yield the pictures below a URL, and in place of videos their frames."""
    endings = _endings_in_folders(search)
    clips = endings & _clip_endings(search)

    def wants(path: str, is_folder: bool) -> bool:
        name = path.rpartition("/")[2]
        if name[0] == "." or name in SKIPPED_NAMES:
            search.passed_over.hidden += 1
            return False
        if excluded and excluded(path):
            return False
        return is_folder or name[name.rfind(".") :].lower() in endings or _is_tried(name, search)

    def is_clip(path: str) -> bool:
        return path[path.rfind(".") :].lower() in clips

    for some in search.network.walk(root, wants, is_clip):
        if search.enter and is_clip(some.names[0]):
            yield from _contained(some.names[0], _Exclusion((), search.passed_over), search)
        else:
            yield some


def _clip_endings(search: _Search) -> frozenset[str]:
    return VIDEO_ENDINGS | (ANIMATION_ENDINGS if search.sampling.animations else frozenset())


def _endings_in_folders(search: _Search) -> frozenset[str]:
    return picture_endings() | (VIDEO_ENDINGS if search.sampling.in_folders else frozenset())


def _is_tried(name: str, search: _Search) -> bool:
    """Whether a file of a folder is tried although its ending is none of a picture; else it is counted."""
    if search.all_files and not name.lower().endswith(ARCHIVES):
        return True
    search.passed_over.endings[".tar.gz" if name.lower().endswith(".tar.gz") else ending_of(name)] += 1
    return False


def _walk(root: str, excluded: Callable[[str], bool] | None, search: _Search) -> Iterator[list[str]]:
    """Yield the images under a folder; a subfolder sorts as its name with a slash, as in git."""
    endings = _endings_in_folders(search)
    own = {os.path.basename(path) for path in search.own}
    entries_of = partial(_entries, root, set() if search.visited is None else search.visited, excluded, search)
    found: list[str] = []
    listings = [("", ["/"], 0)]  # the prefix of names, the names, and how many are done; the root is first
    while listings:
        before, names, start = listings.pop()
        stop = min(start + _TOGETHER - len(found), len(names))
        some, folder = names[start:stop], None
        if _all_end_in(endings, some):
            found += [before + name for name in some]
        else:
            for place, name in enumerate(some):
                if name[-1] == "/":
                    folder, stop = before + name[:-1] if before else root, start + place + 1
                    break
                if name[name.rfind(".") :].lower() not in endings:
                    if not _is_tried(name, search):
                        continue
                    if name in own and os.path.realpath(before + name) in search.own:
                        continue
                found.append(before + name)
        if stop < len(names):
            listings.append((before, names, stop))
        if len(found) == _TOGETHER or (found and folder is not None):  # the folder may be slow to list
            yield found
            found = []
        if folder is not None:
            entries = entries_of(folder)
            if entries is None:  # its pictures are lost; an error row makes that visible
                found.append(folder)
            elif entries:
                listings.append((os.path.join(folder, ""), entries, 0))
    if found:
        yield found


def _all_end_in(endings: Collection[str], names: Sequence[str]) -> bool:
    """Whether all of some names, one at least, have one of these endings. Looking at each takes five times as long."""
    together, left = "\0".join(names).lower() + "\0", len(names)
    usual = names[0][names[0].rfind(".") :].lower()
    for ending in sorted(endings, key=lambda each: each != usual):
        left -= together.count(ending + "\0")
        if not left:
            return True
    return False


def _entries(
    root: str,
    visited: set[tuple[int, int]],
    excluded: Callable[[str], bool] | None,
    search: _Search,
    folder: str,
) -> list[str] | None:
    """List a folder in order, subfolders with a slash; nothing if it was visited before, None if it is unreadable."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            return []
        visited.add((status.st_dev, status.st_ino))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(descriptor) as entries:  # given the folder's path, it would make one for every entry
                names = [entry.name + "/" if is_folder(entry) else entry.name for entry in entries]
        finally:
            os.close(descriptor)
    except OSError:
        return None
    together = "".join(names)
    names.sort(key=None if together.isascii() else os.fsencode)
    count = len(names)
    del names[bisect_left(names, ".") : bisect_left(names, "/")]  # hidden names are neighbours in this order
    if any(name in together for name in SKIPPED_NAMES):
        names = [name for name in names if name.removesuffix("/") not in SKIPPED_NAMES]
    search.passed_over.hidden += count - len(names)
    if excluded:
        below = folder[len(root) :].lstrip("/")
        names = [name for name in names if not excluded(os.path.join(below, name.removesuffix("/")))]
    return names


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or a folder we may not search
        return False
