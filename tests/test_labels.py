"""Every source of labels, what it becomes, and the line a mistake in it is answered with."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest

import zsclip.words.labels
from zsclip.errors import InputError
from zsclip.kept.cache import remember
from zsclip.words.doubts import doubts
from zsclip.words.labels import Label, in_other_scripts, labels_of, read_labels

pytestmark = pytest.mark.usefixtures("empty_folder")


def write(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def names(labels: list[Label]) -> list[str]:
    return [label.name for label in labels]


def refusal(words: str | None = None, single: tuple[str, ...] = (), files: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as caught:
        read_labels(words, single, files)
    return str(caught.value)


def refusal_of(name: str, content: str | bytes) -> str:
    return refusal(files=(write(name, content),))


def test_words_are_split_on_commas_and_stripped_and_empty_ones_dropped() -> None:
    assert read_labels(" cat, black dog ,,bird,") == [Label("cat"), Label("black dog"), Label("bird")]


def test_a_single_label_keeps_its_comma() -> None:
    assert names(read_labels(single=["crane, bird", "  crane, machine\n"])) == ["crane, bird", "crane, machine"]


def test_all_sources_add_up_in_the_order_words_single_files() -> None:
    files = [write("b.txt", "f\n"), write("a.yaml", "- e\n")]

    assert names(read_labels("a,b", ["c", "d"], files)) == ["a", "b", "c", "d", "f", "e"]


def test_a_text_file_has_comments_blank_lines_and_hashes_within_words() -> None:
    file = write("pets.txt", "# pets\n\n cat # the small one\nC#\n  # indented\n\ncrane, bird\t# tab\ncafé\n狗\n")

    assert names(read_labels(files=[file])) == ["cat", "C#", "crane, bird", "café", "狗"]


@pytest.mark.parametrize("name", ["pets.txt", "pets"])
def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_label(name: str) -> None:
    file = write(name, b"\xef\xbb\xbfcat\r\ndog\r\n")

    assert names(read_labels(files=[file])) == ["cat", "dog"]


@pytest.mark.parametrize("name", ["words.yaml", "words.YML"])
def test_yaml_words_stay_as_they_are_written(name: str) -> None:
    words = ["no", "on", "1e3", "2024-01-01", "null", "~", "0x10", "yes", "1_000", "3.10"]
    as_list = write(name, "\n".join(f"- {word}" for word in words))
    as_mapping = write("m" + name, "\n".join(f"{word}:" for word in words))

    assert names(read_labels(files=[as_list])) == words
    assert read_labels(files=[as_mapping]) == [Label(word) for word in words]


def test_a_yaml_mapping_gives_prompts_and_synonyms() -> None:
    file = write(
        "pets.yaml",
        """
        cat:
        dog: [a barking dog., "a {}, barking."]
        bird: {synonyms: crow, prompts: a bird.}
        fish:
          synonyms: [trout, "no"]
        horse: {prompts: null}
        mouse: null
        snake: {synonyms: "null"}
        """,
    )

    assert read_labels(files=[file]) == [
        Label("cat"),
        Label("dog", prompts=("a barking dog.", "a {}, barking.")),
        Label("bird", ("crow",), ("a bird.",)),
        Label("fish", ("trout", "no")),
        Label("horse"),
        Label("mouse"),
        Label("snake", ("null",)),
    ]


def test_json_gives_the_same_as_yaml() -> None:
    as_list = write("list.json", '["cat", 7, 1e3, "\\ud83d\\udc36"]')
    as_mapping = write("map.json", '{"dog": null, "bird": ["a {}."], "fish": {"synonyms": "trout", "prompts": []}}')

    assert names(read_labels(files=[as_list])) == ["cat", "7", "1e3", "🐶"]
    assert read_labels(files=[as_mapping]) == [
        Label("dog"),
        Label("bird", prompts=("a {}.",)),
        Label("fish", ("trout",)),
    ]


def test_ten_thousand_labels_are_read_in_order() -> None:
    words = [f"label {number}" for number in range(10_000)]
    file = write("many.yaml", "\n".join(f"- {word}" for word in words))

    assert names(read_labels(files=[file])) == words


def test_one_label_alone_is_enough_only_where_labels_are_judged_one_by_one() -> None:
    assert read_labels("cat", alone=True) == [Label("cat")]
    assert refusal("cat") == (
        "--labels: label 'cat' is the only one; give another to compare it with, or use "
        "--none-of-these or --multi-label"
    )
    assert refusal_of("pets.txt", "\ncat\n").startswith("pets.txt:2: label 'cat' is the only one")


def test_an_empty_list_of_labels_is_refused() -> None:
    assert refusal() == 'labels: none given; use --labels "cat,dog", --label WORD or --labels-file FILE'
    assert refusal(" , ") == "--labels: no label in ' , '; write words with commas between them, as in \"cat,dog\""
    assert refusal("a,b", ("  ",)) == "--label: empty text; write a word, or leave it out"
    for name, content in [("a.txt", "# none\n"), ("a.yaml", ""), ("a.yaml", "[]"), ("a.json", "{}"), ("a.json", "[]")]:
        assert refusal_of(name, content) == f"{name}: no labels found; write at least two"


def test_a_label_given_twice_is_refused_with_both_places() -> None:
    twice = "was already given"
    remedy = "; remove one of the two"

    assert refusal("cat,dog, cat") == f"--labels: label 'cat' {twice}{remedy}"
    assert refusal("cat,dog", ("cat",)) == f"--label: label 'cat' {twice} in --labels{remedy}"
    assert refusal_of("pets.txt", "cat\n\ncat\n") == f"pets.txt:3: label 'cat' {twice} on line 1{remedy}"
    assert refusal_of("pets.yaml", "dog:\ncat:\n- x\ncat:") == f"pets.yaml:4: label 'cat' {twice} on line 2{remedy}"
    assert refusal_of("pets.json", '{"cat": null, "cat": null}') == f"pets.json: label 'cat' {twice}{remedy}"
    files = (write("a.txt", "dog\ncat\n"), write("b.txt", "bird\ncat\n"))
    assert refusal(files=files) == f"b.txt:2: label 'cat' {twice} in a.txt:2{remedy}"
    assert refusal("missile", files=("imagenet",)) == f"imagenet: label 'missile' {twice} in --labels{remedy}"


def test_a_file_that_cannot_be_read_is_named(empty_folder: Path) -> None:
    (empty_folder / "folder").mkdir()

    assert refusal(files=("nope.txt",)) == "nope.txt: no such file; check the path"
    assert refusal(files=("folder",)).startswith("folder: cannot be read: Is a directory; ")
    assert refusal_of("latin.txt", b"cat\ndog\ncaf\xe9\n") == "latin.txt:3: not UTF-8; save the file as UTF-8"
    assert refusal_of("utf16.txt", "cat\ndog".encode("utf-16")) == "utf16.txt:1: UTF-16; save it as UTF-8"
    assert refusal_of("utf16.yaml", "cat\ndog".encode("utf-16-le")) == (
        "utf16.yaml: contains NUL bytes; save it as UTF-8 text"
    )
    for name, content in (("zip.csv", b"PK\3\4\x14\0\x80\xff"), ("zip.txt", b"PK\3\4\0\0")):
        assert refusal_of(name, content).endswith("an Excel workbook, or another zip archive; save it as CSV")
    assert refusal_of("old.csv", b"\xd0\xcf\x11\xe0\xa1").endswith(": an Excel workbook; save it as CSV")


def test_words_that_are_not_unicode_are_refused() -> None:
    assert refusal("cat,caf\udce9") == "--labels: 'caf\\udce9' is not valid Unicode; write it in UTF-8"
    assert refusal_of("half.json", '["cat", "\\ud83d"]').startswith("half.json: '\\ud83d' is not valid Unicode")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- cat\n- a: b: c\n", "pets.yaml:2: not valid YAML: mapping values are not allowed"),
        (
            "- [cat\n- dog\n",
            "pets.yaml:3: not valid YAML: did not find expected ',' or ']'; close the bracket or quote ",
        ),
        (
            "- {} x\n",
            "pets.yaml:1: not valid YAML: did not find expected '-' indicator; put words with : or {} in quotes",
        ),
        ("- cat\n- {}\n", "pets.yaml:2: expected text, found a mapping without label or name; "),
        ("- cat\n- dog: crane\n", "pets.yaml:2: expected text, found a mapping without label or name; "),
        ("- cat\n- [dog]\n", "pets.yaml:2: expected text, found a list; "),
        ("- cat\n-\n", "pets.yaml:2: empty text; "),
        ("cat\ndog\n", "pets.yaml:1: expected a list or a mapping, found a single string; "),
        ("cat:\ndog: puppy\n", "pets.yaml:2: 'puppy' after label 'dog' could be a synonym or a prompt; "),
        ("cat:\n? [dog]\n: x\n", "pets.yaml:2: expected text, found a list; "),
        ("cat:\ndog:\n  synonym: puppy\n", "pets.yaml:3: unknown key 'synonym'; use name, group, synonyms, prompts"),
        ("cat: {group: [a, b|c]}\n", "pets.yaml:1: 'b|c' has | in it, which separates levels; use another character"),
        ("cat:\n  prompts: [a]\n  prompts: [b]\n", "pets.yaml:3: key 'prompts' was already given on line 2; "),
        ("cat:\n  prompts:\n    - a\n    - [b]\n", "pets.yaml:4: expected text, found a list; "),
        ("cat:\n- a {} or a {c}.\n", "pets.yaml:2: prompt 'a {} or a {c}.' has 2 placeholders; keep one"),
        ("cat: &a [x]\ndog: *a\n", "pets.yaml:2: the alias *a is not supported; "),
        ("- cat\n---\n- dog\n", "pets.yaml:2: a second YAML document starts here; keep one"),
        ("[" * 5_000, "pets.yaml:"),
        ("[" * 50 + "]" * 50, "pets.yaml:1: expected text, found a list; "),
        (
            "[" * 5_000 + "]" * 5_000,  # PyYAML 6.0.4 refuses such depths itself, older ones do not
            (
                "pets.yaml:1: not valid YAML: exceeded maximum nesting depth; ",
                "pets.yaml:1: expected text, found a list; ",
            ),
        ),
    ],
)
def test_a_mistake_in_yaml_is_reported_with_its_line(content: str, message: str | tuple[str, ...]) -> None:
    assert refusal_of("pets.yaml", content).startswith(message)


def test_a_control_character_in_yaml_is_reported() -> None:
    assert "characters are not allowed" in refusal_of("pets.yaml", "- c\x01t\n- dog\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["cat",\n"dog"', "pets.json:2: not valid JSON: a comma or a closing bracket is missing; correct this line"),
        ('["cat", true]', "pets.json: true is not text; put it in quotes"),
        ('["cat", null]', "pets.json: expected text, found nothing; "),
        ('{"cat": {"prompt": "a"}}', "pets.json: unknown key 'prompt'; use name, group, synonyms, prompts"),
        ('{"cat": {"prompts": [], "prompts": []}}', "pets.json: key 'prompts' was already given; "),
        ("[" * 100_000, "pets.json: nested too deeply; "),
    ],
)
def test_a_mistake_in_json_is_reported(content: str, message: str) -> None:
    assert refusal_of("pets.json", content).startswith(message)


def test_yaml_never_runs_a_tag() -> None:
    file = write("evil.yaml", "- !!python/object/apply:os.mkdir [owned]\n- dog\n")

    with pytest.raises(InputError):
        read_labels(files=[file])
    assert not Path("owned").exists()


def test_imagenet_is_a_thousand_different_names_of_open_clip() -> None:
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    labels = names(read_labels(files=["imagenet"]))

    assert len(labels) == len(set(labels)) == 1000
    changed = {number: name for number, name in enumerate(labels) if name != IMAGENET_CLASSNAMES[number]}
    assert changed == {744: "projectile missile", 836: "sunglass"}


def test_a_file_named_imagenet_wins_and_a_folder_does_not(empty_folder: Path) -> None:
    (empty_folder / "imagenet").mkdir()
    assert len(read_labels(files=["imagenet"])) == 1000

    (empty_folder / "imagenet").rmdir()
    write("imagenet", "cat\ndog\n")
    assert names(read_labels(files=["imagenet"])) == ["cat", "dog"]


def test_imagenet_is_read_from_the_cache_the_second_time() -> None:
    kept = [f"name {number}" for number in range(1000)]
    remember("imagenet-names", [version("open_clip_torch")], lambda: kept)

    assert names(read_labels(files=["imagenet"])) == kept


def test_reading_labels_loads_nothing_heavy() -> None:
    file = str(Path(write("pets.yaml", "- cat\n- dog\n")).absolute())
    root = Path(zsclip.words.labels.__file__).parents[2]
    code = (
        "import sys; from zsclip.words.labels import read_labels; import zsclip.words.prompts as p; "
        f"from zsclip.words.words import expand; expand(read_labels('a', files=[{file!r}]), p.read_prompts('photo')); "
        "print([m for m in ('torch', 'open_clip', 'numpy', 'PIL', 'pyarrow') if m in sys.modules])"
    )

    answer = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


def test_a_key_may_be_the_label_name_used_by_the_data(tmp_path):
    file = tmp_path / "wordnet.yaml"
    file.write_text(
        "n02123045: {name: tabby cat, synonyms: [tabby], group: cat}\nn02099601: {name: golden retriever}\nowl:\n"
    )

    assert read_labels(files=[str(file)]) == [
        Label("tabby cat", ("tabby",), found_as="n02123045", group="cat"),
        Label("golden retriever", found_as="n02099601"),
        Label("owl"),
    ]


def test_labels_in_other_scripts_are_noticed() -> None:
    labels = ["cat", "café", "Ærø", "猫", "кот", "Πάπια", "3 🐈", "5 µm", "5º"]

    assert in_other_scripts(labels) == ["猫", "кот", "Πάπια"]


INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\u00ad\u200e\u202a\u2066\u180e"


@pytest.mark.parametrize("mark", INVISIBLE)
def test_characters_that_nobody_sees_are_no_part_of_a_label(mark: str) -> None:
    words = f"{mark}gold{mark}fish{mark}"
    tree = json.dumps([words, f"taxi{mark}"])
    files = [
        write("a.txt", f"{mark}{words}\n{mark}\n{mark}taxi\n"),
        write("a.yaml", f"- {words}\n- taxi{mark}\n"),
        write("a.json", tree),
        write("escaped.json", tree.encode("ascii", "backslashreplace")),
        write("a.csv", f"{mark}id,{mark}name\n0,{words}\n1,taxi\n"),
    ]

    assert names(read_labels(f"{words},taxi")) == names(read_labels(single=[words, "taxi"])) == ["goldfish", "taxi"]
    assert names(labels_of([words, "taxi"])) == ["goldfish", "taxi"]
    for file in files:
        assert names(read_labels(files=[file])) == ["goldfish", "taxi"], file


@pytest.mark.parametrize(
    "word", ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "क्\u200dष", "👩\u200d🚒", "🏳\ufe0f\u200d🌈"]
)
def test_joiners_stay_where_they_change_how_a_word_looks(word: str) -> None:
    assert names(read_labels(f"{word},taxi")) == [word, "taxi"]


@pytest.mark.parametrize(
    ("one", "other"), [("gold fish", "gold  fish"), ("piña", "pin\u0303a"), ("a b", "a\u00a0\tb"), ("Å", "\u212b")]
)
def test_labels_that_differ_in_spaces_or_their_unicode_form_are_one(one: str, other: str) -> None:
    same = f"label {other!r} was already given as {one!r}, the same text"

    assert refusal(f"{one},taxi,{other}") == f"--labels: {same}; remove one of the two"
    assert refusal_of("a.txt", f"{one}\n\n{other}\n") == f"a.txt:3: {same} on line 1; remove one of the two"


def test_a_table_is_read_by_its_header() -> None:
    goldfish = ["goldfish", "taxi, yellow"]
    tables = [
        ("id.csv", 'id,name\n0,goldfish\n1,"taxi, yellow"\n'),
        ("empty.csv", 'id,name\n0,goldfish\n,\n1,"taxi, yellow"\n, \n,\n'),
        ("pandas.csv", ',Label\n0,goldfish\n\n1,"taxi, yellow"\n'),
        ("spreadsheet.csv", "id; Name \r\n0;goldfish\r\n1;taxi, yellow\r\n"),
        ("numbers.csv", 'label,name\n0,goldfish\n1,"taxi, yellow"\n'),
        ("both.csv", 'name,label\nx,goldfish\ny,"taxi, yellow"\n'),
        ("a.tsv", "label\tcount\ngoldfish\t1\ntaxi, yellow\t2\n"),
        ("a.jsonl", '{"id": 0, "name": "goldfish"}\n\n{"label": "taxi, yellow", "n": 2}\n'),
        ("words.jsonl", '"goldfish"\n"taxi, yellow"\n'),
        ("coco.json", '[{"id": 1, "name": "goldfish"}, {"id": 2, "name": "taxi, yellow", "supercategory": null}]'),
        ("rows.yaml", "- name: goldfish\n- {id: 7, label: 'taxi, yellow'}\n"),
    ]

    for name, content in tables:
        assert names(read_labels(files=[write(name, content)])) == goldfish, name


def test_a_group_may_have_levels() -> None:
    tree = write("a.yaml", "cat: {group: [animal, mammal]}\ndog: {group: ' animal | mammal '}\nsun: {group: []}\n")
    table = write("a.csv", "label,group\ncat,animal|mammal\ndog,AC/DC\n")

    assert [label.group for label in read_labels(files=[tree])] == ["animal|mammal", "animal|mammal", ""]
    assert [label.group for label in read_labels(files=[table])] == ["animal|mammal", "AC/DC"]


def test_rows_may_have_groups_synonyms_and_prompts() -> None:
    rows = write("a.jsonl", '{"label": "cat", "group": "pet", "synonyms": ["kitty"], "prompts": ["a {}"]}\n"dog"\n')
    table = write("a.csv", "label,group,synonyms\ncat,pet,kitty\ndog,,\n")

    assert read_labels(files=[rows]) == [Label("cat", ("kitty",), ("a {}",), group="pet"), Label("dog")]
    assert read_labels(files=[table]) == [Label("cat", ("kitty",), group="pet"), Label("dog")]


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_ids_map_to_names(ending: str) -> None:
    index = write(f"class_index.{ending}", '{"0": ["n01443537", "goldfish"], "1": ["n02930766", "cab_taxi"]}')
    numbered = write(f"id2label.{ending}", '{"0": "goldfish", "1": "taxi"}')
    wordnet = write(f"wordnet.{ending}", '{"n01443537": "goldfish", "n02930766": "taxi"}')

    assert read_labels(files=[index]) == [
        Label("goldfish", found_as="n01443537"),
        Label("cab taxi", found_as="n02930766"),
    ]
    assert read_labels(files=[numbered]) == [Label("goldfish", found_as="0"), Label("taxi", found_as="1")]
    assert read_labels(files=[wordnet])[1] == Label("taxi", found_as="n02930766")


def test_numbers_may_be_labels_with_prompts() -> None:
    table = write("digits.csv", "label,count\n0,7\n1,8\n")
    assert names(read_labels(files=[table])) == ["0", "1"]

    file = write("digits.yaml", "0: [a zero, the digit 0]\n1: [a one, the digit 1]\n7:\n")

    assert read_labels(files=[file]) == [
        Label("0", prompts=("a zero", "the digit 0")),
        Label("1", prompts=("a one", "the digit 1")),
        Label("7"),
    ]


@pytest.mark.parametrize("bullet", "-*•")
def test_a_dash_before_every_line_is_not_part_of_the_labels(bullet: str) -> None:
    assert names(read_labels(files=[write("a.txt", f"# mine\n{bullet} goldfish\n{bullet}\ttaxi\n")])) == [
        "goldfish",
        "taxi",
    ]
    assert refusal_of("a.txt", f"goldfish\n{bullet} taxi\n").startswith(
        f"a.txt:2: '{bullet} taxi' begins with '{bullet}'"
    )
    assert names(read_labels(files=[write("a.txt", "-taxi\ngoldfish\n")])) == ["-taxi", "goldfish"]


def test_a_json_list_of_words_on_the_command_line_is_read() -> None:
    assert names(read_labels(' ["crane, bird", "cat"]')) == ["crane, bird", "cat"]
    for words in ('["cat","dog"', "['cat',dog]", "['cat' 'dog']", r"['a\'b','c']", "[cat],[dog]", "[" * 100_000):
        assert refusal(words).startswith("--labels: begins with [ but is not a JSON list of words; ")


def test_a_list_as_python_prints_it_is_read() -> None:
    for given in (["cat", "dog"], ["crane, bird", "bird's nest", 'a "b"']):
        assert names(read_labels(f" {given}\n")) == given
    assert names(read_labels("['cat','dog',]")) == ["cat", "dog"]
    assert refusal("['cat','']") == "--labels: empty text; write a word, or leave it out"


def test_line_breaks_separate_words_as_commas_do() -> None:
    assert names(read_labels("cat\nblack dog\r\n\nbird, fish\n")) == ["cat", "black dog", "bird", "fish"]


def test_a_file_is_not_taken_for_a_label() -> None:
    write("labels.txt", "cat\ndog\n")
    write("cat", "no list")
    for words in ("labels.txt", "cat, labels.txt"):
        with pytest.raises(InputError, match=r"^--labels: 'labels\.txt' is a file; use --labels-file labels\.txt$"):
            read_labels(words, alone=True)

    assert names(read_labels("gone.txt,cat")) == ["gone.txt", "cat"]
    assert names(read_labels(single=["labels.txt", "cat"])) == ["labels.txt", "cat"]
    for word, what in (("cat", "that file"), ("imagenet", "the built-in list")):
        assert refusal(word) == (
            f"--labels: label {word!r} is the only one; give another to compare it with, or use "
            f"--labels-file {word} for {what}"
        )


@pytest.mark.parametrize("mark", [";", " | ", "\t"])
def test_other_marks_than_commas_get_a_hint(mark: str) -> None:
    words = mark.join(["cat", "black dog", "bird"])

    assert refusal(words) == (
        f"--labels: label {words!r} is the only one; put commas between words, as in 'cat,black dog,bird'"
    )
    assert names(read_labels(f"{words},x")) == [words, "x"]


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("data.yaml", "path: ../pets\ntrain: images/train\nval:\nnc: 2\nnames: ['cat', 'black dog']\n", ["", ""]),
        ("data.yaml", "train: [a, b]\nnames:\n  0: cat\n  1: black dog\ndownload: |\n  wget x\n", ["0", "1"]),
        ("data.yml", "names:\n- cat\n- black dog\n", ["", ""]),
        ("data.json", '{"nc": 2, "names": {"0": "cat", "1": "black dog"}}', ["0", "1"]),
    ],
)
def test_the_names_of_a_yolo_data_set_are_labels(name: str, content: str, ids: list[str]) -> None:
    expected = [Label("cat", found_as=ids[0]), Label("black dog", found_as=ids[1])]

    assert read_labels(files=[write(name, content)]) == expected


def test_a_label_may_be_called_names() -> None:
    assert names(read_labels(files=[write("a.yaml", "names: [a list of names]\ntrain-spotter:\n")])) == [
        "names",
        "train-spotter",
    ]
    assert refusal_of("data.yaml", "train: a\nnames: [cat]\nnames: [dog]\n").startswith("data.yaml:3: key 'names'")


def test_all_labels_that_are_given_twice_are_named() -> None:
    also = "; also given twice: 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 1 more"

    assert refusal("cat,dog,cat,dog,cat") == (
        "--labels: label 'cat' was already given; remove one of the two; also given twice: 'dog'"
    )
    assert refusal("cat,cat," + 2 * "a,b,c,d,e,f,g,h,i,").endswith(f"remove one of the two{also}")


def test_a_class_index_with_two_meanings_of_a_word_names_all_of_them() -> None:
    """As Keras has it: to its readers both are classes, and to a model they would be one text."""
    index = {"134": ["n02012849", "crane"], "135": ["n02013706", "limpkin"], "517": ["n03126707", "crane"]}
    index |= {"638": ["n03710637", "maillot"], "639": ["n03710721", "maillot"]}
    cure = "give one of the two another name"

    assert refusal_of("imagenet_class_index.json", json.dumps(index)) == (
        "imagenet_class_index.json: label 'crane' was already given, for n02012849 and for n03126707; "
        f"{cure}, or use --labels-file imagenet; also given twice: 'maillot'"
    )
    assert refusal_of("a.yaml", "0: cat\n1: dog\n2: cat\n") == (
        f"a.yaml:3: label 'cat' was already given on line 1, for 0 and for 2; {cure}"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "goldfish\ntaxi\n",
            "a.csv:1: no column named label or name, only goldfish; rename one, or add a header",
        ),
        ("a.csv", "id,class\n0,taxi\n", "a.csv:1: no column named label or name, only id and class; "),
        ("a.csv", "id,name\n0,\n", "a.csv:2: its label is empty; write a word, or leave the row out"),
        (
            "a.csv",
            "id,name\n0,crane, bird\n",
            "a.csv:2: has more cells than the header; put cells that contain ',' in quotes",
        ),
        ("a.csv", 'name\n"taxi\n', "a.csv: not a CSV file in UTF-8: unexpected end of data; "),
        ("a.csv", "name\ntaxi\ntaxi\n", "a.csv:3: label 'taxi' was already given on line 2; "),
        ("a.csv", "name\n", "a.csv: no labels found; "),
        (
            "a.csv",
            "label,class\n0,taxi\n1,cat\n",
            "a.csv:2: '0' is only a number; put the words under label or name",
        ),
        ("a.jsonl", '"taxi"\n{"id": 1}\n', "a.jsonl:2: expected text, found a mapping without label or name; "),
        ("a.jsonl", '"taxi"\n{"id": \n', "a.jsonl:2: not valid JSON: a value is missing; "),
        (
            "a.png",
            b"\x89PNG",
            "a.png: a .png file is not a list of labels; use .txt with one label per line, or .yaml",
        ),
        ("a.XLSX", b"PK\3\4", "a.XLSX: a .xlsx file is not a list of labels; "),
        ("a.md", "cat\ndog\n", "a.md: a .md file is not a list of labels; "),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0", "a.txt:1: not UTF-8; "),
        ("a.txt", b"cat\0dog\0", "a.txt: contains NUL bytes; "),
        ("a.csv", "label,id,label\na,0,b\n", "a.csv:1: has 2 columns named label; rename all but one"),
        ("a.json", '{"cat": 0, "dog": 1}', "a.json: '0' after label 'cat' is only a number; write it before the label"),
        ("a.json", '{"categories": [{"name": "cat"}, {"id": 1}], "images": []}', "a.json: expected text, found a "),
        ("a.json", '{"id2label": {"0": "cat", "x": "dog"}}', "a.json: unknown key '0'; "),
    ],
)
def test_an_unclear_list_of_labels_is_refused_with_the_reason(name: str, content: str | bytes, message: str) -> None:
    assert refusal_of(name, content).startswith(message)


@pytest.mark.parametrize("ending", ["txt", "csv", "json", "yaml"])
def test_a_file_that_is_far_too_large_is_refused_before_it_is_read(ending: str) -> None:
    file = write(f"big.{ending}", "cat\ndog\n")
    os.truncate(file, 10_000_000_000)  # nothing of it is on disk

    assert refusal(files=(file,)) == f"{file}: larger than 32 MB, too large for a list of words; check the path"


def test_a_pipe_is_read_up_to_a_limit_and_a_device_not_at_all(empty_folder: Path) -> None:
    def piped(chunk: Callable[[int], bytes]) -> str:
        """As a shell's `<(...)` does it."""
        reading, writing = os.pipe()

        def feed() -> None:
            with suppress(BrokenPipeError), open(writing, "wb", buffering=0) as pipe:
                for number in range(40):
                    pipe.write(chunk(number))

        thread = threading.Thread(target=feed)
        thread.start()
        try:
            return ",".join(names(read_labels(files=[f"/dev/fd/{reading}"])))
        except InputError as e:
            return str(e)
        finally:
            os.close(reading)
            thread.join()

    words = piped(lambda number: f"label {number}\n".encode() if number < 3 else b"")
    endless = piped(lambda number: b"x" * (1 << 20))

    assert words == "label 0,label 1,label 2"
    assert "larger than 32 MB" in endless
    assert refusal(files=("/dev/zero",)) == "/dev/zero: not a file; check the path"


