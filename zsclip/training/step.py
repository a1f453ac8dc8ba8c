"""One step of training: a batch of pairs through both towers, their loss, its gradient, the update."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsclip.errors import ModelError
from zsclip.models.spec import ModelSpec
from zsclip.models.text import encode_ids, first_output, used_lengths
from zsclip.models.torch_encoder import DTYPES, load_tokenizer
from zsclip.training.checkpoint import TrainingRun
from zsclip.training.pairs import Batch
from zsclip.training.recipe import Recipe

MAX_LOGIT_SCALE = 100.0  # Radford et al. 2021, section 2.5: more is unstable


class PairEncoder:
    """Pixels and captions -> rows of length 1, with gradients."""

    def __init__(self, model: Any, spec: ModelSpec, device: str, precision: str) -> None:
        self.model = model
        self.device = device
        self.precision = precision
        self._mean = torch.tensor(spec.preprocess.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(spec.preprocess.std, device=device).view(3, 1, 1)
        tokenizer = load_tokenizer(spec)
        # Cached, as captions repeat and are cleaned in slow Python.
        self._ids = lru_cache(maxsize=100_000)(lambda caption: tokenizer([caption])[0])

    def images(self, pictures: np.ndarray) -> Tensor:
        """Encode (B, 3, H, W) uint8, or take (B, D) embeddings as they are. (B, D) float32, rows of length 1."""
        if pictures.ndim == 2:
            return torch.from_numpy(pictures).to(self.device)
        x = (torch.from_numpy(pictures).to(self.device).float() / 255 - self._mean) / self._std  # (B, 3, H, W)
        with self._autocast():
            features = first_output(self.model.visual(x))
        return F.normalize(features.float(), dim=-1)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """Encode B captions, each distinct one once, cut to the longest. (B, D) float32, rows of length 1."""
        places: dict[str, int] = {}  # 256 pictures of ten labels have far fewer captions than pictures
        rows = [places.setdefault(caption, len(places)) for caption in captions]
        ids = torch.stack([self._ids(caption) for caption in places])  # (distinct, context_length)
        ids = ids[:, : int(used_lengths(self.model.text, ids).max())]
        with self._autocast():
            features = encode_ids(self.model.text, ids.to(self.device))
        # Not by indexing, whose gradient is summed in any order; with this, a resumed run gets the same bits.
        return F.embedding(torch.tensor(rows, device=self.device), F.normalize(features.float(), dim=-1))

    def _autocast(self) -> torch.autocast:
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, DTYPES[self.precision], enabled=self.precision != "fp32")


def contrastive_loss(
    image_embeddings: Tensor, text_embeddings: Tensor, positives: Tensor, logit_scale: Tensor, pair_weights: Tensor
) -> Tensor:
    """Compare every picture with every text; the loss rewards the true pairs.

    Figure 3 of Radford et al. 2021 (CLIP), with a row's target spread evenly over all its positives as in Yang et al.
    2022 (UniCL). If each pair is its own only positive, this is plain CLIP.

    Args:
        image_embeddings: (B, D) float32, rows of length 1.
        text_embeddings: (T, D) float32, rows of length 1; row i < B belongs to image i, the others are only
            compared.
        positives: (B, T) bool, whether text j is right for image i; the diagonal is true.
        logit_scale: () the multiplier, already exponentiated.
        pair_weights: (B, T) float32, how much image i and text j count for each other; 1 everywhere is plain CLIP.

    Returns:
        () the mean of the two cross-entropies.
    """
    logits = logit_scale * image_embeddings @ text_embeddings.T  # (B, T)
    logits = logits + pair_weights.clamp(min=1e-30).log()  # factors in the softmax; -inf * 0 would be NaN
    targets = positives.to(logits.dtype)
    image_loss = F.cross_entropy(logits, targets / targets.sum(dim=1, keepdim=True))
    own, targets = logits[:, : len(logits)].T, targets[:, : len(logits)].T  # (B, B)
    text_loss = F.cross_entropy(own, targets / targets.sum(dim=1, keepdim=True))
    return (image_loss + text_loss) / 2


def train_step(run: TrainingRun, encoder: PairEncoder, batch: Batch, rate: float, recipe: Recipe) -> float:
    """Learn from one batch; give its loss.

    With `accumulate`, the batch is encoded in parts: once without gradients, to compare all pairs, and once
    more for the gradient of each part (Gao et al. 2021, GradCache): every pair has the negatives of the whole batch.
    Only batch normalisation differs, as it sees the parts one by one.
    """
    if len(batch.pictures) < 2:  # the others cannot be read
        return math.nan
    seed = np.random.SeedSequence((recipe.seed, run.epoch, run.step)).generate_state(1, np.uint32).item()
    count = min(recipe.accumulate, len(batch.pictures))  # some may be unreadable
    parts = list(zip(_parts(len(batch.pictures), count), _parts(len(batch.captions), count), strict=True))

    def encode_part(number: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed + number)  # dropout depends only on the position in the data: nothing to checkpoint
        of_images, of_texts = parts[number]
        return encoder.images(batch.pictures[of_images]), encoder.texts(batch.captions[of_texts])

    positives = torch.from_numpy(batch.positives).to(encoder.device)  # (B, T)
    pair_weights = torch.from_numpy(batch.pair_weights).to(encoder.device)  # (B, T)
    log_scale = run.model.logit_scale
    run.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad() if len(parts) > 1 else nullcontext():
        embeddings = [encode_part(number) for number in range(len(parts))]
    images, texts = (torch.cat(side) for side in zip(*embeddings, strict=True))  # (B, D), (T, D)
    if len(parts) > 1:
        images.requires_grad_()
        texts.requires_grad_()
    loss = contrastive_loss(images, texts, positives, log_scale.exp(), pair_weights)
    if not loss.isfinite():
        raise _diverged(run, f"the loss is {loss.item()}")
    run.scaler.scale(loss).backward()
    if len(parts) > 1:
        assert images.grad is not None
        assert texts.grad is not None
        for number, (of_images, of_texts) in enumerate(parts):
            gradients = (images.grad[of_images], texts.grad[of_texts])
            trained = [pair for pair in zip(encode_part(number), gradients, strict=True) if pair[0].requires_grad]
            torch.autograd.backward([side for side, _ in trained], [gradient for _, gradient in trained])
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.scaler.unscale_(run.optimizer)
    trained_ones = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained_ones, recipe.clip_norm)
    if not norm.isfinite() and not run.scaler.is_enabled():  # with a scaler, such a step is skipped
        raise _diverged(run, f"the gradient is {norm.item()}")
    run.scaler.step(run.optimizer)
    run.scaler.update()
    with torch.no_grad():
        log_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
    if run.average:
        _update_average(run, recipe)
    return loss.item()


def _parts(count: int, parts: int) -> list[slice]:
    """Cut rows into parts of about the same size."""
    edges = [part * count // parts for part in range(parts + 1)]
    return [slice(*ends) for ends in pairwise(edges)]


def _diverged(run: TrainingRun, what: str) -> ModelError:
    where = f"epoch {run.epoch + 1}, step {run.step + 1}"
    return ModelError(f"{where}: {what}; use a smaller --learning-rate or --precision fp32")


def _update_average(run: TrainingRun, recipe: Recipe) -> None:
    keep = min(recipe.average, (1 + run.done) / (10 + run.done))  # else the untrained start would remain in it for long
    own = run.model.state_dict()
    for name, average in run.average.items():
        if average.is_floating_point():
            average.lerp_(own[name], 1 - keep)
        else:
            average.copy_(own[name])
