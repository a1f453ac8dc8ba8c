"""How far a run into a file came, in FILE.part.json beside its rows, so that another run can go on from there.

The first line is an object: what the rows depend on. Each further one is a place between two batches. Batches begin
where they would have begun, so no number depends on where a run was cut.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice, takewhile
from typing import Any, TextIO

from zsclip.answers.answers import Prediction
from zsclip.errors import InputError, OutputError
from zsclip.out.output import part_of
from zsclip.pixels.skipped import Skipped


@dataclass(frozen=True)
class Point:
    """A place between two batches.

    pictures: before it, and of them failed. size: of FILE.part there, in bytes. paths: a hash of the pictures' paths.
    """

    pictures: int
    failed: int
    size: int
    paths: str


_BEGINNING = Point(0, 0, 0, "")


class Journal:
    """What is noted of one run into a file.

    Args:
        target: the file of `-o`.
        settings: all that its rows depend on besides the pictures; JSON-like.
    """

    def __init__(self, target: str, settings: Mapping[str, Any]) -> None:
        self._part = part_of(target)
        self._file = self._part + ".json"
        self._settings = dict(settings)
        self._paths = hashlib.blake2b(digest_size=8)
        self._points: list[Point] = []

    def go_on(self, paths: Iterator[str], *, retry_errors: bool = False) -> Point | None:
        """Check that an earlier run can be gone on with, and take the paths it has rows of from the list.

        Args:
            retry_errors: go on before the first batch with a failed picture.

        Returns:
            Where to go on, maybe at the very beginning; None where no earlier run left anything.

        Raises:
            InputError: there is nothing to tell how it was begun, or something is not as it was.
        """
        if not os.path.exists(self._part):
            return None
        size = os.path.getsize(self._part)
        if size == 0:  # killed before its first row
            return _BEGINNING
        settings, points = self._read()
        changed = [key for key in {**settings, **self._settings} if settings.get(key) != self._settings.get(key)]
        if changed:
            what = ", ".join(f"{key} ({settings.get(key)!r}, now {self._settings.get(key)!r})" for key in changed)
            raise InputError(f"{self._part}: begun with another {what}; repeat that command, or add --overwrite")
        usable = (point for point in points if point.size <= size)
        for point in takewhile(lambda point: not (retry_errors and point.failed), usable):
            before = self._last.pictures
            for path in islice(paths, point.pictures - before):
                self._add(path)
            if self._paths.hexdigest() != point.paths:
                which = f"pictures {before + 1} to {point.pictures}"
                raise InputError(
                    f"{self._part}: {which} are not those of the list as it is now; --overwrite starts again"
                )
            self._points.append(point)
        return self._last

    def begin(self) -> None:
        """Write down what is known, once the FILE.part is ours."""
        try:
            with open(self._file + ".new", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in (self._settings, *map(_line, self._points)))
            os.replace(self._file + ".new", self._file)
        except OSError as e:
            with suppress(OSError):
                os.unlink(self._file + ".new")
            raise OutputError(f"{self._file}: {(e.strerror or str(e)).lower()}; choose a place to write to") from e

    def noted(self, batches: Iterable[list[Prediction | Skipped]], out: TextIO) -> Iterator[list[Prediction | Skipped]]:
        """Pass batches on, and note each once its rows are written: when the next one is asked for."""
        pictures, failed = self._last.pictures, self._last.failed
        with open(self._file, "a", encoding="utf-8") as file:
            for batch in batches:
                yield batch
                for row in batch:
                    self._add(row.path)
                    failed += isinstance(row, Skipped)
                pictures += len(batch)
                point = Point(pictures, failed, os.fstat(out.fileno()).st_size, self._paths.hexdigest())
                file.write(json.dumps(_line(point)) + "\n")
                file.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        # Of a run that is complete, or has left no row, there is no FILE.part any more.
        if not os.path.lexists(self._part):
            with suppress(FileNotFoundError):
                os.unlink(self._file)

    @property
    def _last(self) -> Point:
        return self._points[-1] if self._points else _BEGINNING

    def _add(self, path: str) -> None:
        self._paths.update(os.fsencode(path) + b"\0")

    def _read(self) -> tuple[dict[str, Any], list[Point]]:
        try:
            with open(self._file, encoding="utf-8") as file:
                settings = json.loads(file.readline())
                points = []
                for line in file:
                    with suppress(ValueError, TypeError):  # a last line that was not written to its end
                        points.append(Point(*json.loads(line)))
            if not isinstance(settings, dict):
                raise ValueError("no settings")
            return settings, points
        except (OSError, ValueError) as e:
            raise InputError(
                f"{self._part}: {self._file} does not tell how it was begun; add --overwrite to start again"
            ) from e


def _line(point: Point) -> list[Any]:
    return list(asdict(point).values())
