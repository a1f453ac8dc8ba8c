"""Example pictures of labels, from labelled data and one by one. No picture is decoded here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from zsclip.errors import InputError
from zsclip.measure.evaluate import found_labels, is_label
from zsclip.measure.labelled import Labelled, read_labelled
from zsclip.pictures.containers import archive_of
from zsclip.pictures.listed import check_single, is_single, pictures_of
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.remote import Network
from zsclip.words.labels import Label
from zsclip.words.textfiles import Place, checked, is_id


@dataclass(frozen=True, eq=False)
class Examples:
    """N pictures of several sources, and the word for each as its source spells it.

    meanings: the names of words that are ids. files: those that the examples are in.
    """

    pictures: tuple[Pictures, ...]
    words: tuple[str, ...]
    files: tuple[str, ...]
    meanings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, labelled: Labelled) -> "Examples":
        """Take all pictures of a data set."""
        return cls((labelled.pictures,), labelled.words, tuple(labelled.files), labelled.meanings)


def read_examples(
    data: Sequence[str],
    single: Sequence[str],
    *,
    all_files: bool = False,
    note: Callable[[str], None] = lambda message: None,
    network: Network | None = None,
) -> Examples:
    """Find all example pictures.

    Args:
        data: class folders, lists, archives or Parquet shards, as `read_labelled` takes them.
        single: LABEL=IMAGE, each one picture: a file, a member of an archive, a frame of a video, or a URL.

    Raises:
        InputError: something does not exist, or is not of this form.
    """
    pictures: list[Pictures] = []
    words: list[str] = []
    files: list[str] = []
    meanings: dict[str, str] = {}
    network = Network() if network is None else network
    ones = [_single(each) for each in single]
    check_single([path for _, path in ones], network)
    for each in data:
        labelled = read_labelled(each, all_files=all_files, note=note, network=network)
        pictures.append(labelled.pictures)
        words += labelled.words
        files += labelled.files
        meanings |= labelled.meanings
    if ones:
        names = tuple(path for _, path in ones)
        pictures.append(pictures_of(names, network))
        words += [word for word, _ in ones]
        files += [archive_of(name) or name for name in names]
    return Examples(tuple(pictures), tuple(words), tuple(files), meanings)


def _single(given: str) -> tuple[str, str]:
    word, mark, path = given.partition("=")
    if not mark or not path:
        raise InputError(f"--example: {given!r} is not LABEL=IMAGE; write it like cat=a.jpg")
    if not is_single(path):
        raise InputError(f"--example {given!r}: no such file: {path!r}; check the path")
    return checked(Place("--example"), word), path


def with_examples(given: Sequence[Label], examples: Examples) -> list[Label]:
    """Add the labels that only examples bring, sorted, after those that were given."""
    known = is_label(given, examples.meanings)
    new = [word for word in dict.fromkeys(examples.words) if not known(word)]
    return [*given, *(found_labels(new, alone=True, meanings=examples.meanings) if new else ())]


def has_words(label: Label) -> bool:
    """Whether a label's name says something: the number or id that a data set has for it does not."""
    return bool(label.prompts or label.synonyms) or not (is_id(label.name) and label.found_as == label.name)
