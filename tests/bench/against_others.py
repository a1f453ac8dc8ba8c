"""`make bench`: our commands and what users would run otherwise, on the same files and the same seeded weights.

Everything runs in turn, `RUNS` times (3), and medians and their ratio are printed; what one run of the slowest peer
takes minutes for runs once, as its row says. Speed does not depend on what the weights are. `PHOTOS=DIR` uses real
photographs instead of generated ones, `MANY=200` so many instead of 1,000, `PEERS=PYTHON` the interpreter of the
environment that has the peers, `ROWS=text` only the rows with that word in their name.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import open_clip
import torch
from containers import containers, memory_of_a_tar, stored_members
from PIL import Image
from runtimes import RCLIPS_MODEL, against_rclip, classify, export, many_images, one_image
from safetensors.torch import save_file

from zsclip.engine.options import Computing
from zsclip.kept.store import EmbeddingStore
from zsclip.models.torch_encoder import has_bf16
from zsclip.pictures.identity import Sight, content_of, file_keys
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

HERE = Path(__file__).parent
PEERS = os.environ.get("PEERS", str(HERE.parent.parent / ".peers" / "bin" / "python"))
RUNS = int(os.environ.get("RUNS", "3"))
MANY = int(os.environ.get("MANY", "1000"))
ARCHITECTURE = "ViT-B-32"
LABELS = "cat,dog,bird"

Measure = Callable[[Sequence[str]], float]


def save_model(folder: Path, architecture: str = ARCHITECTURE) -> None:
    """Seeded weights of the true architecture, as a folder for open_clip."""
    folder.mkdir()
    torch.manual_seed(0)
    config = open_clip.get_model_config(architecture)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(open_clip.create_model(architecture).state_dict(), folder / "open_clip_model.safetensors")


def save_for_transformers(model: Path, folder: Path) -> None:
    """The same weights as transformers names them, and CLIP's tokenizer in its form."""
    script = HERE / "peers" / "convert.py"
    subprocess.run([PEERS, script, model, folder], check=True, stdout=subprocess.DEVNULL)


def make_photos(folder: Path, count: int) -> list[str]:
    """Noise with large shapes in it, which compresses like photographs: 500 x 375, and every 50th of 12 megapixels."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        width, height = (4000, 3000) if i % 50 == 49 else (500, 375)
        shapes = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
        noise = random.normal(0, 12, (height, width, 1)).astype(np.float32)
        pixels = np.clip(np.asarray(shapes) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.jpg", quality=85)
    return sorted(str(path) for path in folder.iterdir())


def found_photos(folder: Path) -> list[str]:
    """All JPEGs in a folder, by absolute path."""
    return sorted(map(str, folder.resolve().rglob("*.jpg")))


def whole(command: Sequence[str]) -> float:
    """Seconds of a whole process."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def reported_seconds(command: Sequence[str]) -> float:
    """Seconds that a script measures itself and prints first."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(done.stdout.splitlines()[0])


def peak_megabytes(command: Sequence[str]) -> float:
    """The most memory a process had."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return usage.ru_maxrss / 1024


def wanted(name: str) -> bool:
    """Whether `ROWS` asks for a row of this name."""
    return os.environ.get("ROWS", "") in name


