"""Templates for folders, and names that every file system takes."""

import os
import random

import pytest

from zsclip.errors import InputError
from zsclip.out.destinations import filled, folder_names, numbered, read_destination, safe_name


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("out", "out/cat/a.jpg"),
        ("out/", "out/cat/a.jpg"),
        ("out/{label}", "out/cat/a.jpg"),
        ("{label}/{score}-{name}", "cat/0.988-a.jpg"),
        ("out/{score}", "out/0.988/a.jpg"),
        ("out/{name}", "out/a.jpg"),
        ("{label}s/{label}/{name}", "cats/cat/a.jpg"),
    ],
)
def test_a_template_is_completed_and_filled_in(text: str, path: str) -> None:
    template = read_destination("--copy-to", text)

    assert filled(template, name="a.jpg", folder="cat", score=0.98765) == os.path.abspath(path)


def test_what_is_filled_in_is_not_a_template() -> None:
    template = read_destination("--copy-to", "out")

    assert filled(template, name="{label}.jpg", folder="{name}", score=1) == os.path.abspath("out/{name}/{label}.jpg")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("s3://bucket/{label}", "^--copy-to s3://bucket/{label}: only local files can be written; write here, and "),
        ("x/{lable}", "cannot fill in {lable}; use {label} or {name} or {score}"),
        ("x/{name}/y", "does not end with {name}"),
        ("{name}/{name}", "does not end with {name}"),
    ],
)
def test_a_template_that_means_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("{", r"\{")):
        read_destination("--copy-to", text)


def test_a_picture_without_an_answer_has_no_label() -> None:
    assert read_destination("--unknown-to", "x", has_label=False) == os.path.abspath("x/{name}")
    with pytest.raises(InputError, match="has no label; use"):
        read_destination("--unknown-to", "x/{label}", has_label=False)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cat", "cat"), ("日本 e\u0301", "日本 e\u0301"), ("a/b", "a_b"), ("a\\b:c", "a_b_c"), ("..", "_"), (".", "_"),
        ("", "_"), (".hidden", "_hidden"), ("dog. ", "dog"), ("con", "_con"), ("NUL.txt", "_NUL.txt"), ("cone", "cone"),
        ("a\nb\x00", "a_b_"), ("COM1", "_COM1"), ("../../etc", "_._.._etc"), ("-rf", "-rf"),
    ],
)  # fmt: skip
def test_a_label_becomes_the_name_of_one_folder(label: str, name: str) -> None:
    assert safe_name(label) == name


def test_any_text_becomes_a_short_safe_name_and_a_safe_one_stays() -> None:
    chance = random.Random(0)
    for _ in range(2000):
        text = "".join(chance.choices('a.. /\\:\n\0"日é\U0001f600\udc80', k=chance.choice([1, 3, 40, 300])))
        name = safe_name(text)

        assert 0 < len(name.encode()) <= 200
        assert name[0] != "."
        assert name[-1] not in ". "
        assert not set(name) & {*'/\\:\n\0"'}
        assert safe_name(name) == name


def test_different_labels_never_share_a_folder() -> None:
    labels = ["a/b", "a_b", "a:b", "x" * 300, "x" * 301, "..", "", "_", "cat"]

    names = folder_names(labels)

    assert len({*names.values()}) == len(labels)
    assert (names["a_b"], names["_"], names["cat"]) == ("a_b", "_", "cat")
    assert folder_names(reversed(labels)) == names


def test_numbers_come_before_the_extensions() -> None:
    assert numbered("/x/a.jpg", "a.jpg", "a", 1) == "/x/a.jpg"
    assert numbered("/x/a.jpg", "a.jpg", "a", 2) == "/x/a-2.jpg"
    assert numbered("/x/0.9-a.jpg.aae", "a.jpg.aae", "a", 3) == "/x/0.9-a-3.jpg.aae"
