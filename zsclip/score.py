"""Embeddings -> probabilities -> the k best. Pure tensor arithmetic: no files, no models, no printing."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """How scores become an answer.

    k: how many candidates to give; None means one, or with independent scores all over the threshold.
    threshold: a best score under it is no answer; None means never, or with independent scores 0.5.
    independent: score each label for itself ("does this apply") instead of against the others ("which of these").
    """

    k: int | None = None
    threshold: float | None = None
    independent: bool = False


def cosines(image_embeddings: Tensor, class_embeddings: Tensor) -> Tensor:
    """Compare every image with every class.

    Args:
        image_embeddings: (B, D) float32, rows of length 1.
        class_embeddings: (C, D) float32, rows of length 1.

    Returns:
        (B, C) float32 in [-1, 1].
    """
    return image_embeddings @ class_embeddings.T


def softmax_scores(cosines: Tensor, logit_scale: float) -> Tensor:
    """Give the probability of each class, if one of them it is; a bias would cancel.

    Args:
        cosines: (B, C) float32.
        logit_scale: the multiplier, 100 for OpenAI's CLIP.

    Returns:
        (B, C) float32, rows sum to 1.
    Source: Radford et al. 2021, section 3.1.2.
    """
    return (logit_scale * cosines).softmax(dim=-1)


def sigmoid_scores(cosines: Tensor, logit_scale: float, logit_bias: float) -> Tensor:
    """Give the probability that a class applies, each for itself.

    Returns:
        (B, C) float32; rows need not sum to 1.
    Source: Zhai et al. 2023 (SigLIP), section 3.2.
    """
    return (logit_scale * cosines + logit_bias).sigmoid()


def versus_neutral_scores(cosines: Tensor, neutral_cosines: Tensor, logit_scale: float) -> Tensor:
    """Give the two-way softmax of each class against a neutral word, for models without a bias. A heuristic.

    Args:
        cosines: (B, C) float32.
        neutral_cosines: (B, 1) float32, of the neutral word's embedding.

    Returns:
        (B, C) float32; rows need not sum to 1.
    """
    return (logit_scale * (cosines - neutral_cosines)).sigmoid()


def top_k(cosines: Tensor, k: int) -> Tensor:
    """Find the k best classes of every image; ties go to the earlier class.

    Every score grows with its cosine, and cosines still differ where float32 scores are all 0 or 1.

    Args:
        cosines: (B, C) float32.
        k: at least 1; capped at C.

    Returns:
        (B, k) int64, best first.
    """
    return torch.sort(cosines, dim=-1, descending=True, stable=True).indices[:, :k]
