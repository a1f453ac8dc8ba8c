"""What one accelerator gives: `gpu.py [--device cuda] [--photos DIR]`; prints the tables of GPU.md. About 5 minutes.

Four questions: how fast do the threads decode with nothing behind them; how fast is the tower alone on pictures that
are on the device already, as open_clip builds it, in our form, and compiled; what does a whole run make of both; and
are the answers those of the CPU in fp32. Seeded weights of the true architectures, as speed does not depend on values;
the bundled model for the answers.
"""

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import open_clip
import torch
from against_others import found_photos, make_photos, save_model
from torch import Tensor, nn

from zsclip.measure.bench import _rate, _time_decoders, _wait, time_stream
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.text import first_output
from zsclip.models.torch_encoder import DTYPES, load_model
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.decode import decode_image
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import DEFAULT_DECODING
from zsclip.pixels.processors import available_cpus

ARCHITECTURES = ("ViT-B-32", "ViT-L-14", "ViT-B-16")
BATCH_SIZES = (64, 128, 256, 512)
PRECISIONS = {"cuda": "fp16", "cpu": "fp32", "mps": "fp32"}
SECONDS = 1.0  # that each figure is measured for
RUNS = 3


@torch.no_grad()
def tower_rate(tower: Callable[[Tensor], object], size: tuple[int, int], batch: int, device: str, dtype: str) -> float:
    """Pictures a second through a tower alone; 0 where the device has no memory for the batch."""
    pixels = torch.randn(batch, 3, *size, device=device, dtype=DTYPES[dtype])

    def encode() -> None:
        first_output(tower(pixels))
        _wait(device)

    try:
        return _rate(encode, SECONDS) * batch
    except torch.OutOfMemoryError:
        return 0.0


def plain_tower(folder: Path, device: str, dtype: str) -> nn.Module:
    """The tower as open_clip builds it."""
    return open_clip.create_model(f"local-dir:{folder}").visual.eval().to(device, DTYPES[dtype])


def row(*cells: object) -> None:
    """Print a row of a table."""
    texts = [f"{cell:,.0f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print("| " + " | ".join(texts) + " |", flush=True)


def heading(*cells: str) -> None:
    """Print the first two lines of a table."""
    print()
    row(*cells)
    row(*["---"] * len(cells))


def agreement(photos: Pictures, device: str, precision: str) -> tuple[float, float]:
    """Least cosine, and the share of equal answers among ImageNet's names, against the CPU in fp32."""
    spec = find_model("tiny")
    on_cpu, on_device = load_model(spec, "cpu", "fp32"), load_model(spec, device, precision)
    classes = on_cpu.encode_text([f"a photo of a {name}." for name in open_clip.IMAGENET_CLASSNAMES])  # (C, D)
    decoded = [decode_image(photo, spec.preprocess) for photo in photos.names]
    pixels = [each for each in decoded if isinstance(each, np.ndarray)]
    expected, result = (model.encode_images(pixels) for model in (on_cpu, on_device))  # (B, D)
    answers = [(embeddings @ classes.T).argmax(dim=1) for embeddings in (expected, result)]
    return float((expected * result).sum(dim=1).min()), float((answers[0] == answers[1]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; else generated ones of 500 x 375")
    parser.add_argument("--architectures", nargs="*", default=ARCHITECTURES)
    options = parser.parse_args()
    device, precision, cpus = options.device, PRECISIONS[options.device.partition(":")[0]], available_cpus()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        found = found_photos(options.photos) if options.photos else make_photos(folder / "photos", 49)
        photos = Pictures(found)
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or device
        print(f"{date.today()}, {name}, {cpus} CPU cores, torch {torch.__version__}, open_clip {open_clip.__version__}")

        heading("threads", "images decoded a second")
        preprocess = find_model("tiny").preprocess
        size224 = Preprocess((224, 224), preprocess.mean, preprocess.std)
        for threads in (1, 2, 4, 8, 16):
            if threads <= cpus:
                row(threads, _time_decoders(photos, size224, threads, DEFAULT_DECODING, SECONDS))

        for architecture in options.architectures:
            save_model(folder / architecture, architecture)
            spec = find_model(str(folder / architecture))
            encoder = LazyTorchEncoder(spec, device, precision)
            ours = encoder.model._image_tower
            towers: dict[str, tuple[Callable[[Tensor], object], tuple[int, ...]]] = {
                "open_clip's": (plain_tower(folder / architecture, device, precision), BATCH_SIZES),
                "ours": (ours, BATCH_SIZES),
                "compiled": (torch.compile(ours, dynamic=False), BATCH_SIZES[-2:]),  # each takes half a minute
            }
            heading(f"{architecture}, {precision}: images a second", *map(str, BATCH_SIZES))
            best = 0.0
            for form, (tower, sizes) in towers.items():
                rates = [tower_rate(tower, spec.preprocess.size, batch, device, precision) for batch in sizes]
                row(form, *[""] * (len(BATCH_SIZES) - len(sizes)), *rates)
                best = max(best, *rates) if form != "compiled" else best
            # In turn, as machines are shared: the limit of the same minute.
            pairs = [
                (
                    _time_decoders(photos, spec.preprocess, cpus, DEFAULT_DECODING, 2 * SECONDS),
                    time_stream(photos, encoder, cpus, encoder.batch_size, DEFAULT_DECODING, 2 * SECONDS),
                )
                for _ in range(RUNS)
            ]
            decoding, stream = (statistics.median(figures) for figures in zip(*pairs, strict=True))
            limit = min(decoding, best)
            print(
                f"\n{cpus} threads decode {decoding:,.0f} images a second, a whole run gives {stream:,.0f}: "
                f"{stream / limit:.0%} of the smaller of decoding and our tower",
                flush=True,
            )
            del towers, tower, ours, encoder

        cosine, equal = agreement(photos, device, precision)
        print(f"\n`tiny` in {precision} against the CPU in fp32: cosine >= {cosine:.5f}, {equal:.1%} the same answers")


if __name__ == "__main__":
    main()
