"""Where things lie in the space of pictures, and where everything else in WordNet ought to lie."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sparse
import torch
import torch.nn.functional as F
from image_tower import Rows, unit
from numpy.typing import NDArray
from things import CLASSES, Things
from wordnet import WordNet

# All chosen on training pictures kept aside.
_SCALE = 30.0  # of cosines in the softmax
_ANCHOR = 4.0  # how much ImageNet's classes keep to the head's own directions
_LIGHT = 0.5  # most of what all thumbnails share that a photograph has
_SHARP = 0.4  # share of its class's direction in the embedding of a photograph, on average
_BATCH = 1024
# Broader words among themselves, and the broadest of them: weight, and balance (0 as often as true, 1 all alike).
_KINDS = 1.0, 0.9
_BROADEST = 3.0, 0.3
_NOISE = 0.1  # of the regression, where the kernels are 1 for the same meaning at most 2.5


def fit_directions(
    embeddings: Rows, labels: NDArray[np.int64], classes: Rows, things: Things, *, held_out: Sequence[int], steps: int,
    seed: int,
) -> tuple[Rows, NDArray[np.bool_]]:  # fmt: skip
    """Fit one direction for each thing by a softmax regression on pictures, the projection untouched.

    Half of each batch are thumbnails, half are made-up photographs: the direction of an ImageNet class, which the head
    gives, added to what is left of a random picture without its label's mean. A thing competes with all that is not
    true of the picture. Broader words compete with one another, as they do in use, and now and then with everything.

    Args:
        embeddings: (N, D) of pictures, rows of length 1. labels: (N,) their places in `things.labels`.
        classes: (1000, D) the head's directions.
        held_out: classes that nothing may be learnt of.

    Returns:
        (T, D) rows of length 1, and (T,) whether anything is known of the thing.
    """
    random = torch.Generator().manual_seed(seed)
    means = np.zeros((len(things.labels), embeddings.shape[1]), np.float32)
    for label in np.unique(labels):
        means[label] = embeddings[labels == label].mean(axis=0)
    rest = torch.from_numpy(embeddings - means[labels])
    middle = embeddings.mean(axis=0)
    usable = np.setdiff1d(np.arange(CLASSES), held_out)
    start = np.zeros((len(things.names), embeddings.shape[1]), np.float32)
    for i in range(len(start)):
        of_classes = [c for c in usable if things.true_of_class[c, i]]
        of_labels = [label for label in np.unique(labels) if things.true_of_label[label, i]]
        if of_classes:
            start[i] = unit(classes[of_classes].sum(axis=0))
        if of_labels and i >= CLASSES:
            start[i] += unit((means[of_labels] - middle).sum(axis=0)) * (0.5 if of_classes else 1)
    known = np.linalg.norm(start, axis=1) > 1e-6
    start[known] = unit(start[known])
    directions = torch.from_numpy(np.where(known[:, None], start, 1e-3)).requires_grad_()
    anchored = torch.from_numpy(usable)
    anchors = torch.from_numpy(start[usable])
    is_kind, is_broad, is_known = map(torch.from_numpy, (things.is_kind, things.is_broad, known))
    own_thing = torch.tensor([things.of_label[label.name] for label in things.labels])
    x, y = torch.from_numpy(embeddings), torch.from_numpy(labels)
    true_of_label, true_of_class = (
        torch.from_numpy(matrix) & is_known for matrix in (things.true_of_label, things.true_of_class)
    )
    optimizer = torch.optim.Adam([directions], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    true_of_all = torch.cat([true_of_label, true_of_class])  # (labels + 1000, T)
    groups = [
        (weight, *_kinds(true_of_all, which & is_known, balance))
        for which, weight, balance in ((is_kind, *_KINDS), (is_broad, *_BROADEST))
    ]

    def numbers(limit: int) -> torch.Tensor:
        return torch.randint(0, limit, (_BATCH,), generator=random)

    for _ in range(steps):
        i, c = numbers(len(x)), anchored[numbers(len(anchored))]
        strength = _SHARP * (0.6 + 0.8 * torch.rand(_BATCH, 1, generator=random))
        light = _LIGHT * torch.rand(_BATCH, 1, generator=random)
        photographs = torch.from_numpy(middle) * light + strength * torch.from_numpy(classes)[c] + rest[numbers(len(x))]
        pictures = torch.cat([x[i], F.normalize(photographs, dim=-1)])  # (2B, D)
        rows = F.normalize(directions, dim=-1)  # (T, D)
        logits = _SCALE * pictures @ rows.T  # (2B, T)
        true = torch.cat([true_of_label[y[i]], true_of_class[c]])  # (2B, T)
        loss = among(logits, true | ~is_known, torch.cat([own_thing[y[i]], c]))
        whose = torch.cat([y[i], len(things.labels) + c])  # (2B,)
        for weight, kinds, of_all, rarity in groups:
            of_kinds = of_all[whose]  # (2B, K)
            some = torch.nonzero(of_kinds.any(dim=1))[:, 0]
            drawn = torch.multinomial(of_kinds[some].float(), 1, generator=random)[:, 0]
            loss = loss + weight * among(logits[some][:, kinds], of_kinds[some], drawn, rarity)
            few = some[: len(some) // 4]
            loss = loss + weight / 8 * among(logits[few], true[few] | ~is_known, kinds[drawn[: len(few)]])
        drift = (rows[anchored] - anchors).square().sum(dim=1).mean()
        loss = loss + _ANCHOR * drift
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return F.normalize(directions, dim=-1).detach().numpy(), known


def _kinds(
    true_of_all: torch.Tensor, which: torch.Tensor, balance: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give the places of K things that compete among themselves, what is true of which (L, K), and their weights.

    Without weights "dog", with its 120 breeds, would win whenever in doubt.
    """
    kinds = torch.nonzero(which)[:, 0]
    of_all = true_of_all[:, kinds]
    share = (of_all / of_all.sum(dim=1, keepdim=True).clamp(min=1)).sum(dim=0)  # (K,)
    return kinds, of_all, (share.mean() / share.clamp(min=1e-3)) ** balance