def test_words_in_python_that_should_be_a_list_are_refused_with_the_list() -> None:
    def message(given: object) -> str:
        with pytest.raises(InputError) as caught:
            labels_of(given)
        return str(caught.value)

    assert message("cat,dog") == (
        "labels: no such file, and no built-in list: 'cat,dog'; give words as a list, as in labels=['cat', 'dog']"
    )
    assert message("cat").endswith("as in labels=['cat']")
    assert message(Path("cat,dog")) == "cat,dog: no such file; check the path"
    assert message([]) == 'labels: none given; give words as a list, as in labels=["cat", "dog"]'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"0": "goldfish"}', "begins like JSON; rename it to .json or .jsonl"),
        ('\n# a comment\n["goldfish", "taxi"]', "begins like JSON; "),
        ("<!DOCTYPE html>\n<html>", "a web page, or a file that git did not fetch; check the path"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a web page, or a file that git did not fetch; ",
        ),
        ("id,name\n0,goldfish\n1,taxi\n", "begins like a table; rename it to .csv or .tsv"),
        ("Label\tid\ngoldfish\t0\n", "begins like a table; "),
        ('"goldfish",\n"taxi"\n', "every line is in quotes; leave them out"),
        ("0,goldfish\n1,taxi\n", "every line begins with a number; leave the numbers out, or "),
        ("0: goldfish\n1: taxi\n", "every line begins with a number; "),
        ("n01443537 goldfish\nn02930766 taxi\n", "every line begins with a number; "),
        ("0 goldfish\n1 taxi\n", "every line begins with a number; "),
        ("1 goldfish\n2 taxi\n3 cat\n", "every line begins with a number; "),
        ("1. goldfish\n2. taxi\n", "every line begins with a number; "),
        ("- 7) goldfish\n- 9) taxi\n", "every line begins with a number; "),
        ("0\tgoldfish\n1\ttaxi\n", "every line begins with a number; "),
        ("goldfish 0\ntaxi 1\n", "every line ends with a number; "),
        ("goldfish,0\ntaxi,7\n", "every line ends with a number; "),
        ("goldfish: 3\ntaxi: 1\n", "every line ends with a number; "),
        ("goldfish:128,0,0::\ntaxi:0,128,0:wheel:\n", "a label map of CVAT; leave out the first : of each line and "),
        ("goldfish,\ntaxi,\ncat\n", "every line ends with ','; leave it out"),
        ("goldfish;\ntaxi;\n", "every line ends with ';'; leave it out"),
        ("| id | name |\n|---|---|\n| 0 | goldfish |\n", "a Markdown table; write one label per line"),
        ("[ ] goldfish\n[x] taxi\n", "begins with a checkbox; leave the checkboxes out"),
        ("- [ ] goldfish\n- [x] taxi\n", "every line begins with a checkbox; leave the checkboxes out"),
        ("a photo of a {}\n{} in the wild\n", "every line is a prompt with a placeholder, not a label; use --prompts"),
        ("a.jpg\nb c.PNG\n", "every line is an image file name; write labels, one per line"),
        ("total 8\n-rw-r--r-- 1 me me 9 Nov 27 10:12 taxi\n", "looks like a listing of files by ls or tree; write"),
        ("drwxr-xr-x@ 4 me me 9 Nov 27 10:12 taxi\nfish\n", "looks like a listing of files by ls or tree; write"),
        (".\n├── goldfish\n└── taxi\n", "looks like a listing of files by ls or tree; write labels, one per line"),
        ("goldfish:\n  synonyms: [carp]\ntaxi:\n", "looks like YAML; rename it to .yaml"),
    ],
)
@pytest.mark.parametrize("name", ["list.txt", "list"])
def test_a_file_of_another_kind_is_not_read_as_lines(name: str, content: str, found: str) -> None:
    Path(name).write_text(content)

    with pytest.raises(InputError, match=rf"^{re.escape(name)}:\d: {re.escape(found)}"):
        read_labels(files=[name])


