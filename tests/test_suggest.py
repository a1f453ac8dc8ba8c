"""Which pictures are worth a label: doubtful ones, each unlike the others."""

import math

import numpy as np
import pytest

from zsclip.answers.classifier import Classifier
from zsclip.answers.suggest import k_means, margins, worth_labelling


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def words(labels: int = 3, width: int = 8) -> Classifier:
    return Classifier(tuple("abc"[:labels]), np.eye(labels, width, dtype=np.float32), None, 20.0, None, ())


def test_a_margin_is_the_difference_of_the_two_highest_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(50, 8)))
    monkeypatch.setattr("zsclip.answers.suggest._CELLS", 3 * 16)

    found = margins(vectors, words())

    for vector, margin in zip(vectors.tolist(), found.tolist(), strict=True):
        chances = [math.exp(20 * cosine) for cosine in vector[:3]]
        best, second, _ = sorted((chance / sum(chances) for chance in chances), reverse=True)
        assert margin == pytest.approx(best - second, abs=1e-5)


def test_groups_are_around_their_means() -> None:
    """Against plain loops: no row is nearer to another mean, and each mean is that of its rows."""
    random = np.random.default_rng(0)
    rows = np.repeat(random.normal(size=(6, 8)) * 5, 20, axis=0) + random.normal(size=(120, 8)) * 0.1

    weights = random.random(120)

    groups, means = k_means(rows, weights, 6)

    for row, group in zip(rows, groups, strict=True):
        assert math.dist(row, means[group]) == min(math.dist(row, mean) for mean in means)
    for group in range(6):
        own = [place for place in range(120) if groups[place] == group]
        weighted = sum(weights[place] * rows[place] for place in own) / sum(weights[place] for place in own)
        assert means[group] == pytest.approx(weighted)
    assert len({tuple(groups[start : start + 20]) for start in range(0, 120, 20)}) == 6
    again, _ = k_means(rows, weights, 6)
    assert again.tolist() == groups.tolist()


def test_identical_rows_can_be_grouped() -> None:
    groups, means = k_means(np.ones((5, 3)), np.zeros(5), 3)

    assert len(set(groups.tolist())) == 1
    assert np.isfinite(means).all()


def test_one_doubtful_picture_of_each_kind_is_chosen() -> None:
    """Kinds differ in what the words do not see; certain pictures, which are many more, are left alone."""
    random = np.random.default_rng(0)
    certain = np.eye(8)[random.integers(0, 3, 400)]
    doubtful = np.tile(np.eye(8)[0] + np.eye(8)[1], (40, 1)) + 2 * np.eye(8)[np.repeat([4, 5, 6, 7], 10)]
    vectors = unit(np.concatenate([certain, doubtful]) + 0.05 * random.normal(size=(440, 8)))
    order = random.permutation(440)
    where = np.argsort(order)[400:].reshape(4, 10)  # of each kind

    found = worth_labelling(vectors[order], words(), 4)

    assert sorted(found.tolist()) == found.tolist()
    assert [len(set(found.tolist()) & set(kind.tolist())) for kind in where] == [1, 1, 1, 1]


def test_a_picture_is_chosen_once_however_often_it_is_there() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(5, 8)))[[0, 1, 0, 2, 2, 3, 4, 1]]

    assert worth_labelling(vectors, words(), 9).tolist() == [0, 1, 3, 5, 6]
    assert len(worth_labelling(vectors, words(), 3)) == 3
    assert worth_labelling(np.empty((0, 8), np.float32), words(), 3).tolist() == []


def test_groups_that_come_out_empty_are_made_up_for() -> None:
    vectors = unit(np.eye(8)[[0]] + 1e-6 * np.random.default_rng(0).normal(size=(30, 8)))

    assert len(set(worth_labelling(vectors, words(), 20).tolist())) == 20
