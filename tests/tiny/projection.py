"""The projection of the tower's features: what its head tells classes apart by, and what tells broader words apart.

A picture's features f (1,280) become normalize(P f). Most rows of P are the leading right singular vectors of the
head's weights: class c then lies at normalize(P W[c]), and nothing of this is trained. But the head says nothing of
what its classes have in common: a photograph of a cat is as far from the other animals as from the vehicles. That is in
the features beside the head, so the last rows are what a softmax regression of labels and broader words uses there.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from directions import among
from image_tower import D, Rows, Tower, unit
from numpy.typing import NDArray
from things import CLASSES, Things

_COMMON = 112  # rows for what classes have in common
_SHARE = 0.4  # of them in the embedding of a photograph of a class, beside 1 for the head's own rows
_STEPS = 300
_BATCH = 2048
_RATE = 0.02
_SCALE = 30.0  # of cosines in the softmax
_DECAY = 1e-3


def fit_projection(
    features: Rows, labels: NDArray[np.int64], tower: Tower, means: Sequence[Rows], things: Things, *, seed: int
) -> Rows:
    """Fit the projection.

    The thumbnails are blurred, and photographs are not: what all pictures of a kind share must not speak for a word.
    So the common rows lie at right angles to the mean of each view, and to what BatchNorm expects of photographs.

    Args:
        features: (N, F) of pictures, rows of length 1. labels: (N,) their places in `things.labels`.
        means: (F,) of the pictures as each view shows them.

    Returns:
        (D, F) float32, rows of length 1 at right angles to one another.
    """
    own = np.linalg.svd(tower.head, full_matrices=False)[2][: D - _COMMON]
    shared = np.stack([*means, tower.expected])
    shared = np.linalg.qr((shared - (shared @ own.T) @ own).T)[0].T
    taken = np.concatenate([own, shared])
    rows = unit(_regress(features, labels, things, seed))
    rows = rows - (rows @ taken.T) @ taken
    common = np.linalg.svd(rows, full_matrices=False)[2][:_COMMON]
    return np.concatenate([own, common]).astype(np.float32)


def class_directions(
    projection: Rows, head: NDArray[np.float64], embeddings: Rows, labels: NDArray[np.int64], things: Things
) -> Rows:
    """Give the directions of ImageNet's classes: the head's own, and of common rows those of labels of their kind.

    Args:
        embeddings: (N, D) of pictures. labels: (N,) their places in `things.labels`.

    Returns:
        (1000, D) float32, rows of length 1.
    """
    means = np.zeros((len(things.labels), _COMMON), np.float32)
    for label in np.unique(labels):
        means[label] = embeddings[labels == label, -_COMMON:].mean(axis=0)
    seen = np.isin(np.arange(len(means)), labels)
    means[seen] -= means[seen].mean(axis=0)
    true_of_label = things.true_of_label & seen[:, None]
    count = things.true_of_class.sum(axis=0) + true_of_label.sum(axis=0)
    common = np.zeros((CLASSES, _COMMON), np.float32)
    for c in range(CLASSES):
        shared = np.flatnonzero(things.true_of_class[c] & true_of_label.any(axis=0))
        if len(shared):
            closest = shared[count[shared].argmin()]
            common[c] = means[true_of_label[:, closest]].mean(axis=0)
    common *= _SHARE / np.linalg.norm(common, axis=1).mean()
    own = unit(head @ projection[:-_COMMON].T)
    return unit(np.concatenate([own, common], axis=1)).astype(np.float32)


def _regress(features: Rows, labels: NDArray[np.int64], things: Things, seed: int) -> Rows:
    """Tell labels apart, and broader words apart, by softmax regressions: (labels + kinds, F)."""
    random = torch.Generator().manual_seed(seed)
    kinds = np.flatnonzero(things.is_kind & things.true_of_label[np.unique(labels)].any(axis=0))
    of_label = torch.from_numpy(things.true_of_label[:, kinds])
    count = len(things.labels)
    weights = (1e-3 * torch.randn(count + len(kinds), features.shape[1], generator=random)).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _STEPS)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    for _ in range(_STEPS):
        i = torch.randint(0, len(x), (_BATCH,), generator=random)
        logits = _SCALE * x[i] @ weights.T
        true = of_label[y[i]]
        some = torch.nonzero(true.any(dim=1))[:, 0]
        drawn = torch.multinomial(true[some].float(), 1, generator=random)[:, 0]
        loss = F.cross_entropy(logits[:, :count], y[i]) + among(logits[some][:, count:], true[some], drawn)
        loss = loss + _DECAY * weights.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weights.detach().numpy()
