"""What is known of all pictures together -> a bias for each label. Pure arithmetic: no files, no models.

A bias on every logit of a label changes its share among the answers. So a corrected classifier is one with biases.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier
from zsclip.answers.classify import decisive
from zsclip.answers.gaussians import Array
from zsclip.models.embed import Embedded

_ROUNDS = 300
_NEAR = 1e-5  # by which no share may be off
_CELLS = 1 << 21  # pictures times labels that decide; more would cost seconds a round
_RARE = 1e-6  # the lowest share: one of 0 would have a bias of minus infinity


def corrected(classifier: Classifier, batches: Iterable[Embedded], shares: Array | None) -> Classifier:
    """Correct a classifier for the shares of its labels among all pictures.

    Args:
        batches: all pictures. shares: (C,), what the labels' shares are; None: few of the labels occur.
    """
    vectors = [batch.vectors for batch in batches if len(batch.vectors)]
    if not vectors:
        return classifier
    whole = np.concatenate(vectors)  # (N, D)
    most = max(1, _CELLS // len(classifier.labels))
    if len(whole) > most:
        whole = whole[np.arange(most) * len(whole) // most]
    logits = classifier.logit_scale * decisive(whole, classifier).astype(np.float64)
    biases = biases_of_few(logits) if shares is None else biases_for(logits, shares)
    before = 0.0 if classifier.biases is None else classifier.biases
    return replace(
        classifier,
        weights=classifier.class_embeddings if classifier.weights is None else classifier.weights,
        biases=(before + biases / classifier.logit_scale).astype(np.float32),
        is_corrected=True,
    )


def biases_for(logits: NDArray[np.floating], shares: Array) -> Array:
    """Find the biases with which the labels have these shares, on average over the probabilities of all pictures.

    Args:
        logits: (N, C). shares: (C,), at least 0, with a sum of 1.

    Returns:
        (C,) float64, the highest 0.
    Source: Sinkhorn's algorithm for optimal transport with entropy (Cuturi 2013), at the temperature of the logits;
    its use for answers: Shin et al. 2024 (OTTER).
    """
    wanted = np.maximum(shares, _RARE)
    wanted = np.log(wanted / wanted.sum())
    biases = np.zeros(len(shares))
    for _ in range(_ROUNDS):
        found = np.log(_mean_chances(logits, biases).clip(1e-300))
        biases += wanted - found
        if np.abs(np.exp(found) - np.exp(wanted)).max() < _NEAR:
            break
    return biases - biases.max()


def biases_of_few(logits: NDArray[np.floating]) -> Array:
    """Estimate the shares of labels that make all pictures likeliest, and give their logarithms as biases.

    Labels that hardly any picture needs get a low share, and lose the pictures that others fit nearly as well.

    Returns:
        (C,) float64, the highest 0.
    Source: Saerens et al. 2002 (expectation maximisation for unknown shares).
    """
    shares = np.full(logits.shape[1], 1 / logits.shape[1])
    for _ in range(_ROUNDS):
        new = np.maximum(_mean_chances(logits, np.log(shares)), _RARE)
        moved, shares = float(np.abs(new - shares).max()), new / new.sum()
        if moved < _NEAR:
            break
    biases: Array = np.log(shares)
    return biases - biases.max()


def _mean_chances(logits: NDArray[np.floating], biases: Array) -> Array:
    """Give the mean probability of each label over all pictures. (C,) float64."""
    moved = logits + biases
    moved -= moved.max(axis=1, keepdims=True)
    np.exp(moved, out=moved)
    moved /= moved.sum(axis=1, keepdims=True)
    means: Array = moved.mean(axis=0)
    return means
