"""Image embeddings by content and model, in SQLite: a picture is encoded once in its life. No torch, no decoding.

A picture is known by what is in it. Path, size, times and inode only tell, without reading it, that a file holds what
it held when it was last read. A store that is damaged, full, read-only or in use costs time, never an answer.
"""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.kept import sqlite
from zsclip.kept.cache import cache_dir
from zsclip.kept.cache import clear as clear_files
from zsclip.kept.cache import size_on_disk as size_of_files
from zsclip.pictures.identity import LARGEST, Look, Sight

FILE_NAME = "embeddings-v1.sqlite"
OWN_FILES = "embeddings-v*.sqlite*"
MAX_BYTES = 5_000_000_000
_LOCK_SECONDS = 2
_MAX_REFUSALS = 5  # of a store that others keep locked; each may take that long
_PATHS_A_PICTURE = 4
_KEPT_SHARE = 0.9  # of what is allowed, after the least recently used went
_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (id INTEGER PRIMARY KEY, recipe TEXT UNIQUE, name TEXT);
CREATE TABLE IF NOT EXISTS embeddings (
    id INTEGER PRIMARY KEY, model INTEGER, content BLOB, vector BLOB, digest BLOB, max_pixels INTEGER,
    UNIQUE (model, content));
CREATE TABLE IF NOT EXISTS uses (embedding INTEGER PRIMARY KEY, day INTEGER);
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, inode INTEGER, content BLOB) WITHOUT ROWID;
"""

Vector = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Stored:
    """An embedding that was kept.

    embedding: (D,) float32, length 1, the very bits of the run that made it.
    id: of its row, where the day of its last use is to be written; None where it is written.
    sight: a file that is not known yet to have this content.
    """

    embedding: Vector
    id: int | None = None
    sight: Sight | None = None


class EmbeddingStore:
    """The embeddings of one model, as one way of computing gives them. Threads may look up, one may keep.

    Args:
        recipe: fingerprint of all that an embedding depends on besides the picture.
        name: of the model, for people.
        max_pixels: larger pictures are refused; what was let in under a higher limit is not given.
        max_bytes: beyond it the least recently used go.
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
        self.read = self.kept = 0  # pictures of this run
        self._writer = self._opened()
        self._model = self._model_id()

    def find(self, paths: Sequence[str]) -> dict[str, Stored]:
        """Give what is known of files that look as they did when they were read; looks at each, opens none."""
        looks: dict[bytes, tuple[str, Look]] = {}
        for path in paths:
            with suppress(OSError, ValueError):
                looks[_key(path)] = (path, Look.of(os.stat(path)))
        found: dict[str, Stored] = {}
        keys = list(looks)
        for start in range(0, len(keys), sqlite.KEYS_A_QUERY):
            some = keys[start : start + sqlite.KEYS_A_QUERY]
            marks = ",".join("?" * len(some))
            rows = self._query(
                "SELECT f.path, f.size, f.mtime, f.ctime, f.inode, f.content, e.vector, e.digest, e.id, u.day"
                " FROM files f JOIN embeddings e ON e.model = ? AND e.content = f.content"
                " AND e.max_pixels <= ?"
                f" LEFT JOIN uses u ON u.embedding = e.id WHERE f.path IN ({marks})",
                (self._model, self._max_pixels, *some),
            )
            for key, size, mtime, ctime, inode, *row in rows:
                path, look = looks[key]
                if (size, mtime, ctime, inode) == (look.size, look.mtime, look.ctime, look.inode):
                    stored = self._checked(row, None)
                    if stored is not None:
                        found[path] = stored
        return found

    def find_content(self, sight: Sight) -> Stored | None:
        """Give what is known of a content, wherever it was read before."""
        for row in self._query(
            "SELECT e.content, e.vector, e.digest, e.id, u.day FROM embeddings e"
            " LEFT JOIN uses u ON u.embedding = e.id WHERE e.model = ? AND e.content = ?"
            " AND e.max_pixels <= ?",
            (self._model, sight.content, self._max_pixels),
        ):
            return self._checked(row, sight)
        return None

    def keep(self, fresh: Iterable[tuple[Sight, Vector]], used: Iterable[Stored] = ()) -> None:
        """Keep new embeddings, and remember which old ones were used; all or none."""
        fresh, used = list(fresh), list(used)
        self.read += len(used)
        seen = [sight for sight, _ in fresh] + [each.sight for each in used if each.sight is not None]
        old = [(each.id, self._today) for each in used if each.id is not None]
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
                        with suppress(OSError):  # the working directory is gone, and the path is relative
                            connection.execute(
                                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                                (_key(sight.path), look.size, look.mtime, look.ctime, look.inode, sight.content),
                            )
                if seen and _used_bytes(connection) > self._max_bytes:
                    _forget(connection, int(self._max_bytes * _KEPT_SHARE))
            self.kept += len(fresh)
        except sqlite3.Error as e:
            self._note(e)
            self._refusals += 1
            if self._refusals > _MAX_REFUSALS or not isinstance(e, sqlite3.OperationalError) or "lock" not in str(e):
                self._writer = None

    def close(self) -> None:
        """Let go of the file; the one thread that keeps calls it."""
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
            return _retried(_open_for_writing)
        except sqlite3.Error as e:
            self._note(e)
        except OSError:
            pass
        finally:
            with suppress(OSError):
                self._inode = os.stat(_path()).st_ino
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
        """Throw away a damaged file and begin another; what is in it can be computed again."""
        self._damaged = False
        self.close()
        with suppress(OSError):
            if os.stat(_path()).st_ino == self._inode:  # else another run has begun afresh already
                clear()
        self._writer = self._opened()
        self._model = self._model_id()

    def _query(self, sql: str, values: Sequence[object]) -> list[Any]:
        """Ask on a connection of this thread's own; there is nothing to find where there is none."""
        local = self._local  # whoever begins afresh replaces it
        try:
            if not hasattr(local, "connection"):
                local.connection = None
                local.connection = _open_for_reading()
            return [] if local.connection is None else local.connection.execute(sql, values).fetchall()
        except sqlite3.Error as e:
            self._note(e)
            local.connection = None
            return []

    def _note(self, e: sqlite3.Error) -> None:
        # Read-only, full or locked: it may be whole. Anything else is a file that is no database, or not ours.
        self._damaged = self._damaged or not isinstance(e, sqlite3.OperationalError) or "no such" in str(e)

    def _checked(self, row: Sequence[Any], sight: Sight | None) -> Stored | None:
        content, vector, digest, number, day = row
        # SQLite does not check its pages: a flipped bit would come back as a wrong answer.
        if not isinstance(content, bytes) or not isinstance(vector, bytes) or len(vector) != self._bytes:
            return None
        if digest != self._digest(content, vector):
            return None
        return Stored(np.frombuffer(vector, "<f4"), None if day == self._today else number, sight)

    def _put(self, connection: sqlite3.Connection, content: bytes, vector: Vector) -> int:
        """Keep an embedding under its content, unless a whole one is there: others have answered with that already."""
        value = vector.astype("<f4").tobytes()
        digest = self._digest(content, value)
        connection.execute(
            "INSERT INTO embeddings (model, content, vector, digest, max_pixels) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET max_pixels = MIN(max_pixels, excluded.max_pixels)",
            (self._model, content, value, digest, self._max_pixels),
        )
        row = connection.execute(
            "SELECT e.content, e.vector, e.digest, e.id, NULL FROM embeddings e WHERE e.model = ? AND e.content = ?",
            (self._model, content),
        ).fetchone()
        if self._checked(row, None) is None:
            connection.execute("UPDATE embeddings SET vector = ?, digest = ? WHERE id = ?", (value, digest, row[3]))
        return int(row[3])

    def _digest(self, content: bytes, vector: bytes) -> bytes:
        return _digest(self._recipe, content, vector)


