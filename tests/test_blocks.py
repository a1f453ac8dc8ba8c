"""Blocks of the store: answers have the same bits with and without them, whatever changes or is damaged."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import touch

from zsclip.kept import store as store_module
from zsclip.kept.cache import cache_dir
from zsclip.kept.store import EmbeddingStore, Stored
from zsclip.kept.storefile import FILE_NAME, collect, size_on_disk, verify
from zsclip.pictures.identity import Sight, content_of, file_keys

D = 64
COUNT = 40


def opened(**options: Any) -> EmbeddingStore:
    return EmbeddingStore("r", "tiny", D, **{"max_pixels": 100, "max_bytes": 10**9} | options)


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=D).astype(np.float32)


def sight(path: str) -> Sight:
    return Sight(path, content_of(Path(path).read_bytes()), file_keys([path])[0])


def looked_up(paths: Sequence[str], **options: Any) -> Stored:
    """Look up pictures as a run does, which also keeps a block."""
    with closing(opened(**options)) as store:
        found = store.find(paths, file_keys(paths))
        store.keep([], [found])
    return found


def is_right(found: Stored, wanted: Sequence[str]) -> bool:
    """Whether exactly these pictures were found, with the bits of what was kept; their names end in the seed."""
    names = [os.path.basename(name) for name in found.names]
    return list(found.names) == list(wanted) and np.array_equal(
        found.vectors, np.array([vector(int(name)) for name in names]).reshape(-1, D)
    )


def execute(sql: str) -> list[Any]:
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        return connection.execute(sql).fetchall()


def forget_rows() -> None:
    """Make every embedding unreadable, so that only blocks can answer."""
    execute("UPDATE embeddings SET digest = x'0000000000000000'")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Pictures that are in the store, and in one block."""
    paths = [str(tmp_path / f"{i:03d}") for i in range(COUNT)]
    for path in paths:
        Path(path).write_text(path)
    with closing(opened()) as store:
        store.keep([(sight(path), vector(int(path[-3:]))) for path in paths])
    assert is_right(looked_up(paths), paths)
    assert execute("SELECT COUNT(*) FROM blocks") == [(1,)]
    return paths


def test_a_block_gives_what_its_rows_gave(paths: list[str]) -> None:
    from_block = looked_up(paths)
    execute("DELETE FROM blocks")
    from_rows = looked_up(paths)

    assert is_right(from_block, paths)
    assert from_block.vectors.tobytes() == from_rows.vectors.tobytes()
    assert (list(from_block.places), from_block.ids.tolist()) == (list(from_rows.places), from_rows.ids.tolist())
    assert (from_block.block is None, from_rows.block is None) == (True, False)


def test_a_block_answers_without_its_rows(paths: list[str]) -> None:
    forget_rows()

    assert is_right(looked_up(paths), paths)
    assert len(looked_up(paths[:-1])) == 0
    assert len(looked_up(paths[::-1])) == 0


def _flipped(at: int, column: str = "vectors") -> str:
    """Change one byte; || alone would give text."""
    return f"CAST(substr({column}, 1, {at}) || x'99' || substr({column}, {at + 2}) AS BLOB)"


@pytest.mark.parametrize(
    "change",
    [
        *(f"{column} = {value}" for column in ("ids", "sums", "vectors") for value in ("NULL", "7", "'text'", "x''")),
        *(f"{column} = substr({column}, 2)" for column in ("ids", "sums", "vectors", "name")),
        *(f"{column} = substr({column}, 1, 8 * 7)" for column in ("ids", "sums", "vectors")),
        *(f"{column} = {_flipped(0, column)}" for column in ("ids", "sums", "vectors", "name")),
        *(f"vectors = {_flipped(at)}" for at in (1, 5000, 10239)),
        "vectors = CAST(substr(vectors, 257) || substr(vectors, 1, 256) AS BLOB)",
        "max_pixels = 99",
        "max_pixels = 'many'",
    ],
)
def test_damage_to_a_block_costs_time_only(change: str, paths: list[str]) -> None:
    execute(f"UPDATE blocks SET {change}")

    with closing(opened()) as store:
        assert is_right(store.find(paths, file_keys(paths)), paths)
    assert verify() == (COUNT, 1)
    assert verify() == (COUNT, 0)
    looked_up(paths)
    forget_rows()
    assert is_right(looked_up(paths), paths)


def test_damage_anywhere_in_the_file_never_changes_an_answer(paths: list[str]) -> None:
    file = cache_dir() / FILE_NAME
    whole, random = file.read_bytes(), np.random.default_rng(0)
    found_all = 0
    for _ in range(60):
        damaged = bytearray(whole)
        start = int(random.integers(len(whole)))
        end = start + int(random.choice([1, 1, 1, 16, 5000]))
        damaged[start:end] = random.bytes(len(damaged[start:end]))
        for other in cache_dir().glob(f"{FILE_NAME}*"):
            other.unlink()
        file.write_bytes(damaged)
        for _ in range(2):
            found = looked_up(paths)
            assert is_right(found, [path for path in paths if path in found.names])
            found_all += len(found) == COUNT

    assert found_all > 60  # most damage leaves the rows or the block


