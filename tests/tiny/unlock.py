"""The image tower unlocked, at a small rate, once everything else is made: for a machine with a GPU.

The published tower has seen photographs only; enlarged thumbnails are far from what it knows. Here it learns to see
them too, while what it makes of sharp pictures is held to what it made of them before. The text tower stays as it is.
The projection follows part of the way: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
"""

import io
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from calibration import text_matrix
from directions import among
from image_tower import CONFIG, SIZE, Rows, read_pictures
from numpy.typing import NDArray
from PIL import Image
from things import Things
from torch import Tensor, nn

_TRUNK, _PROJECTION = "visual.trunk.", "visual.head.proj.weight"
_LARGE, _SMALL = 64, 32  # pixels of a side: all thumbnails have one of these
_SOURCES_AT_32 = ("cifar-100", "natural-images")
_BATCH = 512
_MOSAICS = 256  # of each batch, beside the thumbnails
_TILES = (2, 3, 4, 5)  # thumbnails along a side of a mosaic
_SHARE_OF_SMALL = 0.35  # of the labelled ones in a batch
_SHARE_AT_32 = 0.5  # of the larger thumbnails, how many are made as small as the smallest
_RATE = 3e-4
_SCALE = 30.0  # of cosines in the softmax
_KINDS, _BROADEST = 0.5, 1.0  # weight of broader words among themselves, and of the broadest
_HOLD = 20.0  # weight of 1 - cosine between before and after on mosaics
_HOLD_THUMBNAILS = 2.0  # and on thumbnails that are not made smaller
_PEOPLE = 6.0  # how many times as often as others pictures of persons are drawn: few, and much asked for
# What follows in the end. With all of it photographs and thumbnails gain a little more, but people become horses.
_OF_PROJECTION = 0.4
_FIRST = tuple(_TRUNK + name for name in ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.", "blocks.2.", "blocks.3."))
_AVERAGE = 0.995  # how slowly the average of the weights follows


@dataclass(frozen=True)
class Answers:
    """What pictures are called, and what competes.

    names: (M, D) text embeddings of names; of_thing: (M,) whose name each is.
    own: (L,) the thing of each label; true: (L, T) what may be said of its pictures; often: (L,) how much more often
    than others its pictures are drawn.
    labelled, kinds, broadest: (T,) which things are labels, broader words, and the broadest of them.
    """

    names: Rows
    of_thing: NDArray[np.int64]
    own: NDArray[np.int64]
    true: NDArray[np.bool_]
    often: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    kinds: NDArray[np.bool_]
    broadest: NDArray[np.bool_]


class ImageTower(nn.Module):
    """timm's trunk and the projection, by open_clip's names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.trunk = timm.create_model(CONFIG["model_cfg"]["vision_cfg"]["timm_model_name"], num_classes=0)
        trunk = {name.removeprefix(_TRUNK): t.float() for name, t in state.items() if name.startswith(_TRUNK)}
        self.trunk.load_state_dict(trunk)
        self.projection = nn.Parameter(state[_PROJECTION].float())
        self.eval()  # the published means and deviations of BatchNorm stay: thumbnails would drag them away

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed (B, 3, H, W) pixels of 0 to 255. (B, D), rows of length 1."""
        return F.normalize(F.linear(self.trunk((pixels - 127) / 128), self.projection).float(), dim=-1)

    def state(self) -> dict[str, Tensor]:
        """The tensors by open_clip's names."""
        trunk = {_TRUNK + name: tensor for name, tensor in self.trunk.state_dict().items()}
        return trunk | {_PROJECTION: self.projection.detach()}


def read_thumbnails(encoded: Sequence[bytes], side: int) -> NDArray[np.uint8]:
    """Decode thumbnails of `side` pixels. (N, 3, side, side)."""
    chunks = [encoded[start : start + 1024] for start in range(0, len(encoded), 1024)]
    with ProcessPoolExecutor() as pool:
        return np.concatenate(list(pool.map(_decoded, chunks))).reshape(-1, 3, side, side)


def _decoded(encoded: Sequence[bytes]) -> NDArray[np.uint8]:
    out = []
    for file in encoded:
        with Image.open(io.BytesIO(file)) as image:
            out.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    return np.stack(out)


def resized(pixels: Tensor, side: int) -> Tensor:
    """Resize (B, 3, H, W) as Pillow does: bicubic, smoothed where it gets smaller, rounded to 0 to 255."""
    return F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).round().clamp(0, 255)


