"""Words: the prompts that labels, the neutral word and distractors become."""

from pathlib import Path

import pytest

from zsclip.words.labels import Label
from zsclip.words.prompts import PromptSet, read_prompts, read_templates
from zsclip.words.words import Words, expand, with_distractors


def prompts_of(labels: list[Label], sentences: PromptSet) -> list[list[str]]:
    return [list(prompts) for prompts in expand(labels, sentences).prompts]


@pytest.mark.parametrize("name", ["{}", "{c}", "{label}", "{0}", "{{}}", "}{", "%s \\1"])
def test_braces_of_a_label_are_not_taken_for_a_placeholder(name: str) -> None:
    prompts = prompts_of([Label(name, ("x",))], read_templates(["a {}!", "b {c}!", "c {label}!"]))

    assert prompts == [[f"a {name}!", f"b {name}!", f"c {name}!", "a x!", "b x!", "c x!"]]


def test_labels_keep_their_order_and_may_have_different_numbers_of_prompts() -> None:
    words = expand([Label("dog", ("puppy", "hound")), Label("cat")], read_templates(["a {}", "the {}"]))

    assert words.names == ("dog", "cat")
    assert words.prompts == (
        ("a dog", "the dog", "a puppy", "the puppy", "a hound", "the hound"),
        ("a cat", "the cat"),
    )


def test_a_labels_own_prompts_replace_the_templates() -> None:
    label = Label("dog", ("puppy",), ("a {c} barks",))

    assert prompts_of([label], read_templates(["the {}"])) == [["a dog barks", "a puppy barks"]]


def test_a_prompt_without_a_placeholder_is_used_once_for_all_synonyms() -> None:
    label = Label("dog", ("puppy",), ("man's best friend", "a {c} barks"))

    assert prompts_of([label], read_templates(["the {}"])) == [["man's best friend", "a dog barks", "a puppy barks"]]


def test_a_sets_prompts_for_a_label_replace_its_templates_but_not_the_labels_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "templates: the {}\nprompts:\n  cat: ['a purring {}', a mouser]\n  dog: x\n  fish: []\n  pin\u0303a: fruit\n"
    )
    labels = [Label("cat", ("kitten",)), Label("dog", prompts=("own",)), Label("bird"), Label("fish")]
    labels.append(Label("piña"))

    assert prompts_of(labels, read_prompts(str(file))) == [
        ["a purring cat", "a mouser", "a purring kitten"],
        ["own"],
        ["the bird"],
        ["the fish"],
        ["fruit"],
    ]


def test_a_sentence_counts_once_for_a_label_however_often_it_comes_up() -> None:
    labels = [Label("cat", ("cat", "kitten", "kitten")), Label("kitten")]

    assert prompts_of(labels, read_templates(["a {}", "a {c}"])) == [["a cat", "a kitten"], ["a kitten"]]


def test_the_neutral_word_and_distractors_are_put_into_the_same_sentences(tmp_path: Path) -> None:
    file = tmp_path / "others.yaml"
    file.write_text("dog: {synonyms: [hound]}\nfog: [thick fog]\ntabby cat:\n")

    words = with_distractors(expand([Label("cat"), Label("pug")], read_templates(["a {}"])), str(file))

    assert words.neutral == ("a something",)
    assert words.distractors == {"dog": ("a dog", "a hound"), "fog": ("thick fog",)}
    assert with_distractors(words, None) is words


def test_the_fingerprint_is_that_of_all_prompts_in_any_order() -> None:
    def words(*names: str, template: str = "a {}", **more: tuple[str, ...]) -> Words:
        return expand([Label(name, **more) for name in names], read_templates([template]))

    others = [
        words("cat"),
        words("cat", "cow"),
        words("cat", "dog", template="a{}"),
        words("cat", "dog", synonyms=("x",)),
    ]
    prints = [each.fingerprint for each in (words("cat", "dog"), *others)]

    assert words("dog", "cat").fingerprint == prints[0]
    assert len(set(prints)) == 5
