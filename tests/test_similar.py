"""Groups of pictures that are nearly the same."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsclip.answers.similar import groups_of, similar


def slow_groups(vectors: np.ndarray, least: float) -> list[list[int]]:
    """One picture after the other, each compared with the first ones of all groups."""
    groups: list[list[int]] = []
    for place, vector in enumerate(vectors):
        cosines = (vectors[[group[0] for group in groups]] @ vector).tolist() if groups else []
        if cosines and max(cosines) >= least:
            groups[cosines.index(max(cosines))].append(place)
        else:
            groups.append([place])
    return [group for group in groups if len(group) > 1]


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1100])
def test_groups_are_those_of_comparing_one_by_one(count: int) -> None:
    random = np.random.default_rng(count)
    centres = random.normal(size=(40, 16))
    vectors = centres[random.integers(0, 40, count)] + 0.2 * random.normal(size=(count, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    for least in (0.5, 0.9, 0.97):
        assert groups_of(vectors, least) == slow_groups(vectors, least)


def test_the_first_stands_for_its_group_and_the_others_follow_by_cosine() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)

    (found,) = similar(["a", "b", "c"], vectors, [[2, 0, 1]])

    assert found.names == ["c", "b", "a"]
    assert found.labels == ["c"] * 3
    assert np.allclose(found.scores[:, 0], [1, 0.96, 0.6])


def test_copies_are_found_and_the_largest_comes_first(
    run: Callable[..., subprocess.CompletedProcess[bytes]], model: str, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for name, side in (("a small", 64), ("b large", 256), ("c middle", 128)):
        noise.resize((side, side), Image.Resampling.NEAREST).save(tmp_path / f"photos/{name}.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos/other.png")
    (tmp_path / "photos/bad.png").write_bytes(b"bad")

    done = run("similar", "photos", "-m", model, "--threshold", "0.99")

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1  # bad.png
    assert rows[0]["file_name"] == "photos/b large.png"
    assert {row["file_name"] for row in rows} == {f"photos/{name}.png" for name in ("a small", "b large", "c middle")}
    assert {row["label"] for row in rows} == {"photos/b large.png"}
    assert b"zsclip: 1 group of similar images\n" in done.stderr
