"""More words for labels: what WordNet knows, the label file it becomes, and the command line."""

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import timm
from conftest import make_class_folders

from zsclip.errors import InputError
from zsclip.words.labels import Label, read_labels
from zsclip.words.suggest import kinds_of, likeliest_first, suggested_lines
from zsclip.words.wordnet import WordNet

Run = Callable[..., CompletedProcess[bytes]]
WORDNET = WordNet()


def suggested(labels: list[Label], *kinds: str) -> str:
    return "\n".join(suggested_lines(labels, WORDNET, kinds_of(kinds))) + "\n"


def read_back(text: str, folder: Path) -> list[Label]:
    (folder / "words.yaml").write_text(text)
    return read_labels(files=[str(folder / "words.yaml")], alone=True)


def test_synsets_are_those_that_timm_has_of_imagenet() -> None:
    """Another copy of the same words and definitions, for the 1,000 synsets of ImageNet's challenge."""
    folder = Path(timm.__file__).parent / "data/_info"
    lemmas, definitions = (
        dict(line.split("\t", 1) for line in (folder / f"imagenet_synset_to_{what}.txt").read_text().splitlines())
        for what in ("lemma", "definition")
    )
    ids = (folder / "imagenet_synsets.txt").read_text().split()

    found = WORDNET.senses(ids)

    assert len(found) == 1000
    for id, (sense,) in found.items():
        assert (sense.id, ", ".join(sense.words)) == (id, lemmas[id])
        assert sense.gloss == definitions[id].partition('; "')[0]
        assert sense.is_pictured
        assert not sense.is_name
    assert sum(sense.is_thing for (sense,) in found.values()) == 997  # but for three signs


def test_meanings_come_in_the_order_of_wordnet_and_know_what_they_are() -> None:
    crane = WORDNET.senses(["crane"])["crane"]

    assert [sense.id for sense in crane] == ["n10914447", "n10914331", "n09295455", "n03126707", "n02012849"]
    assert [sense.is_name for sense in crane] == [True, True, True, False, False]
    assert [sense.broader[0] for sense in crane[3:]] == ["lifting device", "wading bird"]
    assert [sense.is_person for sense in crane] == [True, True, False, False, False]
    assert [sense.is_pictured for sense in crane] == [False, False, False, True, True]
    freedom, *_ = WORDNET.senses(["freedom"])["freedom"]
    assert not freedom.is_thing


@pytest.mark.parametrize(
    ("word", "found_as"),
    [
        ("dogs", "dog"), ("Geese", "goose"), ("firemen", "fireman"), ("cherries", "cherry"), ("boxes", "box"),
        ("golden-retriever", "golden retriever"), ("golden_retriever", "golden retriever"), (" T-shirt ", "t-shirt"),
        ("glass", "glass"), ("bus", "bus"),
    ],
)  # fmt: skip
def test_plurals_and_spellings_are_found(word: str, found_as: str) -> None:
    found = WORDNET.senses([word, found_as])

    assert found[word] == found[found_as]
    assert found_as.lower() in [name.lower() for name in found[word][0].words]


def test_what_is_no_word_has_no_meanings() -> None:
    assert WORDNET.senses(["no such word", "", " "]) == {"no such word": [], "": [], " ": []}


def test_an_id_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"n12345678: WordNet 3[.]0 has no such noun; "):
        WORDNET.senses(["n12345678"])


def test_the_chosen_meaning_can_be_photographed_and_the_others_are_comments(tmp_path: Path) -> None:
    text = suggested([Label("crane"), Label("sunset"), Label("cup of coffee")], "broader")

    crane, sunset, cup = read_back(text, tmp_path)
    assert (crane.name, crane.synonyms) == ("crane", ("crane, a kind of lifting device",))
    assert (sunset.name, sunset.synonyms) == ("sunset", ("sunset, a kind of atmospheric phenomenon",))
    assert cup == Label("cup of coffee")
    lines = text.splitlines()
    bird = lines.index(
        "  # a kind of wading bird: large long-necked wading bird of marshes and plains in many parts of the world"
    )
    assert lines[bird + 1] == '  # synonyms: ["crane, a kind of wading bird"]'
    assert lines.index("crane:") < bird < lines.index("sunset:")
    assert "cup of coffee:  # not in WordNet" in lines

    edited = text.replace('  synonyms: ["crane, a', '  # synonyms: ["crane, a').replace(
        "  # " + lines[bird + 1][4:], "  " + lines[bird + 1][4:]
    )
    assert read_back(edited, tmp_path)[0].synonyms == ("crane, a kind of wading bird",)


