"""The image tower: EfficientNet-Lite0's published weights, what its own ImageNet head says, and features of pictures.

Nothing here is trained. Source of the idea to lock the tower: Zhai et al. 2022, "LiT: Zero-Shot Transfer with
Locked-image text Tuning".
"""

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from zsclip.models.config import CONFIG_FILE
from zsclip.training.export import WEIGHTS_FILE

D = 512
F = 1280  # features of the tower
SIZE = 224  # pixels of a side
CONFIG = {
    "model_cfg": {
        "embed_dim": D,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": SIZE,
        },
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 160, "heads": 5, "layers": 4},
        "custom_text": True,
    },
    "preprocess_cfg": {
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
_PEOPLE = re.compile(
    r"\b(man|men|woman|women|boys?|girls?|child|children|people|person|guy|lady|kids?|players?|toddler|baby|couple|group"
    r"|rider|biker|surfer|skier|climber|hiker|swimmer)\b"
)
_NOT_ALONE = re.compile(
    r"\b(dogs?|puppy|horses?|cat|birds?|bicycle|bikes?|motorcycle|car|boat|truck|animal|sheep|cow)\b"
)
_CHUNK = 2048  # pictures between two checkpoints: half a minute


Rows = NDArray[np.float32]


def unit(rows: Rows) -> Rows:
    """Divide rows by their length."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Tower:
    """The image tower and its own head.

    state: tensors by open_clip's names, fp32, without a projection. head: (1000, F) float64, the weights of ImageNet's
    classes, less their mean. expected: (F,) float64, the features that photographs of ImageNet have on average.
    """

    state: dict[str, torch.Tensor]
    head: NDArray[np.float64]
    expected: NDArray[np.float64]


def read_tower(sources: Path) -> Tower:
    """Read the published weights; their tensors are those of timm's model, in the same order."""
    published = torch.load(next(sources.glob("efficientnet_lite0*/models/*.pth")), weights_only=True)
    names = list(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict())
    state = dict(zip(names, published.values(), strict=True))
    head = state.pop("classifier.weight").double()  # (1000, F)
    del state["classifier.bias"]  # of 0.08 at most: leaving it out moves no answer
    # What the last BatchNorm gives is about normal, with these means and deviations; a ReLU6 and the pooling follow.
    means, deviations = state["bn2.bias"].double(), state["bn2.weight"].double()
    draws = torch.randn(4096, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (means + deviations * draws).clamp(0, 6).mean(dim=0)
    state = {f"visual.trunk.{name}": tensor for name, tensor in state.items()}
    return Tower(state, (head - head.mean(dim=0)).numpy(), expected.numpy())


def write_model(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write a model that zsclip and open_clip load, floats in half precision; its projection says how wide it is."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {"model_cfg": CONFIG["model_cfg"] | {"embed_dim": len(state["visual.head.proj.weight"])}}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    halves = {name: t.half().contiguous() if t.is_floating_point() else t for name, t in state.items()}
    save_file(halves, folder / WEIGHTS_FILE, {"format": "pt"})


def digest(parts: Iterable[bytes]) -> str:
    """Name a file by what it was made from, so that it is never taken for something else."""
    total = blake2b(digest_size=8)
    for part in parts:
        total.update(blake2b(part, digest_size=16).digest())
    return total.hexdigest()


@dataclass(frozen=True)
class Picture:
    """A picture of the training data. synset: the WordNet offset in its file's name, or an empty string."""

    encoded: bytes
    label: str
    source: str
    synset: str


def read_pictures(data: Path, per_label: int, seed: int) -> list[Picture]:
    """Take up to `per_label` pictures of each label, shuffled, so that a prefix holds about as many of each.

    Pictures with captions that speak of people and of nothing else that has a label come on top, as persons.
    """
    pictures: list[Picture] = []
    for shard in sorted((data / "train").glob("*.parquet")):
        table = pq.read_table(shard, columns=["image", "label", "source", "captions"])
        columns = (table[name].to_pylist() for name in table.column_names)
        for image, label, source, captions in zip(*columns, strict=True):
            if label or _shows_a_person(captions):
                start = image["path"].find("n0")
                synset = image["path"][start + 1 : start + 9]
                pictures.append(Picture(image["bytes"], label or "person", source, synset if synset.isdigit() else ""))
    order = np.random.default_rng(seed).permutation(len(pictures))
    seen: dict[tuple[str, bool], int] = {}
    ranked = []
    for i in order:
        kind = pictures[i].label, pictures[i].source == "flickr8k"
        rank = seen[kind] = seen.get(kind, -1) + 1
        if rank < per_label or kind[1]:
            ranked.append((rank, int(i)))
    return [pictures[i] for _, i in sorted(ranked)]


def _shows_a_person(captions: Sequence[str]) -> bool:
    people = sum(bool(_PEOPLE.search(caption.lower())) for caption in captions)
    return people >= 4 and not any(_NOT_ALONE.search(caption.lower()) for caption in captions)


def embed_pictures(
    pictures: Sequence[Picture], model: Path, folder: Path, *, side: int | None = None, size: int = SIZE
) -> Rows:
    """Embed pictures as `zsclip classify` does; what is done is kept in files, so that a kill costs a minute.

    Args:
        model: folder of a model whose image tower is used. folder: where to keep the embeddings.
        side: scale pictures down to this many pixels first, as the smallest thumbnails are; None leaves them alone.
        size: pixels that the tower sees of each side. Fewer make a thumbnail less blurred, so more like a photograph.

    Returns:
        (N, D) float32, rows of length 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = (model / WEIGHTS_FILE).read_bytes()
    parts = []
    for start in range(0, len(pictures), _CHUNK):
        chunk = pictures[start : start + _CHUNK]
        file = folder / f"{size}-{side or 'full'}-{digest([weights, *(picture.encoded for picture in chunk)])}.npy"
        if not file.exists():
            rows = np.concatenate(list(_encoded(chunk, model, side, size)))
            with file.with_suffix(".part").open("wb") as part:
                np.save(part, rows.astype(np.float16))
            file.with_suffix(".part").replace(file)
            print(f"{start + len(rows):,} of {len(pictures):,} pictures", flush=True)
        parts.append(np.load(file).astype(np.float32))
    return unit(np.concatenate(parts))


def _encoded(pictures: Sequence[Picture], model: Path, side: int | None, size: int) -> Iterator[Rows]:
    from zsclip.models.find import find_model
    from zsclip.models.lazy_torch import LazyTorchEncoder
    from zsclip.pixels.decode import to_pixels, upright

    encoder = LazyTorchEncoder(find_model(str(model)), "cpu", "fp32")
    preprocess = replace(encoder.spec.preprocess, size=(size, size))

    def decode(batch: Sequence[Picture]) -> NDArray[np.uint8]:
        pixels = []
        for picture in batch:
            with upright(io.BytesIO(picture.encoded)) as image:
                is_large = side is not None and min(image.size) > side
                small = image.resize((side, side), Image.Resampling.LANCZOS) if is_large else image
                pixels.append(to_pixels(small, preprocess))
        return np.stack(pixels)  # (B, 3, H, W)

    batches = [pictures[start : start + 32] for start in range(0, len(pictures), 32)]
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(decode, batches[0])
        for following in [*batches[1:], None]:
            pixels = ahead.result()
            if following is not None:
                ahead = pool.submit(decode, following)
            yield np.asarray(encoder.begin_images(pixels)())
