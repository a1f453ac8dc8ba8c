"""Labelled pictures to measure on: class folders, lists and Parquet shards. No picture is decoded here."""

from collections.abc import Callable
from dataclasses import dataclass

from zsclip.errors import InputError
from zsclip.pictures.sources import Source, SourceCache, check_inputs, find_sources

_SOURCES_KEPT = 2  # row groups in memory: threads may still be at the end of one when others have begun the next


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures and the word that is true of each.

    paths: N files, or the names of pictures that are in no file of their own. words: N, as they stand in the data.
    read: gives the encoded picture of a name; None where the paths are files. Threads may call it.
    """

    paths: tuple[str, ...]
    words: tuple[str, ...]
    read: Callable[[str], bytes] | None


def read_labelled(data: str, *, note: Callable[[str], None] = lambda message: None) -> Labelled:
    """Find all labelled pictures of a folder of class folders, a `.csv` or `.jsonl` list, or Parquet shards.

    Args:
        note: called with one line about each thing that is passed over.

    Raises:
        InputError: it does not exist, is nothing of the kind, or has no picture with a label.
    """
    check_inputs([data])
    paths: list[str] = []
    words: list[str] = []
    places: dict[str, tuple[Source, int]] = {}  # of pictures that are in no file of their own
    captioned = 0
    for source in find_sources(data, note):
        files = source.read() if source.are_files else None
        for row, (identity, names) in enumerate(source.pictures):
            if names is None:  # noted already
                continue
            if not names.label:
                captioned += 1
                continue
            if files is not None:
                path = files[row]
            else:
                path = f"{source.where}, row {row}" if identity in places else identity
                places[path] = (source, row)
            paths.append(path)
            words.append(names.label)
    if captioned:
        note(f"{data}: {captioned:,} with a caption but no label passed over")
    if not paths:
        raise InputError(f"{data}: no labelled picture; give class folders, a list with file_name,label, or Parquet")
    return Labelled(tuple(paths), tuple(words), _reader(places) if places else None)


def _reader(places: dict[str, tuple[Source, int]]) -> Callable[[str], bytes]:
    cache = SourceCache(min_sources=_SOURCES_KEPT)

    def read(name: str) -> bytes:
        encoded = cache.read(*places[name])
        if not isinstance(encoded, bytes):
            raise IndexError("the shard has no such row any more")
        return encoded

    return read
