"""Records of single pictures -> columns, and the slow writer of JSON lines that the fast one equals."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

import numpy as np

from zsclip.answers.answers import Answers, Candidate, Prediction, Row
from zsclip.models.embed import Embedded
from zsclip.out.text import six_digits, without_surrogates
from zsclip.pixels.skipped import Skipped


def columns(rows: Sequence[Row], labels: Sequence[str] = ()) -> Answers:
    """The answers that have these rows; all of one kind of score.

    labels: the first of those that were answered with; what else the rows name comes after them.
    """
    good = [row for row in rows if isinstance(row, Prediction)]
    named = [each.label for row in good for each in (row.best, *row.predictions)]
    named += [row.first_label for row in good if row.first_label is not None]
    labels = list(dict.fromkeys([*labels, *named, *(row.truth for row in rows if row.truth is not None), "no label"]))
    rivals = list(dict.fromkeys(row.beaten_by for row in good if row.beaten_by is not None))
    (kind,) = {row.score_kind for row in good} or {"softmax"}
    k = max([1, *(len(row.predictions) for row in good)])
    shape = (len(rows), k)
    classes = np.full(shape, len(labels) - 1, np.int32)  # the last label applies to none of the rows
    scores, cosines = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    applies = np.zeros((len(rows), len(labels)), bool)
    answered, beaten_by = np.full(len(rows), -1, np.int32), np.full(len(rows), -1)
    for i, row in enumerate(rows):
        if isinstance(row, Skipped):
            continue
        assert not row.predictions or row.predictions[0] == row.best
        for rank, each in enumerate(row.predictions or (row.best,)):
            classes[i, rank] = labels.index(each.label)
            scores[i, rank], cosines[i, rank] = each.score, each.cosine
            applies[i, labels.index(each.label)] = bool(row.predictions)
        answered[i] = -1 if row.label is None else labels.index(row.label)
        beaten_by[i] = -1 if row.beaten_by is None else rivals.index(row.beaten_by)
    twice = any(row.first_score is not None for row in good)
    firsts = [row.first_label if isinstance(row, Prediction) else None for row in rows]
    first_scores = [row.first_score if isinstance(row, Prediction) else np.nan for row in rows]
    true = [labels.index(row.truth) for row in rows if row.truth is not None]
    assert len(true) in (0, len(rows))
    return Answers(
        names=[row.file_name for row in rows],
        vocabulary=tuple(labels),
        classes=classes,
        scores=scores,
        cosines=cosines,
        answered=answered,
        score_kind=kind,
        applies=None if all(len(row.predictions) == k for row in good) else applies,
        skipped={i: row for i, row in enumerate(rows) if isinstance(row, Skipped)},
        distractors=tuple(rivals),
        beaten_by=beaten_by.astype(np.int32) if rivals else None,
        truth=np.array(true, np.int32) if true else None,
        first_answered=np.array([-1 if n is None else labels.index(n) for n in firsts], np.int32) if twice else None,
        first_scores=np.array(first_scores, np.float32) if twice else None,
    )


def encoded(names: Sequence[str | Skipped], vectors: "np.ndarray") -> Embedded:
    """A batch of pictures whose vectors are known, but for those that were skipped."""
    skipped = {i: name for i, name in enumerate(names) if isinstance(name, Skipped)}
    places = np.array([i for i in range(len(names)) if i not in skipped], np.int32)
    return Embedded([n.file_name if isinstance(n, Skipped) else n for n in names], places, vectors, skipped)


def write_jsonl_slowly(batches: Iterable[Answers], out: TextIO) -> None:
    """One record a picture, each written by Python's own encoder."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for answers in batches:
        for row in answers.rows():
            line = encode(_record(row, answers.first_answered is not None))
            out.write(re.sub("[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", line) + "\n")


def _record(row: Row, twice: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"file_name": os.fsencode(row.file_name).decode(errors="surrogateescape")}
    if row.truth is not None:
        record["truth"] = without_surrogates(row.truth)
    if isinstance(row, Skipped):
        return record | {
            "label": None,
            "score": None,
            "cosine": None,
            "score_kind": None,
            "predictions": [],
            "beaten_by": None,
            **(dict.fromkeys(("first_label", "first_score")) if twice else {}),
            "error": row.error,
            "message": without_surrogates(row.message),
        }
    best = _candidate(row.best)
    first_label = None if row.first_label is None else without_surrogates(row.first_label)
    first_score = None if row.first_score is None else six_digits(row.first_score)
    return record | {
        "label": None if row.label is None else without_surrogates(row.label),
        "score": best["score"],
        "cosine": best["cosine"],
        "score_kind": row.score_kind,
        "predictions": [best if each is row.best else _candidate(each) for each in row.predictions],
        "beaten_by": None if row.beaten_by is None else without_surrogates(row.beaten_by),
        **({"first_label": first_label, "first_score": first_score} if twice else {}),
        "error": None,
        "message": None,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "label": without_surrogates(candidate.label),
        "score": six_digits(candidate.score),
        "cosine": six_digits(candidate.cosine),
    }
