"""Scores of each label by itself, through the command line: every label that applies counts, not the best alone."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from conftest import make_class_folders

from zsclip.answers.answers import Prediction
from zsclip.api import Classifier

Run = Callable[..., CompletedProcess[bytes]]
LABELS = ("red", "green", "blue", "owl")


@pytest.fixture
def common(tmp_path: Path, tiny_model: Callable[[str], Path]) -> tuple[str, ...]:
    """Arguments with which some pictures have several labels, some have one and some none."""
    make_class_folders(tmp_path / "pictures", ("a", "b"), 12)
    (tmp_path / "pictures" / "a" / "3.png").write_bytes(b"no")
    model = f"local-dir:{tiny_model('plain')}"
    return ("classify", "pictures", "-l", ",".join(LABELS), "--model", model, "--multi-label")


@pytest.fixture
def threshold(run: Run, common: tuple[str, ...]) -> str:
    """A score that a third of all scores reach."""
    rows = rows_of(run(*common, "--threshold", "0", "-q"))
    scores = sorted(one["score"] for row in rows for one in row["predictions"])
    return str(scores[len(scores) * 2 // 3])


def rows_of(done: CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("k", [(), ("-k", "1")])
def test_only_goes_by_every_label_that_applies(run: Run, common: tuple[str, ...], threshold: str, k) -> None:
    common += ("--threshold", threshold)
    rows = rows_of(run(*common, "-q"))
    applying = {row["file_name"]: [one["label"] for one in row["predictions"]] for row in rows if not row["error"]}
    assert {len(labels) for labels in applying.values()} >= {0, 1, 2}

    for label in LABELS:
        found = run(*common, *k, "--only", label, "-f", "paths", "-q").stdout.decode().splitlines()
        assert found == [name for name, labels in applying.items() if label in labels]
    unknown = run(*common, *k, "--only", "unknown", "--only", "owl", "-f", "paths", "-q").stdout.decode().splitlines()
    assert unknown == [name for name, labels in applying.items() if not labels or "owl" in labels]


def test_the_summary_counts_every_label_that_applies(run: Run, common: tuple[str, ...], threshold: str) -> None:
    done = run(*common, "--threshold", threshold, "-k", "1")

    rows = rows_of(run(*common, "--threshold", threshold, "-q"))
    first, counts, *_ = done.stderr.decode().splitlines()
    assert first.startswith("24 images")
    expected = {label: sum(label in [one["label"] for one in row["predictions"]] for row in rows) for label in LABELS}
    expected["unknown"] = sum(row["label"] is None and not row["error"] for row in rows)
    assert dict(part.rsplit(" ", 1) for part in counts.split(", ")) == {
        label: str(count) for label, count in expected.items() if count
    }
    assert sum(expected.values()) > 24


def test_python_gives_every_label_that_applies(run: Run, common: tuple[str, ...], threshold: str, tmp_path) -> None:
    rows = rows_of(run(*common, "--threshold", threshold, "-q"))
    model = common[common.index("--model") + 1]

    classify = Classifier(LABELS, model=model, multi_label=True, threshold=float(threshold), top_k=1)
    answers = classify(tmp_path / row["file_name"] for row in rows)

    given = [list(row.labels) if isinstance(row, Prediction) else [] for row in answers]
    assert [sorted(labels) for labels in given] == [sorted(one["label"] for one in row["predictions"]) for row in rows]
    assert [labels[:1] for labels in given] == [[row["label"]] if row["label"] else [] for row in rows]
    assert {len(row.predictions) for row in answers} == {0, 1}


def test_a_table_names_what_won_where_no_label_is_the_answer(run: Run, common: tuple[str, ...]) -> None:
    alone = (*common[:-1], "--none-of-these")

    rows = rows_of(run(*alone, "-q"))
    lines = run(*alone, "-f", "table", "-q").stdout.decode().splitlines()

    beaten = [row for row in rows if row["beaten_by"]]
    assert beaten
    named = [line.partition("unknown (")[2].removesuffix("won)").strip() for line in lines]
    assert [name for name in named if name] == [row["beaten_by"] for row in beaten]
