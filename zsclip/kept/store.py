"""Image embeddings by content and model, in SQLite, so that every picture is encoded only once. No torch, no decoding.

A picture is identified by its content. A key shows that a picture has not changed since it was last read, so that it
need not be read again. A store that is damaged, full, read-only or in use costs time, never an answer.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.kept import blocks, sqlite
from zsclip.kept.blocks import Block
from zsclip.kept.checksums import CONTENT_BYTES, DIGEST_BYTES, are_whole, check_sums
from zsclip.kept.storefile import (
    MAX_BYTES,
    clear,
    forget,
    open_for_reading,
    open_for_writing,
    path,
    shorten_log,
    used_bytes,
)
from zsclip.pictures.identity import LARGEST, Sight

_MAX_REFUSALS = 5  # failed tries on a locked store; each may take as long as the lock's time-out
_KEPT_SHARE = 0.9  # share of the limit that remains after eviction
_SPARSE = 2  # if a range of keys holds this many times the wanted ones, each is looked up instead of scanning it

# A key is valid only for the content it was stored with; if its embedding was replaced since, the digest no longer
# matches. CROSS JOIN fixes the order, as SQLite would begin with all embeddings.
_BY_KEY = (
    "SELECT s.content, e.vector, e.digest, CASE WHEN u.day = ? THEN -e.id ELSE e.id END, s.key"
    " FROM seen s CROSS JOIN embeddings e ON e.id = s.embedding AND e.max_pixels <= ?"
    " LEFT JOIN uses u ON u.embedding = e.id WHERE s.model = ? AND s.key "
)
_BY_CONTENT = (
    "SELECT e.content, e.vector, e.digest, CASE WHEN u.day = ? THEN -e.id ELSE e.id END"
    " FROM embeddings e LEFT JOIN uses u ON u.embedding = e.id"
    " WHERE e.max_pixels <= ? AND e.model = ? AND e.content = ?"
)
_SEE = "INSERT OR REPLACE INTO seen SELECT model, ?, id, content FROM embeddings WHERE model = ? AND content = ?"

Vector = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Stored:
    """The kept embeddings of m of the requested pictures.

    names: m. places: indices of the m pictures among the requested ones, ascending.
    vectors: (m, D) float32, rows of length 1, bit for bit as they were computed.
    ids: (m,) int64, their rows; negative if their day of last use is today already.
    sights: pictures whose contents are newly identified. block: a block to keep; None if there is one, or none is due.
    """

    names: Sequence[str]
    places: Sequence[int]
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    sights: tuple[Sight, ...] = ()
    block: Block | None = None

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int) -> "Stored":
        """Take a slice of those that were found by their keys."""
        some = slice(start, stop)
        block = None if start else self.block  # one of the slices keeps it
        return Stored(self.names[some], self.places[some], self.vectors[some], self.ids[some], self.sights, block)


class EmbeddingStore:
    """The embeddings of one model and one way of computing. Any thread may look up; one thread may keep.

    Args:
        recipe: fingerprint of everything that an embedding depends on besides the picture.
        name: the model's name, for people.
        max_pixels: larger pictures are refused, even if they were kept under a higher limit.
        max_bytes: beyond this, the least recently used are deleted.
    """

    def __init__(self, recipe: str, name: str, embed_dim: int, *, max_pixels: int, max_bytes: int = MAX_BYTES) -> None:
        self._recipe = recipe
        self._name = name.encode("utf-8", "backslashreplace").decode()
        self._bytes = 4 * embed_dim
        self._max_pixels = min(max_pixels, LARGEST)
        self._max_bytes = max_bytes
        self._damaged = False
        self._refusals = 0
        self._may_keep_blocks = True
        self._inode: int | None = None
        self._today = int(time.time() // 86400)
        self._local = threading.local()
        self.read = self.kept = 0  # numbers of pictures in this run
        self._writer = self._opened()
        self._model = self._model_id()

    def find(self, names: Sequence[str], keys: Sequence[bytes | None]) -> Stored:
        """Give the embeddings of pictures that have the keys under which they were kept."""
        known = [key for key in keys if key is not None]
        is_sorted = known == sorted(known)  # as those of a folder are
        may_be_block = is_sorted and len(known) == len(keys) >= blocks.FEWEST
        if may_be_block and (together := self._in_block(names, known)) is not None:
            return together
        row_of = {row[4]: row for row in self._rows(known, is_sorted)}
        places = [place for place, key in enumerate(keys) if key in row_of]
        found = self._checked([row_of[keys[place]] for place in places], names, places)
        if may_be_block and len(found) == len(names):
            return replace(found, block=Block(known, abs(found.ids), found.vectors))
        return found

    def find_content(self, sight: Sight) -> Stored | None:
        """Give the embedding of the picture with this content, wherever it was read before."""
        rows = self._query(_BY_CONTENT, (self._today, self._max_pixels, self._model, sight.content))
        found = self._checked(rows, (sight.name,), (0,) * len(rows), (sight,))
        return found if len(found) else None

    def keep(self, fresh: Iterable[tuple[Sight, Vector]], used: Iterable[Stored] = ()) -> None:
        """Keep new embeddings, and remember which old ones were used; all or none."""
        fresh, used = list(fresh), list(used)
        self.read += sum(map(len, used))
        seen = [sight for sight, _ in fresh] + [sight for each in used for sight in each.sights]
        old = [(number, self._today) for each in used for number in each.ids[each.ids > 0].tolist()]
        if self._damaged:
            self._begin_afresh()
        if self._writer is None or self._model is None:
            return
        self._keep_blocks([each.block for each in used if each.block is not None])
        if not (seen or old):
            return
        try:
            with self._writer as connection:
                for sight, vector in fresh:
                    old.append((self._put(connection, sight.content, vector), self._today))
                connection.executemany("INSERT OR REPLACE INTO uses VALUES (?, ?)", old)
                keys = [(s.key, self._model, s.content) for s in seen if s.key is not None]
                connection.executemany(_SEE, keys)
                if seen and used_bytes(connection) > self._max_bytes:
                    forget(connection, int(self._max_bytes * _KEPT_SHARE))
            self.kept += len(fresh)
        except sqlite3.Error as e:
            self._note(e)
            self._refusals += 1
            if self._refusals > _MAX_REFUSALS or not isinstance(e, sqlite3.OperationalError) or "lock" not in str(e):
                self._writer = None

    def _keep_blocks(self, fresh: Sequence[Block]) -> None:
        """Keep blocks while there is room for them: no embedding is deleted for a copy of others."""
        if not (fresh and self._may_keep_blocks):
            return
        assert self._writer is not None
        assert self._model is not None
        try:
            with self._writer as connection:
                room = self._max_bytes * _KEPT_SHARE - used_bytes(connection)
                if sum(each.vectors.nbytes for each in fresh) < room:
                    for each in fresh:
                        blocks.put(connection, self._model, self._recipe, each, self._max_pixels)
        except sqlite3.Error as e:  # embeddings may still be kept
            self._note(e)
            self._may_keep_blocks = False

    def close(self) -> None:
        """Close the file; called by the thread that keeps."""
        if self._damaged:
            self._begin_afresh()
        if self._writer is not None:
            with suppress(sqlite3.Error):
                shorten_log(self._writer)
        for connection in (getattr(self._local, "connection", None), self._writer):  # other threads' end with them
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
        self._local = threading.local()
        self._writer = None

    def _opened(self) -> sqlite3.Connection | None:
        try:
            return _retried(open_for_writing)
        except sqlite3.Error as e:
            self._note(e)
        except OSError:
            pass
        finally:
            with suppress(OSError):
                self._inode = os.stat(path()).st_ino
        return None

    def _model_id(self) -> int | None:
        try:
            if self._writer is not None:
                with self._writer as connection:
                    connection.execute(
                        "INSERT OR IGNORE INTO models (recipe, name) VALUES (?, ?)", (self._recipe, self._name)
                    )
        except sqlite3.Error as e:
            self._note(e)
            self._writer = None
        for (number,) in self._query("SELECT id FROM models WHERE recipe = ?", (self._recipe,)):
            return int(number)
        return None

    def _begin_afresh(self) -> None:
        """Replace a damaged file by a new one; its content can be computed again."""
        self._damaged = False
        self.close()
        with suppress(OSError):
            if os.stat(path()).st_ino == self._inode:  # else another run has already replaced it
                clear()
        self._writer = self._opened()
        self._model = self._model_id()

    def _in_block(self, names: Sequence[str], keys: Sequence[bytes]) -> Stored | None:
        """Give the embeddings of all keys from one block, if there is one."""
        name = blocks.name_of(keys)
        given = (self._today, self._model, keys[0], name, self._max_pixels)
        for *cells, is_noted in self._query(blocks.FIND, given):
            found = blocks.unpacked(self._recipe, name, *cells)
            if found is not None and found[1].shape == (len(keys), self._bytes // 4):
                return Stored(names, range(len(keys)), found[1], -found[0] if is_noted else found[0])
        return None

    def _rows(self, keys: Sequence[bytes], is_sorted: bool) -> list[Any]:
        """Read the rows of keys; sorted neighbours in one scan, which takes half the time of a search for each."""
        given = (self._today, self._max_pixels, self._model)
        if keys and is_sorted:
            most = _SPARSE * len(keys)
            rows = self._query(_BY_KEY + "BETWEEN ? AND ? LIMIT ?", (*given, keys[0], keys[-1], most))
            if len(rows) < most:
                return rows
        rows = []
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), sqlite.KEYS_A_QUERY):
            some = wanted[start : start + sqlite.KEYS_A_QUERY]
            rows += self._query(f"{_BY_KEY} IN ({','.join('?' * len(some))})", (*given, *some))
        return rows

    def _query(self, sql: str, values: Sequence[object]) -> list[Any]:
        """Query on this thread's own connection; without a connection there are no results."""
        local = self._local  # starting afresh replaces it
        try:
            if not hasattr(local, "connection"):
                local.connection = None
                local.connection = open_for_reading()
            return [] if local.connection is None else local.connection.execute(sql, values).fetchall()
        except sqlite3.Error as e:
            self._note(e)
            local.connection = None
            return []

    def _note(self, e: sqlite3.Error) -> None:
        # A read-only, full or locked file may be intact. Any other error means that it is not a database, or not ours.
        self._damaged = self._damaged or not isinstance(e, sqlite3.OperationalError) or "no such" in str(e)

    def _checked(
        self, rows: Sequence[Any], names: Sequence[str], places: Sequence[int], sights: tuple[Sight, ...] = ()
    ) -> Stored:
        """Put rows of content, vector, digest and id into columns, leaving out damaged ones.

        Args:
            places: index of each row's picture in names.
        """
        try:
            whole, matrix = self._columns(rows)
        except (TypeError, ValueError):  # damage: something else than bytes, or more or fewer of them
            lengths = [CONTENT_BYTES, self._bytes, DIGEST_BYTES]
            good = [i for i, row in enumerate(rows) if [_bytes_in(cell) for cell in row[:3]] == lengths]
            rows, places = [rows[i] for i in good], [places[i] for i in good]
            whole, matrix = self._columns(rows)
        if not whole.all():
            good = np.flatnonzero(whole).tolist()
            rows, places, matrix = [rows[i] for i in good], [places[i] for i in good], matrix[good]
        ids = np.array([row[3] for row in rows], np.int64)
        found = names if len(places) == len(names) else [names[place] for place in places]
        return Stored(found, places, matrix, ids, sights)

    def _columns(self, rows: Sequence[Any]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Give whether each of m rows is intact, (m,) bool, and its vector, (m, D) float32."""
        contents, vectors, digests = ([row[column] for row in rows] for column in range(3))
        matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(len(rows), self._bytes // 4)
        return are_whole(self._recipe, contents, matrix, digests), matrix

    def _put(self, connection: sqlite3.Connection, content: bytes, vector: Vector) -> int:
        """Keep an embedding under its content, unless an intact one exists: other runs may have used it."""
        value = vector.astype("<f4")
        digest = check_sums(self._recipe, [content], value[None]).astype("<u8").tobytes()
        connection.execute(
            "INSERT INTO embeddings (model, content, vector, digest, max_pixels) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET max_pixels = MIN(max_pixels, excluded.max_pixels)",
            (self._model, content, value.tobytes(), digest, self._max_pixels),
        )
        select = "SELECT content, vector, digest, id FROM embeddings WHERE model = ? AND content = ?"
        row = connection.execute(select, (self._model, content)).fetchone()
        if not len(self._checked([row], ("",), (0,))):
            connection.execute(
                "UPDATE embeddings SET vector = ?, digest = ? WHERE id = ?", (value.tobytes(), digest, row[3])
            )
        return int(row[3])


def _retried(work: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
    """Open a store that another process may be creating."""
    for _attempt in range(3):
        with suppress(sqlite3.OperationalError):
            return work()
        time.sleep(0.1)
    return work()


def _bytes_in(cell: object) -> int | None:
    return len(cell) if isinstance(cell, bytes) else None
