"""Where the rows go: standard output, or a file that appears only when it is complete."""

import errno
import fcntl
import io
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, TextIO

from zsclip.errors import InputError, OutputError
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.urls import is_url

Embeddings = Literal["float16", "float32"]  # how the numbers of a vector are written
FileId = tuple[int, int]  # the device and inode of a file, the same however its path is written

FORMAT_OF_ENDING = {".csv": "csv", ".html": "html", ".jsonl": "jsonl", ".parquet": "parquet", ".tsv": "tsv"}


def format_of(target: str | None, is_terminal: bool, *, has_folder: bool = False) -> str:
    """Choose the default format: by the extension of the target, or by whether standard output is a terminal.

    Args:
        target: the file of `-o`; None is standard output. A pipe or a device gets JSONL.
        is_terminal: whether standard output is a terminal. has_folder: whether `-o FOLDER/` is offered in an error.

    Raises:
        InputError: no format has this extension.
    """
    if target is None:
        return "table" if is_terminal else "jsonl"
    ending = os.path.splitext(target)[1].lower()
    if ending in FORMAT_OF_ENDING:
        return FORMAT_OF_ENDING[ending]
    if not is_replaceable(target):
        return "jsonl"
    offer = "" if ending else f", or {target}/ for a folder of parts" if has_folder else ""
    raise InputError(f"{target}: unknown extension; use one of {', '.join(FORMAT_OF_ENDING)}, or --format{offer}")


@contextmanager
def open_output(
    target: str | None, *, overwrite: bool = False, resume_at: int | None = None, resumable: bool = False
) -> Iterator[TextIO]:
    """Open the stream for the rows: standard output, or a file that appears only when it is complete.

    Rows for a file go to `FILE.part`, renamed to FILE when the block ends. If the block fails, the rows so far stay
    in `FILE.part`; it is removed only if there were none. A pipe or a device is written directly.
    `check_output` finds out beforehand what would be refused.

    Args:
        overwrite: replace FILE, and a `FILE.part` left by an earlier run.
        resume_at: keep this many bytes of an earlier run's `FILE.part`, and write after them.
        resumable: whether the command has --resume, which an error then suggests.

    Raises:
        InputError: FILE exists, or an earlier run left a `FILE.part`, and `overwrite` is not set.
        OutputError: the target cannot be opened or written. A closed pipe stays a BrokenPipeError.
    """
    name = target or "standard output"
    file: str | int | None = target
    part = None
    if target is None:
        file = _stdout_descriptor()
    elif (number := _descriptor_named(target)) is not None:
        file = number
    elif is_replaceable(target):
        file = part = part_of(target)
        target = part.removesuffix(".part")
        _check_absent(target, name, overwrite=overwrite, resumable=resumable)
    if file is None:
        yield sys.stdout
        return
    out: TextIO | None = None
    is_ours = not overwrite and resume_at is None  # a new file; an existing one, once nobody else writes it
    try:
        with as_output_error(name, file):
            if part:
                out = _stream(_open_part(part, name, is_new=is_ours, resume_at=resume_at or 0))
                is_ours = True
                out.seek(resume_at or 0)
                out.truncate()
            else:
                out = _stream(io.FileIO(file, "w", closefd=isinstance(file, str)))
            yield out
            out.flush()
            if part and target:
                os.fsync(out.fileno())
                out.close()
                if not overwrite and os.path.exists(target):
                    raise OutputError(
                        f"{name}: another program has created this file in the meantime; your rows are in {part}"
                    )
                os.replace(part, target)
            out.close()
    except FileExistsError as e:
        if part is None or e.filename != part:
            raise
        raise _left_over(part, resumable) from e
    except BaseException:
        # Write the rest of the buffer if possible. If not, the first failure is the one to report, and a
        # stream left open would fail once more when the interpreter ends.
        with suppress(OSError):
            if out is not None:
                out.close()
        with suppress(OSError):
            if part and is_ours and os.path.getsize(part) == 0:
                os.unlink(part)
        raise


def check_output(target: str | None, *, overwrite: bool = False, resumable: bool = False) -> None:
    """Raise what `open_output` would raise, without touching anything; called before the model is looked for.

    Raises:
        InputError, OutputError: as `open_output`.
    """
    if target is None:
        _stdout_descriptor()
    elif is_replaceable(target):
        folder = os.path.dirname(os.path.realpath(target))
        with as_output_error(target, folder):
            os.stat(folder)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        part = part_of(target)
        if os.path.lexists(part) and not overwrite:
            raise _left_over(part, resumable)
        _check_absent(target, target, overwrite=overwrite, resumable=resumable)


