"""The pictures of a run, in the groups they were found in. No picture is decoded here."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import BinaryIO

from zsclip.pictures.identity import file_keys
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.refused import Refused

MAX_BYTES = 64_000_000  # a larger picture is not held in memory, so it has no digest and is encoded every time


@dataclass(frozen=True, eq=False)
class Holder:
    """A file that holds or lists pictures, as it is entered once: it may be given twice, one right after the other."""

    path: str


@dataclass(frozen=True, eq=False)
class Pictures:
    """Some pictures of one source, in order.

    names: n paths of files, or other names for the pictures.
    read: gives the encoded picture at an index of names, or an open file if it is too large to be held in memory;
        threads may call it. None if names are paths of files.
    key: gives the key of the picture at an index, or None; asked before and after it is read, to notice a change. None
        if there are no keys, or names are paths of files.
    drop: called with the index of a picture that will not be read. None if nothing is held for it.
    waiting: bytes that lie in memory until all of them are read.
    holder: the file that was entered to find them. None if they were found otherwise.
    looks: gives the looks of the files, as `file_keys` takes them; None if they are taken when keys are asked for.
    """

    names: Sequence[str]
    read: Callable[[int], bytes | BinaryIO] | None = None
    key: Callable[[int], bytes | None] | None = None
    drop: Callable[[int], object] | None = None
    waiting: int = 0
    holder: Holder | None = None
    looks: Callable[[], Sequence[bytes | None] | None] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def keys(self, start: int, stop: int) -> Sequence[bytes | None] | None:
        """Give a key for each picture of a range: it identifies the picture unread, and changes when the content does.

        Returns:
            None in place of a key that a picture does not have; None alone if only contents identify these pictures.
        """
        if self.read is None:
            looks = None if self.looks is None else self.looks()
            return file_keys(self.names[start:stop], looks and looks[start:stop])
        return None if self.key is None else list(map(self.key, range(start, stop)))

    def only(self, places: Sequence[int]) -> "Pictures":
        """Give some of the pictures, by their indices."""
        read, key = self.read, self.key
        return Pictures(
            [self.names[place] for place in places],
            read and (lambda number: read(places[number])),
            key and (lambda number: key(places[number])),
        )

    def open(self, place: int) -> BinaryIO:
        """Open the encoded picture at an index."""
        if self.read is None:
            return open(self.names[place], "rb")
        data = self.read(place)
        return io.BytesIO(data) if isinstance(data, bytes) else data


class Member(str):
    """The name of a picture that is not a file of its own. It knows its group and its place there.

    So a picture can be read again from its row: a container may have two members of one name, and a dict of the names
    of all members would not fit in memory.
    """

    __slots__ = ("pictures", "place")
    pictures: Pictures
    place: int

    def __new__(cls, name: str, pictures: Pictures, place: int) -> "Member":
        member = super().__new__(cls, name)
        member.pictures, member.place = pictures, place
        return member

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Leave the pictures behind where a name is pickled or copied."""
        return str, (str(self),)


class Paths(Iterator[str]):
    """The pictures of a run in order: one name at a time, or the rest in the groups they are found in.

    passed_over: what is left out, complete once all have been found. close: releases what is held for pictures that
    were not read; called when a run ends.
    """

    def __init__(
        self, found: Iterable[Pictures], passed_over: PassedOver, close: Callable[[], None] = lambda: None
    ) -> None:
        self.passed_over, self.close = passed_over, close
        self._found = map(with_members, found)
        self._some, self._place = Pictures(()), 0  # the last group, and how many names of it were taken
        self._inside: Holder | None = None  # of the last name that was taken by itself

    def __next__(self) -> str:
        if not self._has_next():
            raise StopIteration
        name = self._some.names[self._place]
        self._place, self._inside = self._place + 1, self._some.holder
        if isinstance(name, Member) and name.pictures.drop is not None:
            name.pictures.drop(name.place)
        return name

    @property
    def holder(self) -> Holder | None:
        """The file that was entered to find the last picture that was taken by itself."""
        return self._inside

    def in_place_of(self, name: str) -> list[str]:
        """Take what is found now where an earlier search only found a file, as it could not be read, or not further.

        Returns:
            The pictures that it holds from there on; the file itself if it still cannot be read.
        """
        found: list[str] = []
        if not self._has_next():
            return found
        begun, holder = self._inside, self._some.holder
        is_begun = begun is not None and begun.path == name  # then no other one of this name is meant
        if holder is not None and holder.path == name and (holder is begun or not is_begun):
            while self._has_next() and self._some.holder is holder:
                found.append(next(self))
        elif self._some.names[self._place] == name:
            found.append(next(self))
        self._inside = None
        return found

    def rest(self) -> Iterator[Pictures]:
        """Yield the pictures whose names were not yet taken one by one."""
        left = pictures_named(list(self._some.names[self._place :]))
        return (some for some in chain([left], self._found) if len(some))

    def _has_next(self) -> bool:
        """Go on to the next group if the last one is used up; give whether there is one."""
        while self._place >= len(self._some):
            some = next(self._found, None)
            if some is None:
                return False
            self._some, self._place = some, 0
        return True


def pictures_named(names: Sequence[str]) -> Pictures:
    """Give the pictures with these names, which were taken from `Paths`."""
    if not any(isinstance(name, Member) for name in names):
        return Pictures(names)

    def read(place: int) -> bytes | BinaryIO:
        name = names[place]
        if not isinstance(name, Member):
            return read_regular(name)
        assert name.pictures.read is not None
        return name.pictures.read(name.place)

    def key(place: int) -> bytes | None:
        name = names[place]
        own = name.pictures.key if isinstance(name, Member) else None
        return None if own is None else own(name.place)  # type: ignore[attr-defined]

    return Pictures(names, read, key)


def read_regular(path: str) -> bytes:
    """Read a whole file, if it is one: a pipe could block for ever, and a device never end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Refused("not-a-file", "a pipe, socket or device")
        return file.read()


def with_members(some: Pictures) -> Pictures:
    """Let the names of pictures that are not files know where they are read from."""
    if some.read is None or isinstance(some.names[0] if some.names else None, Member):
        return some
    return replace(some, names=[Member(name, some, place) for place, name in enumerate(some.names)])
