"""Labelled pictures to measure on: class folders, lists and Parquet shards. No picture is decoded here."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from zsclip.errors import InputError
from zsclip.pictures.containers import expand_braces, is_list
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures, read_regular
from zsclip.pictures.remote import Network
from zsclip.pictures.source import Source, SourceCache
from zsclip.pictures.sources import check_inputs, find_sources
from zsclip.pixels.search_summary import passed_over_line
from zsclip.words.textfiles import comparable, is_id

_SOURCES_KEPT = 2  # row groups in memory: some threads may still need one when others have begun the next


@dataclass(frozen=True, eq=False)
class Labelled:
    """N pictures, the true word for each as the data spells it, and all words of the data.

    meanings: the name that a list gives beside each word, if all its words are ids. files: those that the data are in,
    the pictures themselves or Parquet files. passed_over: what was left out.
    """

    pictures: Pictures
    words: tuple[str, ...]
    vocabulary: tuple[str, ...]
    files: Sequence[str]
    passed_over: PassedOver
    meanings: Mapping[str, str] = field(default_factory=dict)

    def spread(self, limit: int | None) -> "Labelled":
        """Take up to `limit` pictures, spread evenly over the data: its first ones may all have the same label."""
        total = len(self.words)
        if limit is None or limit >= total:
            return self
        places = [number * total // limit for number in range(limit)]
        return replace(self, pictures=self.pictures.only(places), words=tuple(self.words[place] for place in places))


def read_labelled(
    data: str,
    *,
    all_files: bool = False,
    note: Callable[[str], None] = lambda message: None,
    network: Network | None = None,
) -> Labelled:
    """Find all labelled pictures of a folder of class folders, a list, archives or Parquet shards.

    Args:
        data: one of them, a brace range of them, or its URL.
        all_files: take files of class folders whatever their ending.
        note: called with one line about everything that is skipped.
        network: what fetches URLs; None for one that may fetch all.

    Raises:
        InputError: it does not exist, is none of these, has no picture with a label, or its labels are answers of ours.
    """
    network = Network() if network is None else network
    inputs = [data] if os.path.lexists(data) else expand_braces(data)
    check_inputs(inputs, network)
    names: list[str] = []
    words: list[str] = []
    places: list[tuple[Source, int]] = []
    listed = _Listed(data)
    meanings: set[tuple[str, str]] = set()
    shards: dict[str, None] = {}
    passed_over = PassedOver()
    captioned = 0
    found = (
        source
        for text in inputs
        for source in find_sources(text, note, passed_over, all_files=all_files, network=network)
    )
    for source in found:
        paths = source.read() if source.are_files else source.members.names if source.members is not None else None
        shards |= dict.fromkeys(() if source.are_files else source.files)
        for row, (_, about) in enumerate(source.pictures):
            if about is None:  # noted already
                continue
            if not about.label:
                captioned += 1
                continue
            if paths is not None and is_list(source.where) and listed.is_again(paths[row], about.label):
                continue
            names.append(f"{source.files[0]}#{source.first + row}" if paths is None else paths[row])
            places.append((source, row))
            words.append(about.label)
            meanings.add((about.label, about.name))
    listed.report(note)
    if captioned:
        note(f"{data}: skipped: {captioned:,} with a caption but no label")
    if not names:
        why = passed_over_line(passed_over)
        raise InputError(
            f"{data}: no labelled images{f'; {why}' if why else ''}; give class folders, a list with "
            "file_name,label, an archive or Parquet"
        )
    pictures = Pictures(tuple(names), _reader(places), _keys(places)) if shards else Pictures(tuple(names))
    files = tuple(shards) or pictures.names
    return Labelled(pictures, tuple(words), tuple(dict.fromkeys(words)), files, passed_over, _meanings(meanings))


def _meanings(pairs: set[tuple[str, str]]) -> dict[str, str]:
    """Give the name of each id, or nothing unless every word is an id with exactly one name that no other id has.

    Otherwise the names may be anything, such as those of the people who labelled the pictures.
    """
    ids, names = ({pair[side] for pair in pairs} for side in (0, 1))
    is_one_to_one = len(ids) == len(names) == len(pairs) and "" not in names
    return dict(pairs) if is_one_to_one and all(map(is_id, ids)) and not any(map(is_id, names)) else {}


class _Listed:
    """The pictures of a list so far, as a list may have the same picture twice."""

    def __init__(self, data: str) -> None:
        self._data = data
        self._labels: dict[str, str] = {}
        self._again: list[str] = []

    def is_again(self, path: str, label: str) -> bool:
        """Return whether a picture was listed before; refuse it with another label."""
        path = os.path.normpath(path)
        if path not in self._labels:
            self._labels[path] = label
            return False
        first = self._labels[path]
        if comparable(first.replace("_", " ")) != comparable(label.replace("_", " ")):
            raise InputError(
                f"{self._data}: {path!r} is listed with two labels, {first!r} and {label!r}; remove one of the two rows"
            )
        self._again.append(path)
        return True

    def report(self, note: Callable[[str], None]) -> None:
        """Say how many rows were left out."""
        if self._again:
            count, first = f"{len(self._again):,} row{'' if len(self._again) == 1 else 's'}", self._again[0]
            note(f"{self._data}: skipped: {count} with an image that is already listed; the first is {first!r}")


def _reader(places: Sequence[tuple[Source, int]]) -> Callable[[int], bytes | BinaryIO]:
    cache = SourceCache(min_sources=_SOURCES_KEPT)

    def read(number: int) -> bytes | BinaryIO:
        source, row = places[number]
        if source.members is not None:
            assert source.members.read is not None
            return source.members.read(row)
        encoded = cache.read(source, row)
        if encoded is None:
            raise IndexError("the shard has no such row any more")
        return read_regular(encoded) if isinstance(encoded, str) else encoded

    return read


def _keys(places: Sequence[tuple[Source, int]]) -> Callable[[int], bytes | None]:
    def key(number: int) -> bytes | None:
        source, row = places[number]
        of_member = None if source.members is None else source.members.key
        return None if of_member is None else of_member(row)

    return key
