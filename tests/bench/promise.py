"""Counts how often `calibrate` breaks its promise: draw labelled data, calibrate, and look at many new pictures.

    python tests/bench/promise.py [DRAWS]

Each world has its own labels and its own noise. It promises 95% certainty, so up to 5% of the draws may break it. In
36 worlds with 60 draws each, no chosen threshold did, and fewer than 1% of the tables had a row that did: 20 rows
share the doubt as if each were chosen by itself.
"""

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.scores import softmax_scores
from zsclip.measure.calibrate import Learnt, Target, learn

LOGIT_SCALE = 100.0
NEW = 20_000  # pictures, which a world's true precision is measured on


def pictures(
    random: np.random.Generator, count: int, labels: int, gap: float, distractors: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw pictures of one world: (N, C + K) cosines, and (N,) indices of the true labels."""
    similar = random.normal(0.15, 0.03, (count, labels + distractors))
    truth = random.integers(0, labels, count)
    similar[np.arange(count), truth] += random.normal(gap, 0.04, count)  # some are hard, some easy
    return similar.astype(np.float32), truth


def broken(learnt: Learnt, similar: NDArray[np.float32], truth: NDArray[np.int64], labels: int) -> tuple[bool, bool]:
    """Return whether the chosen threshold, and any row of the table, has a lower precision on new pictures."""
    scale = LOGIT_SCALE / (learnt.temperature.value if learnt.temperature.helps else 1)
    predicted = similar[:, :labels].argmax(axis=1)
    best = softmax_scores(similar, scale)[np.arange(len(truth)), predicted].astype(np.float64)
    best[similar.argmax(axis=1) >= labels] = -1
    right = predicted == truth

    def is_short(threshold: float, promised: float) -> bool:
        given = (best >= 0) & (best >= threshold)
        return bool(given.any()) and float(right[given].mean()) < promised

    target = learnt.target.precision or 0.0
    return (
        any(is_short(each.value, target) for each in learnt.chosen),
        any(is_short(each.value, each.at_least) for each in learnt.table),
    )


def worlds() -> Iterator[tuple[int, int, float, int, float]]:
    """Yield how many pictures are labelled, the labels, how easy they are, the distractors, and the target."""
    for count in (50, 200, 1000):
        for labels, gap, distractors in ((2, 0.05, 0), (10, 0.10, 0), (10, 0.10, 20), (100, 0.12, 0)):
            for target in (0.8, 0.9, 0.95):
                yield count, labels, gap, distractors, target


def main(draws: int) -> None:
    """Print one line for each world."""
    random = np.random.default_rng(0)
    print("pictures labels distractors target | promised  chosen broken  table broken")
    totals = np.zeros(3, int)
    for count, labels, gap, distractors, target in worlds():
        new = pictures(random, NEW, labels, gap, distractors)
        found = np.zeros(3, int)
        for _ in range(draws):
            some = pictures(random, count, labels, gap, distractors)
            learnt = learn(*some, [str(label) for label in range(labels)], LOGIT_SCALE, Target(precision=target))
            is_promised = bool(np.isfinite(learnt.chosen[0].value))
            chosen, table = broken(learnt, *new, labels)
            found += (is_promised, is_promised and chosen, table)
        totals += found
        print(
            f"{count:8} {labels:6} {distractors:11} {target:6} | {found[0]:8} {found[1]:14} {found[2]:13}", flush=True
        )
    promised, chosen_broken, table_broken = totals.tolist()
    of_all = draws * len(list(worlds()))
    print(f"chosen: {chosen_broken} of {promised} broken; tables: {table_broken} of {of_all} broken")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
