"""Pictures by what lists name: files, URLs, and members of archives, such as `shard.tar#dir/a.jpg` in our own rows."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import BinaryIO

from zsclip.pictures.containers import archive_of, find_in_container, split_member
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures, read_regular, with_members
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network

_ARCHIVES_KEPT = 8  # of which it is known where each member is

Places = dict[str, tuple[Pictures, int]]


def with_listed(found: Iterable[Pictures], column: str | None, network: Network) -> Iterator[Pictures]:
    """Let those among some files be read that are members of archives, or are named by URLs.

    Args:
        column: of Parquet files; None finds it.
    """
    return network.with_urls(_with_archived(found, column, network))


def pictures_of(paths: Sequence[str], network: Network) -> Pictures:
    """Give the pictures that a list names, in one group; files alone stay files."""
    groups = list(with_listed([Pictures(paths)], None, network))
    if all(group.read is None for group in groups):
        return Pictures(paths)
    places = [(group, place) for group in groups for place in range(len(group))]

    def read(number: int) -> bytes | BinaryIO:
        group, place = places[number]
        return read_regular(group.names[place]) if group.read is None else group.read(place)

    def key(number: int) -> bytes | None:
        group, place = places[number]
        if group.read is None:
            return None  # it would have to be settled; contents identify it
        return None if group.key is None else group.key(place)

    return Pictures(paths, read, key)


class Members:
    """Opens members of archives by their names, on any thread.

    An archive is searched once, unless members of many others are opened in between.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._known: dict[str, Places] = {}  # by archive, the most recently used last
        self._changing = threading.Lock()

    def open(self, name: str) -> BinaryIO:
        """Open a member.

        Raises:
            Refused: it is not there, or cannot be read.
        """
        archive = archive_of(name)
        with self._changing:
            known = Places()
            if archive:
                is_known = archive in self._known
                known = self._known.pop(archive) if is_known else _places(archive, None, self._network)
                while len(self._known) >= _ARCHIVES_KEPT:
                    del self._known[next(iter(self._known))]
                self._known[archive] = known
            group, place = _place(name, known)
        return group.open(place)


def _with_archived(found: Iterable[Pictures], column: str | None, network: Network) -> Iterator[Pictures]:
    last, known = "", Places()
    for some in found:
        if some.read is not None or "#" not in "".join(some.names):
            yield some
            continue
        for archive, alike in groupby(some.names, archive_of):
            names = list(alike)
            if archive and archive != last:
                last, known = archive, _places(archive, column, network)
            members = _members(names, known) if archive else Pictures(names)
            yield replace(members, holder=some.holder)


def _places(archive: str, column: str | None, network: Network) -> Places:
    """Find all members of an archive; of two with one name, the first."""
    groups = find_in_container(archive, column, lambda name: True, lambda name: False, PassedOver(), network)
    found: Places = {}
    for group in groups:
        for place, name in enumerate(group.names):
            found.setdefault(str(name), (group, place))
    return found


def _members(names: Sequence[str], known: Places) -> Pictures:
    def read(number: int) -> bytes | BinaryIO:
        group, place = _place(names[number], known)
        if group.read is None:  # a file that a Parquet file names
            return read_regular(group.names[place])
        return group.read(place)

    def key(number: int) -> bytes | None:
        found = known.get(names[number])
        return None if found is None or found[0].key is None else found[0].key(found[1])

    return with_members(Pictures(names, read, key))


def _place(name: str, known: Places) -> tuple[Pictures, int]:
    if name not in known:
        is_parquet = split_member(name)[0].lower().endswith(".parquet")
        raise Refused(
            "missing", f"the {'Parquet file has no such row' if is_parquet else 'archive has no such member'}"
        )
    return known[name]
