"""Pictures by what lists name: files, URLs, members of archives and frames of videos, as our own rows have them."""

import io
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import BinaryIO

from zsclip.pictures.containers import archive_of, find_in_container, is_clip, split_member
from zsclip.pictures.named_frames import NamedFrames
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures, read_regular, with_members
from zsclip.pictures.refused import Refused
from zsclip.pictures.remote import Network
from zsclip.pictures.urls import is_remote

_KEPT = 8  # archives of which it is known where each member is, and videos

Places = dict[str, tuple[Pictures, int]]
Held = Places | NamedFrames


def with_listed(
    found: Iterable[Pictures], column: str | None, network: Network, *, max_pixels: int | None = None
) -> Iterator[Pictures]:
    """Let those among some files be read that are members of archives, frames of videos, or are named by URLs.

    Args:
        column: of Parquet files; None finds it. max_pixels: of frames of videos.
    """
    return network.with_urls(_with_held(found, column, network, max_pixels))


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


def is_single(name: str) -> bool:
    """Whether a name is that of one picture that may be there: a file, a member, a frame, or a URL."""
    return os.path.isfile(name) or bool(archive_of(name)) or is_remote(name)


def check_single(names: Sequence[str], network: Network) -> None:
    """Check that single pictures on servers, or what holds them there, may be fetched and are there.

    Raises:
        InputError: one is not.
    """
    network.check(list(dict.fromkeys(archive_of(name) or name for name in names if is_remote(name))))


class Members:
    """Opens members of archives and frames of videos by their names, on any thread.

    An archive is searched once, unless members of many others are opened in between.

    Args:
        max_pixels: of frames. frame_seconds: that the search for a frame may take; None: any time.
    """

    def __init__(self, network: Network, *, max_pixels: int | None = None, frame_seconds: float | None = None) -> None:
        self._known = _Known(None, network, max_pixels, frame_seconds)
        self._changing = threading.Lock()

    def open(self, name: str) -> BinaryIO:
        """Open a member or a frame.

        Raises:
            Refused: it is not there, or cannot be read. OSError: its archive or video cannot.
        """
        archive = archive_of(name)
        with self._changing:
            held = self._known.held(archive)
            if not isinstance(held, NamedFrames):
                group, place = _place(name, held)
        return io.BytesIO(held.read(name)) if isinstance(held, NamedFrames) else group.open(place)


class _Known:
    """What finds pictures in the archives and videos that were asked for last."""

    def __init__(
        self, column: str | None, network: Network, max_pixels: int | None, frame_seconds: float | None = None
    ) -> None:
        self._column, self._network, self._max_pixels, self._frame_seconds = column, network, max_pixels, frame_seconds
        self._held: dict[str, Held] = {}  # the most recently used last

    def held(self, archive: str) -> Held:
        """Give what finds the pictures in an archive or a video by their names; "" holds none."""
        found = self._held.pop(archive, None)
        if found is None and is_clip(archive):
            most_seconds = self._frame_seconds
            found = NamedFrames(archive, self._network, max_pixels=self._max_pixels, most_seconds=most_seconds)
        elif found is None:
            found = _places(archive, self._column, self._network) if archive else {}
        while len(self._held) >= _KEPT:
            del self._held[next(iter(self._held))]
        self._held[archive] = found
        return found


def _with_held(
    found: Iterable[Pictures], column: str | None, network: Network, max_pixels: int | None
) -> Iterator[Pictures]:
    known = _Known(column, network, max_pixels)
    for some in found:
        if some.read is not None or "#" not in "".join(some.names):
            yield some
            continue
        for archive, alike in groupby(some.names, archive_of):
            names = list(alike)
            if not archive:
                yield Pictures(names, holder=some.holder)
                continue
            held = known.held(archive)
            members = held.pictures(names) if isinstance(held, NamedFrames) else _members(names, held)
            yield replace(members, holder=some.holder)


def _places(archive: str, column: str | None, network: Network) -> Places:
    """Find all members of an archive; of two with one name, the first."""
    groups = find_in_container(archive, column, lambda name: True, lambda name: False, PassedOver(), network)
    found: Places = {}
    for group in groups:
        for place, name in enumerate(group.names):
            found.setdefault(str(name), (group, place))
    return found


def _members(names: Sequence[str], held: Places) -> Pictures:
    def read(number: int) -> bytes | BinaryIO:
        group, place = _place(names[number], held)
        if group.read is None:  # a file that a Parquet file names
            return read_regular(group.names[place])
        return group.read(place)

    def key(number: int) -> bytes | None:
        found = held.get(names[number])
        return None if found is None or found[0].key is None else found[0].key(found[1])

    return with_members(Pictures(names, read, key))


def _place(name: str, held: Places) -> tuple[Pictures, int]:
    if name not in held:
        archive = split_member(name)[0]
        if archive in held:  # its own row, which says why it could not be read, or not further
            return held[archive]
        is_parquet = archive.lower().endswith(".parquet")
        raise Refused(
            "missing", f"the {'Parquet file has no such row' if is_parquet else 'archive has no such member'}"
        )
    return held[name]
