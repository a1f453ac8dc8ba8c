"""What examples and known shares are worth: `python tests/bench/heads.py DIR`, on pictures no model was trained on.

DIR/val holds Parquet files of labelled pictures, DIR/photos one folder of pictures a label. Examples are drawn at
random, as many of each label, several times; all other pictures are answered by words alone and by what `zsclip learn`
makes of them. Then come the gains of some corrections: of the wrong answers with the highest scores among half of the
pictures, of wrong answers at random, and of pictures at random, right ones included. Then come the gains of `--expect
balanced` on all pictures, and of `--expect few` on those of some labels; last those of `--transductive` on all
pictures, and on those of some labels. Vectors are kept in the store, so a second run takes seconds.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier, build_classifier
from zsclip.answers.classify import decisive
from zsclip.answers.scores import Matrix, softmax_scores
from zsclip.answers.second_pass import informed
from zsclip.answers.shares import corrected
from zsclip.engine.options import Computing
from zsclip.engine.run import embedding, opened_store
from zsclip.measure.evaluate import found_labels, truths_of
from zsclip.measure.labelled import read_labelled
from zsclip.measure.learn import learn
from zsclip.measure.learnt import Method
from zsclip.models.embed import Embedded
from zsclip.models.encoder import Encoder
from zsclip.words.prompts import read_prompts
from zsclip.words.words import expand

DRAWS = 5
COUNTS = (1, 4, 16)
CORRECTIONS = 20
FEW = (2, 5, 25)  # labels that occur
MANY = 10_000  # examples, for the time that learning takes
FOLDER = 100_000  # pictures, for the time that a second pass takes

Answering = Callable[[Classifier, list[Embedded]], Classifier]  # with all pictures in mind


@dataclass(frozen=True, eq=False)
class Set:
    """N labelled pictures, encoded. vectors: (N, D) float32. truth: (N,) indices of labels. words: the text matrix."""

    name: str
    vectors: Matrix
    truth: NDArray[np.int64]
    words: Classifier


def read_set(path: Path, encoder: Encoder, computing: Computing) -> Set:
    """Encode the pictures of a Parquet file or of class folders."""
    labelled = read_labelled(str(path))
    labels = found_labels(labelled.vocabulary, meanings=labelled.meanings)
    words = expand(labels, read_prompts("photo"))
    places = {label: place for place, label in enumerate(words.names)}
    truths = [places[label] for label in truths_of(labelled.words, labels, labelled.meanings)]
    classifier = build_classifier(words, encoder)
    with (
        opened_store(encoder, computing, is_wanted=True) as store,
        embedding([labelled.pictures], encoder, store, computing) as batches,
    ):
        vectors = np.concatenate([batch.vectors for batch in batches])
    assert len(vectors) == len(truths)
    return Set(path.stem, vectors, np.array(truths, np.int64), classifier)


def drawn(truth: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Draw as many examples of each label."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(truth == label))[:count] for label in np.unique(truth)])


def confident_mistakes(some: Set, seed: int) -> NDArray[np.int64]:
    """Choose what people correct who look at the wrong answers with the highest scores, in half of the pictures."""
    half = np.random.default_rng(seed).permutation(len(some.truth))[: len(some.truth) // 2]
    chances = softmax_scores(decisive(some.vectors[half], some.words), some.words.logit_scale)
    wrong = np.flatnonzero(chances.argmax(axis=1) != some.truth[half])
    chosen: NDArray[np.int64] = half[wrong[np.argsort(-chances[wrong].max(axis=1), kind="stable")]][:CORRECTIONS]
    return chosen


def mistakes(some: Set, seed: int) -> NDArray[np.int64]:
    """Draw wrong answers."""
    wrong = np.flatnonzero(decisive(some.vectors, some.words).argmax(axis=1) != some.truth)
    return np.random.default_rng(seed).permutation(wrong)[:CORRECTIONS]


def any_pictures(some: Set, seed: int) -> NDArray[np.int64]:
    """Draw pictures."""
    return np.random.default_rng(seed).permutation(len(some.truth))[:CORRECTIONS]


KINDS = {"confident mistakes": confident_mistakes, "mistakes": mistakes, "any": any_pictures}


def mislabelled(truth: NDArray[np.int64], labels: int, share: float, seed: int) -> NDArray[np.int64]:
    """Give a share of the examples another label."""
    random = np.random.default_rng(seed)
    wrong = random.permutation(len(truth))[: round(share * len(truth))]
    changed = truth.copy()
    changed[wrong] = (changed[wrong] + random.integers(1, labels, len(wrong))) % labels
    return changed


def measured(
    some: Set, draw: Callable[[int], NDArray[np.int64]], method: Method, wrong: float
) -> Iterator[tuple[float, float, bool]]:
    """Yield for each draw top-1 by words and by the head, and whether that goes by words alone."""
    labels = len(some.words.labels)
    for seed in range(DRAWS):
        examples = draw(seed)
        rest = np.setdiff1d(np.arange(len(some.truth)), examples)
        given = mislabelled(some.truth[examples], labels, wrong, seed)
        learnt = learn(some.vectors[examples], given, some.words, [True] * labels, method)
        right = [
            float((decisive(some.vectors[rest], each).argmax(axis=1) == some.truth[rest]).mean())
            for each in (some.words, learnt.classifier(some.words.labels))
        ]
        yield right[0], right[1], learnt.is_words_alone


def cells(some: Set, counts: Sequence[int], method: Method, wrong: float) -> Iterator[str]:
    """Yield the gains over words with each number of examples, a dash if there are too few; then of corrections."""
    for count in counts:
        if np.bincount(some.truth).min() <= count:
            yield "-"
        else:
            yield cell(measured(some, partial(drawn, some.truth, count), method, wrong))
    for draw in KINDS.values():
        yield cell(measured(some, partial(draw, some), method, wrong))


def cell(measured: Iterable[tuple[float, float, bool]]) -> str:
    """Format the mean gain, its range, and how often words alone answer."""
    found = list(measured)
    gains = [100 * (after - before) for before, after, _ in found]
    alone = sum(is_alone for *_, is_alone in found)
    return f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" + (f" [words {alone}]" if alone else "")


def expected(some: Set) -> Iterator[str]:
    """Yield the gains of --expect: balanced on the whole set, then few on the pictures of some labels."""
    labels = len(some.words.labels)
    equal = np.full(labels, 1 / labels)
    yield f"{gain(some, np.arange(len(some.truth)), lambda words, batches: corrected(words, batches, equal)):+.1f}"
    yield from with_few(some, lambda words, batches: corrected(words, batches, None))


def informing(some: Set) -> Iterator[str]:
    """Yield the gains of --transductive: on the whole set, then on the pictures of some labels."""
    yield f"{gain(some, np.arange(len(some.truth)), informed):+.1f}"
    yield from with_few(some, informed)


def with_few(some: Set, answering: Answering) -> Iterator[str]:
    """Yield the gains on the pictures of some labels, while all are offered."""
    labels = len(some.words.labels)
    for few in FEW:
        if few >= labels:
            yield "-"
            continue
        chosen = [np.random.default_rng(seed).permutation(labels)[:few] for seed in range(DRAWS)]
        gains = [gain(some, np.flatnonzero(np.isin(some.truth, each)), answering) for each in chosen]
        yield f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})"


def gain(some: Set, rows: NDArray[np.int64], answering: Answering) -> float:
    """Give the gain over words on some of the pictures, in points."""
    vectors = some.vectors[rows]
    classifiers = (some.words, answering(some.words, [embedded(vectors)]))
    before, after = (float((decisive(vectors, each).argmax(axis=1) == some.truth[rows]).mean()) for each in classifiers)
    return 100 * (after - before)


def embedded(vectors: Matrix) -> Embedded:
    """Give pictures as one batch."""
    return Embedded([""] * len(vectors), np.arange(len(vectors), dtype=np.int32), vectors, {})


def many(some: Set, pictures: int) -> tuple[Matrix, NDArray[np.int64]]:
    """Draw pictures of a set, with some noise, so that no two are the same; and give their rows."""
    random = np.random.default_rng(0)
    rows = random.integers(0, len(some.truth), pictures)
    noisy = some.vectors[rows] + random.normal(0, 0.01, (pictures, some.vectors.shape[1])).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    return noisy, rows


def seconds_to_inform(some: Set) -> float:
    """Time the second pass over many pictures."""
    batches = [embedded(many(some, FOLDER)[0])]
    begun = time.perf_counter()
    informed(some.words, batches)
    return time.perf_counter() - begun


def seconds_to_learn(some: Set, method: Method) -> float:
    """Time learning from many examples."""
    noisy, rows = many(some, MANY)
    begun = time.perf_counter()
    learn(noisy, some.truth[rows], some.words, [True] * len(some.words.labels), method)
    return time.perf_counter() - begun


def main() -> None:
    """Print the table of gains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--method", default="gaussian", choices=["gaussian", "logistic"])
    parser.add_argument("--wrong", type=float, default=0.0, help="share of the examples that have a wrong label")
    arguments = parser.parse_args()
    computing = Computing()
    encoder = computing.encoder(arguments.model, True)
    paths = [*sorted((arguments.data / "val").glob("*.parquet")), arguments.data / "photos"]
    print(
        "| set | labels | words |"
        + "".join(f" +{count} |" for count in COUNTS)
        + "".join(f" {CORRECTIONS} {kind} |" for kind in KINDS)
        + " balanced |"
        + "".join(f" few: {count} |" for count in FEW)
        + " transductive |"
        + "".join(f" {count} labels |" for count in FEW)
    )
    print("|---" * (5 + len(COUNTS) + len(KINDS) + 2 * len(FEW)) + "|")
    for path in paths:
        some = read_set(path, encoder, computing)
        words = float((decisive(some.vectors, some.words).argmax(axis=1) == some.truth).mean())
        row = [some.name, str(len(some.words.labels)), f"{words:.1%}"]
        row += [*cells(some, COUNTS, arguments.method, arguments.wrong), *expected(some), *informing(some)]
        print("| " + " | ".join(row) + " |", flush=True)
        if some.name.startswith("cifar100"):
            print(f"{MANY:,} examples of {row[1]} labels: {seconds_to_learn(some, arguments.method):.2f} s", flush=True)
            print(f"a second pass over {FOLDER:,} images: {seconds_to_inform(some):.1f} s", flush=True)


if __name__ == "__main__":
    main()
