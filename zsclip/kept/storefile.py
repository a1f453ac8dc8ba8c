"""The file of the embedding store: its tables and checks, and the commands of `zsclip cache`."""

import sqlite3
import struct
from contextlib import closing, suppress
from itertools import compress
from pathlib import Path

import numpy as np

from zsclip.kept import blocks, sqlite
from zsclip.kept.cache import cache_dir
from zsclip.kept.cache import clear as clear_files
from zsclip.kept.cache import size_on_disk as size_of_files
from zsclip.kept.checksums import CONTENT_BYTES, DIGEST_BYTES, are_whole
from zsclip.pictures.identity import key_of

FILE_NAME = "embeddings-v1.sqlite"
OWN_FILES = "embeddings-v*.sqlite*"
MAX_BYTES = 5_000_000_000
_LOCK_SECONDS = 2
_CACHED_KB = 32_768  # page cache of a reader; SQLite's default of 2 MB rereads the index of 100,000 pictures
_KEYS_A_PICTURE = 4
_AT_ONCE = 1000  # rows that are checked at once
_SEEN = "seen (model INTEGER, key BLOB, embedding INTEGER, content BLOB, PRIMARY KEY (model, key)) WITHOUT ROWID"
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS models (id INTEGER PRIMARY KEY, recipe TEXT UNIQUE, name TEXT);
CREATE TABLE IF NOT EXISTS embeddings (
    id INTEGER PRIMARY KEY, model INTEGER, content BLOB, vector BLOB, digest BLOB, max_pixels INTEGER,
    UNIQUE (model, content));
