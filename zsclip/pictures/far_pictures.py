"""Single pictures on servers, fetched a little ahead while they are read in order."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from zsclip.pictures.about import About, key_of
from zsclip.pictures.fetch import TooLong, server_of
from zsclip.pictures.pictures import MAX_BYTES
from zsclip.pictures.refused import Refused
from zsclip.pictures.shards import check_not_empty

if TYPE_CHECKING:
    from concurrent.futures import Future

    from zsclip.pictures.remote import Network

_PICTURES_AHEAD = 32  # fetched before they are wanted; the time on the way is longer than that of decoding
_LARGEST_AHEAD = 1 << 22  # bytes of one of them


class FarPictures:
    """Some pictures on servers, read by any thread; those to come are fetched ahead while they are read in order."""

    def __init__(self, urls: Sequence[str], network: "Network", abouts: Sequence[About] | None) -> None:
        self._urls, self._network, self._listed = urls, network, abouts
        self._lock = threading.Lock()
        self._asked: list[Future[About] | None] | None = None
        self._coming: dict[int, Future[tuple[bytes, About]]] = {}
        self._begun: set[int] = set()
        self._read: dict[int, About] = {}

    def key(self, place: int) -> bytes | None:
        """Give the key of a picture: of the bytes that were read, or of what its server has now."""
        if place in self._begun:
            return key_of(self._urls[place], self._read.get(place, About()))
        if self._listed is not None:
            return key_of(self._urls[place], self._listed[place])
        with self._lock:
            if self._asked is None:
                self._asked = [self._ask(url) for url in self._urls]
        asked = self._asked[place]
        try:
            return None if asked is None else key_of(self._urls[place], asked.result())
        except Refused:
            return None

    def read(self, place: int) -> bytes | BinaryIO:
        """Read a picture, or open it if it is too large to be held in memory.

        Raises:
            Refused: it cannot be fetched.
        """
        url = self._urls[place]
        self._network.refuse(url)
        with self._lock:
            coming = self._coming.pop(place, None)
            self._begun.add(place)
            if place == 0 or place - 1 in self._begun:
                for after in range(place + 1, min(place + 1 + _PICTURES_AHEAD, len(self._urls))):
                    if after not in self._begun and after not in self._coming and self._may_fetch(self._urls[after]):
                        self._coming[after] = self._fetch(after, _LARGEST_AHEAD)
        for each in (coming, None):
            try:
                data, about = (each or self._fetch(place, MAX_BYTES)).result()
                check_not_empty(len(data))
                self._read[place] = about
                return data
            except TooLong:
                continue
        shard = self._network.opened(url)
        return shard.picture(0, shard.size)

    def _ask(self, url: str) -> "Future[About] | None":
        if (known := self._network.known(url)) is not None:
            from concurrent.futures import Future

            asked: Future[About] = Future()
            asked.set_result(known)
            return asked
        return server_of(url).about(url, tries=1) if self._may_fetch(url) else None

    def _may_fetch(self, url: str) -> bool:
        try:
            self._network.refuse(url)
        except Refused:
            return False
        return True

    def _fetch(self, place: int, most: int) -> "Future[tuple[bytes, About]]":
        url, before = self._urls[place], None
        if self._listed is not None:
            before = self._listed[place]
        elif self._asked is not None:
            asked = self._asked[place]
            before = asked.result() if asked is not None and asked.done() and asked.exception() is None else About()
        return server_of(url).whole(url, most, before)
