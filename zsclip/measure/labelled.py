"""Labelled pictures to measure on: class folders, lists and Parquet shards. No picture is decoded here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zsclip.errors import InputError
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.sources import Source, SourceCache, check_inputs, find_sources

_SOURCES_KEPT = 2  # row groups in memory: threads may still be at the end of one when others have begun the next


@dataclass(frozen=True, eq=False)
class Labelled:
    """N pictures, and the word that is true of each as it stands in the data."""

    pictures: Pictures
    words: tuple[str, ...]


def read_labelled(data: str, *, note: Callable[[str], None] = lambda message: None) -> Labelled:
    """Find all labelled pictures of a folder of class folders, a `.csv` or `.jsonl` list, or Parquet shards.

    Args:
        note: called with one line about everything that is skipped.

    Raises:
        InputError: it does not exist, is nothing of the kind, or has no picture with a label.
    """
    check_inputs([data])
    names: list[str] = []
    words: list[str] = []
    places: list[tuple[Source, int]] = []  # of pictures that are in no file of their own
    seen: set[str] = set()
    captioned = 0
    for source in find_sources(data, note):
        files = source.read() if source.are_files else None
        for row, (identity, about) in enumerate(source.pictures):
            if about is None:  # noted already
                continue
            if not about.label:
                captioned += 1
                continue
            if files is not None:
                names.append(files[row])
            else:
                names.append(f"{source.where}, row {row}" if identity in seen else identity)
                places.append((source, row))
                seen.add(names[-1])
            words.append(about.label)
    if captioned:
        note(f"{data}: skipped: {captioned:,} with a caption but no label")
    if not names:
        raise InputError(f"{data}: no labelled pictures; give class folders, a list with file_name,label, or Parquet")
    return Labelled(Pictures(tuple(names), _reader(places) if places else None), tuple(words))


def _reader(places: Sequence[tuple[Source, int]]) -> Callable[[int], bytes]:
    cache = SourceCache(min_sources=_SOURCES_KEPT)

    def read(number: int) -> bytes:
        encoded = cache.read(*places[number])
        if not isinstance(encoded, bytes):
            raise IndexError("the shard has no such row any more")
        return encoded

    return read