def row(work: str, peer: str, measure: Measure, theirs: Sequence[str], ours: Sequence[str], runs: int = RUNS) -> None:
    """Run both in turn and print the medians and their ratio."""
    if not wanted(f"{work} {peer}"):
        return
    pairs = [(measure(theirs), measure(ours)) for _ in range(runs)]
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    ratio = medians[0] / medians[1]
    print(f"| {work} | {peer} | {medians[0]:.3g} s | {medians[1]:.3g} s | {ratio:.3g}x | {runs} |", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        os.environ["ZSCLIP_CACHE_DIR"] = str(folder / "cache")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled once, not at every start
        model, words, hundreds = folder / "model", folder / "1000.txt", folder / "300.txt"
        save_model(model)
        names = open_clip.IMAGENET_CLASSNAMES
        words.write_text("\n".join(dict.fromkeys(names)))
        hundreds.write_text("\n".join(islice(dict.fromkeys(names), 300)))
        given = os.environ.get("PHOTOS")
        photos = found_photos(Path(given)) if given else make_photos(folder / "photos", 200)
        thousand = list(islice(cycle(photos), MANY))
        peers = subprocess.run([PEERS, "-c", _VERSIONS], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        print(f"{ARCHITECTURE}, seeded weights; {platform.machine()}, {os.cpu_count()} CPUs, {cpu_words()}")
        print(f"torch {torch.__version__}, open_clip {open_clip.__version__}; peers: {peers}\n")
        print("| work | against | theirs | ours | ratio | runs |\n|---|---|---|---|---|---|")

        export(model)
        script = [PEERS, str(HERE / "peers" / "open_clip_script.py")]
        weights = str(model / "open_clip_model.safetensors")
        bioclip = [PEERS, "-m", "bioclip", "predict", "--cls", LABELS, "--model", ARCHITECTURE, "--pretrained", weights]
        one_image(photos[0], model, script, row, whole, LABELS)
        row("one image, 3 labels cached", "bioclip predict", whole, [*bioclip, photos[0]],
            classify(model, photos[:1], LABELS, "--no-store"))  # fmt: skip
        if wanted(f"one image, 3 new labels, {RCLIPS_MODEL} rclip, one sentence"):
            save_model(folder / RCLIPS_MODEL, RCLIPS_MODEL)
            against_rclip(photos[0], folder / RCLIPS_MODEL, folder, row, whole, PEERS)
        many_images(thousand, model, script, row, whole, LABELS, runs=min(RUNS, 2))  # minutes each
        text_matrix(model, hundreds, folder)
        per_photo(model, words, photos[:5], folder)
        relabelling(model, words, thousand, folder)
        memory(make_photos(folder / "small", 49), folder)
        if wanted("small JPEGs in a container, our run over the folder"):
            containers(folder, row, whole, LABELS)
        if wanted("stored pictures of a container, our run over the folder"):
            stored_members(folder, row, whole, LABELS)
        if wanted("memory of a tar"):
            memory_of_a_tar(folder, peak_megabytes, LABELS)


def text_matrix(model: Path, labels: Path, folder: Path) -> None:
    """300 labels x 7 templates with an empty cache, and how far the two matrices are apart."""
    theirs, ours = str(folder / "theirs.npy"), str(folder / "ours.npy")

    def cold(command: Sequence[str]) -> float:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["ZSCLIP_CACHE_DIR"], before = cache, os.environ["ZSCLIP_CACHE_DIR"]
            try:
                return reported_seconds(command)
            finally:
                os.environ["ZSCLIP_CACHE_DIR"] = before

    row(
        "300 labels x 7 templates, cold, fp32", "build_zero_shot_classifier", cold,
        [PEERS, str(HERE / "peers" / "zero_shot_classifier.py"), str(model), str(labels), theirs],
        [sys.executable, str(HERE / "text_matrix.py"), str(model), str(labels), ours],
        runs=1,
    )  # fmt: skip
    if os.path.exists(theirs):
        print(f"\nlargest difference of the two: {np.abs(np.load(theirs) - np.load(ours)).max():.1e}\n", flush=True)


def per_photo(model: Path, labels: Path, photos: Sequence[str], folder: Path) -> None:
    """Five photographs among 1,000 labels; loading and importing are not counted on either side."""
    work, peer = "5 photographs, 1,000 labels, a photograph, text matrix cached", "transformers pipeline"
    if not wanted(f"{work} {peer}"):
        return
    save_for_transformers(model, folder / "hf")
    ours = [sys.executable, str(HERE / "per_photo.py"), str(model), str(labels), *photos]
    reported_seconds(ours)  # fills the text cache
    theirs = [PEERS, str(HERE / "peers" / "transformers_pipeline.py"), str(folder / "hf"), str(labels), *photos]
    row(work, peer, reported_seconds, theirs, ours, runs=min(RUNS, 2))


def relabelling(model: Path, labels: Path, photos: Sequence[str], folder: Path) -> None:
    """Other labels over pictures that are stored: against the first run, and against numpy alone on the same bytes."""
    work = f"{len(photos):,} photographs, stored"
    if not (wanted(f"{work} our first run") or wanted("100,000 stored pictures, numpy alone")):
        return
    fixed = ["--model", str(model), "--device", "cpu", "--precision", "fp32", "-q", "--format", "jsonl"]
    command = [sys.executable, "-m", "zsclip", "classify"]
    twenty = folder / "20.txt"
    twenty.write_text("\n".join(labels.read_text().splitlines()[:20]))
    for words in (twenty, labels):  # both are in the text cache from here on
        whole([*command, photos[0], "--labels-file", str(words), *fixed])
    first = [*command, *photos, "--labels-file", str(twenty), *fixed]
    whole(first)  # fills the store
    row(work, "our first run", whole, [*first, "--no-store"], first, runs=2)

    many, count = folder / "many", 100_000
    many.mkdir()
    encoder = Computing(device="cpu", precision="fp32").encoder(str(model), True)
    vectors = np.random.default_rng(0).normal(size=(count, encoder.embed_dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors.tofile(folder / "vectors.bin")
    np.random.default_rng(1).normal(size=(1000, encoder.embed_dim)).astype(np.float32).tofile(folder / "classes.bin")
    store = EmbeddingStore(encoder.image_recipe(False), "bench", encoder.embed_dim, max_pixels=DEFAULT_MAX_PIXELS)
    for start in range(0, count, 1000):
        fresh = []
        for i in range(start, start + 1000):
            path = many / f"{i:06d}.ppm"
            data = b"P6 1 1 255 %06d" % i
            path.write_bytes(data)
            fresh.append((Sight(str(path), content_of(data), file_keys([str(path)])[0]), vectors[i]))
        store.keep(fresh)
    store.close()
    for words, number in ((twenty, 20), (labels, 1000)):
        plain = [sys.executable, "-c", _PLAIN, str(folder), str(encoder.embed_dim), str(number)]
        ours = [*command, str(many), "--labels-file", str(words), *fixed]
        row(f"100,000 stored pictures, {number:,} labels", "numpy alone", whole, plain, ours)


def memory(photos: Sequence[str], folder: Path) -> None:
    """Peak memory of 1,000 and of 20,000 images with the small model, by links to the same photographs."""
    if not wanted("memory"):
        return
    links = folder / "links"
    links.mkdir()
    for i, path in enumerate(islice(cycle(photos), 20_000)):
        (links / f"{i:05d}.jpg").symlink_to(path)
    command = [sys.executable, "-m", "zsclip", "classify", str(links), "--labels", LABELS, "--model", "tiny"]
    command += ["--device", "cpu", "-q", "--no-store"]
    few, many = (peak_megabytes([*command, "--limit", str(limit)]) for limit in (1000, 20_000))
    print(f"\npeak memory: {few:.0f} MB at 1,000 images, {many:.0f} MB at 20,000: {many - few:+.0f} MB", flush=True)


def cpu_words() -> str:
    """The instructions that matter here."""
    return "bf16 instructions" if has_bf16("cpu") else "no bf16 instructions"


_PLAIN = """
import sys
import numpy as np
folder, width, labels = sys.argv[1], *map(int, sys.argv[2:])
vectors = np.fromfile(f"{folder}/vectors.bin", np.float32).reshape(-1, width)
classes = np.fromfile(f"{folder}/classes.bin", np.float32).reshape(-1, width)[:labels]
print((vectors @ classes.T).argmax(axis=1)[:3])
"""

_VERSIONS = """
from importlib.metadata import version
names = ("torch", "open_clip_torch", "transformers", "pybioclip", "rclip", "onnxruntime")
print(", ".join(f"{name} {version(name)}" for name in names))
"""


if __name__ == "__main__":
    main()
