"""The pictures of a run, in the groups they were found in. No picture is decoded here."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from zsclip.pictures.identity import file_keys


@dataclass(frozen=True, eq=False)
class Pictures:
    """Some pictures of one source, in order.

    names: n paths of files, or other names for the pictures.
    read: gives the encoded picture at an index of names; threads may call it. None if names are paths of files.
    keys: gives, for those from one index to before another, what each can be recognised by without being read, and what
    changes with its content; None for a picture without it. None if only their contents can tell.
    """

    names: Sequence[str]
    read: Callable[[int], bytes] | None = None
    keys: Callable[[int, int], Sequence[bytes | None]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def open(self, place: int) -> BinaryIO:
        """Open the encoded picture at an index."""
        return open(self.names[place], "rb") if self.read is None else io.BytesIO(self.read(place))


def in_files(paths: Sequence[str]) -> Pictures:
    """Give the pictures in some files, which keep their keys until they are changed or moved."""
    return Pictures(paths, keys=lambda start, stop: file_keys(paths[start:stop]))


class Paths(Iterator[str]):
    """The files of a run in order: one path at a time, or the rest in the groups they are found in."""

    def __init__(self, found: Iterable[list[str]]) -> None:
        self._found = iter(found)
        self._some: Iterator[str] = iter(())  # the rest of the last group

    def __next__(self) -> str:
        while True:
            for path in self._some:
                return path
            self._some = iter(next(self._found))

    def rest(self) -> Iterator[Pictures]:
        """Yield the files whose paths were not yet taken one by one."""
        return (in_files(some) for some in chain([list(self._some)], self._found) if some)
