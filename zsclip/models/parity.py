"""Whether a model preprocesses, tokenizes and embeds on this machine as open_clip itself does."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

from zsclip.errors import ModelError, first_line
from zsclip.models.encoder import Encoder
from zsclip.models.find import open_clips_name
from zsclip.models.graphs import graphs_to_run
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.onnx_encoder import OnnxEncoder
from zsclip.models.spec import ModelSpec
from zsclip.models.tokens import load_tokens
from zsclip.models.towers import no_remote_code

Pixels = NDArray[np.uint8]  # (B, 3, H, W), as the model's preprocessing makes them

# Capitals, accents, what was escaped for HTML, another script, an emoji, and more than any context holds.
SENTENCES = (
    "a photo of a cat.",
    "Two DOGS, running in the snow!",
    "a café in Zürich",
    "salt &amp; pepper",
    "一只猫的照片",
    "a 🐈 asleep",
    "a photo of a very " + "long " * 300 + "train",
)


@dataclass(frozen=True, eq=False)
class Reference:
    """What open_clip makes of B pictures and of `SENTENCES`, in fp32 on the CPU.

    inputs: (B, 3, H, W) float32, normalised pixels. tokens: (N, context_length) int64. images: (B, D) and texts: (N, D)
    float32, rows of length 1.
    """

    inputs: NDArray[np.float32]
    tokens: NDArray[np.int64]
    images: NDArray[np.float32]
    texts: NDArray[np.float32]


def reference_of(spec: ModelSpec, pictures: Sequence[str]) -> Reference:
    """Load a model with open_clip, and encode pictures and `SENTENCES`; the model must be on this machine.

    Raises:
        ModelError: open_clip cannot load or run it.
    """
    name, tag = open_clips_name(spec.name)
    has_code = spec.tokenizer.name is not None or "hf_model_name" in spec.architecture["text_cfg"]
    try:
        with no_remote_code(spec.name) if has_code else nullcontext(), torch.no_grad():
            model, _, transform = open_clip.create_model_and_transforms(
                name, pretrained=tag, force_quick_gelu=bool(spec.architecture.get("quick_gelu"))
            )
            model.eval()
            inputs = torch.stack([transform(Image.open(path)) for path in pictures])
            tokens = open_clip.get_tokenizer(name)(list(SENTENCES))
            images = model.encode_image(inputs, normalize=True)
            texts = model.encode_text(tokens, normalize=True)
    except ModelError:
        raise
    except Exception as e:  # open_clip, timm and transformers raise anything
        raise ModelError(f"{spec.name}: open_clip itself cannot load it: {first_line(e)}") from e
    return Reference(inputs.numpy(), tokens.numpy(), images.numpy(), texts.numpy())


def pixel_difference(spec: ModelSpec, pixels: Pixels, reference: Reference) -> float:
    """Give the largest difference of a pixel in any channel, in levels of 255; pixels: (B, 3, H, W)."""
    mean, std = (np.array(value, np.float32).reshape(3, 1, 1) for value in (spec.preprocess.mean, spec.preprocess.std))
    theirs = (reference.inputs * std + mean) * 255
    return float(np.abs(theirs - pixels).max())


def other_tokens(spec: ModelSpec, reference: Reference) -> list[str]:
    """Give the sentences of `SENTENCES` that get other tokens than open_clip's."""
    same = (load_tokens(spec)(SENTENCES) == reference.tokens).all(axis=1)  # (N,)
    return [sentence for sentence, is_same in zip(SENTENCES, same.tolist(), strict=True) if not is_same]


def embedding_differences(encoder: Encoder, pixels: Pixels, reference: Reference) -> tuple[float, float, float]:
    """Give the largest difference of a number in pictures' and in texts' embeddings, and the lowest cosine of both."""
    images, texts = encoder.begin_images(list(pixels))(), encoder.encode_text(SENTENCES)
    pairs = ((images, reference.images), (texts, reference.texts))
    image_difference, text_difference = (float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    return image_difference, text_difference, min(float((ours * theirs).sum(axis=1).min()) for ours, theirs in pairs)


def encoders_of(spec: ModelSpec) -> list[Encoder]:
    """Give what a run on this machine may encode with: fp32 on the CPU first, in every runtime there is."""
    exact: list[Encoder] = [LazyTorchEncoder(spec, "cpu", "fp32")]
    if (graphs := graphs_to_run(spec, is_wanted=False)) is not None:
        exact.append(OnnxEncoder(spec, graphs))
    chosen = LazyTorchEncoder(spec)
    return exact if (chosen.device, chosen.precision) == ("cpu", "fp32") else [*exact, chosen]