def test_what_there_are_pictures_of_comes_before_people_and_names() -> None:
    words = ["whale", "skunk", "turtle", "seal", "ray", "crane", "baby", "sunset", "shrew"]

    found = {word: likeliest_first(senses)[0].id for word, senses in WORDNET.senses(words).items()}

    assert found == {
        "whale": "n02062744", "skunk": "n02445715", "turtle": "n01662784", "seal": "n02076196", "ray": "n01495701",
        "crane": "n03126707", "baby": "n09828216", "sunset": "n11517776", "shrew": "n01891633",
    }  # fmt: skip


def test_kinds_of_words(tmp_path: Path) -> None:
    def synonyms(*kinds: str) -> tuple[str, ...]:
        return read_back(suggested([Label("automobile")], *kinds), tmp_path)[0].synonyms

    broader, gloss = "automobile, a kind of motor vehicle", "automobile, a motor vehicle with four wheels"
    assert synonyms("synonyms") == ("car", "auto", "motorcar")  # not `machine`, which mostly means another thing
    assert synonyms("broader") == (broader,)
    assert synonyms("gloss") == (gloss,)
    assert synonyms("gloss", "synonyms", "broader") == (*synonyms("synonyms"), broader, gloss)
    assert synonyms() == synonyms("synonyms")
    with pytest.raises(InputError, match="--add: 'hypernyms' is not a kind of words; use synonyms, broader, gloss"):
        kinds_of(["hypernyms"])


def test_no_two_labels_get_the_same_name(tmp_path: Path) -> None:
    car, automobile = read_back(suggested([Label("car"), Label("automobile")], "synonyms"), tmp_path)

    assert car.synonyms == ("auto", "motorcar")
    assert automobile.synonyms == ()


def test_what_labels_had_is_kept(tmp_path: Path) -> None:
    given = [
        Label("no", group="on: off"), Label("crane, bird", synonyms=("wader",)),
        Label('a "b" #c', prompts=("x {}", "y")),
        Label("n02012849"), Label("a bird", found_as="n02012849"), Label("Grus", found_as="grus: 1"),
        Label("dog", synonyms=("hound",), group="pet"),
    ]  # fmt: skip

    found = read_back(suggested(given, "broader"), tmp_path)

    for before, after in zip(given, found, strict=True):
        assert (after.prompts, after.group) == (before.prompts, before.group)
        assert after.synonyms[: len(before.synonyms)] == before.synonyms
    assert [each.name for each in found] == ["no", "crane, bird", 'a "b" #c', "crane", "a bird", "Grus", "dog"]
    assert [each.found_as for each in found[3:6]] == ["n02012849", "n02012849", "grus: 1"]
    assert found[4].synonyms == ("a bird, a kind of wading bird",)
    assert found[6].synonyms == ("hound", "dog, a kind of canine")


def test_suggested_words_are_a_label_file_to_compare(run: Run, tmp_path: Path, model: str) -> None:
    make_class_folders(tmp_path / "data", ("crane", "heron"), 3)
    (tmp_path / "mine.txt").write_text("crane\nheron\n")

    done = run("prompts", "suggest", "--labels-file", "mine.txt", "--add", "gloss", "--add", "broader")
    (tmp_path / "words.yaml").write_bytes(done.stdout)
    compared = run("compare", "data", "--labels-file", "mine.txt", "--labels-file", "words.yaml", "-m", model, "-q")

    assert (done.returncode, done.stderr) == (0, b"")
    assert b'synonyms: ["heron, a kind of wading bird", "heron, grey or white wading bird' in done.stdout
    assert compared.returncode == 0, compared.stderr
    assert b"words.yaml" in compared.stdout
    refused = run("prompts", "suggest")
    assert (refused.returncode, refused.stdout) == (2, b"")


def test_without_the_data_the_extra_is_named(run_alone: Run, tmp_path: Path) -> None:
    """A later version of the package has no data, and an empty folder stands for it."""
    (tmp_path / "empty/wn").mkdir(parents=True)
    (tmp_path / "empty/wn/__init__.py").write_text("")
    path = f"{tmp_path / 'empty'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    done = run_alone("prompts", "suggest", "-l", "cat,dog", PYTHONPATH=path)

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"zsclip: prompts suggest: needs the data of WordNet: pip install 'zsclip[wordnet]'\n"