def check_folder(folder: str) -> None:
    """Check that a folder for parts is there or can be made: neither it nor a folder above it is a file.

    Raises:
        OutputError: one is.
    """
    place = folder.rstrip("/") or "/"
    while place and not os.path.lexists(place):
        place = os.path.dirname(place)
    if place and not os.path.isdir(place):
        what = "is a file" if os.path.exists(place) else "is a link to nothing"
        raise OutputError(f"{place}: {what}, not a folder; choose another name")


def make_folder(folder: str) -> None:
    """Make a folder for several files, if it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    check_folder(folder)
    with as_output_error(folder):
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as e:
            raise OSError(e.errno, e.strerror) from e  # without a name, which may be that of a folder above


def check_local(flag: str, target: str | None) -> None:
    """Refuse a URL as an output: it would become a local folder of this name.

    Raises:
        InputError: it is one.
    """
    if target is not None and is_url(target):
        raise InputError(f"{flag} {target}: only local files can be written; write here, and copy the result there")


def check_outputs_differ(outputs: Sequence[tuple[str, str | None]]) -> dict[FileId, str]:
    """Refuse two outputs that would be the same file, before anything is written.

    Args:
        outputs: flag and target of each; None is standard output.

    Returns:
        A description of each file that would be replaced, by its id; for `check_inputs`.

    Raises:
        InputError: two outputs are the same file, or would need the same FILE.part; or one is a URL.
    """
    seen: dict[FileId | str, str] = {}
    for flag, target in outputs:
        check_local(flag, target)
        output = flag if target is None else f"{flag} {target}"
        for key in _keys_of(target):
            if (other := seen.setdefault(key, output)) != output:
                raise InputError(f"{output}: would overwrite {other}; write to another file")
    return {key: output for key, output in seen.items() if isinstance(key, tuple)}


def check_only_output(target: str, reads: Iterable[tuple[str, str]], *, overwrite: bool) -> dict[FileId, str]:
    """Check the file of a command that writes one besides standard output, as the functions around do one by one.

    Returns:
        A description of each file that would be replaced, by its id.
    """
    places = check_outputs_differ([("standard output", None), ("-o", target)])
    check_inputs(reads, places)
    check_output(target, overwrite=overwrite)
    return places


def check_inputs(inputs: Iterable[tuple[str, str]], places: Mapping[FileId, str]) -> None:
    """Refuse an output that is also an input: as a path, by a link, or in another spelling.

    Args:
        inputs: what each is, in words, and its path; only iterated if a file would be replaced.
        places: given by `check_outputs_differ`.

    Raises:
        InputError: an input would be replaced.
    """
    for what, path in inputs if places else ():
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        if output := places.get((status.st_dev, status.st_ino)):
            raise InputError(f"{output}: would overwrite {what}, which this run reads; write to another file")


def refuse_replaced(found: Iterable[Pictures], places: Mapping[FileId, str]) -> Iterator[Pictures]:
    """Pass pictures on; refuse a file that holds some of them and that the run would replace; see `check_inputs`."""
    from zsclip.pictures.containers import split_member

    for some in found:
        names = some.names if some.read is None else {split_member(name)[0]: name for name in some.names}.values()
        check_inputs(map(held_in, names), places)
        yield some


def held_in(name: str) -> tuple[str, str]:
    """Say what holds a picture, its file, an archive or a video, and give the path of that."""
    from zsclip.pictures.containers import archive_of, is_clip  # here, as `zsclip --help` imports this module

    archive = archive_of(name) if "#" in name else ""
    if not archive:
        return f"the image {name!r}", name
    return f"the {'video' if is_clip(archive) else 'archive'} of {name!r}", archive


def files_of(target: str) -> tuple[str, ...]:
    """Give the files that are written for a target: itself, FILE.part, and the journal of that."""
    part = part_of(target)
    return target, part, f"{part}.json", f"{part}.json.new"


def part_of(target: str) -> str:
    """Give the FILE.part that rows go to until they are complete; a link stays a link."""
    return (os.path.realpath(target) if os.path.islink(target) else target) + ".part"


def _keys_of(target: str | None) -> Iterator[FileId | str]:
    """Yield the ids of the files that are written for a target, and the real paths, as they may not exist yet.

    Standard output counts as a file if it is a regular file that the shell has not just emptied.
    """
    is_ours = target is not None and is_replaceable(target)
    for file in files_of(target) if target is not None and is_ours else (target,):
        with suppress(OSError):
            number = _stdout_descriptor() if file is None else file
            if number is not None:
                status = os.stat(number)
                if stat.S_ISREG(status.st_mode) and (file is not None or status.st_size):
                    yield status.st_dev, status.st_ino
        if file is not None and is_ours:
            yield os.path.realpath(file)


def _left_over(part: str, resumable: bool) -> InputError:
    hint = ", or --resume to continue it" if resumable else ""
    return InputError(f"{part}: left by an earlier run; add --overwrite to start again{hint}")


def _check_absent(target: str, name: str, *, overwrite: bool, resumable: bool) -> None:
    if not overwrite and os.path.exists(target):
        hint = ", or --resume if this is the same run again" if resumable else ""
        raise InputError(f"{name}: already exists; add --overwrite to replace it{hint}")


def _stream(raw: io.FileIO) -> TextIO:
    # No code of ours may run between the buffer and the system call: a signal there, after part of the buffer had
    # been written, would make the buffer write that part again.
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="surrogateescape", newline="\n")


def _open_part(part: str, name: str, *, is_new: bool, resume_at: int) -> io.FileIO:
    """Open FILE.part, and make sure that no other run is writing to it before anything is changed."""
    flags = os.O_RDWR | (0 if resume_at else os.O_CREAT) | (os.O_EXCL if is_new else 0)
    changed = OutputError(f"{name}: another run has continued this file in the meantime; check it, and run again")
    try:
        raw = io.FileIO(part, "r+", opener=lambda path, _: os.open(path, flags, 0o666))
    except FileNotFoundError as e:
        if resume_at:
            raise changed from e
        raise
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(raw.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = os.path.samestat(os.fstat(raw.fileno()), os.stat(part))  # else renamed: it is complete
            except (BlockingIOError, FileNotFoundError):
                is_ours = False
            if not is_ours:
                raise OutputError(f"{name}: another run is writing to it; wait for it to end, or choose another file")
        if os.fstat(raw.fileno()).st_size < resume_at:
            raise changed
        return raw
    except BaseException:
        raw.close()
        raise


@contextmanager
def as_output_error(name: str, opened: str | int | None = None) -> Iterator[None]:
    """Turn an OSError of the output into an OutputError: one that names the opened file, or, from a write, no file."""
    try:
        yield
    except (BrokenPipeError, FileExistsError):
        raise
    except OSError as e:
        if e.errno is None or e.filename not in (None, name, opened):
            raise
        cure = {
            errno.ENOSPC: "free some space and run again",
            errno.EDQUOT: "free some space and run again",
            errno.ENOENT: "make its folder first",
            errno.EISDIR: "give a file name",
        }.get(e.errno, "redirect it elsewhere" if name == "standard output" else "choose a place that you can write to")
        what = "is a folder" if e.errno == errno.EISDIR else (e.strerror or str(e)).lower()
        raise OutputError(f"{name}: {what}; {cure}") from e


def is_replaceable(target: str) -> bool:
    """Whether the target is or will be a regular file; /dev/stdout may lead to one, but must not be replaced."""
    if re.fullmatch(r"/dev/(std(in|out|err)|fd/\d+)|/proc/[^/]+(/task/[^/]+)?/fd/\d+", target):
        return False
    return os.path.isfile(target) or not os.path.exists(target)


def _descriptor_named(target: str) -> int | None:
    """Give the open descriptor that a name such as /dev/stdout means; it is written to as it is, and not emptied."""
    found = re.fullmatch(r"/dev/(?:(stdout)|(stderr)|fd/(\d{1,9}))|/proc/self/fd/(\d{1,9})", target)
    if found is None:
        return None
    return 1 if found[1] else 2 if found[2] else int(found[3] or found[4])


def _stdout_descriptor() -> int | None:
    """The descriptor of standard output; None if a test or a notebook has replaced it by a stream without one."""
    if sys.stdout is None:
        raise OutputError("standard output: it is closed; open it or add -o FILE")
    try:
        return sys.stdout.fileno()
    except io.UnsupportedOperation:
        return None
