"""Zero-shot accuracy of a model on the pictures it was never trained on: `make accuracy DATA=DIR`.

DIR/val holds Parquet files in the Hugging Face image convention with `label`, `synonyms` and `kinds`, DIR/photos one
folder of pictures a label. Every picture becomes a file and goes the way of `zsclip classify`: same decoding, prompts,
text matrix and scores.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from zsclip.answers.answers import Prediction
from zsclip.answers.classifier import build_classifier
from zsclip.answers.classify import classify
from zsclip.answers.scores import Rule
from zsclip.measure.metrics import Judged, calibration_error
from zsclip.models.embed import Embedded, embed_images, look_ahead
from zsclip.models.encoder import Encoder
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.pictures.files import find_images
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.limits import DEFAULT_DECODING
from zsclip.pixels.processors import available_cpus
from zsclip.words.labels import Label
from zsclip.words.prompts import PromptSet, read_prompts
from zsclip.words.words import expand


@dataclass(frozen=True)
class Picture:
    """A file and what is true of it. kinds: broader words, the nearest first."""

    path: str
    label: str
    synonyms: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


def read_shard(shard: Path, folder: Path) -> list[Picture]:
    """Write the pictures of a Parquet file into a folder."""
    pictures = []
    for i, row in enumerate(pq.read_table(shard).to_pylist()):
        path = folder / f"{i:05}.webp"
        path.write_bytes(row["image"]["bytes"])
        pictures.append(Picture(str(path), row["label"], tuple(row["synonyms"]), tuple(row["kinds"])))
    return pictures


def read_folders(root: Path) -> list[Picture]:
    """Find the pictures of class folders."""
    return [Picture(path, Path(path).parent.name) for path in find_images([str(root)])]


def embedded(pictures: Sequence[Picture], model: Encoder) -> list[Embedded]:
    """Encode the pictures once, as `zsclip classify` does; all label lists are then compared with the same vectors."""
    files, threads = [Pictures([picture.path for picture in pictures])], available_cpus()
    with look_ahead(files, model.spec.preprocess, DEFAULT_DECODING, None, batch_size=64, threads=threads) as ahead:
        return list(embed_images(ahead.batches(64), model, None))


def measured(
    batches: Sequence[Embedded], truths: Sequence[set[str]], labels: Sequence[str], model: Encoder, prompts: PromptSet
) -> str:
    """Classify among labels; report as cells of a table how often the best label, or one of five, is true.

    truths: by picture what is true of it; empty for one that does not count.
    """
    classifier = build_classifier(expand([Label(label) for label in labels], prompts), model)
    every = [row for answers in classify(batches, classifier, Rule(5)) for row in answers.rows()]
    rows, truths = zip(*((row, true) for row, true in zip(every, truths, strict=True) if true), strict=True)
    right, scores, among_five = [], [], []
    for row, true in zip(rows, truths, strict=True):
        assert isinstance(row, Prediction), row
        answers = [answer.label for answer in row.predictions]
        right.append(answers[0] in true)
        scores.append(row.best.score)
        among_five.append(bool(true & set(answers)))
    hit = np.array(right, np.int64)
    among = np.array(among_five)
    error = calibration_error(Judged(np.ones_like(hit), hit, among, np.array(scores)))
    return f"{len(labels)} | {len(rows):,} | {hit.mean():.1%} | {among.mean():.1%} | {error:.1%}"


def main() -> None:
    """Print the table of the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prompts", default="photo")
    arguments = parser.parse_args()
    model, prompts = LazyTorchEncoder(find_model(arguments.model), "cpu", "fp32"), read_prompts(arguments.prompts)
    print("| set | classes | images | top-1 | top-5 | calibration error |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root:
        for shard in sorted((arguments.data / "val").glob("*.parquet")):
            folder = Path(root) / shard.stem
            os.mkdir(folder)
            report(shard.stem, read_shard(shard, folder), model, prompts)
    report("photos", read_folders(arguments.data / "photos"), model, prompts)


def report(name: str, pictures: Sequence[Picture], model: Encoder, prompts: PromptSet) -> None:
    """Print the rows of one set: its labels, a synonym in place of each label that has one, and its broadest kinds."""
    batches = embedded(pictures, model)
    labels = sorted({one.label for one in pictures})
    print(f"| {name} | {measured(batches, [{one.label} for one in pictures], labels, model, prompts)} |", flush=True)
    said = {one.label: one.synonyms[0] for one in pictures if one.synonyms and one.synonyms[0] not in labels}
    if said:
        renamed = sorted({said.get(label, label) for label in labels})
        truths = [{said[one.label]} if one.label in said else set() for one in pictures]
        print(f"| {name}, first synonyms | {measured(batches, truths, renamed, model, prompts)} |", flush=True)
    kinds = sorted({one.kinds[-1] for one in pictures if one.kinds})
    if len(kinds) > 1:
        truths = [set(one.kinds) for one in pictures]
        print(f"| {name}, broad words | {measured(batches, truths, kinds, model, prompts)} |", flush=True)


if __name__ == "__main__":
    main()
