"""What is learnt from examples and words: that it is the best blend, that it helps, and that it never harms."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from zsclip.answers.blends import fit_blend, how_chosen
from zsclip.answers.classifier import Classifier
from zsclip.answers.classify import decisive
from zsclip.answers.scores import softmax_scores
from zsclip.errors import InputError
from zsclip.measure.learn import learn
from zsclip.measure.learnt import Learnt, learnt_lines, short_lines

WIDTH = 24
METHODS = ["gaussian", "logistic"]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def world(labels: int = 5, pictures: int = 200, seed: int = 0, good_words: float = 0.3, noise: float = 1.5) -> tuple:
    """Pictures around a mean for each label, far from words, which point that way only roughly; a text matrix."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(labels, WIDTH))
    truth = np.repeat(np.arange(labels), pictures // labels)
    vectors = unit(means[truth] + noise * random.normal(size=(len(truth), WIDTH)) + 2)
    text = unit(good_words * means + random.normal(size=means.shape) - 2)
    return vectors, truth, Classifier(tuple("abcdefgh"[:labels]), text, None, 20.0, None, ())


def split(truth: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """As many examples of each label, and all other pictures."""
    random = np.random.default_rng(seed)
    some = np.concatenate([random.permutation(np.flatnonzero(truth == label))[:count] for label in np.unique(truth)])
    return some, np.setdiff1d(np.arange(len(truth)), some)


def top1(classifier: Classifier, vectors: np.ndarray, truth: np.ndarray) -> float:
    return float((decisive(vectors, classifier).argmax(axis=1) == truth).mean())


def learn_all(vectors: np.ndarray, truth: np.ndarray, words: Classifier, method: str = "gaussian") -> Learnt:
    return learn(vectors, truth, words, [True] * len(words.labels), method)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_alone", [False, True])
def test_no_other_blend_makes_the_truth_likelier(seed: int, is_alone: bool) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 4, 30)
    words, evidence = random.normal(size=(2, 30, 4)) * 3
    words[np.arange(30), truth] += seed
    evidence[np.arange(30), truth] += seed / 2 - 0.5  # the first seeds' evidence is wrong more often than right
    if seed == 1:  # only mistakes
        words[np.arange(30), (truth + 1) % 4] += 9

    found = fit_blend(words, evidence, how_chosen(words, truth), truth, is_alone=is_alone)

    chosen = np.zeros((2, 30, 4))
    for place, label in enumerate(truth):
        chosen[0, place, words[place].argmax()] = -1
        for each in range(4):
            chosen[1, place, each] = np.log(1 + sum(truth == each) - (each == label))

    def loss(at: np.ndarray) -> float:
        logits = at[0] * words + at[1] * evidence + at[2] * chosen[0] + at[3] * chosen[1]
        likelihoods = logits[np.arange(30), truth] - np.log(np.exp(logits).sum(axis=1))
        prior = ((at[0] - 1) ** 2 + at[1] ** 2 + at[2] ** 2 / 1000 + at[3] ** 2) / 2 + at[2]
        return -likelihoods.mean() + prior / 30

    bounds = [(0.1, None), (0, 0 if is_alone else None), (0, None), (0, None)]
    best = minimize(loss, [1.0, 0.1, 0.1, 0.1], bounds=bounds, tol=1e-12).x
    assert list(vars(found).values()) == pytest.approx(best, abs=1e-2)
    assert (found.mistakes > 1) == (seed == 1)


def test_words_that_say_nothing_are_not_right_about_the_first_label() -> None:
    chosen = how_chosen(np.zeros((3, 2)), np.array([0, 1, 1]))

    assert chosen[0].tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize("right", [1.0, 0.1, 0.0])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_weights_are_those_of_all_pictures_however_examples_were_chosen(right: float, power: float) -> None:
    """Here words count 1 and examples 0.5, but words are right about few or none of the examples that were kept."""
    random = np.random.default_rng(0)
    words, evidence = random.normal(size=(2, 20000, 5)) * 2
    chances = np.exp(words + evidence / 2)
    truth = (chances.cumsum(axis=1) < random.random((20000, 1)) * chances.sum(axis=1, keepdims=True)).sum(axis=1)
    readily = np.where(words.argmax(axis=1) == truth, right, 1.0) * np.array([1, 0.5, 0.5, 0.1, 0.1])[truth] ** power
    kept = random.random(20000) < readily

    given = words[kept], evidence[kept], how_chosen(words[kept], truth[kept]), truth[kept]
    found = fit_blend(*given)

    assert (found.words, found.examples) == pytest.approx((1, 0.5), abs=0.1)
    assert found.mistakes == pytest.approx(-np.log(right), abs=0.15) if right else found.mistakes > 5
    assert found.frequent == pytest.approx(power, abs=0.15) or not power  # labels are equally frequent then
    misled = fit_blend(words[kept], evidence[kept], np.zeros((2, sum(kept), 5)), truth[kept])
    assert (misled.words < 0.8) == (right < 1)


def test_confident_mistakes_alone_do_not_turn_examples_against_good_words() -> None:
    """Who corrects wrong answers gives only examples that words get wrong, however good words are."""
    gains = []
    for seed in range(10):
        vectors, truth, words = world(seed=seed, pictures=1000, good_words=3.0, noise=4.0)
        chances = softmax_scores(decisive(vectors, words), words.logit_scale)
        wrong = np.flatnonzero(chances.argmax(axis=1) != truth)
        some = wrong[np.argsort(-chances[wrong].max(axis=1))[:20]]
        rest = np.setdiff1d(np.arange(len(truth)), some)
        learnt = learn_all(vectors[some], truth[some], words)
        before, after = (top1(each, vectors[rest], truth[rest]) for each in (words, learnt.classifier(words.labels)))
        gains.append(after - before)

    assert np.mean(gains) > -0.005


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [4, 16])
def test_examples_help_where_words_are_poor(count: int, method: str) -> None:
    vectors, truth, words = world()
    some, rest = split(truth, count)

    learnt = learn_all(vectors[some], truth[some], words, method)

    assert not learnt.is_words_alone
    after = top1(learnt.classifier(words.labels), vectors[rest], truth[rest])
    assert after > top1(words, vectors[rest], truth[rest]) + 0.1
    assert learnt.both / learnt.judged == pytest.approx(after, abs=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_examples_of_chance_leave_words_as_they_are(method: str) -> None:
    """Bit for bit: the head then answers what words answer."""
    vectors, truth, words = world(good_words=2.0)
    random = np.random.default_rng(0)
    alone = 0

    for _ in range(10):
        some = random.permutation(len(truth))[:40]
        learnt = learn_all(vectors[some], random.integers(0, 5, 40), words, method)
        if learnt.is_words_alone:
            alone += 1
            assert (learnt.logit_scale, learnt.weights.tobytes()) == (20.0, words.class_embeddings.tobytes())
            assert not learnt.biases.any()
            assert "words alone" in next(short_lines(learnt))
            assert any("words alone" in line for line in learnt_lines(learnt))

    assert alone >= (8 if method == "gaussian" else 3)


def test_one_example_of_each_label_does_no_harm() -> None:
    gains = []
    for seed in range(10):
        vectors, truth, words = world(seed=seed, good_words=1.0)
        some, rest = split(truth, 1, seed)
        learnt = learn_all(vectors[some], truth[some], words)
        before, after = (top1(each, vectors[rest], truth[rest]) for each in (words, learnt.classifier(words.labels)))
        gains.append(after - before)

    assert np.mean(gains) >= 0
    assert min(gains) > -0.03


@pytest.mark.parametrize("method", METHODS)
def test_a_single_example_leaves_words_alone(method: str) -> None:
    vectors, truth, words = world()

    learnt = learn_all(vectors[:1], truth[:1], words, method)

    assert learnt.is_words_alone


def test_wrong_examples_are_found_and_survived() -> None:
    vectors, truth, words = world(good_words=1.0, noise=0.8)
    some, rest = split(truth, 16)
    given = truth[some].copy()
    wrong = np.arange(0, len(some), 10)
    given[wrong] = (given[wrong] + 1) % 5

    learnt = learn_all(vectors[some], given, words)

    found = [each.place for each in learnt.suspects]
    assert found
    assert len(set(found) & set(wrong.tolist())) >= len(found) * 0.7
    assert top1(learnt.classifier(words.labels), vectors[rest], truth[rest]) > top1(words, vectors[rest], truth[rest])
    assert "wrong label" in [*short_lines(learnt)][-1]


def test_a_label_without_examples_keeps_its_words() -> None:
    vectors, truth, words = world(labels=6, pictures=240, good_words=1.0)
    some, rest = split(truth, 16)
    some = some[truth[some] < 4]

    learnt = learn_all(vectors[some], truth[some], words)

    assert learnt.counts == {"a": 16, "b": 16, "c": 16, "d": 16, "e": 0, "f": 0}
    without = rest[truth[rest] >= 4]
    after = top1(learnt.classifier(words.labels), vectors[without], truth[without])
    assert after > top1(words, vectors[without], truth[without]) - 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("known", [[True, True, True, True, False], [False] * 5])
def test_labels_without_words_go_by_their_examples(known: list[bool], method: str) -> None:
    vectors, truth, words = world(good_words=1.0)
    some, rest = split(truth, 16)
    other = replace(words, class_embeddings=words.class_embeddings[[0, 1, 2, 3, 0]])  # a name that means another thing

    learnt = learn(vectors[some], truth[some], other, known, method)  # type: ignore[arg-type]

    unlike = replace(words, class_embeddings=words.class_embeddings[[0, 1, 2, 3, 1]])
    again = learn(vectors[some], truth[some], unlike, known, method)  # type: ignore[arg-type]
    assert again.weights.tobytes() == learnt.weights.tobytes() or not any(known)
    last = rest[truth[rest] == 4]
    assert not learnt.is_words_alone
    assert top1(learnt.classifier(words.labels), vectors[last], truth[last]) > 0.5
    mean = vectors[some][truth[some] == 4].mean(axis=0)
    assert learnt.class_embeddings[4] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_one_example_of_a_label_without_words_does_not_take_all_pictures() -> None:
    """Pictures are nearer to any other picture than to any words."""
    vectors, truth, words = world(good_words=3.0)
    some, rest = split(truth, 1)

    learnt = learn(vectors[some[4:]], truth[some[4:]], words, [True] * 4 + [False])

    others = rest[truth[rest] < 4]
    assert top1(learnt.classifier(words.labels), vectors[others], truth[others]) > 0.6


def test_one_example_of_each_label_without_words_is_the_nearest_mean() -> None:
    vectors, truth, words = world()
    some, _ = split(truth, 1)

    learnt = learn(vectors[some], truth[some], words, [False] * 5)

    assert top1(learnt.classifier(words.labels), vectors[some], truth[some]) == 1
    assert learnt.judged == 0
    assert any("cannot be said" in line for line in learnt_lines(learnt))


@pytest.mark.parametrize("method", METHODS)
def test_identical_examples_give_numbers(method: str) -> None:
    vectors, _, words = world()

    learnt = learn_all(np.repeat(vectors[:1], 10, axis=0), np.arange(10) % 5, words, method)

    assert np.isfinite(learnt.weights).all()
    assert np.isfinite(learnt.biases).all()


def test_more_labels_than_decide_are_spread_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, truth, words = world(pictures=1000)
    monkeypatch.setattr("zsclip.measure.learn._FEWEST", 100)
    monkeypatch.setattr("zsclip.measure.learn._CELLS", 5 * 100)

    learnt = learn_all(vectors, truth, words)

    assert learnt.judged == 100
    assert sum(learnt.counts.values()) == 1000


def test_what_cannot_be_learnt_from_is_refused() -> None:
    vectors, truth, words = world()
    broken = vectors.copy()
    broken[3, 2] = np.nan

    with pytest.raises(InputError, match="NaN"):
        learn_all(broken, truth, words)
    with pytest.raises(InputError, match="'e' have neither words nor examples"):
        learn(vectors[truth < 4], truth[truth < 4], words, [True] * 4 + [False])
