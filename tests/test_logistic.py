"""The logistic regression against that of scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from zsclip.answers.logistic import fit_logistic


def drawn(labels: int, each: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(labels), each)
    vectors = random.normal(size=(labels, width))[truth] + 2 * random.normal(size=(len(truth), width)) + 1
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), truth


def chances(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0, 1e4])
@pytest.mark.parametrize(("labels", "each", "width"), [(2, 5, 3), (3, 1, 8), (5, 20, 16), (4, 6, 64)])
def test_probabilities_are_those_of_scikit_learn(labels: int, each: int, width: int, strength: float) -> None:
    vectors, truth = drawn(labels, each, width, seed=labels)
    pictures = drawn(labels, 10, width, seed=99)[0]

    found = fit_logistic(vectors, truth, labels, strength)

    wide = vectors.astype(np.float64)
    if labels == 2:  # scikit-learn fits one row of weights, whose penalty is twice that of two opposite rows
        twin = LogisticRegression(C=2 * strength, tol=1e-9, max_iter=20_000).fit(wide, truth)
    else:
        twin = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000).fit(wide, truth)
    assert np.abs(chances(pictures @ found.weights.T + found.biases) - twin.predict_proba(pictures)).max() < 1e-3


def test_a_start_changes_nothing_but_the_way() -> None:
    vectors, truth = drawn(4, 6, 16, seed=0)
    start = fit_logistic(vectors, truth, 4, 100.0)

    found, alone = (fit_logistic(vectors, truth, 4, 1.0, each) for each in (start, None))

    assert found.weights == pytest.approx(alone.weights, abs=1e-4)
    assert found.biases == pytest.approx(alone.biases, abs=1e-4)


def test_labels_without_examples_get_zeros() -> None:
    vectors, truth = drawn(3, 6, 8, seed=0)

    found = fit_logistic(vectors, 2 * truth, 6, 10.0)

    alone = fit_logistic(vectors, truth, 3, 10.0)
    assert not found.weights[1::2].any()
    assert not found.biases[1::2].any()
    assert found.weights[::2] == pytest.approx(alone.weights)
    assert found.biases[::2] == pytest.approx(alone.biases)
    assert found.biases.mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [1, 4])
def test_identical_examples_and_a_single_one_give_numbers(count: int) -> None:
    vectors = np.tile(np.array([[0.6, 0.8]], np.float32), (count, 1))

    found = fit_logistic(vectors, np.arange(count) % 2, 2, 10.0)

    assert np.isfinite(found.weights).all()
    assert np.isfinite(found.biases).all()