def test_lines_that_only_resemble_another_kind_are_labels() -> None:
    lines = ["1 person", "2 people", "name", "don't walk", "rock'n'roll"]
    Path("list.txt").write_text("\n".join(lines))

    assert [label.name for label in read_labels(files=["list.txt"])] == lines


@pytest.mark.parametrize(
    "lines",
    [
        ["1 person", "2 people"],
        ["1 cat", "2 cats", "3 cats"],
        ["5 euro note", "10 euro note"],
        ["3.5 inch disk", "5.25 inch drive"],
        ["2-door car", "4-wheel drive"],
        ["1. Klasse", "2. Klasse"],
        ["16:9", "4:3"],
        ["iPhone 11", "iPhone 12", "iPhone 13"],
        ["Boeing 737", "Airbus 320"],
        ["0", "1", "2"],
        ["7up", "3M"],
        ["crane, bird", "crane, machine"],
        ["Star Wars: A New Hope", "Star Trek: The Motion Picture"],
        ["goldfish,", "taxi", "cat"],
        ["taxi", "{} (a set)"],
        ["a.jpg", "taxi"],
        ["cat:", "dog:"],
        ["|x|", "y"],
    ],
)
def test_honest_lines_with_numbers_and_marks_are_labels(lines: list[str]) -> None:
    assert names(read_labels(files=[write("list.txt", "\n".join(lines))])) == lines


