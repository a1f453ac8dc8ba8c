"""The journal of a run that writes a file: with it, another run can continue, or see that nothing is left to do.

While rows are written, `FILE.part.json` lies beside them. Its first line is an object: what the rows depend on. Each
further one is a position between two batches. A resumed run forms the same batches, so no number depends on where a
run was cut.

For a finished file, the cache keeps the same facts under the digest of its content: the file may be moved, copied or
renamed, nothing lies beside it, and a file that has changed since is simply not found.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np

from zsclip.answers.answers import Answers
from zsclip.errors import InputError, OutputError
from zsclip.kept.cache import read_rows, write_rows
from zsclip.out.changes import changes
from zsclip.out.output import part_of
from zsclip.pictures.containers import stands_for_many
from zsclip.pictures.pictures import Paths

_VERSION = 2
_KIND = "finished files"  # what the cache calls the records
_MOST_RECORDS = 16  # for one content, as other settings may give the same few rows, or none


class Failures(NamedTuple):
    """Neighbouring pictures that failed.

    first: the index of the first one in the list of pictures. pictures: their number. start, end: of all
    their rows in the file, in bytes; equal where --only or the format leaves them out. name: of a file that holds many
    pictures, which has a row, alone in here, as it could not be read, or not further; "" for pictures.
    """

    first: int
    pictures: int
    start: int
    end: int
    name: str = ""


@dataclass(frozen=True)
class Point:
    """A place between two batches.

    pictures, failed: the numbers before it. size: of FILE.part there, in bytes. paths: a hash of the pictures' paths.
    failures: those of the batch before it; for a finished file, all of them.
    """

    pictures: int
    failed: int
    size: int
    paths: str
    failures: tuple[Failures, ...] = ()


_BEGINNING = Point(0, 0, 0, "")


class Journal:
    """The journal of one run.

    Args:
        target: the file of `-o`.
        settings: everything that its rows depend on besides the pictures; JSON-like, see `changes`.
        overwrite: whether the run may replace a finished file; a run that continues it inherits this.
        can_grow: whether rows can be added to FILE.part; if not, a run that continues it starts again.
    """

    def __init__(
        self, target: str, settings: Mapping[str, Any], *, overwrite: bool = False, can_grow: bool = True
    ) -> None:
        self.overwrite = overwrite
        self._can_grow = can_grow
        self.failed_paths: list[str] = []  # pictures that failed in earlier runs, or are found now in place of files
        # For each of the failures of earlier runs, its name, and the indices of what is found there now.
        self.again: list[tuple[str, range]] = []
        self._target = target
        self._part = part_of(target)
        self._file = self._part + ".json"
        self._settings = dict(settings)
        self._paths = hashlib.blake2b(digest_size=8)  # of the pictures that have rows
        self._found = hashlib.blake2b(digest_size=8)  # of those that are found now, in place of files, too
        self._count = 0  # pictures that are found now
        self._points: list[Point] = []
        self._last = _BEGINNING
        self._failures: list[Failures] = []
        self._retries = False

    def resume(self, paths: Paths) -> Point | None:
        """Check that an earlier run can be continued, and drop the paths that already have rows from the list.

        Returns:
            Where to continue, perhaps at the very beginning; None if there is nothing to continue.

        Raises:
            InputError: there is no record of how it was started, or something has changed.
        """
        exists = os.path.exists(self._target)
        if not os.path.exists(self._part):
            return None
        size = os.path.getsize(self._part)
        if size == 0:  # killed before its first row
            return None if exists else _BEGINNING
        header, points = self._read()
        if header["retries"] and exists:  # the file exists, and only its failed rows are redone
            return None
        if exists and not header["overwrite"]:
            raise InputError(f"{self._target}: already exists beside {self._part}; move one of the two away")
        if header["retries"]:
            raise InputError(f"{self._part}: a copy of {self._target}, which is gone; add --overwrite to start again")
        what = "; ".join(changes(header["settings"], self._settings))
        if what:
            raise InputError(f"{self._part}: started with other settings: {what}; use those, or add --overwrite")
        self.overwrite = header["overwrite"]
        for point in points if self._can_grow else ():
            if point.size > size:
                break
            before = self._last.pictures
            self._take(paths, point)
            if self._paths.hexdigest() != point.paths:
                which = f"images {before + 1} to {point.pictures}"
                raise InputError(f"{self._part}: {which} differ from the list as it is now; --overwrite starts again")
            self._points.append(point)
        return self._last

    def check_finished(self, paths: Paths) -> Point | None:
        """Check that a finished file was made by the same run, and remove all paths from the list.

        Returns:
            Its end; None if there is no such file.

        Raises:
            InputError: there is no record of how it was made, or something has changed.
        """
        if not os.path.exists(self._target):
            return None
        records = _records(_digest(self._target))
        if not records:
            raise InputError(
                f"{self._target}: there is no record of how this file was made; move it away, or add --overwrite to "
                "replace it"
            )
        same = [each for each in records if not any(changes(each["settings"], self._settings))]
        record = (same or records)[-1]
        what = list(changes(record["settings"], self._settings))
        end = _point(record["end"])
        if not what:
            self._take(paths, end)
            left = sum(1 for _ in paths)
            count = self._count + left
            if left or self._paths.hexdigest() != end.paths:
                changed = (
                    f"{end.pictures:,} -> {count:,}" if count != end.pictures else f"a different list of {count:,}"
                )
                what = [f"images: {changed}"]
        if what:
            raise InputError(
                f"{self._target}: made with other settings: {'; '.join(what)}; write to another file, or add "
                "--overwrite to replace it"
            )
        with suppress(FileNotFoundError):  # left by a run that was killed between its last two steps
            if not os.path.lexists(self._part):
                os.unlink(self._file)
        return end

    def begin(self, *, retries: bool = False) -> None:
        """Write the journal, once FILE.part is ours.

        Args:
            retries: whether FILE.part is a copy of FILE in which failed rows are replaced.
        """
        self._retries = retries
        header = {"version": _VERSION, "overwrite": self.overwrite, "retries": retries, "settings": self._settings}
        try:
            with open(self._file + ".new", "w", encoding="utf-8") as file:
                points = () if retries else map(_line, self._points)
                file.writelines(json.dumps(line) + "\n" for line in (header, *points))
            os.replace(self._file + ".new", self._file)
        except OSError as e:
            with suppress(OSError):
                os.unlink(self._file + ".new")
            raise OutputError(
                f"{self._file}: {(e.strerror or str(e)).lower()}; choose a place that you can write to"
            ) from e

    def noted(self, batches: Iterable[Answers], out: TextIO) -> Iterator[Answers]:
        """Pass batches on, and note each after its rows are written, when the next one is requested.

        A batch is split into runs of answered and of failed pictures, so that the positions of failed rows are known.
        """
        pictures, failed = self._last.pictures, self._last.failed
        with open(self._file, "a", encoding="utf-8") as file:
            for batch in batches:
                failures: list[Failures] = []
                yield from _in_runs(batch, pictures, out, failures)
                self._see(batch.names)
                failed += len(batch.skipped)
                pictures += len(batch)
                self._last = Point(pictures, failed, _size(out), self._paths.hexdigest(), tuple(failures))
                self._failures += failures
                file.write(json.dumps(_line(self._last)) + "\n")
                file.flush()

    @property
    def taken(self) -> int:
        """How many of the pictures that are found now were removed from the list, or have rows."""
        return self._count

    @property
    def has_failures(self) -> bool:
        """Whether earlier runs left failed rows, for `retried`."""
        return bool(self.again)

    @property
    def retries_first_row(self) -> bool:
        """Whether `retried` writes rows at the very beginning of the file, where a header belongs."""
        return self.has_failures and self._failures[0].start == 0 and len(self.again[0][1]) > 0

    def retried(
        self, batches: Iterable[Answers], old: BinaryIO, out: TextIO, *, has_header: bool = False
    ) -> Iterator[Answers]:
        """Pass on the rows of `failed_paths`, and copy all others of the finished file around them.

        Args:
            old: the finished file. out: its copy. has_header: whether its first line is a header.
        """
        answers = _Taken(batches)
        failures: list[Failures] = []
        more = 0  # pictures than before, up to here
        for number, each in enumerate(self._failures):
            _copy(old, out, each.start - old.tell())
            first = each.first + more
            if number < len(self.again):
                count = len(self.again[number][1])
                if each.start == 0 and has_header and not count:
                    out.write(old.readline().decode())
                for some in answers.next(count):
                    yield from _in_runs(some, first, out, failures)
                    first += len(some)
                more += count - each.pictures
                old.seek(each.end)
            else:  # failed in this run
                start = _size(out)
                _copy(old, out, each.end - each.start)
                failures.append(each._replace(first=first, start=start, end=_size(out)))
        _copy(old, out, os.fstat(old.fileno()).st_size - old.tell())
        failed = sum(each.pictures for each in failures)
        self._failures, self._paths = failures, self._found
        self._last = Point(self._count, failed, _size(out), self._paths.hexdigest())

    def record_finished(self, out: TextIO) -> None:
        """Record how the file was made, once all rows are written, under the digest of its content."""
        out.flush()
        end = Point(self._last.pictures, self._last.failed, _size(out), self._paths.hexdigest(), tuple(self._failures))
        record = {"version": _VERSION, "settings": self._settings, "end": _line(end)}
        key = _digest(self._part)
        others = [each for each in _records(key) if each["settings"] != self._settings]
        records = [*others[1 - _MOST_RECORDS :], record]
        write_rows(_KIND, {key: zlib.compress(json.dumps(records).encode())})

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._retries and any(exception):  # the finished file still exists, so half a copy of it is useless
            with suppress(FileNotFoundError):
                os.unlink(self._part)
        # A run that is complete, or wrote no row, has no FILE.part any more.
        if not os.path.lexists(self._part):
            for file in (self._file, self._file + ".new"):  # the latter if a signal came while it was written
                with suppress(FileNotFoundError):
                    os.unlink(file)

    def _take(self, paths: Paths, point: Point) -> None:
        """Remove the paths up to a point from the list, and remember those of failed pictures."""
        place = self._last.pictures
        for each in point.failures:
            self._see(list(islice(paths, each.first - place)))
            some = paths.in_place_of(each.name) if each.name else list(islice(paths, each.pictures))
            self._see(some, [each.name] if each.name else some)
            self.failed_paths += some
            self.again.append((each.name, range(self._count - len(some), self._count)))
            place = each.first + each.pictures
        self._see(list(islice(paths, point.pictures - place)))
        self._failures += point.failures
        self._last = Point(point.pictures, point.failed, point.size, point.paths)

    def _see(self, found: Sequence[str], rows: Sequence[str] | None = None) -> None:
        """Add pictures to the hashes of their paths.

        Args:
            rows: those that have rows instead; None if it is the same ones.
        """
        self._paths.update(_lines_of(found if rows is None else rows))
        self._found.update(_lines_of(found))
        self._count += len(found)

    def _read(self) -> tuple[dict[str, Any], list[Point]]:
        try:
            with open(self._file, encoding="utf-8") as file:
                header = json.loads(file.readline())
                points = []
                for line in file:
                    with suppress(ValueError, TypeError):  # a last line that was only partly written
                        points.append(_point(json.loads(line)))
            if not isinstance(header, dict) or header.get("version") != _VERSION:
                raise ValueError("not of this version")
            return header, points
        except (OSError, ValueError) as e:
            raise InputError(
                f"{self._part}: cannot be resumed: {self._file} is missing, damaged or of another version; "
                "add --overwrite to start again"
            ) from e


class _Taken:
    """The answers of batches, taken in any number at a time."""

    def __init__(self, batches: Iterable[Answers]) -> None:
        self._batches = iter(batches)
        self._left: Answers | None = None

    def next(self, count: int) -> Iterator[Answers]:
        """Yield the next pictures, grouped by batch; fewer if there are no more."""
        while count:
            batch = next(self._batches, None) if self._left is None else self._left
            if batch is None:
                return
            some = batch.take(np.arange(min(count, len(batch))))
            self._left = batch.take(np.arange(count, len(batch))) if count < len(batch) else None
            count -= len(some)
            yield some


def _in_runs(batch: Answers, first: int, out: TextIO, failures: list[Failures]) -> Iterator[Answers]:
    """Pass pictures on in runs of answered and of failed ones; record where the rows of the failed ones were written.

    Args:
        first: the index of the first picture in the list of pictures.
    """
    if not batch.skipped:
        yield batch
        return
    is_failed = ~batch.was_read()
    alone = {place for place in np.flatnonzero(is_failed).tolist() if stands_for_many(batch.names[place])}
    changes_at = (np.flatnonzero(np.diff(is_failed)) + 1).tolist()
    bounds = sorted({0, *changes_at, *alone, *(place + 1 for place in alone), len(batch)})
    for begin, end in pairwise(bounds):
        start = _size(out)
        yield batch.take(np.arange(begin, end))
        if is_failed[begin]:
            name = str(batch.names[begin]) if begin in alone else ""
            failures.append(Failures(first + begin, end - begin, start, _size(out), name))


def _copy(old: BinaryIO, out: TextIO, size: int) -> None:
    out.flush()
    while size > 0 and (some := old.read(min(size, 1 << 20))):
        out.buffer.write(some)
        size -= len(some)
    out.flush()


def _size(out: TextIO) -> int:
    return os.fstat(out.fileno()).st_size


def _records(digest: str) -> list[dict[str, Any]]:
    """Give the records of how a file with this content was made, the latest last."""
    kept = read_rows(_KIND, [digest]).get(digest)
    records = json.loads(zlib.decompress(kept)) if kept else []
    return [each for each in records if each["version"] == _VERSION]


def _digest(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _lines_of(paths: Sequence[str]) -> bytes:
    return b"".join([os.fsencode(path) + b"\0" for path in paths])


def _line(point: Point) -> list[Any]:
    return list(asdict(point).values())


def _point(values: list[Any]) -> Point:
    pictures, failed, size, paths, failures = values
    return Point(pictures, failed, size, paths, tuple(Failures(*each) for each in failures))
