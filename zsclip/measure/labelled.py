"""Labelled pictures to measure on: class folders, lists and Parquet shards. No picture is decoded here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from zsclip.errors import InputError
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.sources import Source, SourceCache, check_inputs, find_sources
from zsclip.pixels.search_summary import passed_over_line

_SOURCES_KEPT = 2  # row groups in memory: some threads may still need one when others have begun the next


@dataclass(frozen=True, eq=False)
class Labelled:
    """N pictures, the true word for each as the data spells it, and all words of the data.

    files: those that the data are in, the pictures themselves or Parquet files. passed_over: what was left out.
    """

    pictures: Pictures
    words: tuple[str, ...]
    vocabulary: tuple[str, ...]
    files: Sequence[str]
    passed_over: PassedOver

    def spread(self, limit: int | None) -> "Labelled":
        """Take up to `limit` pictures, spread evenly over the data: its first ones may all have the same label."""
        total = len(self.words)
        if limit is None or limit >= total:
            return self
        places = [number * total // limit for number in range(limit)]
        read = self.pictures.read
        pictures = Pictures(
            tuple(self.pictures.names[place] for place in places), read and (lambda number: read(places[number]))
        )
        return replace(self, pictures=pictures, words=tuple(self.words[place] for place in places))


def read_labelled(
    data: str, *, all_files: bool = False, note: Callable[[str], None] = lambda message: None
) -> Labelled:
    """Find all labelled pictures of a folder of class folders, a `.csv`, `.tsv` or `.jsonl` list, or Parquet shards.

    Args:
        all_files: take files of class folders whatever their ending.
        note: called with one line about everything that is skipped.

    Raises:
        InputError: it does not exist, is none of these, has no picture with a label, or its labels are answers of ours.
    """
    check_inputs([data])
    names: list[str] = []
    words: list[str] = []
    places: list[tuple[Source, int]] = []  # places of pictures that are not files
    seen: set[str] = set()
    shards: dict[str, None] = {}
    passed_over = PassedOver()
    captioned = 0
    for source in find_sources(data, note, passed_over, all_files=all_files, predictions=False):
        files = source.read() if source.are_files else None
        shards |= dict.fromkeys(() if source.are_files else source.files)
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
        why = passed_over_line(passed_over)
        raise InputError(
            f"{data}: no labelled images{f'; {why}' if why else ''}; give class folders, a list with "
            "file_name,label, or Parquet"
        )
    pictures = Pictures(tuple(names), _reader(places) if places else None)
    files = tuple(shards) if places else pictures.names
    return Labelled(pictures, tuple(words), tuple(dict.fromkeys(words)), files, passed_over)


def _reader(places: Sequence[tuple[Source, int]]) -> Callable[[int], bytes]:
    cache = SourceCache(min_sources=_SOURCES_KEPT)

    def read(number: int) -> bytes:
        encoded = cache.read(*places[number])
        if not isinstance(encoded, bytes):
            raise IndexError("the shard has no such row any more")
        return encoded

    return read
