import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
from conftest import ColourModel, words_of
from open_clip.zero_shot_classifier import build_zero_shot_classifier
from safetensors.torch import load_file, save_file

from zsclip.answers.classifier import build_classifier, check_words, class_embeddings
from zsclip.errors import InputError
from zsclip.kept.cache import FILE_NAME, cache_dir
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.spec import ModelSpec
from zsclip.words.labels import Label, read_labels
from zsclip.words.prompts import read_prompts, read_templates
from zsclip.words.words import Words, expand


def test_a_class_is_the_renormalised_mean_of_its_own_prompts() -> None:
    """1 + 2 prompts: an even split would pass with 2 + 1 rounded, never with these."""
    prompts = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)

    result = class_embeddings(prompts, [1, 2])

    for row, members in zip(result.tolist(), ([0], [1, 2]), strict=True):
        mean = [sum(prompts[i][axis].item() for i in members) / len(members) for axis in range(4)]
        length = sum(value**2 for value in mean) ** 0.5
        assert row == pytest.approx([value / length for value in mean], abs=1e-6)


@pytest.mark.parametrize("kind", ["plain", "custom-text", "quick-gelu", "siglip", "resnet", "timm", "coca"])
def test_the_text_matrix_equals_open_clips(kind: str, tiny_model: Callable[[str], Path]) -> None:
    name = f"local-dir:{tiny_model(kind)}"
    labels, templates = ["cat", "red dog", "bird"], ["a photo of a {}.", "a sketch of the {}", "{}"]
    reference = build_zero_shot_classifier(
        open_clip.create_model(name).eval(),
        open_clip.get_tokenizer(name),
        labels,
        [lambda c, t=template: t.replace("{}", c) for template in templates],
    ).T  # open_clip's zero-shot weights are (D, C)

    classifier = build_classifier(
        words_of({label: [t.replace("{}", label) for t in templates] for label in labels}),
        LazyTorchEncoder(find_model(name), "cpu", "fp32"),
    )

    assert np.abs(classifier.class_embeddings - reference.detach().numpy()).max() <= 1e-5


def test_one_new_label_encodes_one_label(colour_model: ColourModel) -> None:
    build_classifier(words_of({"red": ["a red"], "green": ["a green"]}), colour_model)
    colour_model.encoded.clear()

    classifier = build_classifier(words_of({"blue": ["a blue"], "red": ["a red"]}), colour_model)

    assert colour_model.encoded == ["a blue"]
    assert classifier.class_embeddings[0].argmax() == 2
    assert classifier.class_embeddings[1].argmax() == 0


def test_what_comes_from_the_cache_has_the_same_bits(colour_model: ColourModel) -> None:
    words = words_of({"red": ["red"], "sky": ["blue", "blue green"]})

    fresh, cached = (build_classifier(words, colour_model, multi_label=True) for _ in range(2))

    assert np.array_equal(fresh.class_embeddings, cached.class_embeddings)
    assert fresh.neutral_embedding is not None
    assert cached.neutral_embedding is not None
    assert np.array_equal(fresh.neutral_embedding, cached.neutral_embedding)
    assert fresh.neutral_embedding.shape == (1, 3)
    assert len(colour_model.encoded) == 4


def test_order_and_number_of_a_labels_prompts_are_part_of_its_key(colour_model: ColourModel) -> None:
    build_classifier(words_of({"a": ["red", "blue"], "b": ["green"]}), colour_model)
    colour_model.encoded.clear()

    build_classifier(words_of({"a": ["red"], "b": ["green"]}), colour_model)

    assert colour_model.encoded == ["red"]


def test_another_model_has_another_text_matrix(colour_model: ColourModel) -> None:
    build_classifier(words_of({"a": ["red"], "b": ["green"]}), colour_model)
    other = ColourModel()
    other.text_recipe = "other"

    build_classifier(words_of({"a": ["red"], "b": ["green"]}), other)

    assert other.encoded == ["red", "green"]


def test_a_damaged_entry_is_encoded_again(colour_model: ColourModel) -> None:
    words = words_of({"a": ["red"], "b": ["green"]})
    expected = build_classifier(words, colour_model).class_embeddings
    path = cache_dir() / FILE_NAME
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))

    assert np.array_equal(build_classifier(words, colour_model).class_embeddings, expected)
    assert colour_model.encoded == ["red", "green"] * 2


def test_a_cached_run_still_reports_cut_prompts(colour_model: ColourModel) -> None:
    words = words_of({"a": ["red and much too long a prompt", "red"], "b": ["green"]})

    for _ in range(2):
        classifier = build_classifier(words, colour_model)
        assert classifier.cut == ("red and much too long a prompt",)


def test_two_labels_with_the_same_prompts_are_encoded_once(colour_model: ColourModel) -> None:
    classifier = build_classifier(words_of({"a": ["red"], "b": ["red"]}), colour_model)

    assert colour_model.encoded == ["red"]
    assert np.array_equal(classifier.class_embeddings[0], classifier.class_embeddings[1])