def counts() -> dict[str, int]:
    """Give, by model, the number of pictures; empty if there is no readable store."""
    sql = "SELECT m.name, COUNT(*) FROM embeddings e JOIN models m ON m.id = e.model GROUP BY m.name ORDER BY m.name"
    try:
        with closing(_open_for_reading()) as connection:
            return dict(connection.execute(sql))
    except sqlite3.Error:
        return {}


def size_on_disk() -> int:
    """Give the bytes the store takes."""
    return size_of_files(OWN_FILES)


def clear() -> int:
    """Delete the store; give the bytes that were freed.

    Raises:
        OSError: a file could not be deleted.
    """
    return clear_files(OWN_FILES)


def collect(max_bytes: int) -> int:
    """Forget the least recently used until the store is no larger, and give the space back; give the bytes freed.

    Raises:
        OSError, sqlite3.Error: it cannot be written.
    """
    before = size_on_disk()
    with closing(_open_for_writing()) as connection:
        with connection:
            if _used_bytes(connection) > max_bytes:
                _forget(connection, max_bytes)
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before - size_on_disk()


def verify() -> tuple[int, int]:
    """Read every embedding and forget the damaged ones; give how many there were, and how many were damaged.

    Raises:
        OSError, sqlite3.Error: the store is damaged as a whole, or cannot be written.
    """
    count, damaged = 0, []
    with closing(_open_for_writing()) as connection:
        rows = connection.execute(
            "SELECT e.id, m.recipe, e.content, e.vector, e.digest"
            " FROM embeddings e LEFT JOIN models m ON m.id = e.model"
        )
        for row, recipe, content, vector, digest in rows:
            count += 1
            whole = isinstance(recipe, str) and isinstance(content, bytes) and isinstance(vector, bytes)
            if not whole or digest != _digest(recipe, content, vector):
                damaged.append((row,))
        with connection:
            connection.executemany("DELETE FROM embeddings WHERE id = ?", damaged)
    return count, len(damaged)


