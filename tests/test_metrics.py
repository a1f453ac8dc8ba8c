import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from zsclip.measure.metrics import (
    BINS,
    METRICS,
    Judged,
    balanced_accuracy,
    calibration_error,
    confusion_matrix,
    differs,
    figures,
    joined,
    macro_f1,
    share,
    top1,
    top5,
)


def random_case(seed: int, pictures: int = 200, labels: int = 12) -> tuple[Judged, np.ndarray]:
    """Random scores whose best is the answer; some labels have no picture, some are never answered."""
    random = np.random.default_rng(seed)
    truth = random.choice(np.delete(np.arange(labels), [2, 3]), pictures)
    scores = random.dirichlet(np.full(labels, 0.3), pictures)  # (N, C)
    scores[np.arange(pictures), truth] += 0.1 * random.random(pictures)
    scores[:, [1, 2]] *= 1e-9
    scores /= scores.sum(axis=1, keepdims=True)
    best = np.argsort(-scores, axis=1)[:, :5]
    five = (best == truth[:, None]).any(axis=1)
    return Judged(truth, best[:, 0], five, scores.max(axis=1)), scores


@pytest.mark.parametrize("seed", range(20))
def test_metrics_are_those_of_scikit_learn(seed):
    judged, scores = random_case(seed)
    truth, predicted = judged.truth, judged.predicted

    assert top1(judged) == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    all_labels = np.arange(scores.shape[1])
    assert top5(judged) == pytest.approx(
        sklearn_metrics.top_k_accuracy_score(truth, scores, k=5, labels=all_labels), abs=1e-12
    )
    present = np.isin(predicted, truth)  # scikit-learn warns of answers that are no one's truth
    kept = judged.taken(np.flatnonzero(present))
    assert balanced_accuracy(kept) == pytest.approx(sklearn_metrics.balanced_accuracy_score(kept.truth, kept.predicted))
    assert macro_f1(judged) == pytest.approx(
        sklearn_metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    )
    assert np.array_equal(
        confusion_matrix(judged, len(all_labels)),
        sklearn_metrics.confusion_matrix(truth, predicted, labels=all_labels),
    )


def test_balanced_accuracy_counts_labels_without_pictures_as_wrong():
    judged = Judged(np.array([0, 0, 1]), np.array([0, 7, 1]), np.ones(3, bool), np.ones(3))

    assert balanced_accuracy(judged) == (0.5 + 1) / 2


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_that_of_a_plain_loop_over_bins(seed):
    judged, _ = random_case(seed)
    error = 0.0
    for b in range(BINS):
        inside = [i for i, score in enumerate(judged.score) if b / BINS < score <= (b + 1) / BINS]
        if inside:
            said = sum(judged.score[i] for i in inside) / len(inside)
            right = sum(judged.truth[i] == judged.predicted[i] for i in inside) / len(inside)
            error += abs(said - right) * len(inside) / len(judged.score)

    assert calibration_error(judged) == pytest.approx(error)


def test_scores_at_the_ends_fall_into_the_first_and_the_last_bin():
    sure = Judged(np.array([0, 1]), np.array([0, 0]), np.ones(2, bool), np.array([1.0, 0.0]))

    assert calibration_error(sure) == 0


def test_parts_that_are_joined_are_as_one():
    whole, _ = random_case(0)
    places = np.arange(len(whole.truth))

    again = joined([whole.taken(part) for part in np.array_split(places, 7)])

    assert {name: metric(again) for name, metric in METRICS.items()} == {
        name: metric(whole) for name, metric in METRICS.items()
    }


def test_figures_hold_their_value_and_are_the_same_every_time():
    judged, _ = random_case(3)
    found = figures(judged)

    assert list(found) == list(METRICS)
    assert {name: each.value for name, each in found.items()} == {
        name: metric(judged) for name, metric in METRICS.items()
    }
    assert all(0 <= each.low < each.high <= 1 for each in found.values())
    assert figures(judged) == found
    assert figures(judged, seed=1) != found


def test_intervals_hold_the_truth_as_often_as_they_say():
    """A hundred samples of a population whose figures are known; 95 of 100, give or take what chance allows.

    Many labels are rare: plain percentiles of the resamples hold the true macro-F1 in 39 of 100.
    """
    random = np.random.default_rng(0)
    count, labels = 100_000, 100
    share = np.arange(1, labels + 1) ** -0.7
    truth = random.choice(labels, count, p=share / share.sum())
    score = random.beta(3, 2, count)
    right = random.random(count) < score**1.3 * random.uniform(0.7, 1.0, labels)[truth]
    predicted = np.where(right, truth, (truth + random.integers(1, labels, count)) % labels)
    population = Judged(truth, predicted, right | (random.random(count) < 0.5), score)
    true = {name: metric(population) for name, metric in METRICS.items()}
    held = dict.fromkeys(METRICS, 0)
    for sample in range(100):
        for name, each in figures(population.taken(random.integers(0, count, 800)), resamples=300, seed=sample).items():
            held[name] += each.low <= true[name] <= each.high

    least = {"calibration error": 80, "macro-F1": 80}
    for name, times in held.items():
        assert times >= least.get(name, 88), (name, held)
    assert held["top-1"] < 100


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),  # of R's prop.test(count, total, correct = FALSE)
    [(37, 40, 0.8014, 0.9742), (40, 40, 0.9124, 1.0), (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634)],
)
def test_a_share_has_the_score_interval(count, total, low, high):
    figure = share(count, total)

    assert figure.value == count / total
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-4)


def test_differs_is_a_coin_flip_test():
    assert not differs(0, 0)
    assert not differs(2, 5)
    assert differs(0, 6)
    assert differs(6, 0)
    assert not differs(100, 120)
    assert differs(100, 130)
