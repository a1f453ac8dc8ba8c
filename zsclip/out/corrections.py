"""The file of corrections: what people say that pictures show, as a list that `learn`, `eval` and `train` read.

Its header is `file_name,label`, and every picture has one line, with an empty label if only the answer is known to be
wrong. Paths are relative to the file, as in all lists of pictures that zsclip has not answered.
"""

import csv
import errno
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO

from zsclip.errors import InputError, OutputError
from zsclip.kept.folders import alone_in, flush_folder
from zsclip.out.sinks import csv_field
from zsclip.out.text import from_utf8, in_utf8
from zsclip.pictures.identity import Look
from zsclip.pictures.urls import is_remote

HEADER = ("file_name", "label")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Corrections:
    """The corrections in a file, which other programs may change, too.

    Every change is on the disk before `set` returns, and a process that is killed at any moment leaves a whole file:
    the one before the change, or the one after it. Threads may call it.

    Raises:
        InputError: the file is there, and holds something else.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.path.realpath(path)
        self._folder, self._here = os.path.dirname(self._file), os.getcwd()
        self._lock = threading.Lock()
        self._look: Look | None = None
        self._lines: dict[str, tuple[str, str]] = {}  # by key of the picture: its name in the file, and its label
        self._read()

    def key(self, name: str) -> str:
        """Give what two names of a picture have in common.

        Args:
            name: as a run was given it, so that a relative path begins in the working directory.
        """
        return _key(self._here, name)

    def __len__(self) -> int:
        return len(self._lines)

    def labels(self) -> Mapping[str, str]:
        """Give the label for each key; an empty one says only that the answer is wrong."""
        with self._lock:
            self._read()
            return {key: label for key, (_, label) in self._lines.items()}

    def set(self, name: str, label: str | None) -> None:
        """Write down what a picture shows.

        Args:
            name: as for `key`. label: None takes a correction back.

        Raises:
            InputError, OutputError: the file has become something else, or cannot be written.
        """
        with self._lock, self._alone():
            self._read()
            lines = dict(self._lines)
            key = self.key(name)
            if label is not None:
                lines[key] = (lines[key][0] if key in lines else self._written(name), label)
            elif lines.pop(key, None) is None:
                return
            self._write(lines)

    def close(self) -> None:
        """Wait for a change that is being written, and let none begin."""
        self._lock.acquire()

    def _written(self, name: str) -> str:
        """Give a name as it stands in the file."""
        if is_remote(name) or os.path.isabs(name):
            return name
        way = os.path.relpath(self._here, self._folder)
        # Whoever reads a list strips spaces from its cells.
        return name if way == "." and name == name.lstrip() else os.path.join(way, name)

    def _read(self) -> None:
        """Read the file again if somebody has changed it."""
        try:
            with open(self._file, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                look = Look.of(os.fstat(file.fileno()))
                if look == self._look:
                    return
                self._lines = {_key(self._folder, name): (name, label) for name, label in self._records(file)}
                self._look = look
        except FileNotFoundError:
            self._look, self._lines = None, {}
        except OSError as e:
            raise InputError(f"{self.path}: cannot be read: {(e.strerror or str(e)).lower()}") from e

    def _records(self, file: TextIO) -> Iterator[tuple[str, str]]:
        try:
            records = list(csv.reader(file, strict=True))
            if (records and tuple(records[0]) != HEADER) or any(len(record) not in (0, 2) for record in records):
                raise ValueError("other columns")
        except (csv.Error, ValueError) as e:
            raise InputError(
                f"{self.path}: not a file of corrections, whose header is file_name,label; give another one with "
                "--corrections"
            ) from e
        return ((from_utf8(record[0]), record[1]) for record in records[1:] if record)

    def _write(self, lines: dict[str, tuple[str, str]]) -> None:
        """Replace the file by one with these lines."""
        part = f"{self._file}.part"
        try:
            with suppress(FileNotFoundError):
                os.unlink(part)  # of a process that was killed; or a link that would lead elsewhere
            with open(part, "x", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(",".join(HEADER) + "\n")
                file.writelines(f"{csv_field(in_utf8(name))},{csv_field(label)}\n" for name, label in lines.values())
                file.flush()
                with suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), os.stat(self._file).st_mode & 0o777)
                os.fsync(file.fileno())
            os.replace(part, self._file)
            self._lines, self._look = lines, Look.of(os.stat(self._file))
        except OSError as e:
            with suppress(OSError):
                os.unlink(part)
            cure = "free some space" if e.errno in _FULL else "check its folder"
            raise OutputError(f"{self.path}: {(e.strerror or str(e)).lower()}; {cure}, and try again") from e
        flush_folder(self._folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process that has this class change the file while the block runs."""
        try:
            with alone_in(self._folder):
                yield
        except OSError as e:
            raise OutputError(f"{self.path}: {(e.strerror or str(e)).lower()}; choose another place") from e


def _key(folder: str, name: str) -> str:
    return name if is_remote(name) else os.path.normpath(os.path.join(folder, name))
