"""What `make bench` measures of exported models: whole processes that do not import torch.

rclip answers another question, which images of a folder fit a sentence; one new image and one sentence make it run both
towers once. It takes the same seeded weights, exported as it expects them, in place of the files that it downloads.

There is no row for int8: the answers of seeded weights are so close to each other that int8 changes too many, and is
refused.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from zsclip.models.find import TINY_DIR
from zsclip.models.torch_encoder import has_bf16

Row = Callable[..., None]
Measure = Callable[[Sequence[str]], float]
NEW = "(new labels)"  # stands for three labels that no run has had before
RCLIPS_MODEL = "ViT-B-32-256"
_NUMBERS = count()


def export(model: Path) -> None:
    """Make the graphs of a model."""
    command = [sys.executable, "-m", "zsclip", "models", "export", str(model)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def classify(
    model: str | Path, paths: Sequence[str], labels: str, *more: str, precision: str = "fp32", runtime: str = "auto"
) -> list[str]:
    """Our command, on the CPU."""
    command = [sys.executable, "-m", "zsclip", "classify", *paths, "--labels", labels, "--model", str(model)]
    command += ["--device", "cpu", "--precision", precision, "--runtime", runtime]
    return [*command, "-q", "--format", "jsonl", *more]


def one_image(photo: str, model: Path, script: Sequence[str], row: Row, whole: Measure, labels: str) -> None:
    """One image: the labels are cached, or new, or everything is stored."""
    for name, folder in ((str(model), model), ("tiny", TINY_DIR)):
        tiny = ", tiny" if name == "tiny" else ""
        theirs = [*script, str(folder), labels, photo]
        ours = classify(name, [photo], labels, "--no-store")
        in_torch = classify(name, [photo], labels, "--no-store", runtime="torch")
        for command in (ours, in_torch, classify(name, [photo], labels)):  # fills the caches, of the disk too
            whole(command)
        row(f"one image, 3 labels cached{tiny}", "open_clip script", whole, theirs, ours)
        row(f"one image, 3 labels cached{tiny}", "our run in torch", whole, in_torch, ours)
        new = classify(name, [photo], NEW, "--no-store")
        row(f"one image, 3 new labels{tiny}", "open_clip script", with_new_labels(whole), theirs, new)
        again = classify(name, [photo], labels)
        row(f"the same image and labels again{tiny}", "open_clip script", whole, theirs, again)


def with_new_labels(whole: Measure) -> Measure:
    """Measure a command with labels that are not in the cache."""

    def measure(command: Sequence[str]) -> float:
        new = ",".join(f"thing {next(_NUMBERS)}" for _ in range(3))
        return whole([new if word == NEW else word for word in command])

    return measure


def many_images(
    photos: Sequence[str], model: Path, script: Sequence[str], row: Row, whole: Measure, labels: str, runs: int
) -> None:
    """Many photographs: in fp32, in bf16 where the machine has it, and with the bundled model."""
    name, theirs = f"{len(photos):,} photographs", [*script, str(model), labels, *photos]
    row(f"{name}, fp32", "open_clip script", whole, theirs, classify(model, photos, labels, "--no-store"), runs=runs)
    if has_bf16("cpu"):
        in_bf16 = classify(model, photos, labels, "--no-store", precision="bf16", runtime="torch")
        row(f"{name}, bf16", "open_clip script", whole, theirs, in_bf16, runs=runs)
    theirs, ours = [*script, str(TINY_DIR), labels, *photos], classify("tiny", photos, labels, "--no-store")
    row(f"{name}, tiny", "open_clip script", whole, theirs, ours, runs=runs)


def against_rclip(photo: str, model: Path, folder: Path, row: Row, whole: Measure, python: str) -> None:
    """One new image and one sentence in rclip, and three new labels here."""
    os.environ["RCLIP_DATADIR"] = str(folder / "rclip")
    save_for_rclip(model, folder / "rclip")
    export(model)
    (folder / "one").mkdir()
    shutil.copy(photo, folder / "one")
    words = [f"rm -f {folder}/rclip/db.sqlite3*; cd {folder}/one; exec", shlex.quote(python), "-m rclip -f cat"]
    ours = classify(model, [photo], NEW, "--no-store")
    theirs = ["sh", "-c", " ".join(words)]
    row(f"one image, 3 new labels, {RCLIPS_MODEL}", "rclip, one sentence", with_new_labels(whole), theirs, ours)


class Text(nn.Module):
    """The text tower as rclip calls it: (N, 77) tokens -> (N, D)."""

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, ids: Tensor) -> Tensor:
        return self.clip.encode_text(ids)


def save_for_rclip(model: Path, folder: Path) -> None:
    """The same weights as two graphs, and CLIP's words, where rclip looks for them."""
    clip = open_clip.create_model(f"local-dir:{model}").eval()
    graphs, words = folder / f"{RCLIPS_MODEL}-datacomp_s34b_b86k", folder / "tokenizer"
    graphs.mkdir(parents=True)
    words.mkdir()
    vocabulary = "bpe_simple_vocab_16e6.txt.gz"
    shutil.copy(Path(open_clip.__file__).parent / vocabulary, words / vocabulary)
    size = clip.visual.image_size
    examples = {"visual": torch.zeros(2, 3, *size), "textual": torch.zeros(2, 77, dtype=torch.int64)}
    torch.backends.mha.set_fastpath_enabled(False)  # ONNX has no such operator
    for name, tower in (("visual", clip.visual), ("textual", Text(clip))):
        axes = {"input": {0: "n"}, "output": {0: "n"}}
        torch.onnx.export(
            tower, (examples[name],), graphs / f"{name}.onnx", dynamo=False, dynamic_axes=axes,
            input_names=["input"], output_names=["output"], opset_version=17,
        )  # fmt: skip
