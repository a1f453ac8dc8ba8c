"""Image embeddings by content and model, in SQLite, so that every picture is encoded only once. No torch, no decoding.

A picture is identified by its content. Path, size, times and inode only show, without reading it, that a file has not
changed since it was last read. A store that is damaged, full, read-only or in use costs time, never an answer.
"""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.kept import sqlite
from zsclip.kept.storefile import (
    MAX_BYTES,
    WHOLE_SQL,
    are_whole,
    check_sums,
    clear,
    forget,
    open_for_reading,
    open_for_writing,
    path,
    used_bytes,
)
from zsclip.pictures.identity import LARGEST, Look, Sight

_MAX_REFUSALS = 5  # failed tries on a locked store; each may take as long as the lock's time-out
_KEPT_SHARE = 0.9  # share of the limit that remains after eviction

Vector = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Stored:
    """The kept embeddings of m of the requested pictures.

    names: m. places: indices of the m pictures among the requested ones, ascending.
    vectors: (m, D) float32, rows of length 1, bit for bit as they were computed.
    ids: (m,) int64, their rows if the day of last use must be updated, else 0.
    sights: files whose contents are newly identified.
    """

    names: Sequence[str]
    places: Sequence[int]
    vectors: NDArray[np.float32]
    ids: NDArray[np.int64]
    sights: tuple[Sight, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int) -> "Stored":
        """Take a slice of those that were found by their look."""
        some = slice(start, stop)
        return Stored(self.names[some], self.places[some], self.vectors[some], self.ids[some], self.sights)


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
        self._inode: int | None = None
        self._today = int(time.time() // 86400)
        self._local = threading.local()
        self.read = self.kept = 0  # numbers of pictures in this run
        self._writer = self._opened()
        self._model = self._model_id()

    def find(self, paths: Sequence[str]) -> Stored:
        """Give the embeddings of files that look unchanged since they were read; opens no file."""
        keys, looks = _looks(paths)
        rows: list[Any] = []
        known = [key for key in dict.fromkeys(keys) if key is not None]
        for start in range(0, len(known), sqlite.KEYS_A_QUERY):
            some = known[start : start + sqlite.KEYS_A_QUERY]
            rows += self._query(
                "SELECT e.content, e.vector, e.digest, e.id, u.day, f.path, f.size, f.mtime, f.ctime, f.inode"
                " FROM files f JOIN embeddings e ON e.model = ? AND e.content = f.content AND e.max_pixels <= ?"
                f" AND length(e.vector) = ? AND {WHOLE_SQL}"
                f" LEFT JOIN uses u ON u.embedding = e.id WHERE f.path IN ({','.join('?' * len(some))})",
                (self._model, self._max_pixels, self._bytes, *some),
            )
        row_of = {row[5]: row for row in rows}
        places = [
            place for place, key in enumerate(keys) if (row := row_of.get(key)) is not None and row[6:] == looks[place]
        ]
        return self._checked([row_of[keys[place]] for place in places], paths, places)

    def find_content(self, sight: Sight) -> Stored | None:
        """Give the embedding of a content, wherever it was read before."""
        rows = self._query(
            "SELECT e.content, e.vector, e.digest, e.id, u.day FROM embeddings e"
            " LEFT JOIN uses u ON u.embedding = e.id WHERE e.model = ? AND e.content = ?"
            f" AND e.max_pixels <= ? AND length(e.vector) = ? AND {WHOLE_SQL}",
            (self._model, sight.content, self._max_pixels, self._bytes),
        )
        found = self._checked(rows, (sight.path,), (0,) * len(rows), (sight,))
        return found if len(found) else None

    def keep(self, fresh: Iterable[tuple[Sight, Vector]], used: Iterable[Stored] = ()) -> None:
        """Keep new embeddings, and remember which old ones were used; all or none."""
        fresh, used = list(fresh), list(used)
        self.read += sum(map(len, used))
        seen = [sight for sight, _ in fresh] + [sight for each in used for sight in each.sights]
        old = [(number, self._today) for each in used for number in each.ids[each.ids > 0].tolist()]
        if self._damaged:
            self._begin_afresh()
        if self._writer is None or self._model is None or not (seen or old):
            return
        try:
            with self._writer as connection:
                for sight, vector in fresh:
                    old.append((self._put(connection, sight.content, vector), self._today))
                connection.executemany("INSERT OR REPLACE INTO uses VALUES (?, ?)", old)
                for sight in seen:
                    if (look := sight.look) is not None:
                        with suppress(OSError):  # the path is relative, and the working directory was deleted
                            connection.execute(
                                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                                (_key(sight.path), look.size, look.mtime, look.ctime, look.inode, sight.content),
                            )
                if seen and used_bytes(connection) > self._max_bytes:
                    forget(connection, int(self._max_bytes * _KEPT_SHARE))
            self.kept += len(fresh)
        except sqlite3.Error as e:
            self._note(e)
            self._refusals += 1
            if self._refusals > _MAX_REFUSALS or not isinstance(e, sqlite3.OperationalError) or "lock" not in str(e):
                self._writer = None

    def close(self) -> None:
        """Close the file; called by the thread that keeps."""
        if self._damaged:
            self._begin_afresh()
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
        """Put rows of content, vector, digest, id and day into columns, leaving out damaged ones.

        Args:
            places: index of each row's picture in names.
        """
        contents, vectors, digests = ([row[column] for row in rows] for column in range(3))
        matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(len(rows), self._bytes // 4)
        whole = are_whole(self._recipe, contents, matrix, digests)
        if not whole.all():
            good = np.flatnonzero(whole).tolist()
            rows, places, matrix = [rows[i] for i in good], [places[i] for i in good], matrix[good]
        ids = np.array([0 if row[4] == self._today else row[3] for row in rows], np.int64)
        found = names if len(places) == len(names) else [names[place] for place in places]
        return Stored(found, places, matrix, ids, sights)

    def _put(self, connection: sqlite3.Connection, content: bytes, vector: Vector) -> int:
        """Keep an embedding under its content, unless an intact one exists, which others have already answered with."""
        value = vector.astype("<f4")
        digest = check_sums(self._recipe, [content], value[None]).astype("<u8").tobytes()
        connection.execute(
            "INSERT INTO embeddings (model, content, vector, digest, max_pixels) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET max_pixels = MIN(max_pixels, excluded.max_pixels)",
            (self._model, content, value.tobytes(), digest, self._max_pixels),
        )
        number, is_shaped, old, check = connection.execute(
            f"SELECT e.id, length(e.vector) = ? AND {WHOLE_SQL}, e.vector, e.digest"
            " FROM embeddings e WHERE e.model = ? AND e.content = ?",
            (self._bytes, self._model, content),
        ).fetchone()
        if not is_shaped or not are_whole(self._recipe, [content], np.frombuffer(old, "<f4")[None], [check])[0]:
            connection.execute(
                "UPDATE embeddings SET vector = ?, digest = ? WHERE id = ?", (value.tobytes(), digest, number)
            )
        return int(number)


def _looks(paths: Sequence[str]) -> tuple[list[bytes | None], list[tuple[int, ...] | None]]:
    """Give the key and the look of each file; None if it does not exist."""
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    keys: list[bytes | None] = []
    looks: list[tuple[int, ...] | None] = []
    for name in paths:
        key = look = None
        is_plain = name[:1] == "/" and "//" not in name and "/." not in name and name[-1] != "/"
        try:
            status = os.stat(name)
            look = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            if max(look) > LARGEST or min(look) < 0:
                look = Look.of(status)  # as it is stored
            key = name.encode(encoding, errors) if is_plain else _key(name)  # abspath would not change it
        except (OSError, ValueError):
            pass
        keys.append(key)
        looks.append(look)
    return keys, looks


def _retried(work: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
    """Open a store that another process may be creating."""
    for _attempt in range(3):
        with suppress(sqlite3.OperationalError):
            return work()
        time.sleep(0.1)
    return work()


def _key(name: str) -> bytes:
    return os.fsencode(os.path.abspath(name))
