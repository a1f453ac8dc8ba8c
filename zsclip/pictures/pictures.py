"""The pictures of a run, in the groups they were found in. No picture is decoded here."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from zsclip.pictures.identity import file_keys
from zsclip.pictures.passed_over import PassedOver


@dataclass(frozen=True, eq=False)
class Pictures:
    """Some pictures of one source, in order.

    names: n paths of files, or other names for the pictures.
    read: gives the encoded picture at an index of names; threads may call it. None if names are paths of files.
    """

    names: Sequence[str]
    read: Callable[[int], bytes] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def keys(self, start: int, stop: int) -> Sequence[bytes | None] | None:
        """Give a key for each picture of a range: it identifies the picture unread, and changes when the content does.

        Returns:
            None in place of a key that a picture does not have; None alone if only contents identify these pictures.
        """
        return file_keys(self.names[start:stop]) if self.read is None else None

    def open(self, place: int) -> BinaryIO:
        """Open the encoded picture at an index."""
        return open(self.names[place], "rb") if self.read is None else io.BytesIO(self.read(place))


class Paths(Iterator[str]):
    """The pictures of a run in order: one name at a time, or the rest in the groups they are found in.

    passed_over: what is left out, complete once all have been found.
    """

    def __init__(self, found: Iterable[Pictures], passed_over: PassedOver) -> None:
        self.passed_over = passed_over
        self._found = map(self._noted, found)
        self._names: Iterator[str] = iter(())  # the rest of the last group
        self._in_hand: dict[str, Pictures] = {}  # those that are not files, by name

    def __next__(self) -> str:
        while True:
            for name in self._names:
                return name
            self._names = iter(next(self._found).names)

    def rest(self) -> Iterator[Pictures]:
        """Yield the pictures whose names were not yet taken one by one."""
        return (some for some in chain([self.again(list(self._names))], self._found) if len(some))

    def again(self, names: Sequence[str]) -> Pictures:
        """Give pictures whose names were taken before."""
        if self._in_hand.keys().isdisjoint(names):
            return Pictures(names)

        def read(place: int) -> bytes:
            name = names[place]
            some = self._in_hand.get(name)
            if some is None or some.read is None:
                return Path(name).read_bytes()
            return some.read(some.names.index(name))

        return Pictures(names, read)

    def _noted(self, some: Pictures) -> Pictures:
        if some.read is not None:
            self._in_hand.update(dict.fromkeys(some.names, some))
        return some