def test_a_build_that_was_killed_goes_on_from_its_last_round(colour_model: ColourModel) -> None:
    words = words_of({f"label {i}": [f"red label {i}"] for i in range(5000)})

    def kill(done: int, total: int) -> None:
        assert total == 5000
        if done >= 2048:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_classifier(words, colour_model, progress=kill)
    build_classifier(words, colour_model)

    assert len(colour_model.encoded) == 5000


def test_a_cached_run_never_reads_the_text_tower(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """The second run sees a checkpoint of the same name and digest from which the text tower is gone."""
    name = f"local-dir:{tiny_model('plain')}"
    words = words_of({"cat": ["a cat"], "dog": ["a dog"]})
    spec = find_model(name)
    expected = build_classifier(words, LazyTorchEncoder(spec, "cpu", "fp32"))
    assert spec.weights is not None
    half = {k: v for k, v in load_file(spec.weights).items() if k.startswith(("visual.", "logit_"))}
    save_file(half, tmp_path / "half.safetensors")
    without_text = LazyTorchEncoder(replace(spec, weights=str(tmp_path / "half.safetensors")), "cpu", "fp32")

    result = build_classifier(words, without_text)

    assert np.array_equal(result.class_embeddings, expected.class_embeddings)
    assert "_text_tower" not in vars(without_text.model)
    assert without_text.begin_images([np.zeros((3, 32, 32), np.uint8)])().shape == (1, 32)


def words(*labels: Label) -> Words:
    return expand(labels, read_templates(["a photo of a {}.", "{}"]))


@pytest.mark.parametrize(
    ("one", "other", "same_to"),
    [
        ("goldfish", "Goldfish", {"lower", "canonicalize"}),
        ("gold fish", "gold  fish", {"lower", "canonicalize", "whitespace"}),
        ("salt & pepper", "salt &amp; pepper", {"lower", "canonicalize", "whitespace"}),
        ("piña", "pin\u0303a", {"lower", "canonicalize", "whitespace"}),
        ("Straße", "STRAßE", {"lower", "canonicalize"}),
        ("C", "C#", {"canonicalize"}),
        ("cat", "cats", set()),
        ("piña", "pina", set()),
        ("café", "cafÃ©", {"lower", "canonicalize", "whitespace"}),  # the tokenizer's ftfy mends it
    ],
)
@pytest.mark.parametrize("clean", ["lower", "canonicalize", "whitespace"])
def test_labels_that_are_one_text_to_the_tokenizer_are_refused(
    clean: str, one: str, other: str, same_to: set[str], spec: ModelSpec
) -> None:
    encoder = LazyTorchEncoder(replace(spec, tokenizer=replace(spec.tokenizer, name="a/b", arguments={"clean": clean})))
    message = f"labels: {one!r} and {other!r} are the same text to {spec.name}; remove one of the two, "

    with pytest.raises(InputError, match=f"^{re.escape(message)}") if clean in same_to else nullcontext():
        check_words(words(Label("taxi"), Label(one), Label(other)), encoder)


def test_labels_that_differ_only_beyond_the_context_are_refused(spec: ModelSpec) -> None:
    long = "a very " + "very " * 90
    message = (
        r"labels: '\.\.\..*old cat' and '.*young dog' are the same text to .*, which cuts both after 24 tokens; remove "
    )

    with pytest.raises(InputError, match=message):
        check_words(words(Label("taxi"), Label(f"{long}old cat"), Label(f"{long}young dog")), LazyTorchEncoder(spec))
    check_words(words(Label(f"cat, {long}"), Label(f"dog, {long}"), Label(long[:200])), LazyTorchEncoder(spec))
    check_words(words(Label("a very old and tired cat"), Label("a very old and tired dog")), LazyTorchEncoder(spec))
    check_words(words(Label(f"{long}cat", ("cat",)), Label(f"{long}dog", ("dog",))), LazyTorchEncoder(spec))


def test_only_the_prompts_of_a_label_matter(spec: ModelSpec) -> None:
    country = Label("Turkey", prompts=("the flag of Turkey",))

    check_words(words(Label("turkey"), country, Label("turkey", ("bird",))), LazyTorchEncoder(spec))
    with pytest.raises(InputError, match="'country' and 'Turkey' are the same text"):
        check_words(words(Label("country", prompts=("The flag of Turkey",)), country), LazyTorchEncoder(spec))


@pytest.mark.parametrize("name", ["tiny", "multilingual"])
def test_the_names_of_imagenet_are_a_thousand_texts(name: str) -> None:
    encoder = LazyTorchEncoder(find_model(name, with_weights=False))

    check_words(expand(read_labels(files=["imagenet"]), read_prompts("photo")), encoder)