def _path() -> Path:
    return cache_dir() / FILE_NAME


def _retried(work: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
    """Open a store that another process may just be making."""
    for _attempt in range(3):
        with suppress(sqlite3.OperationalError):
            return work()
        time.sleep(0.1)
    return work()


def _open_for_writing() -> sqlite3.Connection:
    # Of 4,096 bytes a page, rows of 2 kB would leave a half empty.
    return sqlite.open_for_writing(_path(), _SCHEMA, lock_seconds=_LOCK_SECONDS, page_size=16384)


def _open_for_reading() -> sqlite3.Connection:
    return sqlite.open_for_reading(_path(), "models", lock_seconds=_LOCK_SECONDS)


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _forget(connection: sqlite3.Connection, wanted_bytes: int) -> None:
    """Delete the least recently used embeddings, and the files nothing is known of, until no more bytes are used."""
    counts = "SELECT (SELECT COUNT(*) FROM files), (SELECT COUNT(*) FROM embeddings)"
    paths, pictures = connection.execute(counts).fetchone()
    if paths > _PATHS_A_PICTURE * pictures:  # they came under another name each time; the others are read again
        connection.execute("DELETE FROM files")
    while (used := _used_bytes(connection)) > wanted_bytes:
        (count,) = connection.execute("SELECT COUNT(*) FROM embeddings").fetchone()
        if not count:
            break
        some = max(1, int(count * (1 - wanted_bytes / used)))
        connection.execute(
            "DELETE FROM embeddings WHERE id IN (SELECT e.id FROM embeddings e LEFT JOIN uses u ON u.embedding = e.id"
            " ORDER BY u.day, e.id LIMIT ?)",
            (some,),
        )
        connection.execute("DELETE FROM uses WHERE embedding NOT IN (SELECT id FROM embeddings)")
        connection.execute("DELETE FROM files WHERE content NOT IN (SELECT content FROM embeddings)")


def _key(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _digest(recipe: str, content: bytes, vector: bytes) -> bytes:
    return hashlib.blake2b(recipe.encode() + content + vector, digest_size=8).digest()