CREATE TABLE IF NOT EXISTS uses (embedding INTEGER PRIMARY KEY, day INTEGER);
CREATE TABLE IF NOT EXISTS {_SEEN};
{blocks.SCHEMA}"""
# Types that a valid row has; anything else is damage.
WHOLE_SQL = (
    f"typeof(e.content) = 'blob' AND length(e.content) = {CONTENT_BYTES} AND typeof(e.vector) = 'blob'"
    f" AND typeof(e.digest) = 'blob' AND length(e.digest) = {DIGEST_BYTES}"
)


def path() -> Path:
    """Give the path of the file, which may not exist."""
    return cache_dir() / FILE_NAME


def open_for_writing() -> sqlite3.Connection:
    """Open the file, or create it; see `sqlite.open_for_writing`."""
    # With pages of 4,096 bytes, rows of 2 kB would leave half of each empty.
    connection = sqlite.open_for_writing(path(), _SCHEMA, lock_seconds=_LOCK_SECONDS, page_size=16384)
    try:
        _take_over_files(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_for_reading() -> sqlite3.Connection:
    """Open the file if it exists; see `sqlite.open_for_reading`."""
    connection = sqlite.open_for_reading(path(), "models", lock_seconds=_LOCK_SECONDS)
    connection.execute(f"PRAGMA cache_size = -{_CACHED_KB}")
    for name, table in (("seen", _SEEN), ("blocks", blocks.TABLE)):
        if not _has_table(connection, name):  # an older version's, which cannot be written
            connection.execute(f"CREATE TEMP TABLE {table}")
    return connection


def counts() -> dict[str, int]:
    """Give the number of pictures by model; empty if there is no readable store."""
    sql = "SELECT m.name, COUNT(*) FROM embeddings e JOIN models m ON m.id = e.model GROUP BY m.name ORDER BY m.name"
    try:
        with closing(open_for_reading()) as connection:
            return dict(connection.execute(sql))
    except sqlite3.Error:
        return {}


def size_on_disk() -> int:
    """Give the size of the store in bytes."""
    return size_of_files(OWN_FILES)


def clear() -> int:
    """Delete the store; give the bytes that were freed.

    Raises:
        OSError: a file could not be deleted.
    """
    return clear_files(OWN_FILES)


def collect(max_bytes: int) -> int:
    """Delete the least recently used until the store fits the limit, and release the space; give the bytes freed.

    Raises:
        OSError, sqlite3.Error: it cannot be written.
    """
    with closing(open_for_writing()) as connection:
        shorten_log(connection)  # or its size would count as freed
        before = size_on_disk()
        with connection:
            if used_bytes(connection) > max_bytes:
                forget(connection, max_bytes)
        connection.execute("VACUUM")
        shorten_log(connection)
        return before - size_on_disk()


def shorten_log(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log into the file: a log as large as the run stays if a thread still has the file open.

    It takes 22 ms for 2,000 new embeddings and 0.1 ms for none (2 cores). If another process is using the log, nothing
    waits: that process does the same when it ends.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def verify() -> tuple[int, int]:
    """Read every embedding and block, and delete damaged ones; give the number of embeddings and of what is damaged.

    Raises:
        OSError, sqlite3.Error: the whole store is damaged, or cannot be written.
    """
    with closing(open_for_writing()) as connection:
        damaged = {number for (number,) in connection.execute("SELECT id FROM embeddings")}
        count = len(damaged)
        shapes = connection.execute(
            "SELECT DISTINCT m.id, m.recipe, length(e.vector) FROM embeddings e JOIN models m ON m.id = e.model"
            f" WHERE typeof(m.recipe) = 'text' AND length(e.vector) > 0 AND length(e.vector) % 4 = 0 AND {WHOLE_SQL}"
        ).fetchall()
        for model, recipe, size in shapes:
            rows = connection.execute(
                "SELECT e.id, e.content, e.vector, e.digest FROM embeddings e"
                f" WHERE e.model = ? AND length(e.vector) = ? AND {WHOLE_SQL}",
                (model, size),
            )
            while some := rows.fetchmany(_AT_ONCE):
                numbers, contents, vectors, digests = zip(*some, strict=True)
                matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(len(some), -1)
                damaged.difference_update(compress(numbers, are_whole(recipe, contents, matrix, digests)))
        copies = list(blocks.damaged(connection))
        with connection:
            connection.executemany("DELETE FROM blocks WHERE id = ?", [(number,) for number in copies])
            connection.executemany("DELETE FROM embeddings WHERE id = ?", [(number,) for number in damaged])
    return count, len(damaged) + len(copies)


def used_bytes(connection: sqlite3.Connection) -> int:
    """Give the bytes of the file that are in use."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def forget(connection: sqlite3.Connection, wanted_bytes: int) -> None:
    """Delete blocks, the least recently used embeddings, and keys without one, until the store fits the limit."""
    connection.execute("DELETE FROM blocks")  # all of them are copies
    sql = "SELECT (SELECT COUNT(*) FROM seen), (SELECT COUNT(*) FROM embeddings)"
    keys, pictures = connection.execute(sql).fetchone()
    if keys > _KEYS_A_PICTURE * pictures:  # many had a new name each time; pictures that lose their key are read again
        connection.execute("DELETE FROM seen")
    while (used := used_bytes(connection)) > wanted_bytes:
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
        connection.execute("DELETE FROM seen WHERE embedding NOT IN (SELECT id FROM embeddings)")


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def _take_over_files(connection: sqlite3.Connection) -> None:
    """Make keys of the files that older versions have seen. Their table stays, as they may still be running."""
    if not _has_table(connection, "files") or not connection.execute("SELECT 1 FROM files LIMIT 1").fetchone():
        return

    def key(path: bytes, *look: int) -> bytes | None:
        with suppress(TypeError, struct.error):  # damage
            return key_of(path, *look)
        return None

    connection.create_function("key_of", 5, key, deterministic=True)
    with connection:
        connection.execute(
            "INSERT OR IGNORE INTO seen SELECT m.id, key_of(f.path, f.size, f.mtime, f.ctime, f.inode), e.id, e.content"
            " FROM models m CROSS JOIN files f CROSS JOIN embeddings e ON e.model = m.id AND e.content = f.content"
        )
        connection.execute("DELETE FROM files")