def among(
    logits: torch.Tensor, away: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of (B, T) logits where what is `away`, other than the target, does not compete."""
    away = away.clone()
    away[torch.arange(len(targets)), targets] = False
    return F.cross_entropy(logits.masked_fill(away, -1e4), targets, weights)


def ancestor_features(wordnet: WordNet) -> sparse.csr_matrix:
    """Give each synset the ancestors it has, weighted by how much each says: (synsets, synsets), rows of length 1.

    The product of two rows is how much two meanings share, between 0 and 1 (compare Resnik 1995: the information
    content of an ancestor is the logarithm of how few synsets are below it).
    """
    count = len(wordnet.synsets)
    rows = np.repeat(np.arange(count), [len(some) for some in wordnet.ancestors])
    columns = np.concatenate([sorted(some) for some in wordnet.ancestors])
    content = np.log(count / np.bincount(columns, minlength=count))
    above = [max((content[wordnet.at[up]] for up in synset.parents), default=content[i])
             for i, synset in enumerate(wordnet.synsets)]  # fmt: skip
    gain = np.maximum(content - above, 0.05)
    gain[[not synset.parents for synset in wordnet.synsets]] = 0
    matrix = sparse.csr_matrix((np.sqrt(gain)[columns], (rows, columns)), shape=(count, count))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)))[:, 0]
    return sparse.diags(1 / np.maximum(lengths, 1e-9)) @ matrix


def spread_directions(
    directions: Rows, seen: tuple[Rows, Rows, sparse.csr_matrix], wanted: tuple[Rows, Rows, sparse.csr_matrix]
) -> Rows:
    """Predict directions of meanings without pictures by kernel ridge regression (a Gaussian process's mean).

    Args:
        directions: (S, D) of the meanings seen. seen, wanted: MiniLM's vectors of names, (S, 384) and (M, 384), and of
            definitions, and the ancestors' features.

    Returns:
        (M, D) rows of length 1.
    """

    def kernel(one: tuple[Rows, Rows, sparse.csr_matrix], other: tuple[Rows, Rows, sparse.csr_matrix]) -> Rows:
        names = 0.5 * np.exp(-4 * (1 - one[0] @ other[0].T))
        glosses = np.exp(-4 * (1 - one[1] @ other[1].T))
        return (names + glosses + (one[2] @ other[2].T).toarray()).astype(np.float32)

    covariance = kernel(seen, seen)
    weights = np.linalg.solve(covariance + _NOISE * np.eye(len(covariance), dtype=np.float32), directions)
    parts = [
        kernel((wanted[0][i : i + 4096], wanted[1][i : i + 4096], wanted[2][i : i + 4096]), seen) @ weights
        for i in range(0, len(wanted[0]), 4096)
    ]
    return unit(np.concatenate(parts))
