"""One text query over stored pictures: `zsclip search`, against what reads the same vectors without us.

    python tests/bench/queries.py            # 100,000 files
    ROWS=1000000 FILES=no python ...         # a million rows without files: 5 GB, none of it kept

Theirs are numpy over a saved `.npy`, and one SELECT over a plain SQLite table; both know the query's vector, and
neither looks whether a picture has changed. Whole processes are timed, in turn, medians of `RUNS` (5).
"""

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from zsclip.answers.search import search
from zsclip.engine.options import Computing
from zsclip.kept.blocks import Block
from zsclip.kept.store import EmbeddingStore, Stored
from zsclip.models.embed import Embedded
from zsclip.pictures.files import find_images
from zsclip.pictures.identity import GRAIN_NS, Sight, content_of
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

ROWS, RUNS = int(os.environ.get("ROWS", "100000")), int(os.environ.get("RUNS", "5"))
GROUP = 512  # pictures that are looked up together
MODEL = ("--model", "tiny", "--device", "cpu", "--precision", "fp32")


def main() -> None:
    """Make the store and what the others read, and print the table."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        os.environ["ZSCLIP_CACHE_DIR"] = str(folder / "cache")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled once, not at every start
        has_files = os.environ.get("FILES") != "no"
        vectors = made_vectors()
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "query.npy", vectors[:1])
        if has_files:
            store_files(folder, vectors)
            ours = [sys.executable, "-m", "zsclip", "search", "a dog", "--in", str(folder / "pictures"), *MODEL, "-q"]
        else:
            store_blocks(vectors)
            ours = [sys.executable, __file__, "rows", str(folder)]
        write_table(folder / "plain.sqlite", vectors)
        del vectors
        work = f"a query over {ROWS:,} stored {'pictures' if has_files else 'rows, no files'}"
        print(f"| work | against | theirs | ours | ratio | runs |\n|{'---|' * 6}", flush=True)
        for peer, script in (("numpy over a saved .npy", _NUMPY), ("SELECT over a plain SQLite table", _SQLITE)):
            theirs = [sys.executable, "-c", script, root]
            whole(theirs), whole(ours)  # the store keeps its blocks, and all is in the page cache
            pairs = [(whole(theirs), whole(ours)) for _ in range(RUNS)]
            one, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"| {work} | {peer} | {one:.3g} s | {other:.3g} s | {one / other:.3g}x | {RUNS} |", flush=True)


def whole(command: Sequence[str]) -> float:
    """Seconds of a whole process."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def made_vectors() -> np.ndarray:
    """Draw (ROWS, D) float32 of length 1."""
    vectors = np.random.default_rng(0).standard_normal((ROWS, opened().dim), np.float32)
    for start in range(0, ROWS, GROUP):
        vectors[start : start + GROUP] /= np.linalg.norm(vectors[start : start + GROUP], axis=1, keepdims=True)
    return vectors


class opened(EmbeddingStore):
    """The store of the bundled model, as the command opens it."""

    def __init__(self) -> None:
        encoder = Computing(device="cpu", precision="fp32").encoder("tiny", True)
        self.dim = encoder.embed_dim
        super().__init__(encoder.image_recipe(False), "bench", self.dim, max_pixels=DEFAULT_MAX_PIXELS)


def store_files(folder: Path, vectors: np.ndarray) -> None:
    """Write files, and keep a vector for each."""
    (folder / "pictures").mkdir()
    data = [b"P6 1 1 255 %07d" % number for number in range(ROWS)]
    for number, each in enumerate(data):
        (folder / "pictures" / f"{number:07}.ppm").write_bytes(each)
    time.sleep(GRAIN_NS / 1e9 + 0.1)  # a file that was just written has no key
    with closing(opened()) as store:
        number = 0
        for some in find_images([str(folder / "pictures")]).rest():
            keys = some.keys(0, len(some)) or ()
            sights = [Sight(str(name), content_of(data[number + i]), keys[i]) for i, name in enumerate(some.names)]
            store.keep(zip(sights, vectors[number : number + len(sights)], strict=True))
            number += len(sights)


def groups() -> Iterator[tuple[list[str], list[bytes]]]:
    """Yield names and keys of pictures that do not exist."""
    for start in range(0, ROWS, GROUP):
        names = [f"/photographs/of/somebody/{number:09}.jpg" for number in range(start, min(start + GROUP, ROWS))]
        yield names, [name.encode() + bytes(33) for name in names]


def store_blocks(vectors: np.ndarray) -> None:
    """Keep vectors as they are after the second run."""
    with closing(opened()) as store:
        for number, (names, keys) in enumerate(groups()):
            some = vectors[number * GROUP :][: len(names)]
            ids = np.full(len(names), -1)  # they are not used again today
            store.keep([], [Stored(names, range(len(names)), some, ids, block=Block(keys, abs(ids), some))])


def search_rows(folder: Path) -> None:
    """Search all rows, and print the best."""

    def batches(store: EmbeddingStore) -> Iterator[Embedded]:
        for names, keys in groups():
            found = store.find(names, keys)
            assert len(found) == len(names)
            yield Embedded(names, np.arange(len(names), dtype=np.int32), found.vectors, {})

    with closing(opened()) as store:
        (best,) = search(batches(store), np.load(folder / "query.npy"), ["query"], most=20)
    print(best.names)


def write_table(path: Path, vectors: np.ndarray) -> None:
    """Write what a user without us would: a table of names and vectors."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE pictures (name TEXT, vector BLOB)")
        connection.executemany(
            "INSERT INTO pictures VALUES (?, ?)", ((f"{i:07}.ppm", row.tobytes()) for i, row in enumerate(vectors))
        )


_BEST = """
cosines = vectors @ np.load(f"{sys.argv[1]}/query.npy")[0]
print(np.argsort(-cosines, kind="stable")[:20])
"""
_NUMPY = f"""
import sys
import numpy as np
vectors = np.load(f"{{sys.argv[1]}}/vectors.npy")
{_BEST}"""
_SQLITE = f"""
import sqlite3, sys
import numpy as np
rows = sqlite3.connect(f"{{sys.argv[1]}}/plain.sqlite").execute("SELECT name, vector FROM pictures").fetchall()
vectors = np.frombuffer(b"".join(row[1] for row in rows), np.float32).reshape(len(rows), -1)
{_BEST}"""

if __name__ == "__main__":
    if sys.argv[1:2] == ["rows"]:
        search_rows(Path(sys.argv[2]))
    else:
        main()
