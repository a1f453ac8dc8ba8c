"""A thousand images get the same rows from every container, wherever it lies."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import KINDS, LABELS, Run, numbers_of, rows_of, write
from PIL import Image
from servers import serving
from test_s3 import serving_s3, upload

pytest.importorskip("aiohttp")

COUNT = 1000
ARCHIVES = KINDS[:5]
WAYS = [
    *KINDS,
    *(f"http {kind}" for kind in (*ARCHIVES, "a.csv")),
    *(f"s3 {kind}" for kind in (*ARCHIVES, "album", "*")),
]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an album, everything that may hold it, and a bucket with the same."""
    root, chance = tmp_path_factory.mktemp("thousand"), np.random.default_rng(0)
    (root / "album").mkdir()
    album: list[tuple[str, bytes]] = []
    for number in range(COUNT):
        file, size = io.BytesIO(), tuple(int(side) for side in chance.integers(20, 90, 2))
        picture = Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size)
        picture.save(file, ("PNG", "JPEG", "WEBP")[number % 3])
        data = file.getvalue()
        album.append((f"{number:04}.{('png', 'jpg', 'webp')[number % 3]}", data[:50] if number % 97 == 5 else data))
        (root / "album" / album[-1][0]).write_bytes(album[-1][1])
    for kind in KINDS:
        write(root / kind, album, "album")
    with serving_s3() as files:
        upload(root, files)
        yield root


@pytest.fixture(scope="module")
def expected() -> dict[str, list[dict[str, Any]]]:
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_rows_are_those_of_the_folder(
    way: str, thousand: Path, run: Run, model: str, expected: dict[str, list[dict[str, Any]]]
) -> None:
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "--no-store", "-q", "-k", "5")
    if not expected:
        expected["folder"] = rows_of(run(*command, f"{thousand}/album"))
    place, _, kind = way.rpartition(" ")
    column = ("--column", "path") if kind == "paths.parquet" else ()

    with serving(thousand) as server:
        root = {"http": server.url, "s3": "s3://bucket", "": str(thousand)}[place]
        done = run(*command, f"{root}/album/*" if kind == "*" else f"{root}/{kind}", *column)

    found = rows_of(done)
    assert len(found) == COUNT
    assert sum(row["error"] is not None for row in found) == len(range(5, COUNT, 97))
    for number, (row, same) in enumerate(zip(found, expected["folder"], strict=True)):
        assert row["file_name"] == name_of(same["file_name"], root, kind, number, str(thousand))
        assert {key: row[key] for key in ("label", "error", "message")} == {
            key: same[key] for key in ("label", "error", "message")
        }
        assert numbers_of(row) == numbers_of(same)  # in the same order, all batches have the same shape


def name_of(path: str, root: str, kind: str, number: int, local: str) -> str:
    """The name of a row, from that of the same image in the folder."""
    if kind in ("struct.parquet", "binary.parquet"):
        return f"{root}/{kind}#{number}"
    if kind in ARCHIVES:
        return f"{root}/{kind}#{path.rpartition('/')[2]}"
    return path.replace(local, root)
