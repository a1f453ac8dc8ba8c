"""How sure the model may be, and how words fare that it never met; both through zsclip's own text matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from image_tower import Rows
from numpy.typing import NDArray
from things import Things

from zsclip.answers.classifier import build_classifier
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.words.labels import Label
from zsclip.words.prompts import read_prompts
from zsclip.words.words import expand

_LIST_SIZES = (5, 10, 20, 50, 100, 200, 500)
_LISTS = 20  # random label lists of each size


def text_matrix(model: Path, labels: Sequence[str]) -> Rows:
    """Encode labels as `zsclip classify` does by default. (C, D), rows of length 1."""
    encoder = LazyTorchEncoder(find_model(str(model)), "cpu", "fp32")
    words = expand([Label(label) for label in labels], read_prompts("photo"))
    return np.asarray(build_classifier(words, encoder).class_embeddings)


def fit_scale(model: Path, embeddings: Rows, labels: NDArray[np.int64], names: Sequence[str], seed: int) -> float:
    """Find the logit scale that makes the true labels most likely, over random label lists of 5 to 500 words.

    Args:
        embeddings: (N, D) of pictures that nothing was learnt from. labels: (N,) places in `names`.
    """
    random = np.random.default_rng(seed)
    cosines = torch.from_numpy(embeddings @ text_matrix(model, names).T)  # (N, C)
    truths = torch.from_numpy(labels)
    lists = []
    for size in _LIST_SIZES:
        for _ in range(_LISTS):
            chosen = torch.from_numpy(random.permutation(len(names))[:size])
            column = torch.full((len(names),), -1).index_copy(0, chosen, torch.arange(size))
            rows = torch.nonzero(column[truths] >= 0)[:, 0]
            if len(rows):
                lists.append((cosines[rows][:, chosen], column[truths[rows]]))
    log_scale = torch.tensor(3.0, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([F.cross_entropy(log_scale.exp() * some, where) for some, where in lists]).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_scale.exp().item()


def right_among_labels(directions: Rows, things: Things, embeddings: Rows, labels: NDArray[np.int64]) -> float:
    """Give the share of pictures whose label, among all labels, has the nearest direction: the text tower's limit."""
    matrix = directions[[things.of_label[label.name] for label in things.labels]]
    return float(((embeddings @ matrix.T).argmax(axis=1) == labels).mean())


def tell_unseen(
    model: Path, classes: Rows, held_out: NDArray[np.int64], embeddings: Rows,
    labels: NDArray[np.int64], things: Things,
) -> None:  # fmt: skip
    """Print how often the name of a class that was never mentioned is the nearest to what it looks like.

    Args:
        classes: (1000, D) the head's directions. embeddings, labels: of pictures of the classes held out.
    """
    names = [things.names[i][0] for i in range(len(classes))]
    matrix = text_matrix(model, names)
    among_all = (classes[held_out] @ matrix.T).argmax(axis=1) == held_out
    among_unseen = (classes[held_out] @ matrix[held_out].T).argmax(axis=1) == np.arange(len(held_out))
    print(f"{len(held_out)} names never seen, judged by the head's directions: ", end="")
    print(f"{among_unseen.mean():.1%} among themselves, {among_all.mean():.1%} among all 1,000")
    seen = sorted(set(labels.tolist()))
    if seen:
        matrix = text_matrix(model, [things.labels[label].name for label in seen])
        right = np.array(seen)[(embeddings @ matrix.T).argmax(axis=1)] == labels
        print(f"{len(labels):,} thumbnails of {len(seen)} labels never seen: {right.mean():.1%} among these labels")
