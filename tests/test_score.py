import math

import pytest
import torch

from zsclip.score import cosines, sigmoid_scores, softmax_scores, top_k, versus_neutral_scores

SHAPES = [(1, 1), (1, 2), (3, 2), (5, 1000)]


def unit_rows(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1
    )


@pytest.mark.parametrize(("images", "classes"), SHAPES)
def test_cosines_are_dot_products_image_by_class(images: int, classes: int) -> None:
    a, b = unit_rows(images, 8, 1), unit_rows(classes, 8, 2)

    result = cosines(a, b)

    assert result.shape == (images, classes)
    for i in range(images):
        for j in range(min(classes, 5)):
            assert result[i, j].item() == pytest.approx(
                sum(x * y for x, y in zip(a[i].tolist(), b[j].tolist(), strict=True)), abs=1e-6
            )


@pytest.mark.parametrize(("images", "classes"), SHAPES)
def test_softmax_scores_equal_the_textbook(images: int, classes: int) -> None:
    similar = cosines(unit_rows(images, 8, 1), unit_rows(classes, 8, 2))

    scores = softmax_scores(similar, 14.3)

    for row, expected in zip(scores.tolist(), similar.tolist(), strict=True):
        exponentials = [math.exp(14.3 * value) for value in expected]
        assert row == pytest.approx([value / sum(exponentials) for value in exponentials], rel=1e-5)


def test_sigmoid_scores_add_the_bias() -> None:
    assert sigmoid_scores(torch.tensor([[0.1, -0.2]]), 100.0, -10.0)[0].tolist() == pytest.approx(
        [1 / (1 + math.exp(-(100 * 0.1 - 10))), 1 / (1 + math.exp(-(100 * -0.2 - 10)))]
    )


def test_versus_neutral_is_a_two_way_softmax() -> None:
    scores = versus_neutral_scores(torch.tensor([[0.30, 0.20]]), torch.tensor([[0.25]]), 100.0)

    for score, cosine in zip(scores[0].tolist(), (0.30, 0.20), strict=True):
        a, b = math.exp(100 * cosine), math.exp(100 * 0.25)
        assert score == pytest.approx(a / (a + b), rel=1e-4)


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_top_k_is_a_sort_capped_at_the_classes(k: int) -> None:
    similar = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.9, 0.8, 0.7, 0.6]])

    assert top_k(similar, k).tolist() == [[1, 3, 2, 0][:k], [0, 1, 2, 3][:k]]


def test_ties_go_to_the_earlier_class() -> None:
    similar = torch.zeros(1, 500)
    similar[0, 250:] = 0.5

    assert top_k(similar, 3).tolist() == [[250, 251, 252]]


def test_classes_are_told_apart_where_their_probabilities_no_longer_can_be() -> None:
    similar = torch.tensor([[0.1, 0.9, 0.2]])

    assert softmax_scores(similar, 1000.0)[0].tolist() == [0.0, 1.0, 0.0]
    assert top_k(similar, 3).tolist() == [[1, 2, 0]]
