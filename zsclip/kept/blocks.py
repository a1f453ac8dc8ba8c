"""Blocks: copies of the embeddings of pictures that are looked up together, each block in one row of the store.

A folder is looked up in the same groups of pictures every time, and one row of 512 vectors takes a tenth of the time
of 512 rows. A block has the digest of all its keys as its name: if one picture has changed, there is no such block, and
the embeddings themselves are read. If an embedding is deleted or replaced, SQLite deletes the blocks of its model.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.kept.checksums import check_sums
from zsclip.pictures.identity import content_of

FEWEST = 16  # a block of fewer pictures would not save time

# A picture of the group stands for all: `embedding` is the last one's, as a run with --limit uses the first ones. The
# vectors come last, as SQLite reads a row from its beginning.
TABLE = (
    "blocks (id INTEGER PRIMARY KEY, model INTEGER, first BLOB, last BLOB, name BLOB, embedding INTEGER,"
    " max_pixels INTEGER, ids BLOB, sums BLOB, vectors BLOB, UNIQUE (model, first, last))"
)
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS {TABLE};
CREATE TRIGGER IF NOT EXISTS blocks_after_delete AFTER DELETE ON embeddings
    BEGIN DELETE FROM blocks WHERE model = OLD.model; END;
CREATE TRIGGER IF NOT EXISTS blocks_after_update AFTER UPDATE OF vector ON embeddings
    BEGIN DELETE FROM blocks WHERE model = OLD.model; END;
"""
# Values: today, the model, the first key, the name, and the limit of pixels.
FIND = (
    "SELECT b.max_pixels, b.ids, b.sums, b.vectors, u.day IS ? FROM blocks b LEFT JOIN uses u"
    " ON u.embedding = b.embedding WHERE b.model = ? AND b.first = ? AND b.name = ? AND b.max_pixels <= ?"
)
_ALL = (
    "SELECT b.id, m.recipe, b.name, b.max_pixels, b.ids, b.sums, b.vectors FROM blocks b"
    " LEFT JOIN models m ON m.id = b.model"
)


@dataclass(frozen=True, eq=False)
class Block:
    """Embeddings to copy.

    keys: n, ascending. ids: (n,) int64, their rows. vectors: (n, D) float32, rows of length 1.
    """

    keys: Sequence[bytes]
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]


def name_of(keys: Sequence[bytes]) -> bytes:
    """Give the name of the block that has exactly these keys."""
    return content_of(np.array(list(map(len, keys)), "<u4").tobytes() + b"".join(keys))


def unpacked(
    recipe: str, name: bytes, max_pixels: Any, ids: Any, sums: Any, vectors: Any
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Give the (n,) ids and (n, D) vectors of a block; None if it is damaged, whatever its cells are."""
    try:
        numbers = np.frombuffer(ids, "<i8")
        matrix = np.frombuffer(vectors, "<f4").reshape(len(numbers), -1)
        is_whole = np.array_equal(_sums(recipe, name, max_pixels, ids, matrix), np.frombuffer(sums, "<u8"))
    except (TypeError, ValueError):  # something else than bytes, or more or fewer of them
        return None
    return (numbers, matrix) if is_whole else None


def put(connection: sqlite3.Connection, model: int, recipe: str, block: Block, max_pixels: int) -> None:
    """Keep a block in place of those that have a picture of its range: they are of an earlier state of a folder."""
    first, last, name = block.keys[0], block.keys[-1], name_of(block.keys)
    ids, vectors = block.ids.astype("<i8").tobytes(), block.vectors.astype("<f4", copy=False)
    sums = _sums(recipe, name, max_pixels, ids, vectors).astype("<u8").tobytes()
    connection.execute("DELETE FROM blocks WHERE model = ? AND first <= ? AND last >= ?", (model, last, first))
    connection.execute(
        "INSERT INTO blocks (model, first, last, name, embedding, max_pixels, ids, sums, vectors)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (model, first, last, name, int(block.ids[-1]), max_pixels, ids, sums, vectors.tobytes()),
    )


def damaged(connection: sqlite3.Connection) -> Iterator[int]:
    """Yield the rows of damaged blocks."""
    for number, recipe, name, *cells in connection.execute(_ALL):
        if not (isinstance(recipe, str) and isinstance(name, bytes) and unpacked(recipe, name, *cells)):
            yield number


def _sums(recipe: str, name: bytes, max_pixels: Any, ids: bytes, vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Compute a checksum of each vector with all else that a block holds; (n,) uint64."""
    return check_sums(recipe, [content_of(b"%b%b%r" % (name, ids, max_pixels))] * len(vectors), vectors)