@pytest.mark.parametrize("key", ["labels", "classes", "names"])
def test_a_list_under_the_only_key_is_the_list(key: str) -> None:
    as_yaml = write("a.yaml", f"{key}:\n- cat\n- black dog\n")
    as_json = write("a.json", json.dumps({key: ["cat", "black dog"]}))
    by_id = write("ids.json", json.dumps({key: {"0": "cat", "1": "black dog"}}))

    assert names(read_labels(files=[as_yaml])) == names(read_labels(files=[as_json])) == ["cat", "black dog"]
    assert read_labels(files=[by_id]) == [Label("cat", found_as="0"), Label("black dog", found_as="1")]
    if key != "names":  # which YOLO's data.yaml may have alone
        described = write("b.yaml", f"{key}:\n  synonyms: [word]\n")
        assert read_labels("cat", files=[described])[1] == Label(key, ("word",))
    two = write("c.yaml", f"{key}: [a sentence]\ntaxi:\n")
    assert read_labels(files=[two])[0] == Label(key, prompts=("a sentence",))


def test_the_categories_of_coco_are_labels() -> None:
    categories = [{"id": 3, "name": "cat", "isthing": True}, {"id": 1, "name": "black dog", "supercategory": None}]
    coco = {"images": [{"id": 1, "crowd": False}], "annotations": [], "categories": categories}

    assert read_labels(files=[write("coco.json", json.dumps(coco))]) == [Label("cat"), Label("black dog")]
    own = write("own.json", json.dumps({"categories": ["a photo of categories"], "taxi": None}))
    assert names(read_labels(files=[own])) == ["categories", "taxi"]


