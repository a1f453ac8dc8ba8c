"""Heads as files and through the command line: what learns, what is kept, and what is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from zsclip import api
from zsclip.answers.heads import Head
from zsclip.errors import InputError
from zsclip.measure.headfile import read_head, to_bytes
from zsclip.words.labels import Label
from zsclip.words.prompts import read_templates

Run = Callable[..., CompletedProcess[bytes]]
WORDS = {"stone": (200, 40, 40), "river": (40, 200, 40), "cloud": (40, 40, 200)}


def make_pictures(root: Path, count: int, seed: int, words: dict[str, tuple[int, int, int]] = WORDS) -> Path:
    """Class folders of noise around a colour, which a model with random weights sees, but does not name."""
    random = np.random.default_rng(seed)
    for word, colour in words.items():
        (root / word).mkdir(parents=True)
        for i in range(count):
            pixels = random.normal(colour, 40, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / word / f"{i}.png")
    return root


@pytest.fixture
def data(tmp_path: Path, model: str, run: Run) -> Path:
    """Examples in `few`, other pictures in `many`, and the head `h` learnt from the examples."""
    make_pictures(tmp_path / "few", 5, seed=0)
    make_pictures(tmp_path / "many", 12, seed=1)
    done = run("learn", "few", "-o", "h", "-m", model, "-q")
    assert done.returncode == 0, done.stderr
    return tmp_path


def rows_of(done: CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refusal(done: CompletedProcess[bytes]) -> str:
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    (line,) = done.stderr.decode().splitlines()
    return line.removeprefix("zsclip: ")


def share_right(rows: list[dict[str, Any]]) -> float:
    return float(np.mean([row["file_name"].split("/")[1] == row["label"] for row in rows]))


def some_head() -> Head:
    random = np.random.default_rng(0)
    unit = random.normal(size=(7, 4)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return Head(
        words=(
            Label("cat", ("tom",)),
            Label("dog", prompts=("a dog {}",), group="pet"),
            Label("n01443537", found_as="x"),
        ),
        sentences=read_templates(["a {}"]),
        model="tiny",
        made_with={"model": "tiny, 12345678"},
        logit_scale=float(np.float64(100) / 3),
        class_embeddings=unit[:3],
        weights=random.normal(size=(3, 4)).astype(np.float32),
        biases=random.normal(size=3).astype(np.float32),
        vectors=unit[3:],
        truth=np.array([0, 1, 2, 0], np.int32),
        about={"method": "gaussian", "judged": 4},
    )


def test_a_head_survives_its_file_bit_for_bit(tmp_path: Path) -> None:
    head = some_head()
    (tmp_path / "h").write_bytes(to_bytes(head))

    found = read_head(str(tmp_path / "h"))

    for each in fields(Head):
        before, after = getattr(head, each.name), getattr(found, each.name)
        if isinstance(before, np.ndarray):
            assert (before.dtype, before.shape, before.tobytes()) == (after.dtype, after.shape, after.tobytes())
        else:
            assert before == after, each.name
    assert found.fingerprint == head.fingerprint
    assert replace(head, biases=head.biases + 1).fingerprint != head.fingerprint


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("weights", np.full((3, 4), np.nan, np.float32), "weights hold NaN"),
        ("weights", np.zeros((3, 5), np.float32), "class_embeddings are (3, 4), not (3, 5)"),
        ("weights", np.zeros((3, 4), np.float64), "weights are float64"),
        ("weights", np.zeros(12, np.float32), "weights are float32 (12,)"),
        ("class_embeddings", np.zeros((3, 4), np.float32), "class_embeddings are not of length 1"),
        ("biases", np.zeros(2, np.float32), "biases are (2,)"),
        ("biases", np.array([0, 0, np.inf], np.float32), "biases hold NaN or infinity"),
        ("vectors", np.eye(4, dtype=np.float32)[:3], "vectors are (3, 4), not (4, 4)"),
        ("truth", np.array([0, 1, 3, 0], np.int32), "a label that is not there"),
        ("truth", np.array([0, 1, -1, 0], np.int32), "a label that is not there"),
        ("logit_scale", 0.0, "its scale is 0.0"),
        ("words", (Label("cat"), Label("dog")), "2 labels for 3 rows"),
    ],
)
def test_a_head_with_impossible_numbers_is_refused(name: str, value: Any, why: str, tmp_path: Path) -> None:
    (tmp_path / "h").write_bytes(to_bytes(replace(some_head(), **{name: value})))

    with pytest.raises(InputError, match="damaged: ") as e:
        read_head(str(tmp_path / "h"))

    assert why in str(e.value)


def test_what_is_not_a_head_is_refused(tmp_path: Path, model: str) -> None:
    whole = to_bytes(some_head())
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(whole[:-20])
    (tmp_path / "text").write_text("cat\ndog\n")
    (tmp_path / "other").write_bytes(whole.replace(b'\\"version\\": 1', b'\\"version\\": 9'))
    weights = f"{model}/open_clip_model.safetensors"

    for file in (*(str(tmp_path / name) for name in ("empty", "cut", "text")), weights):
        with pytest.raises(InputError, match="not a head; `zsclip learn DATA -o "):
            read_head(file)
    with pytest.raises(InputError, match="another version"):
        read_head(str(tmp_path / "other"))
    with pytest.raises(InputError, match="cannot be read: no such file"):
        read_head(str(tmp_path / "nope"))
    for file in ("/dev/zero", str(tmp_path)):
        with pytest.raises(InputError, match="not a file"):
            read_head(file)


def test_two_commands_from_examples_to_better_answers(run: Run, data: Path, model: str) -> None:
    words = rows_of(run("classify", "many", "-l", "cloud,river,stone", "-m", model))

    rows = rows_of(run("classify", "many", "--head", "h"))

    assert share_right(rows) > 0.95 > share_right(words)
    assert {row["score_kind"] for row in rows} == {"head"}
    of_words = {row["file_name"]: row for row in words}
    for row in rows:
        same = of_words[row["file_name"]]
        assert 0 <= row["score"] <= 1
        if row["label"] == same["label"]:
            assert row["cosine"] == same["cosine"]


def test_examples_on_the_spot_are_a_head_that_is_not_kept(run: Run, data: Path, model: str) -> None:
    expected = rows_of(run("classify", "many", "--head", "h", "-k", "3"))
    singles = [f"{path.parent.name}={path}" for path in sorted((data / "few").rglob("*.png"))]

    found = rows_of(run("classify", "many", "--examples", "few", "-m", model, "-k", "3"))
    single = rows_of(
        run("classify", "many", *(each for one in singles for each in ("--example", one)), "-m", model, "-k", "3")
    )
    in_python = api.Classifier(model=model, examples=data / "few", top_k=3)(data / "many")
    head = api.Classifier(head=data / "h", top_k=3)(data / "many")

    assert found == expected
    assert single == expected
    for answers in (in_python, head):
        assert [row.label for row in answers] == [row["label"] for row in expected]
        assert [row.score for row in answers] == pytest.approx([row["score"] for row in expected], rel=1e-5)


def test_labels_may_have_words_alone_or_come_from_examples(run: Run, data: Path, model: str) -> None:
    (data / "list.csv").write_text("file_name,label\n" + "".join(f"few/stone/{i}.png,stone\n" for i in range(5)))

    rows = rows_of(run("classify", "many", "-l", "river,cloud", "--examples", "list.csv", "-m", model, "-k", "9"))

    assert [sorted(each["label"] for each in row["predictions"]) for row in rows] == [["cloud", "river", "stone"]] * 36


def test_ids_have_no_words(run: Run, tmp_path: Path, model: str) -> None:
    numbers = dict(zip(("0", "1", "2"), WORDS.values(), strict=True))
    make_pictures(tmp_path / "few", 5, 0, numbers)
    make_pictures(tmp_path / "many", 8, 1, numbers)

    assert run("learn", "few", "-o", "h", "-m", model, "-q").returncode == 0

    assert share_right(rows_of(run("classify", "many", "--head", "h"))) > 0.9


def test_a_folder_of_parts_has_the_same_rows(run: Run, data: Path, model: str) -> None:
    import pyarrow.parquet as pq

    rows = rows_of(run("classify", "many", "--head", "h"))

    for number, given in enumerate((("--head", "h"), ("--examples", "few", "-m", model))):
        assert run("classify", "many", *given, "-o", f"rows{number}/", "-q").returncode == 0
        table = pq.read_table(data / f"rows{number}").to_pylist()
        assert [(row["file_name"], row["label"]) for row in table] == [(row["file_name"], row["label"]) for row in rows]
        assert {row["score_kind"] for row in table} == {"head"}


def test_a_run_is_not_continued_with_another_head(run: Run, data: Path, model: str) -> None:
    make_pictures(data / "more", 3, seed=2)
    assert run("learn", "more", "-o", "h2", "-m", model, "-q").returncode == 0
    assert run("classify", "many", "--head", "h", "-o", "a.csv", "-q").returncode == 0

    assert run("classify", "many", "--head", "h", "-o", "a.csv", "--resume").returncode == 0
    said = refusal(run("classify", "many", "--head", "h2", "-o", "a.csv", "--resume"))

    assert "head: h -> h2" in said


def test_eval_judges_a_head_and_notes_examples_among_the_data(run: Run, data: Path, model: str) -> None:
    (data / "both").mkdir()
    for word in WORDS:
        (data / "both" / word).mkdir()
        for folder in ("few", "many"):
            for path in (data / folder / word).iterdir():
                (data / "both" / word / f"{folder}{path.name}").write_bytes(path.read_bytes())

    honest = run("eval", "many", "--head", "h", "--json")
    examples = run("eval", "many", "--examples", "few", "-m", model, "--json")
    known = run("eval", "both", "--head", "h", "--json")

    assert json.loads(honest.stdout)["metrics"]["top-1"]["value"] > 0.95
    assert json.loads(honest.stdout)["metrics"] == json.loads(examples.stdout)["metrics"]
    assert b"that was learnt from" not in honest.stderr + examples.stderr
    assert b"15 of these images are examples that was learnt from" in known.stderr


def test_compare_takes_examples_and_heads(run: Run, data: Path, model: str) -> None:
    done = run("compare", "many", "--examples", "few", "--head", "h", "-m", model, "--json")

    words, examples, alone, head = json.loads(done.stdout)
    names = ["words", "words + examples", "examples alone", "h"]
    assert [each["name"] for each in (words, examples, alone, head)] == names
    assert examples["figures"] == head["figures"]
    assert head["gain"]["value"] == pytest.approx(
        head["figures"]["top-1"]["value"] - words["figures"]["top-1"]["value"]
    )


def test_compare_takes_expected_shares_beside_examples_and_heads(run: Run, data: Path, model: str) -> None:
    (data / "shares.yaml").write_text("stone: 2\nriver: 1\ncloud: 1\n")
    expects = ("balanced", "few", "shares.yaml")
    given = [each for expect in (*expects, "few") for each in ("--expect", expect)]

    done = run("compare", "many", *given, "--examples", "few", "--head", "h", "-m", model, "--json")
    shown = run("compare", "many", *given, "-m", model)
    alone = [run("eval", "many", "--expect", expect, "-m", model, "--json") for expect in expects]
    refused = run("compare", "many", "--expect", "equal", "-m", model)

    found = json.loads(done.stdout)
    of_shares = [f"words, --expect {expect}" for expect in expects]
    assert [each["name"] for each in found] == ["words", *of_shares, "words + examples", "examples alone", "h"]
    assert [each["figures"] for each in found[1:4]] == [json.loads(one.stdout)["metrics"] for one in alone]
    assert found[4]["figures"] == found[6]["figures"]
    assert all(each["gain"]["low"] <= each["gain"]["value"] <= each["gain"]["high"] for each in found[1:])
    assert [line[:27].strip() for line in shown.stdout.decode().splitlines()[-3:]] == of_shares
    assert "--expect equal: use balanced, few, or" in refusal(refused)


def test_compare_measures_examples_without_words(run: Run, data: Path, model: str) -> None:
    """As if labels were numbers, once for all prompts; and every example is encoded once."""
    for number, word in enumerate(sorted(WORDS)):
        for root, images in (("few", 5), ("many", 12)):
            (data / f"{root} 0" / str(number)).mkdir(parents=True)
            for i in range(images):
                shutil.copy(data / root / word / f"{i}.png", data / f"{root} 0" / str(number))
    sets = ("--prompts", "photo", "--prompts", "plain")

    done = run("compare", "many", *sets, "--examples", "few", "-m", model, "--json", "--no-store")
    numbers = run("eval", "many 0", "--examples", "few 0", "-m", model, "--json")
    (data / "labels.yaml").write_text("stone:\nriver:\ncloud:\nsea:\n")
    without = run("compare", "many", "--labels-file", "labels.yaml", "--examples", "few", "-m", model, "--json")

    found = json.loads(done.stdout)
    names = ["photo", "photo + examples", "plain", "plain + examples", "examples alone"]
    assert [each["name"] for each in found] == names
    assert found[4]["figures"] == json.loads(numbers.stdout)["metrics"] != found[1]["figures"]
    assert [each["name"] for each in json.loads(without.stdout)] == ["words", "words + examples"]
    assert b"examples alone: not compared, as there are none of 'sea'\n" in without.stderr


def test_compare_takes_a_second_pass(run: Run, data: Path, model: str) -> None:
    done = run("compare", "many", "--transductive", "--expect", "few", "-m", model, "--json")
    alone = run("eval", "many", "--transductive", "-m", model, "--json")

    found = json.loads(done.stdout)
    assert [each["name"] for each in found] == ["words", "words, --expect few", "words, --transductive"]
    assert found[2]["figures"] == json.loads(alone.stdout)["metrics"]


def test_a_calibration_is_for_its_head(run: Run, data: Path, model: str) -> None:
    near = {word: (r // 32 + 117, g // 32 + 117, b // 32 + 117) for word, (r, g, b) in WORDS.items()}
    make_pictures(data / "near", 12, seed=3, words=near)  # else all scores would be 1
    assert run("calibrate", "near", "--head", "h", "-o", "c.json", "--target-share", "0.5", "-q").returncode == 0
    labels = ("-l", "cloud,river,stone", "-m", model)
    assert run("calibrate", "near", *labels, "-o", "words.json", "--target-share", "0.5", "-q").returncode == 0
    make_pictures(data / "more", 3, seed=2)
    assert run("learn", "more", "-o", "h2", "-m", model, "-q").returncode == 0

    rows = rows_of(run("classify", "near", "--head", "h", "--calibration", "c.json"))
    learnt = json.loads(run("calibrate", "near", "--head", "h", "-o", "d.json", "--target-share", "1", "--json").stdout)
    judged = json.loads(run("eval", "near", "--head", "h", "--json").stdout)["metrics"]
    assert learnt["learnt"]["overall"]["precision"] == judged["top-1"]["value"]
    assert learnt["learnt"]["temperature"]["plain"] == pytest.approx(judged["calibration error"]["value"], abs=1e-6)

    assert {row["score_kind"] for row in rows} <= {"calibrated", "head"}
    threshold = json.loads((data / "c.json").read_text())["threshold"]
    assert 0.4 < threshold < 0.9
    assert {row["label"] is None for row in rows} == {True, False}
    assert all((row["label"] is None) == (row["score"] < threshold - 1e-6) for row in rows)
    assert "was made for a head" in refusal(run("classify", "many", "--calibration", "c.json"))
    assert "another head" in refusal(run("classify", "many", "--head", "h2", "--calibration", "c.json"))
    assert "without a head" in refusal(run("classify", "many", "--head", "h", "--calibration", "words.json"))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--head", "h", "--multi-label"), "--multi-label: examples show which label fits best"),
        (("--examples", "few", "--multi-label"), "--multi-label: examples show which label fits best"),
        (("--head", "h", "--none-of-these"), "--none-of-these: words without examples would not compete"),
        (("--head", "h", "--distractors", "common"), "--distractors: words without examples would not compete"),
        (("--head", "h", "--examples", "few"), "--head: has learnt already"),
        (("--head", "h", "-l", "a,b"), "--head: has its own labels"),
        (("--head", "h", "--prompts", "plain"), "--head: has its own prompts"),
        (("--examples", "few", "--calibration", "c.json"), "--calibration: is not for answers that --examples changes"),
        (("--examples", "nope"), "no such file or folder: 'nope'"),
        (("--example", "cat"), "--example: 'cat' is not LABEL=IMAGE"),
        (("--example", "cat=nope.png"), "no such file: 'nope.png'"),
        (("--example", "cat=few/stone/0.png"), "nothing competes with 'cat'"),
        (("--head", "few/stone/0.png"), "few/stone/0.png: not a head"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(
    arguments: tuple[str, ...], why: str, run: Run, data: Path, model: str
) -> None:
    done = run("classify", "many", *arguments, *(() if "--head" in arguments else ("-m", model)))

    assert why in refusal(done)


def test_another_model_is_refused(run: Run, data: Path, tiny_model: Callable[[str], Path]) -> None:
    other = str(tiny_model("quick-gelu"))

    for command in ("classify", "eval", "calibrate"):
        said = refusal(run(command, "many", "--head", "h", "-m", other))
        assert said.startswith("--head h: was learnt with another model (")
    said = refusal(run("learn", "many", "--add-to", "h", "-m", other))
    assert said.startswith("--add-to h: was learnt with another model (")


def test_thresholds_and_groups_work_with_a_head(run: Run, data: Path, model: str) -> None:
    (data / "words.yaml").write_text("stone: {group: ground}\nriver: {group: ground}\ncloud: {group: sky}\n")
    assert run("learn", "few", "--labels-file", "words.yaml", "-o", "g", "-m", model, "-q").returncode == 0

    rows = rows_of(run("classify", "many", "--head", "g", "--by", "group", "-k", "2"))
    sure = rows_of(run("classify", "many", "--head", "g", "--threshold", "1"))

    assert {row["label"] for row in rows} == {"ground", "sky"}
    assert all(sum(each["score"] for each in row["predictions"]) == pytest.approx(1, abs=1e-5) for row in rows)
    assert all(row["label"] is None for row in sure if row["score"] < 1)


def test_learn_replaces_nothing_that_is_finished_or_read(run: Run, data: Path, model: str) -> None:
    before = (data / "h").read_bytes()
    (data / "list.csv").write_text("file_name,label\nfew/stone/0.png,stone\nfew/cloud/0.png,cloud\n")

    assert "already exists; add --overwrite" in refusal(run("learn", "few", "-o", "h", "-m", model))
    for output in ("list.csv", "few/stone/0.png"):
        said = refusal(run("learn", "list.csv", "-o", output, "-m", model, "--overwrite"))
        assert "which this run reads" in said
    assert "which this run reads" in refusal(run("learn", "list.csv", "--add-to", "h", "-o", "h", "--overwrite"))
    assert "which this run reads" in refusal(
        run("classify", "many", "--head", "h", "-o", "h", "-f", "csv", "--overwrite")
    )
    assert (data / "h").read_bytes() == before
    assert run("learn", "few", "-o", "h", "-m", model, "--overwrite", "--method", "logistic", "-q").returncode == 0
    assert read_head(str(data / "h")).about["method"] == "logistic"


def test_corrections_are_added_to_a_head(run: Run, data: Path) -> None:
    """A new example is one more, and one that the head has gets its new label."""
    (data / "corrections.csv").write_text(
        "file_name,label\nmany/stone/0.png,stone\nfew/stone/0.png,river\nmany/cloud/0.png,fog\n"
    )

    done = run("learn", "corrections.csv", "--add-to", "h", "-o", "h2", "--json")
    replaced = run("learn", "corrections.csv", "--add-to", "h")

    assert json.loads(done.stdout)["examples"] == {"cloud": 5, "river": 6, "stone": 5, "fog": 1}
    assert replaced.returncode == 0, replaced.stderr
    assert load_file(data / "h").keys() == load_file(data / "h2").keys()
    assert all(np.array_equal(array, load_file(data / "h2")[name]) for name, array in load_file(data / "h").items())
    assert "has its own labels" in refusal(run("learn", "corrections.csv", "--add-to", "h", "-l", "a,b"))


def test_learn_says_how_good_it_is_and_what_looks_wrong(run: Run, data: Path, model: str) -> None:
    (data / "many/river/0.png").write_bytes((data / "few/stone/0.png").read_bytes())
    (data / "many/river/1.png").write_bytes(b"\x89PNG broken")

    done = run("learn", "many", "-o", "h2", "-m", model)

    text, said = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 1  # an image could not be read
    assert "learnt from 35 images of 3 labels, 11 to 12 of each" in text
    assert "words and examples" in text
    assert "1 example may have a wrong label: many/river/0.png, given as 'river', looks like 'stone' (" in text
    assert "examples: 1 could not be read; the first is 'many/river/1.png'" in said


def test_examples_that_repeat_an_image_count_once(run: Run, data: Path, model: str) -> None:
    (data / "few/river/copy.png").write_bytes((data / "few/river/0.png").read_bytes())

    done = run("learn", "few", "-o", "h2", "-m", model, "--json")

    assert json.loads(done.stdout)["examples"] == {"cloud": 5, "river": 5, "stone": 5}


def test_a_file_of_a_head_says_where_it_comes_from(data: Path, model: str) -> None:
    with safe_open(data / "h", framework="np") as file:
        about = json.loads(file.metadata()["zsclip head"])

    assert about["model"] == model
    assert about["about"]["examples"] == {"cloud": 5, "river": 5, "stone": 5}
    assert {"made", "method", "judged", "right by words", "right by words and examples"} <= about["about"].keys()


def test_a_damaged_head_is_refused_by_every_command(run: Run, data: Path) -> None:
    arrays = load_file(data / "h")
    with safe_open(data / "h", framework="np") as file:
        about = file.metadata()
    arrays["weights"][0, 0] = np.nan
    save_file(arrays, data / "bad", about)

    for command in (("classify", "many"), ("eval", "many"), ("compare", "many"), ("calibrate", "many")):
        assert "bad: damaged: weights hold NaN or infinity" in refusal(run(*command, "--head", "bad"))
