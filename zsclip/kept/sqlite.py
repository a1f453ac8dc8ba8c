"""The one way to open our SQLite files, for reading and for writing."""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

KEYS_A_QUERY = 512  # placeholders in one statement


def open_for_reading(path: Path, table: str, *, lock_seconds: float) -> sqlite3.Connection:
    """Open an existing file.

    Raises:
        sqlite3.Error: the file or the table does not exist, cannot be read, or is damaged.
    """
    # The second is for a WAL file in a read-only folder.
    modes = ("mode=ro",) if os.access(path.parent, os.W_OK) else ("mode=ro", "mode=ro&immutable=1")
    for mode in modes:
        connection = sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=lock_seconds)
        try:
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1")  # connecting alone reads nothing
            return connection
        except sqlite3.OperationalError as e:
            connection.close()
            error = e
        except BaseException:
            connection.close()
            raise
    raise error


def open_for_writing(path: Path, schema: str, *, lock_seconds: float, page_size: int = 4096) -> sqlite3.Connection:
    """Open a file for writing; create it, readable only by this user, if it does not exist.

    Args:
        schema: statements that create missing tables.
        page_size: of a new file.

    Raises:
        OSError: its folder cannot be created or written.
        sqlite3.Error: it cannot be written, or it is damaged.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # private, as it holds the paths of pictures
    with suppress(FileExistsError):  # SQLite gives its other files the mode of the first
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, timeout=lock_seconds)
    try:
        connection.execute(f"PRAGMA page_size = {page_size}")
        # On a file system without shared memory, SQLite falls back to another mode.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(schema)
    except BaseException:
        connection.close()
        raise
    return connection