def test_the_names_in_a_configuration_of_hugging_face_are_labels_by_number() -> None:
    config = {"model_type": "vit", "num": 1.5, "fast": True, "id2label": {"10": "dog", "2": "cat"}, "label2id": {}}

    assert read_labels(files=[write("config.json", json.dumps(config))]) == [
        Label("cat", found_as="2"),
        Label("dog", found_as="10"),
    ]


@pytest.mark.parametrize("mark", [", ", "; ", "\t"])
def test_words_on_the_only_line_of_a_file_are_not_several_labels(mark: str) -> None:
    line = mark.join(["goldfish", "taxi", "cat"])

    assert refusal_of("a.txt", line) == (
        f"a.txt:1: label {line!r} is the only one; write one label per line if you meant 3, or give another to compare "
        "it with"
    )
    assert names(read_labels(files=["a.txt"], alone=True)) == [line]
    assert list(doubts(read_labels(files=["a.txt"], alone=True))) == [
        f"{line!r} is one label; if you meant 3, write each on its own line, or use --labels A,B"
    ]


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["0", "1"], "all labels are numbers, such as '0', and the model reads them as words; "),
        (["n01443537", "n02930766"], "all labels are ids, such as 'n01443537', and "),
        (["10 goldfish", "20 taxi"], "all labels begin with a number, such as '10 goldfish'; "),
        (["label", "goldfish", "taxi"], "the first label is 'label'; leave it out if it is a header"),
        (["Class", "goldfish"], "the first label is 'Class'; "),
        (["a.jpg", "b.png"], "all labels look like image file names, such as 'a.jpg'"),
        (["goldfish", "label"], None),
        (["0", "cat"], None),
        (["1 cat", "2 cats"], None),
        (["2-door car", "4-wheel drive"], None),
        (["cat"], None),
    ],
)
def test_suspicious_labels_are_noted(words: list[str], note: str | None) -> None:
    noted = list(doubts(labels_of(words, alone=True)))

    assert len(noted) == (note is not None)
    assert all(each.startswith(note or "") for each in noted)


def test_numbers_with_prompts_are_not_suspicious() -> None:
    assert list(doubts([Label("0", prompts=("the digit 0",)), Label("1")])) == []
    assert list(doubts([Label("goldfish", found_as="0"), Label("taxi", found_as="1")])) == []
