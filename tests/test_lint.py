"""`zsclip prompts lint`: what it finds, what it leaves alone, and how often it speaks about good labels."""

import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from zsclip.answers.lint import NEAR, centred_on, near_duplicates
from zsclip.words.labels import Label
from zsclip.words.wording import contained, negations, shared_names

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def findings(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stdout.decode().splitlines()


def labels(*names: str) -> list[Label]:
    return [Label(name) for name in names]


def test_each_kind_of_finding_is_a_line_and_the_exit_code_is_1(run_alone: Run, tmp_path: Path) -> None:
    (tmp_path / "pets.yaml").write_text(
        "couch: {}\nsofa: {}\ndog: {synonyms: [hound]}\nhound dog: {}\nhot dog: {}\nHound: {}\n熊猫: {}\nother: {}\n"
        "Cat: {}\ncat: {}\nlong: ['a very " + "long " * 40 + "prompt']\n",
        encoding="utf-8",
    )

    done = run_alone("prompts", "lint", "--labels-file", "pets.yaml", "-m", "tiny")

    assert done.returncode == 1
    assert done.stderr.decode() == "zsclip: 11 labels checked, 10 findings\n"
    assert [line.partition(": ")[0] for line in findings(done)] == [
        "same-text", "other-script", "shared-name", "contained", "contained", "negation", "cut", "near-duplicate",
        "near-duplicate", "near-duplicate",
    ]  # fmt: skip
    for words in (
        "'Cat' and 'cat' are the same text to tiny",
        "'熊猫' is not in Latin letters: tiny was trained on English, and makes 6 tokens of 2 letters",
        "'hound' is a name of 'dog', 'Hound'",
        "'dog' is part of 'hound dog', 'hot dog'",
        "'Hound' is part of 'hound dog'",
        "'hound dog' and 'Hound' are nearly the same to tiny",
        "'other' describes no image",
        "is longer than the 32 tokens that tiny reads",
        "'couch' and 'sofa' are nearly the same to tiny (0.87); merge them?",
    ):
        assert words in done.stdout.decode()


def test_good_labels_have_no_finding_and_exit_code_0(run: Run) -> None:
    done = run(
        "prompts", "lint", "-l", "cat,dog,bird,a cup of coffee,traffic light", "-m", "tiny", "--prompts", "general"
    )

    assert done.returncode == 0
    assert done.stdout == b""
    assert done.stderr == b"zsclip: 5 labels checked, nothing found\n"


def test_quiet_prints_findings_only(run: Run) -> None:
    done = run("prompts", "lint", "-l", "couch,sofa", "-m", "tiny", "-q")

    assert (done.returncode, done.stderr, len(findings(done))) == (1, b"", 1)


def test_notes_that_classify_gives_are_findings_too(run: Run) -> None:
    done = run("prompts", "lint", "-l", "1,2,3", "-m", "tiny", "-q")

    assert any(line.startswith("doubtful: all labels are numbers") for line in findings(done))


def test_imagenets_names_are_not_flooded_with_near_duplicates(run: Run) -> None:
    done = run("prompts", "lint", "--labels-file", "imagenet", "-m", "tiny", "-q")

    near = [line for line in findings(done) if line.startswith("near-duplicate")]
    assert 1 <= len(near) <= 10
    assert any("'sunglass'" in line and "'sunglasses'" in line for line in near)
    assert len(findings(done)) <= 60


def test_labels_that_are_given_twice_are_an_error_as_everywhere(run: Run) -> None:
    done = run("prompts", "lint", "-l", "cat,dog,cat", "-m", "tiny")

    assert done.returncode == 2
    assert b"'cat' was already given" in done.stderr


@pytest.mark.parametrize("count", [0, 1, 2, 1023, 1024, 1025])
def test_near_duplicates_are_those_of_all_pairs(count: int) -> None:
    """Against a loop over all pairs; each row's best partner is among them."""
    random = np.random.default_rng(count)
    rows = random.normal(size=(count, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    few = rows[:: max(1, count // 40)]

    found = {(one, other): cosine for one, other, cosine in near_duplicates(few, least=0.9)}

    cosines = {pair: float(few[pair[0]] @ few[pair[1]]) for pair in combinations(range(len(few)), 2)}
    best = {max((p for p in cosines if row in p), key=cosines.__getitem__) for row in range(len(few)) if cosines}
    assert found.keys() == {pair for pair in best if cosines[pair] >= 0.9}
    assert all(cosine == pytest.approx(cosines[pair], abs=1e-6) for pair, cosine in found.items())
    twice = list(near_duplicates(np.concatenate([rows, rows]), least=NEAR))
    assert sorted((one, other) for one, other, _ in twice) == [(row, row + count) for row in range(count)]


def test_what_all_words_have_in_common_makes_no_duplicates() -> None:
    random = np.random.default_rng(0)
    rows = (random.normal(size=(200, 64)) / 8 + [3.0, *[0.0] * 63]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels, common = rows[:100], rows[100:]

    alone = centred_on(common, labels)

    assert len(list(near_duplicates(labels))) >= 50
    assert list(near_duplicates(alone)) == []
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)


def test_prompts_that_are_cut_are_those_of_the_labels(run: Run) -> None:
    """The words that labels are compared with are put into the same sentence."""
    template = "a photo of " + "a very " * 20 + "old {}"

    done = run("prompts", "lint", "-l", "cat,dog", "--template", template, "-m", "tiny", "-q")

    cut = [line for line in findings(done) if line.startswith("cut: ")]
    assert len(cut) == 2
    assert "old cat' is longer" in cut[0]
    assert "old dog' is longer" in cut[1]


def test_a_label_is_contained_only_as_whole_words_in_any_number() -> None:
    assert list(contained(labels("car", "cart", "scar", "racing cars"))) == [
        "'car' is part of 'racing cars'; if one is a kind of the other, put both into a group (see --by group), "
        "else describe them in other words"
    ]
    assert list(contained(labels("hot dog", "chili hot dog stand", "dog house"))) != []
    assert list(contained(labels("dog hot", "hot dog"))) == []
    assert list(contained(labels("dog", "no dog"))) == []  # a negation, which is another finding


def test_a_name_is_shared_only_if_one_has_it_as_a_synonym() -> None:
    dog, wolf = Label("dog", ("hound", "canine")), Label("wolf", ("Canine",))

    assert list(shared_names([dog, wolf])) == ["'Canine' is a name of 'dog', 'wolf'; keep it for one of them"]
    assert list(shared_names(labels("cat", "cats"))) == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("person", "person without a helmet"), 1),
        (("cat", "not a cat"), 1),
        (("dog", "no dog"), 1),
        (("dog", "no dogs", "cat"), 1),
        (("food", "non-food"), 1),
        (("cat", "Other"), 1),
        (("cat", "none of these"), 1),
        (("stop sign", "no parking sign"), 0),
        (("knot", "another cat", "notebook"), 0),
    ],
)
def test_what_is_not_there_is_found(names: tuple[str, ...], found: int) -> None:
    assert len(list(negations(labels(*names)))) == found


def test_own_prompts_may_say_what_other_stands_for() -> None:
    assert list(negations([Label("cat"), Label("other", prompts=("an empty room",))])) == []


def test_one_label_is_enough(run: Run) -> None:
    assert run("prompts", "lint", "--label", "crane", "-m", "tiny").returncode == 0
