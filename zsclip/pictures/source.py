"""Pictures with labels or captions that are read together, and those of them that are in memory."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zsclip.pictures.pictures import Pictures


@dataclass(frozen=True)
class Names:
    """What a picture shows, in words: its label and captions.

    kinds: broader words, the nearest first; captions: free sentences, used as they are; source: the data set
    that it comes from, if there are several. name: what a list gives as its name beside the label.
    """

    label: str
    synonyms: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    source: str = ""
    name: str = ""


@dataclass(frozen=True, eq=False)
class Source:
    """Pictures that are read together: a row group, a folder's or a list's files, or some of an archive.

    pictures: an id and the words of each, None if it has none. size: the bytes that `read` needs in memory.
    read: gives their paths where they `are_files`, else the encoded pictures as pyarrow's bytes. files: those that
    hold them. members: the pictures instead, where each is read by itself: in an archive, or on a server. first: the
    number of the first row, where they are rows of a Parquet file.
    """

    where: str
    size: int
    pictures: list[tuple[str, Names | None]]
    read: Callable[[], Sequence[Any]]
    are_files: bool
    files: Sequence[str]
    members: Pictures | None = None
    first: int = 0


class SourceCache:
    """Sources in memory, the most recently used last; threads may share it.

    Args:
        max_bytes: the bytes to keep; the least recently used source goes first.
        min_sources: the number to keep even if they are larger than that.
    """

    def __init__(self, *, max_bytes: int = 0, min_sources: int = 1) -> None:
        self._max_bytes = max_bytes
        self._min_sources = min_sources
        self._kept: dict[Source, Sequence[Any]] = {}
        self._lock = threading.Lock()

    def read(self, source: Source, row: int) -> str | bytes | None:
        """Give one picture of a source: its path where they `are_files`, else the encoded picture.

        Returns:
            None if the source is shorter than it was when its words were read.

        Raises:
            Exception: of any type; pyarrow raises anything on damaged pages.
        """
        if source.members is not None:
            with source.members.open(row) as file:
                return file.read()
        with self._lock:
            if source in self._kept:
                pictures = self._kept.pop(source)
            else:
                self._make_room(source.size)
                pictures = source.read()
            self._kept[source] = pictures
            one = pictures[row] if row < len(pictures) else None
        if one is None:
            return None
        return one if source.are_files else one.as_py() or b""

    def _make_room(self, size: int) -> None:
        total = size + sum(source.size for source in self._kept)
        while total > self._max_bytes and len(self._kept) >= self._min_sources:
            oldest = next(iter(self._kept))
            total -= oldest.size
            del self._kept[oldest]
