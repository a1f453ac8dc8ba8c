"""What is known of a model without loading it, and what becomes of it when it is not so any more."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zsclip.kept.cache import keep
from zsclip.models import torch_encoder
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.torch_encoder import load_model


@pytest.fixture
def encoder(tiny_model: Callable[[str], Path]) -> Callable[[], LazyTorchEncoder]:
    return lambda: LazyTorchEncoder(find_model(str(tiny_model("siglip"))), "cpu", "fp32")


def test_the_settings_of_a_model_are_remembered(
    encoder: Callable[[], LazyTorchEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoder()
    model = load_model(first.spec, "cpu", "fp32")
    expected = (model.logit_scale, model.logit_bias, model.embed_dim, model.text_recipe, model.batch_size)
    assert (first.logit_scale, first.logit_bias, first.embed_dim, first.text_recipe, first.batch_size) == expected

    monkeypatch.setattr(torch_encoder, "load_model", None)
    second = encoder()

    assert (second.logit_scale, second.logit_bias, second.embed_dim, second.text_recipe, second.batch_size) == expected
    assert second.image_recipe(False) == first.image_recipe(False) != second.image_recipe(True)


def test_it_encodes_as_the_model_does(encoder: Callable[[], LazyTorchEncoder]) -> None:
    model = load_model(encoder().spec, "cpu", "fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, *model.spec.preprocess.size), dtype=np.uint8)

    assert np.array_equal(encoder().begin_images(list(pixels))(), model.encode_images(pixels))
    assert np.array_equal(encoder().encode_text(["a cat"]), model.encode_text(["a cat"]))
    assert encoder().token_counts(["a cat"]) == model.token_counts(["a cat"])


def test_the_batch_size_does_not_change_the_model(encoder: Callable[[], LazyTorchEncoder]) -> None:
    first = encoder()
    keep("settings", first._parts, first._settings | {"batch_size": 7})

    second = encoder()

    assert second.batch_size == 7
    assert second.is_as_remembered  # loads it
    assert second.batch_size == first.batch_size == 32


def test_wrong_remembered_facts_are_corrected_for_the_next_run(encoder: Callable[[], LazyTorchEncoder]) -> None:
    right = encoder()
    recipe, settings = right.image_recipe(False), right._settings
    keep("settings", right._parts, settings | {"device": "cuda", "precision": "fp16", "batch_size": 256})

    wrong = encoder()

    assert wrong.image_recipe(False) != recipe
    assert not wrong.is_as_remembered
    assert encoder().image_recipe(False) == recipe
    assert encoder().is_as_remembered
