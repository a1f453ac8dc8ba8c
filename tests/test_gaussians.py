"""The closed forms of examples against plain loops, and leaving one out against learning again without it."""

from dataclasses import replace

import numpy as np
import pytest

from zsclip.answers.gaussians import Gaussians, Shape

SHAPES = [Shape(3.0, 0.01, 0.0, 0.0, 5.0), Shape(30.0, 0.02, 1.0, 0.7, 0.0), Shape(0.5, 0.2, 4.0, 0.3, 9.0)]


def drawn(counts: tuple[int, ...], width: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples around a mean for each label, their labels in a random order, and the words' directions."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(len(counts)), counts))
    means = random.normal(size=(len(counts), width))
    vectors = means[truth] + random.normal(size=(len(truth), width)) + 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    words = means + random.normal(size=means.shape)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    return vectors.astype(np.float32), truth, words - words.mean(axis=0)


def plain(vectors: np.ndarray, truth: np.ndarray, directions: np.ndarray, shape: Shape, x: np.ndarray) -> list[float]:
    """How much likelier a picture is with each label than around the mean of all, one thing after the other."""
    vectors, width = vectors.astype(np.float64), vectors.shape[1]
    mean = sum(vectors) / len(vectors)
    scatter = np.zeros((width, width))
    centres, spare = [], []
    for label, direction in enumerate(directions):
        own = [vector for vector, true in zip(vectors, truth, strict=True) if true == label]
        prior = mean + shape.slope * direction
        centre = sum(own) / len(own) if own else mean
        for vector in own:
            scatter += np.outer(vector - centre, vector - centre)
        share = len(own) / (len(own) + shape.shrink) if own else 0
        centres.append(share * centre + (1 - share) * prior)
        spare.append(share**2 * shape.noise / len(own) / 2 if own else 0)
    freedom = len(vectors) - len(set(truth.tolist()))
    covariance = (scatter + shape.ridge * shape.variance * np.eye(width)) / (freedom + shape.ridge)

    def likelihood(centre: np.ndarray) -> float:
        return -(x - centre) @ np.linalg.solve(covariance, x - centre) / 2

    return [likelihood(centre) - likelihood(mean) + more for centre, more in zip(centres, spare, strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("counts", [(1, 1, 1), (4, 4), (5, 1, 0, 3), (40, 2, 7), (2,)])
def test_the_evidence_is_that_of_plain_gaussians(counts: tuple[int, ...], shape: Shape) -> None:
    vectors, truth, directions = drawn(counts)
    pictures = drawn((5,), seed=1)[0]

    found = Gaussians(vectors, truth, directions).evidence(shape)

    for x in pictures.astype(np.float64):
        assert x @ found.weights.T + found.biases == pytest.approx(plain(vectors, truth, directions, shape, x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [3, 6, 40])
@pytest.mark.parametrize("counts", [(1, 1, 1), (4, 4), (5, 1, 0, 3), (20, 2, 7)])
def test_leaving_one_out_is_learning_without_it(counts: tuple[int, ...], width: int, shape: Shape) -> None:
    vectors, truth, directions = drawn(counts, width)
    whole, rows = Gaussians(vectors, truth, directions), np.arange(len(truth))

    found = whole.left_out(shape, whole.products(shape, whole.turned(rows)), rows)

    for row in rows:
        rest = Gaussians(np.delete(vectors, row, axis=0), np.delete(truth, row), directions).evidence(shape)
        assert found[row] == pytest.approx(vectors[row] @ rest.weights.T + rest.biases, rel=1e-6, abs=1e-6)


def test_some_examples_are_left_out_as_all_are() -> None:
    vectors, truth, directions = drawn((5, 1, 0, 3))
    whole, some = Gaussians(vectors, truth, directions), np.array([7, 2])
    every = np.arange(len(truth))

    found = whole.left_out(SHAPES[1], whole.products(SHAPES[1], whole.turned(some)), some)

    assert found == pytest.approx(
        whole.left_out(SHAPES[1], whole.products(SHAPES[1], whole.turned(every)), every)[some]
    )


def test_products_serve_every_shrink_and_slope() -> None:
    vectors, truth, directions = drawn((5, 1, 0, 3))
    whole, rows = Gaussians(vectors, truth, directions), np.arange(len(truth))
    other = replace(SHAPES[1], shrink=9.0, slope=0.1)

    found = whole.left_out(other, whole.products(SHAPES[1], whole.turned(rows)), rows)

    assert found == pytest.approx(whole.left_out(other, whole.products(other, whole.turned(rows)), rows))


@pytest.mark.parametrize("counts", [(1, 0), (3, 3)])
def test_identical_examples_give_numbers(counts: tuple[int, ...]) -> None:
    truth = np.repeat(np.arange(2), counts)
    vectors = np.tile(np.array([[0.6, 0.8]], np.float32), (len(truth), 1))
    whole = Gaussians(vectors, truth, np.zeros((2, 2)))
    shape = whole.shape(100.0, 1.0)

    found = whole.evidence(shape)

    assert np.isfinite(found.weights).all()
    assert np.isfinite(found.biases).all()


def test_a_label_without_examples_and_words_has_no_evidence() -> None:
    vectors, truth, directions = drawn((5, 1, 0, 3))
    directions[2] = 0

    found = Gaussians(vectors, truth, directions).evidence(SHAPES[1])

    assert not found.weights[2].any()
    assert found.biases[2] == 0


def test_the_slope_is_that_of_means_drawn_along_words() -> None:
    random = np.random.default_rng(0)
    directions = random.normal(size=(30, 8)) / 9
    truth = np.repeat(np.arange(30), 20)
    vectors = 0.3 * directions[truth] + random.normal(size=(600, 8)) / 50 + np.eye(8)[0]

    whole = Gaussians(vectors, truth, directions - directions.mean(axis=0))

    assert whole.shape(1.0, 0.0).slope == pytest.approx(0.3, rel=0.05)
    assert Gaussians(vectors, truth, -directions).shape(1.0, 0.0).slope == 0
    assert Gaussians(vectors, truth, 0 * directions).shape(1.0, 0.0).slope == 0