class _Thumbnails:
    """Thumbnails of one size on the device, with the places of their labels."""

    def __init__(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], often: Tensor, device: str) -> None:
        self.pixels, self.labels = torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device)
        counts = torch.bincount(self.labels)
        self.weights = often[self.labels] * counts[self.labels] ** -0.5  # rare labels are drawn more often
        self.random = torch.Generator(device).manual_seed(0)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Crop and mirror random ones: (B, 3, S, S) floats with one S, and their labels."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=self.random)
        pixels = self.pixels[chosen]
        side = pixels.shape[-1]
        cut = self._number(round(0.78 * side), side + 1)
        y, x = self._number(0, side - cut + 1), self._number(0, side - cut + 1)
        pixels = pixels[..., y : y + cut, x : x + cut].float()
        mirrored = torch.rand(count, 1, 1, 1, generator=self.random, device=pixels.device) < 0.5
        pixels = torch.where(mirrored, pixels.flip(-1), pixels)
        light = 1 + 0.2 * torch.randn(count, 1, 1, 1, generator=self.random, device=pixels.device).clamp(-2, 2)
        return (pixels * light).clamp(0, 255), self.labels[chosen]

    def _number(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=self.random, device=self.pixels.device))


def _mosaic(thumbnails: _Thumbnails, tiles: int, count: int) -> Tensor:
    """Sharp pictures of about the size of photographs: (B, 3, SIZE, SIZE) of tiles * tiles thumbnails each."""
    pixels, _ = thumbnails.draw(count * tiles * tiles)
    pixels = resized(pixels, -(-SIZE // tiles))
    rows = pixels.unflatten(0, (count, tiles, tiles)).permute(0, 3, 1, 4, 2, 5)  # (B, 3, tiles, S, tiles, S)
    return rows.flatten(2, 3).flatten(3, 4)[..., :SIZE, :SIZE]


class _Judge:
    """The names of things on the device, and what it costs not to answer with them."""

    def __init__(self, answers: Answers, device: str) -> None:
        def moved(array: NDArray) -> Tensor:
            return torch.from_numpy(array).to(device)

        self.names, self.of_thing = moved(answers.names), moved(answers.of_thing)
        self.own, self.true = moved(answers.own), moved(answers.true)
        kinds, broadest, labelled = (
            moved(np.flatnonzero(which)) for which in (answers.kinds, answers.broadest, answers.labelled)
        )
        self.groups = ((_KINDS, kinds), (_BROADEST, broadest))
        self.labelled = labelled
        self.place = torch.full((len(answers.labelled),), -1, device=device)
        self.place[labelled] = torch.arange(len(labelled), device=device)

    def loss(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give the loss of (B, D) embeddings, and the share of right labels."""
        logits, true = _SCALE * embeddings @ self._said().T, self.true[labels]  # (B, T)
        target = self.place[self.own[labels]]
        among_labels = logits[:, self.labelled]
        loss = among(among_labels, true[:, self.labelled], target)
        for weight, group in self.groups:
            of_group = true[:, group]
            some = torch.nonzero(of_group.any(dim=1))[:, 0]
            drawn = torch.multinomial(of_group[some].float(), 1)[:, 0]
            loss = loss + weight * among(logits[some][:, group], of_group[some], drawn)
        return loss, (among_labels.argmax(dim=1) == target).float().mean()

    def _said(self) -> Tensor:
        """Draw one name of each thing: (T, D)."""
        drawn = torch.rand(len(self.names), device=self.names.device)
        best = torch.zeros(len(self.place), device=drawn.device).scatter_reduce(0, self.of_thing, drawn, "amax")
        chosen = torch.nonzero(drawn == best[self.of_thing])[:, 0]
        said = torch.zeros(len(self.place), self.names.shape[1], device=drawn.device)
        said[self.of_thing[chosen]] = self.names[chosen]
        return said


@dataclass(frozen=True)
class _Batch:
    """(B, 3, SIZE, SIZE) views: first `held` thumbnails as they are, then smaller ones, and mosaics at the end.

    labels: of all but the mosaics.
    """

    views: Tensor
    labels: Tensor
    held: int


def _draw(large: _Thumbnails, small: _Thumbnails, tiles: int) -> _Batch:
    of_small = round(_BATCH * _SHARE_OF_SMALL)
    pixels, labels = large.draw(_BATCH - of_small)
    shrunk, (smaller, labels_of_small) = round(len(pixels) * _SHARE_AT_32), small.draw(of_small)
    held = len(pixels) - shrunk
    parts = (pixels[:held], resized(pixels[held:], _SMALL), smaller)
    views = [*(resized(part, SIZE) for part in parts), _mosaic(large, tiles, _MOSAICS)]
    return _Batch(
        torch.cat(views).contiguous(memory_format=torch.channels_last), torch.cat([labels, labels_of_small]), held
    )


def unlock_tower(
    state: dict[str, Tensor], large: tuple[NDArray[np.uint8], NDArray[np.int64]],
    small: tuple[NDArray[np.uint8], NDArray[np.int64]], answers: Answers, *, seconds: float, device: str,
) -> dict[str, Tensor]:  # fmt: skip
    """Train the tower to call thumbnails what they are, and to see sharp pictures as it did before.

    Args:
        state: of the model with the locked tower. large, small: thumbnails, (N, 3, S, S), and places of their labels.
        seconds: to train for; the rate falls to zero at their end.

    Returns:
        The tower's tensors, the projection among them: an average over the last of the steps.
    """
    torch.manual_seed(0)
    before = ImageTower(state).to(device, memory_format=torch.channels_last).requires_grad_(False)
    tower = ImageTower(state).to(device, memory_format=torch.channels_last)
    average = {name: tensor.clone() for name, tensor in tower.state().items()}
    optimizer = torch.optim.AdamW(tower.parameters(), weight_decay=0.0, fused=True)
    often = torch.from_numpy(answers.often).float().to(device)
    thumbnails, tiny, judge = (
        _Thumbnails(*large, often, device),
        _Thumbnails(*small, often, device),
        _Judge(answers, device),
    )
    begun = reported = time.monotonic()
    step = 0
    while (done := (time.monotonic() - begun) / seconds) < 1:
        batch = _draw(thumbnails, tiny, _TILES[step % len(_TILES)])
        kept = torch.cat([batch.views[: batch.held], batch.views[_BATCH:]])
        with torch.autocast(device.partition(":")[0], torch.bfloat16):
            embeddings, wanted = tower(batch.views), before(kept)
        loss, right = judge.loss(embeddings[:_BATCH], batch.labels)
        off = 1 - (torch.cat([embeddings[: batch.held], embeddings[_BATCH:]]) * wanted).sum(dim=-1)
        blurred, sharp = off[: batch.held].mean(), off[batch.held :].mean()
        optimizer.zero_grad(set_to_none=True)
        (loss + _HOLD_THUMBNAILS * blurred + _HOLD * sharp).backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / 100) * (1 - done)
        optimizer.step()
        keep = min(_AVERAGE, (1 + step) / (10 + step))
        for name, tensor in tower.state().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, 1 - keep)
        step += 1
        if time.monotonic() - reported > 15:
            print(f"{step} steps, {done:.0%}: loss {loss:.3f}, right {right:.1%}, off by {blurred:.4f} on thumbnails, "
                  f"{sharp:.4f} on mosaics", flush=True)  # fmt: skip
            reported = time.monotonic()
    return {name: tensor.cpu() for name, tensor in average.items()}


def average(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the first stages of `before`, the others of `after`, and a projection between the two."""
    projection = torch.lerp(before[_PROJECTION].float(), after[_PROJECTION].float(), _OF_PROJECTION)
    return after | {name: t for name, t in before.items() if name.startswith(_FIRST)} | {_PROJECTION: projection}


def unlock(
    model: Path, state: dict[str, Tensor], data: Path, things: Things, aside: Collection[bytes], *, seconds: float,
    seed: int, device: str = "cuda",
) -> dict[str, Tensor]:  # fmt: skip
    """Unlock the tower of a finished model, with all training pictures but those kept aside.

    Args:
        model: its folder, for the text tower. state: its tensors. aside: encoded pictures.
    """
    pictures = [picture for picture in read_pictures(data, sys.maxsize, seed) if picture.encoded not in aside]
    places = {label.name: i for i, label in enumerate(things.labels)}

    def of_side(side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        some = [picture for picture in pictures if (picture.source in _SOURCES_AT_32) == (side == _SMALL)]
        labels = np.array([places[picture.label] for picture in some])
        return read_thumbnails([picture.encoded for picture in some], side), labels

    own = np.array([things.of_label[label.name] for label in things.labels])
    labelled = np.zeros(len(things.names), bool)
    labelled[own] = True
    names = [(name, i) for i, some in enumerate(things.names) for name in some]
    answers = Answers(
        text_matrix(model, [name for name, _ in names]), np.array([i for _, i in names]), own, things.true_of_label,
        np.array([_PEOPLE if label.name == "person" else 1.0 for label in things.labels]), labelled, things.is_kind,
        things.is_broad,
    )  # fmt: skip
    after = unlock_tower(state, of_side(_LARGE), of_side(_SMALL), answers, seconds=seconds, device=device)
    return average(state, after)