def change(path: str) -> None:
    Path(path).write_text("other")


def remove(path: str) -> None:
    os.unlink(path)


@pytest.mark.parametrize("event", [change, remove, lambda path: touch(Path(path))])
def test_a_block_is_stale_when_a_picture_changes(event: Callable[[str], None], paths: list[str]) -> None:
    event(paths[7])

    others = [path for path in paths if path != paths[7]]
    with closing(opened()) as store:
        assert is_right(store.find(paths, file_keys(paths)), others)
        Path(paths[7]).write_text("new")
        store.keep([(sight(paths[7]), vector(100))])
    found = looked_up(paths)
    assert np.array_equal(found.vectors[7], vector(100))
    assert execute("SELECT COUNT(*) FROM blocks") == [(1,)]  # the stale one is gone
    forget_rows()
    assert np.array_equal(looked_up(paths).vectors, found.vectors)


def test_a_block_of_another_range_replaces_those_that_it_overlaps(paths: list[str]) -> None:
    looked_up(paths[:20])
    looked_up(paths[20:])
    assert execute("SELECT COUNT(*) FROM blocks") == [(2,)]
    looked_up(paths[10:30])

    assert execute("SELECT COUNT(*) FROM blocks") == [(1,)]


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM embeddings WHERE id = 8", "UPDATE embeddings SET vector = zeroblob(256) WHERE id = 8"],
)
def test_blocks_go_with_a_row_that_is_dropped_or_replaced(sql: str, paths: list[str]) -> None:
    execute(sql)

    assert execute("SELECT COUNT(*) FROM blocks") == [(0,)]
    assert is_right(looked_up(paths), [path for path in paths if path != paths[7]])


def test_blocks_are_dropped_before_embeddings(paths: list[str]) -> None:
    execute("UPDATE blocks SET vectors = zeroblob(1000000)")
    before = size_on_disk()

    assert collect(before - 500_000) > 500_000
    assert execute("SELECT COUNT(*) FROM blocks") == [(0,)]
    assert is_right(looked_up(paths), paths)


def test_no_block_is_kept_where_there_is_no_room_for_it(paths: list[str]) -> None:
    execute("DELETE FROM blocks")
    looked_up(paths, max_bytes=size_on_disk())
    assert execute("SELECT COUNT(*) FROM blocks") == [(0,)]
    looked_up(paths)
    assert execute("SELECT COUNT(*) FROM blocks") == [(1,)]


def test_a_lower_limit_of_pixels_is_heeded(paths: list[str]) -> None:
    assert len(looked_up(paths, max_pixels=99)) == 0
    assert is_right(looked_up(paths, max_pixels=101), paths)


def test_a_block_counts_as_use_of_its_pictures(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    today = int(time.time() // 86400)
    monkeypatch.setattr(store_module.time, "time", lambda: 86400.0 * (today + 1))

    assert looked_up(paths).ids.tolist() == list(range(1, COUNT + 1))
    assert execute("SELECT day, COUNT(*) FROM uses GROUP BY day") == [(today + 1, COUNT)]
    assert looked_up(paths).ids.tolist() == list(range(-1, -COUNT - 1, -1))


def test_one_slice_of_what_was_found_keeps_the_block(paths: list[str]) -> None:
    execute("DELETE FROM blocks")
    with closing(opened()) as store:
        found = store.find(paths, file_keys(paths))

    assert found.block is not None
    assert (found.part(0, 9).block, found.part(9, COUNT).block) == (found.block, None)


def test_few_pictures_or_pictures_out_of_order_have_no_block(paths: list[str]) -> None:
    execute("DELETE FROM blocks")
    for some in (paths[:5], paths[::-1], [*paths, f"{paths[-1]}-gone"]):
        assert is_right(looked_up(some), [path for path in some if path in paths])

    assert execute("SELECT COUNT(*) FROM blocks") == [(0,)]


def test_an_older_store_that_cannot_be_written_has_no_blocks(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def locked() -> sqlite3.Connection:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    execute("DROP TABLE blocks")
    monkeypatch.setattr(store_module, "open_for_writing", locked)

    assert is_right(looked_up(paths), paths)


_KEEPS_A_BLOCK = """
import sys
from test_blocks import execute, looked_up
print("ready", flush=True)
while True:
    looked_up(sys.argv[1:])
    execute("DELETE FROM blocks")
"""


def test_a_kill_at_any_moment_leaves_right_answers(paths: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for moment in range(5):
        command = [sys.executable, "-c", _KEEPS_A_BLOCK, *paths]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.003 * moment)
            process.send_signal(signal.SIGKILL)

        assert is_right(looked_up(paths), paths)
        assert verify() == (COUNT, 0)
