"""Every function against torch's, or the textbook's, of the same name."""

import numpy as np
import pytest
import torch

from zsclip.answers.scores import (
    Matrix,
    cosines,
    sigmoid_scores,
    softmax_of,
    softmax_scores,
    top_k,
    versus_neutral_scores,
)

SHAPES = [(0, 3), (1, 1), (1, 2), (3, 2), (32, 7), (33, 1000), (70, 5)]


def unit_rows(rows: int, width: int, seed: int) -> Matrix:
    values = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize(("images", "classes"), SHAPES)
def test_scores_are_torchs(images: int, classes: int) -> None:
    a, b = unit_rows(images, 64, 1), unit_rows(classes, 64, 2)
    expected = torch.from_numpy(a) @ torch.from_numpy(b).T

    similar = cosines(a, b)

    assert similar.shape == (images, classes)
    assert similar.dtype == np.float32
    for ours, theirs in (
        (similar, expected),
        (softmax_scores(similar, 100.0), (100.0 * expected).softmax(dim=1)),
        (sigmoid_scores(similar, 117.0, -12.9), (117.0 * expected - 12.9).sigmoid()),
        (versus_neutral_scores(similar, similar[:, :1], 100.0), (100.0 * (expected - expected[:, :1])).sigmoid()),
    ):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("classes", [1, 2, 20, 105])
def test_a_picture_has_the_same_bits_whatever_its_neighbours(classes: int) -> None:
    a, b = (np.random.default_rng(0).normal(size=(count, 64)).astype(np.float32) / 8 for count in (100, classes))
    expected = softmax_scores(cosines(a, b), 100.0)

    for start in (0, 1, 3, 50):
        for count in (1, 2, 5, 8, 17, 31, 32, 33, 50):
            found = softmax_scores(cosines(a[start : start + count], b), 100.0)
            assert np.array_equal(found, expected[start : start + count])
    assert cosines(a[:0], b).shape == (0, classes)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("classes", [3, 20, 1000])
def test_the_scores_of_the_best_have_the_bits_of_all_scores(classes: int, k: int) -> None:
    similar = cosines(unit_rows(70, 64, 1), unit_rows(classes, 64, 2))
    best = top_k(similar, k)

    found = softmax_of(best, similar, 100.0)

    assert np.array_equal(found, np.take_along_axis(softmax_scores(similar, 100.0), best, axis=1))


def test_scores_at_the_ends_are_0_and_1_without_a_warning() -> None:
    similar = np.array([[1, -1]], np.float32)

    with np.errstate(all="raise", under="ignore"):
        assert sigmoid_scores(similar, 1000.0, 0.0)[0].tolist() == [1.0, 0.0]
        assert softmax_scores(similar, 1000.0)[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_top_k_is_a_sort_capped_at_the_classes(k: int) -> None:
    similar = np.array([[0.1, 0.4, 0.2, 0.3], [0.9, 0.8, 0.7, 0.6]], np.float32)

    assert top_k(similar, k).tolist() == [[1, 3, 2, 0][:k], [0, 1, 2, 3][:k]]


def test_ties_go_to_the_earlier_class() -> None:
    similar = np.zeros((1, 500), np.float32)
    similar[0, 250:] = 0.5

    assert top_k(similar, 1).tolist() == [[250]]
    assert top_k(similar, 3).tolist() == [[250, 251, 252]]


def test_classes_are_ranked_even_where_their_probabilities_are_equal() -> None:
    similar = np.array([[0.1, 0.9, 0.2]], np.float32)

    assert softmax_scores(similar, 1000.0)[0].tolist() == [0.0, 1.0, 0.0]
    assert top_k(similar, 3).tolist() == [[1, 2, 0]]
