"""What is asked, through the command line: labels that are the same, one label alone, words in another Unicode form."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import make_class_folders

Run = Callable[..., CompletedProcess[bytes]]
COMPOSED, DECOMPOSED = "pi\u00f1a", "pin\u0303a"


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> tuple[str, str]:
    return "--model", f"local-dir:{tiny_model('plain')}"


def rows_of(done: CompletedProcess[bytes]) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refusal(done: CompletedProcess[bytes]) -> str:
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = done.stderr.decode().splitlines()
    return line.removeprefix("zsclip: ")


@pytest.mark.parametrize(
    "command", [("classify",), ("eval",), ("calibrate",), ("compare", "--prompts", "photo", "--prompts", "plain")]
)
def test_two_labels_that_are_one_text_to_the_model_are_named(
    run: Run, tmp_path: Path, model: tuple[str, str], command: tuple[str, ...]
) -> None:
    make_class_folders(tmp_path / "data", ("goldfish", "Goldfish", "taxi"), 1)
    (tmp_path / "words.txt").write_text("goldfish\nGoldfish\ntaxi\n")

    done = run(*command, "data", "--labels-file", "words.txt", *model)

    assert refusal(done).startswith("labels: 'goldfish' and 'Goldfish' are the same text to local-dir:")
    assert list(tmp_path.glob("*.json")) == []


def test_a_list_of_labels_in_the_form_of_another_tool_is_read(run: Run, photos: Path, model: tuple[str, str]) -> None:
    folder = photos.parent
    (folder / "id_name.csv").write_text("id,name\n0,goldfish\n1,taxi\n")
    (folder / "class_index.json").write_text('{"0": ["n01443537", "goldfish"], "1": ["n02930766", "taxi"]}\n')
    (folder / "bom_twice.txt").write_bytes(b"\xef\xbb\xbfgoldfish\n\xef\xbb\xbftaxi\n")
    expected = run("classify", "photos", "--labels", "goldfish,taxi", "-k", "2", *model)

    for given in (
        *(("--labels-file", name) for name in ("id_name.csv", "class_index.json", "bom_twice.txt")),
        ("--labels", '["goldfish", "taxi"]'),
    ):
        assert rows_of(run("classify", "photos", *given, "-k", "2", *model)) == rows_of(expected), given
    for name in ("photos/red.png", "/dev/zero"):
        assert refusal(run("classify", "photos", "--labels-file", name, *model)).startswith(f"{name}: ")


@pytest.mark.parametrize(
    "alone",
    [("--none-of-these",), ("--multi-label",), ("--distractors", "rivals.txt"), ("--none-of-these", "--by", "group")],
)
def test_one_label_is_enough_where_something_competes(
    run: Run, photos: Path, model: tuple[str, str], alone: tuple[str, ...]
) -> None:
    folder = photos.parent
    (folder / "rivals.txt").write_text("fog\nrain\n")
    (folder / "one.yaml").write_text("pizza: {group: food}\n")
    answer = "food" if "group" in alone else "pizza"

    rows = rows_of(run("classify", "photos", "--labels-file", "one.yaml", *alone, *model))
    only = rows_of(run("classify", "photos", "--labels-file", "one.yaml", *alone, "--only", answer, *model))

    assert {row["predictions"][0]["label"] if row["predictions"] else None for row in rows} <= {answer, None}
    assert only == [row for row in rows if row["label"] == answer]
    if "--multi-label" not in alone:
        assert [row["label"] is None for row in rows] == [row["beaten_by"] is not None for row in rows]


def test_one_label_is_refused_where_nothing_competes(run: Run, photos: Path, model: tuple[str, str]) -> None:
    (photos.parent / "rivals.txt").write_text("cheese pizza\n")
    (photos.parent / "pets.yaml").write_text("cat: {group: pet}\ndog: {group: pet}\n")
    one = ("classify", "photos", "--label", "pizza", *model)

    assert refusal(run(*one)).endswith("give another to compare it with, or use --none-of-these or --multi-label")
    # The only rival contains the label, so it is left out.
    assert refusal(run(*one, "--distractors", "rivals.txt")).startswith("labels: nothing competes with 'pizza'; ")
    groups = refusal(run("classify", "photos", "--labels-file", "pets.yaml", "--by", "group", *model))
    assert groups.startswith("--by group: nothing competes with 'pet'; ")


@pytest.mark.parametrize(("on_disk", "typed"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_words_in_the_other_unicode_form_are_equal_and_written_as_they_are(
    run: Run, tmp_path: Path, model: tuple[str, str], on_disk: str, typed: str
) -> None:
    make_class_folders(tmp_path / "data", (on_disk, "taxi"), 6)
    (tmp_path / "words.txt").write_text(f"{typed}\ntaxi\n")
    words = ("--labels-file", "words.txt")

    rows = rows_of(run("classify", "data", *words, *model))
    only = rows_of(run("classify", "data", *words, "--only", on_disk, *model))
    left = rows_of(run("classify", f"data/{typed[:-1]}*", *words, "--exclude", f"*/{typed}/[0-4].png", *model))
    found = run("eval", "data", "--json", *words, *model)

    assert {row["file_name"].split("/")[1] for row in rows} == {on_disk, "taxi"}
    assert only == [row for row in rows if row["label"] == typed]
    assert {row["label"] for row in rows} <= {typed, "taxi"}
    assert [row["file_name"] for row in left] == [f"data/{on_disk}/{number}.png" for number in range(6)]
    assert {each["label"]: each["images"] for each in json.loads(found.stdout)["labels"]} == {typed: 6, "taxi": 6}


def test_blanks_around_a_variable_are_ignored(
    run: Run, photos: Path, model: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(run("classify", "photos", "--labels", "cat,dog", *model))
    monkeypatch.setenv("ZSCLIP_DEVICE", "  ")

    monkeypatch.setenv("ZSCLIP_MODEL", f" {model[1]}\t")
    assert rows_of(run("classify", "photos", "--labels", "cat,dog")) == expected
    assert rows_of(run("classify", "photos", "--labels", "cat,dog", "-m", f" {model[1]} ")) == expected
    monkeypatch.setenv("ZSCLIP_MODEL", " ")
    assert b"'base' is not available" in run("classify", "photos", "--labels", "cat,dog").stderr


def test_a_blank_variable_is_as_if_it_were_not_set(tmp_path: Path, run_alone: Run) -> None:
    names = ("ZSCLIP_CACHE_DIR", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "ZSCLIP_DEBUG", "ZSCLIP_MODEL")
    blanks = dict.fromkeys(names, " ") | {"HOME": str(tmp_path / "home")}

    found = run_alone("cache", "info", **blanks).stdout.decode()
    missing = run_alone("classify", ".", "-l", "cat,dog", "--offline", **blanks)

    assert found.startswith(f"{tmp_path / 'home' / '.cache' / 'zsclip'}: ")
    assert missing.stderr.startswith(b"zsclip: model 'base' is not available")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("kind", ["plain", "siglip"])
@pytest.mark.parametrize(("learnt", "typed"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_a_calibration_is_for_labels_in_either_unicode_form(
    run: Run, tmp_path: Path, tiny_model: Callable[[str], Path], kind: str, learnt: str, typed: str
) -> None:
    make_class_folders(tmp_path / "data", ("cat", "taxi"), 12)
    (tmp_path / "data" / "cat").rename(tmp_path / "data" / learnt)
    (tmp_path / "words.yaml").write_text(f"{typed}: {{prompts: ['a {typed}']}}\ntaxi: {{prompts: [a taxi]}}\n")
    (tmp_path / "learnt.yaml").write_text(f"{learnt}: {{prompts: ['a {learnt}']}}\ntaxi: {{prompts: [a taxi]}}\n")
    model = ("--model", f"local-dir:{tiny_model(kind)}")
    target = ("--target-share", "0.5", "--per-label", "-o", "c.json")
    assert run("calibrate", "data", "--labels-file", "learnt.yaml", *target, *model).returncode == 0
    made = json.loads((tmp_path / "c.json").read_text())
    assert made["thresholds"].keys() == {learnt, "taxi"}
    (tmp_path / "c.json").write_text(json.dumps(made | {"thresholds": {learnt: None, "taxi": 0}, "threshold": 0}))

    own = rows_of(run("classify", "data", "--labels-file", "learnt.yaml", "--calibration", "c.json", *model))
    rows = rows_of(run("classify", "data", "--labels-file", "words.yaml", "--calibration", "c.json", *model))

    renamed = [
        each | {"label": typed if each["label"] == learnt else "taxi"} for row in own for each in row["predictions"]
    ]
    assert [each for row in rows for each in row["predictions"]] == renamed
    assert [row["label"] for row in rows] == [row["label"] for row in own]
    assert typed not in {row["label"] for row in rows}  # no score is sure enough for it
    assert [row["cosine"] for row in rows] == [row["cosine"] for row in own]


def test_groups_are_equal_in_both_unicode_forms(run: Run, photos: Path, model: tuple[str, str]) -> None:
    words = f"cat: {{group: {COMPOSED}}}\ndog: {{group: {DECOMPOSED}}}\ncar: {{group: other}}\n"
    (photos.parent / "words.yaml").write_text(words)

    rows = rows_of(run("classify", "photos", "--labels-file", "words.yaml", "--by", "group", "-k", "3", *model))

    assert {each["label"] for row in rows for each in row["predictions"]} == {COMPOSED, "other"}


def test_of_the_prompts_that_were_cut_the_first_is_shown_shortened(
    run: Run, photos: Path, model: tuple[str, str]
) -> None:
    done = run("classify", "photos", "--labels", "a,b,c", "--template", "one {} " + "more " * 500, *model)

    line = next(line for line in done.stderr.decode().splitlines() if "were cut" in line)
    assert line.endswith(f"were cut: {('one a ' + 'more ' * 500)[:57] + '...'!r} and 2 more; shorten them")
