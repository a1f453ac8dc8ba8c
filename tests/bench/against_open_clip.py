"""`make bench`: our command and the script open_clip's README teaches, on the same files and the same seeded weights.

Whole processes, in turn, several times; medians and their ratio. Speed does not depend on what the weights are.
`PHOTOS=DIR` uses real photographs instead of generated ones; `RUNS=N` sets how often.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

ARCHITECTURE = "ViT-B-32"
LABELS = ["cat", "dog", "bird"]
PLAIN_SCRIPT = """
import sys, torch, open_clip
from PIL import Image
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + sys.argv[1])
model.eval()
tokenizer = open_clip.get_tokenizer("local-dir:" + sys.argv[1])
text = tokenizer([f"a photo of a {label}." for label in sys.argv[2].split(",")])
with torch.no_grad():
    text_features = model.encode_text(text, normalize=True)
    for path in sys.argv[3:]:
        image_features = model.encode_image(preprocess(Image.open(path)).unsqueeze(0), normalize=True)
        probabilities = (model.logit_scale.exp() * image_features @ text_features.T).softmax(dim=-1)
        print(path, probabilities[0].tolist())
"""


def save_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = open_clip.get_model_config(ARCHITECTURE)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(open_clip.create_model(ARCHITECTURE).state_dict(), folder / "open_clip_model.safetensors")


def make_photos(folder: Path, count: int) -> list[str]:
    """Noise with large shapes in it, 500 x 375, which compress like photographs (about 60 kB)."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375))
        noise = random.normal(0, 12, (375, 500, 1))
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.jpg", quality=85)
    return sorted(str(path) for path in folder.iterdir())


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    runs = int(os.environ.get("RUNS", "5"))
    with tempfile.TemporaryDirectory() as root:
        os.environ["ZSCLIP_CACHE_DIR"] = str(Path(root) / "cache")
        model = Path(root) / "model"
        model.mkdir()
        save_model(model)
        given = os.environ.get("PHOTOS")
        photos = sorted(map(str, Path(given).rglob("*.jpg"))) if given else make_photos(Path(root) / "photos", 200)
        print(f"{ARCHITECTURE}, seeded weights, fp32, {os.cpu_count()} CPUs, torch {torch.__version__}, {runs} runs")
        print(f"{'work':<42} {'open_clip script':>16} {'zsclip':>9} {'ratio':>7}")
        for name, paths in (
            ("one image, 3 labels, text matrix cached", photos[:1]),
            (f"{len(photos)} images, 3 labels", photos),
        ):
            plain = [sys.executable, "-c", PLAIN_SCRIPT, str(model), ",".join(LABELS), *paths]
            ours = [sys.executable, "-m", "zsclip", "classify", *paths, "--labels", ",".join(LABELS)]
            ours += ["--model", f"local-dir:{model}", "--precision", "fp32", "-q", "--format", "jsonl"]
            seconds(ours)  # fills the text cache and the disk's
            pairs = [(seconds(plain), seconds(ours)) for _ in range(runs)]
            medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
            print(f"{name:<42} {medians[0]:>14.2f} s {medians[1]:>7.2f} s {medians[0] / medians[1]:>6.2f}x")


if __name__ == "__main__":
    main()
