"""A cache of values that can be computed again: where it is, and how it is read and written.

One SQLite file holds them all; a row is a kind, a key and some bytes. A key is the fingerprint of all that changes
the value, so a stale value has another key and is simply not found. A row that cannot be read counts as absent, and a
file that cannot be written is ignored: a cache may cost time, never an answer.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from zsclip.kept import sqlite

FILE_NAME = "cache-v1.sqlite"
OWN_FILES = "cache-v*.sqlite*"
_LOCK_SECONDS = 10
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS rows (kind TEXT, key TEXT, digest BLOB, value BLOB, PRIMARY KEY (kind, key))"
    " WITHOUT ROWID"
)


def cache_dir() -> Path:
    """Give the folder of all caches; it may not exist yet."""
    own, xdg = os.environ.get("ZSCLIP_CACHE_DIR", ""), os.environ.get("XDG_CACHE_HOME", "")
    if own.strip():  # a blank is as if it were not set
        return Path(own)
    try:
        return (Path(xdg) if xdg.strip() else Path.home() / ".cache") / "zsclip"
    except RuntimeError:  # a user without a home, as in some containers: no cache
        return Path(os.devnull) / "zsclip"


def fingerprint(*parts: Any) -> str:
    """Hash JSON-like values to 32 hex digits, the same in every process and version."""
    return hashlib.sha256(_CANONICAL.encode(parts).encode()).hexdigest()[:32]


def read_rows(kind: str, keys: Iterable[str]) -> dict[str, bytes]:
    """Give the values of keys; missing, damaged or unreadable ones are left out."""
    found: dict[str, bytes] = {}
    wanted = list(dict.fromkeys(keys))
    # TypeError: a damaged file may hold another type instead of bytes.
    with suppress(sqlite3.Error, TypeError), closing(_open_for_reading()) as connection:
        for start in range(0, len(wanted), sqlite.KEYS_A_QUERY):
            some = wanted[start : start + sqlite.KEYS_A_QUERY]
            marks = ",".join("?" * len(some))
            rows = connection.execute(
                f"SELECT key, digest, value FROM rows WHERE kind = ? AND key IN ({marks})", (kind, *some)
            )
            found.update((key, value) for key, digest, value in rows if digest == _digest(key, value))
    return found


def write_rows(kind: str, rows: Mapping[str, bytes], *, most: int | None = None) -> None:
    """Keep values by key, all or none; a file that is not a valid cache is replaced.

    Args:
        most: rows of this kind; when there would be more, about half of them are dropped first.
    """
    for _attempt in range(3):
        try:
            with (
                closing(sqlite.open_for_writing(_path(), _SCHEMA, lock_seconds=_LOCK_SECONDS)) as connection,
                connection,
            ):
                if most is not None:  # keys are hashes, so those below '8' are a half that nobody has chosen
                    full = "(SELECT COUNT(*) FROM rows WHERE kind = ?) >= ?"
                    connection.execute(f"DELETE FROM rows WHERE kind = ? AND key < '8' AND {full}", (kind, kind, most))
                connection.executemany(
                    "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)",
                    [(kind, key, _digest(key, value), value) for key, value in rows.items()],
                )
            return
        except OSError:
            return
        except sqlite3.Error as e:
            if isinstance(e, sqlite3.OperationalError) and "column" not in str(e):
                continue  # read-only or full, and the next try fails at once; or another process is creating it
            with suppress(OSError):  # not a database, damaged, or not ours
                clear()


def remember(kind: str, parts: Sequence[Any], build: Callable[[], Any]) -> Any:
    """Give the JSON value kept under these parts, or build and keep it.

    Args:
        parts: everything that changes the value.
        build: computes the value; it must survive a round trip through JSON.
    """
    key = fingerprint(*parts)
    kept = read_rows(kind, [key]).get(key)
    if kept is not None:
        return json.loads(kept)
    value = build()
    keep(kind, parts, value)
    return value


def keep(kind: str, parts: Sequence[Any], value: Any) -> None:
    """Keep a JSON value under these parts for `remember`, replacing any other."""
    write_rows(kind, {fingerprint(*parts): json.dumps(value).encode()})


def count_rows() -> dict[str, tuple[int, int]]:
    """Give, by kind, the number of rows and their bytes; empty if there is no readable cache."""
    try:
        with closing(_open_for_reading()) as connection:
            rows = connection.execute("SELECT kind, COUNT(*), SUM(LENGTH(value)) FROM rows GROUP BY kind ORDER BY kind")
            return {kind: (count, size) for kind, count, size in rows}
    except sqlite3.Error:
        return {}


def verify() -> tuple[int, int]:
    """Read every row and delete damaged ones; give the number of all and of damaged ones.

    Raises:
        OSError, sqlite3.Error: the whole cache is damaged, or cannot be written.
    """
    with closing(sqlite.open_for_writing(_path(), _SCHEMA, lock_seconds=_LOCK_SECONDS)) as connection:
        count, damaged = 0, []
        for kind, key, digest, value in connection.execute("SELECT kind, key, digest, value FROM rows"):
            count += 1
            if not (isinstance(key, str) and isinstance(value, bytes) and digest == _digest(key, value)):
                damaged.append((kind, key))
        with connection:
            connection.executemany("DELETE FROM rows WHERE kind IS ? AND key IS ?", damaged)
    return count, len(damaged)


def size_on_disk(pattern: str = OWN_FILES) -> int:
    """Give the total size of our files in the cache folder."""
    return sum(map(_size, _files(pattern)))


def clear(pattern: str = OWN_FILES) -> int:
    """Delete only our files from the cache folder; give the bytes freed.

    Raises:
        OSError: a file could not be deleted.
    """
    freed = 0
    for path in _files(pattern):
        freed += _size(path)
        path.unlink(missing_ok=True)
    return freed


def _path() -> Path:
    return cache_dir() / FILE_NAME


def _open_for_reading() -> sqlite3.Connection:
    return sqlite.open_for_reading(_path(), "rows", lock_seconds=_LOCK_SECONDS)


def _files(pattern: str) -> list[Path]:
    # The folder may hold other things, too: only the names that we create are ours.
    return sorted(cache_dir().glob(pattern))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process deleted it, or the folder is not ours
        return 0


def _digest(key: str, value: bytes) -> bytes:
    # SQLite does not check its pages, so a flipped bit would become a wrong answer.
    return hashlib.blake2b(key.encode() + value, digest_size=8).digest()
