"""How SQLite files are opened. What the cache and the store do with damaged or locked ones is in their own tests."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from zsclip.kept.sqlite import open_for_reading, open_for_writing

SCHEMA = "CREATE TABLE IF NOT EXISTS things (name TEXT)"


def made(path: Path, page_size: int = 4096) -> Path:
    with closing(open_for_writing(path, SCHEMA, lock_seconds=1, page_size=page_size)) as connection, connection:
        connection.execute("INSERT INTO things VALUES ('one')")
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = made(tmp_path / "a ? folder" / "things.sqlite")

    with closing(open_for_reading(path, "things", lock_seconds=1)) as connection:
        assert connection.execute("SELECT name FROM things").fetchall() == [("one",)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM things")


def test_a_new_file_and_its_folder_are_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = made(tmp_path / "new" / "things.sqlite")
    finally:
        os.umask(before)

    assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)] == [0o700, 0o600]


@pytest.mark.parametrize("page_size", [4096, 16384])
def test_a_new_file_has_the_page_size_and_a_log_beside_it(tmp_path: Path, page_size: int) -> None:
    path = made(tmp_path / "things.sqlite", page_size)

    with closing(open_for_reading(path, "things", lock_seconds=1)) as connection:
        assert connection.execute("PRAGMA page_size").fetchone() == (page_size,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_that_is_not_there_or_lacks_the_table_cannot_be_read(tmp_path: Path) -> None:
    for path, table in ((tmp_path / "none.sqlite", "things"), (made(tmp_path / "things.sqlite"), "others")):
        with pytest.raises(sqlite3.OperationalError):
            open_for_reading(path, table, lock_seconds=1)

    assert not (tmp_path / "none.sqlite").exists()
