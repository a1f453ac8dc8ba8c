"""The store by itself: what it gives is what was kept, and whatever happens to its file costs time only."""

import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import touch, touch_back

from zsclip.kept import store as store_module
from zsclip.kept.cache import cache_dir
from zsclip.kept.checksums import are_whole, check_sums
from zsclip.kept.store import EmbeddingStore, Stored
from zsclip.kept.storefile import (
    FILE_NAME,
    MAX_BYTES,
    clear,
    collect,
    counts,
    size_on_disk,
    verify,
)
from zsclip.pictures.identity import Sight, content_of, file_key, file_keys, look_of

D = 512


def opened(recipe: str = "r", max_pixels: int = 100, max_bytes: int = 10**9) -> EmbeddingStore:
    return EmbeddingStore(recipe, "tiny", D, max_pixels=max_pixels, max_bytes=max_bytes)


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=D).astype(np.float32)


def sight(path: Path, data: bytes) -> Sight:
    path.write_bytes(data)
    return Sight(str(path), content_of(data), file_key(str(path), look_of(os.stat(path))))


def looked_up(store: EmbeddingStore, paths: Sequence[str]) -> Stored:
    return store.find(paths, file_keys(paths))


def found_in(store: EmbeddingStore, paths: Sequence[str]) -> dict[str, np.ndarray]:
    """What is found, by path."""
    stored = looked_up(store, paths)
    assert list(stored.names) == [paths[place] for place in stored.places]
    assert stored.vectors.shape == (len(stored), D)
    assert sorted(stored.places) == list(stored.places)
    return dict(zip(stored.names, stored.vectors, strict=True))


@pytest.fixture
def kept(tmp_path: Path) -> list[Sight]:
    """Three pictures, a, b and c, that are in the store; b has the content of a."""
    sights = [sight(tmp_path / name, data) for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two"))]
    with closing(opened()) as store:
        store.keep([(sights[0], vector(0)), (sights[2], vector(2))])
        found = store.find_content(sights[1])
        assert found is not None
        store.keep([], [found])
    return sights


def test_what_is_found_has_the_bits_of_what_was_kept(kept: list[Sight]) -> None:
    with closing(opened()) as store:
        found = found_in(store, [each.name for each in kept])

    assert set(found) == {each.name for each in kept}
    for each, seed in zip(kept, (0, 0, 2), strict=True):
        assert np.array_equal(found[each.name], vector(seed))
        assert found[each.name].dtype == np.float32


def test_a_relative_path_is_the_same_file(kept: list[Sight], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(kept[0].name).parent)

    with closing(opened()) as store:
        assert set(found_in(store, ["a", "./c", "b/../a"])) == {"a", "./c"}  # b is no folder


def rewrite(path: Path) -> None:
    path.write_bytes(b"ONE")  # as long as before


def replace(path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"ONE")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [rewrite, touch, touch_back, replace, Path.unlink])
def test_a_changed_file_is_not_recognised(change: Callable[[Path], None], kept: list[Sight]) -> None:
    change(Path(kept[0].name))

    with closing(opened()) as store:
        assert set(found_in(store, [each.name for each in kept])) == {kept[1].name, kept[2].name}


def test_a_picture_with_an_unknown_look_is_identified_by_content_only(tmp_path: Path) -> None:
    young = Sight(str(tmp_path / "a"), content_of(b"x"), None)
    (tmp_path / "a").write_bytes(b"x")
    with closing(opened()) as store:
        store.keep([(young, vector(1))])
        assert found_in(store, [young.name]) == {}
        found = store.find_content(young)
        assert found is not None
        assert np.array_equal(found.vectors[0], vector(1))


def test_an_embedding_is_not_found_under_another_recipe(kept: list[Sight]) -> None:
    with closing(opened("other")) as store:
        assert found_in(store, [kept[0].name]) == {}
        assert store.find_content(kept[0]) is None
        store.keep([(kept[0], vector(5))])
        assert np.array_equal(found_in(store, [kept[0].name])[kept[0].name], vector(5))
    with closing(opened()) as store:
        assert np.array_equal(found_in(store, [kept[0].name])[kept[0].name], vector(0))


def test_a_lower_limit_of_pixels_is_heeded(kept: list[Sight]) -> None:
    with closing(opened(max_pixels=99)) as store:
        assert found_in(store, [kept[0].name]) == {}
        assert store.find_content(kept[0]) is None
        store.keep([(kept[0], vector(0))])
    for limit in (99, 100, 101):
        with closing(opened(max_pixels=limit)) as store:
            assert len(looked_up(store, [kept[0].name])) == 1


def test_many_paths_are_asked_for_at_once(tmp_path: Path) -> None:
    sights = [sight(tmp_path / str(i), b"%d" % i) for i in range(1203)]
    with closing(opened()) as store:
        store.keep([(each, vector(i)) for i, each in enumerate(sights)])
        found = found_in(store, [each.name for each in sights])

    assert all(np.array_equal(found[each.name], vector(i)) for i, each in enumerate(sights))
    assert counts() == {"tiny": 1203}


def test_threads_look_up_while_one_keeps(tmp_path: Path) -> None:
    sights = [sight(tmp_path / str(i), b"%d" % i) for i in range(200)]
    seen: list[int] = []
    with closing(opened()) as store:

        def look() -> None:
            while len(found := found_in(store, [each.name for each in sights])) < 200:
                assert all(np.array_equal(found[each.name], vector(0)) for each in sights[: len(found)])
            seen.append(len(found))

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for each in sights:
            store.keep([(each, vector(0))])
        for thread in threads:
            thread.join(60)

    assert seen == [200] * 3


def test_two_processes_may_keep_at_once(tmp_path: Path) -> None:
    with closing(opened()) as one, closing(opened()) as other:
        for i in range(50):
            (one if i % 2 else other).keep([(sight(tmp_path / str(i), b"%d" % i), vector(i))])
        assert len(looked_up(one, [str(tmp_path / str(i)) for i in range(50)])) == 50


def damage_everything(path: Path) -> None:
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def overwrite_with_text(path: Path) -> None:
    path.write_text("this is not a database, " * 1000)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def make_foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE models (something TEXT)")


@pytest.mark.parametrize("damage", [damage_everything, overwrite_with_text, cut, make_foreign, Path.unlink])
def test_a_damaged_store_begins_afresh(damage: Callable[[Path], None], kept: list[Sight]) -> None:
    damage(cache_dir() / FILE_NAME)

    with closing(opened()) as store:
        for each in found_in(store, [each.name for each in kept]).values():
            assert any(np.array_equal(each, vector(seed)) for seed in (0, 2))
        store.keep([(kept[0], vector(0))])  # may still be lost
    with closing(opened()) as store:
        store.keep([(kept[0], vector(0))])
        assert np.array_equal(found_in(store, [kept[0].name])[kept[0].name], vector(0))


def test_a_flipped_bit_is_not_used_and_verify_finds_it(kept: list[Sight]) -> None:
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        (value,) = connection.execute("SELECT vector FROM embeddings ORDER BY id").fetchone()
        connection.execute(
            "UPDATE embeddings SET vector = ? WHERE vector = ?", (bytes([value[0] ^ 1]) + value[1:], value)
        )

    with closing(opened()) as store:
        assert set(found_in(store, [each.name for each in kept])) == {kept[2].name}
    assert verify() == (2, 1)
    assert verify() == (1, 0)


def test_a_store_that_cannot_be_written_is_read(kept: list[Sight], monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only() -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{cache_dir() / FILE_NAME}?mode=ro", uri=True)
        connection.execute("PRAGMA query_only = 1")
        return connection

    monkeypatch.setattr(store_module, "open_for_writing", read_only)  # root may write whatever the mode says
    with closing(opened()) as store:
        assert len(looked_up(store, [each.name for each in kept])) == 3
        store.keep([(Sight("x", content_of(b"x"), None), vector(9))])
        assert store.kept == 0
        assert len(looked_up(store, [each.name for each in kept])) == 3


def test_where_no_file_can_be_made_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ZSCLIP_CACHE_DIR", str(tmp_path / "file" / "cache"))

    with closing(opened()) as store:
        store.keep([(Sight("x", content_of(b"x"), None), vector(9))])
        assert (found_in(store, ["x"]), store.kept) == ({}, 0)
    assert (counts(), size_on_disk(), clear()) == ({}, 0, 0)


def test_a_store_locked_by_another_is_skipped(kept: list[Sight], monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        store_module.sqlite3, "connect", lambda *arguments, **options: connect(*arguments, **options | {"timeout": 0.1})
    )
    with closing(connect(cache_dir() / FILE_NAME)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with closing(opened()) as store:
            store.keep([(Sight("x", content_of(b"x"), None), vector(9))])
            assert len(looked_up(store, [each.name for each in kept])) == 3  # readers do not wait for a writer
            assert store.kept == 0
    with closing(opened()) as store:
        assert len(looked_up(store, [each.name for each in kept])) == 3


def test_the_least_recently_used_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sights = [sight(tmp_path / str(i), b"%d" % i) for i in range(600)]
    monkeypatch.setattr(store_module.time, "time", lambda: 86400.0)
    with closing(opened()) as store:
        store.keep([(each, vector(0)) for each in sights[:500]])
    monkeypatch.setattr(store_module.time, "time", lambda: 2 * 86400.0)
    with closing(opened()) as store:
        store.keep([], [looked_up(store, [each.name for each in sights[:100]])])
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection:
        pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    largest = pages * size
    with closing(opened(max_bytes=largest)) as store:
        store.keep([(each, vector(0)) for each in sights[500:]])
        found = found_in(store, [each.name for each in sights])

    assert {each.name for each in sights[:100] + sights[500:]} <= set(found)
    assert len(found) < 600
    assert collect(largest // 2) > 0
    assert size_on_disk() <= largest // 2
    with closing(opened()) as store:
        assert 0 < len(looked_up(store, [each.name for each in sights])) < len(found)
    collect(0)
    assert counts() == {}


def test_a_run_leaves_no_log_behind_though_a_thread_still_has_the_file_open(tmp_path: Path) -> None:
    with closing(opened()) as store, ThreadPoolExecutor(1) as other:
        store.keep([(sight(tmp_path / str(i), b"%d" % i), vector(0)) for i in range(100)])
        assert len(other.submit(looked_up, store, [str(tmp_path / "0")]).result()) == 1
        log = cache_dir() / f"{FILE_NAME}-wal"
        assert log.stat().st_size > 0
        store.close()

        assert not log.exists() or log.stat().st_size == 0


def test_a_log_does_not_count_as_space_that_is_freed(tmp_path: Path) -> None:
    with closing(opened()) as store:
        store.keep([(sight(tmp_path / str(i), b"%d" % i), vector(0)) for i in range(100)])

        assert collect(MAX_BYTES) == 0


def test_renamed_pictures_do_not_evict_others(tmp_path: Path) -> None:
    sights = [sight(tmp_path / str(i), b"%d" % i) for i in range(100)]
    with closing(opened()) as store:
        store.keep([(each, vector(0)) for each in sights])
    largest = size_on_disk() + 200_000
    with closing(opened(max_bytes=largest)) as store:
        for night in range(40):
            again = [Sight(each.name, each.content, b"%d/%s" % (night, each.key)) for each in sights]
            known = store.find_content(sights[0])
            assert known is not None
            store.keep([], [Stored(known.names, (0,), known.vectors, known.ids, (each,)) for each in again])
            store.keep([], [found for each in sights if (found := store.find_content(each))])

    with closing(opened()) as store:
        assert len([each for each in sights if store.find_content(each)]) == 100
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM seen").fetchone()[0] < 4000


def test_what_was_used_today_is_not_written_again(kept: list[Sight]) -> None:
    with closing(opened()) as store:
        assert looked_up(store, [each.name for each in kept]).ids.tolist() == [-1, -1, -2]


def test_a_read_only_folder_is_still_read(kept: list[Sight]) -> None:
    """Root ignores permissions, so the reader gives up that power first."""
    code = (
        "import sys\n"
        "from zsclip.kept.store import EmbeddingStore\n"
        "from zsclip.pictures.identity import Sight, content_of, file_keys\n"
        f"store = EmbeddingStore('r', 'tiny', {D}, max_pixels=100)\n"
        "found = store.find_content(Sight(sys.argv[1], content_of(b'one'), None))\n"
        "store.keep([(Sight('', b'', None), found.vectors[0])])\n"
        "print(list(store.find(sys.argv[1:], file_keys(sys.argv[1:])).names) == sys.argv[1:], store.kept)\n"
    )
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, "-c", code, *(each.name for each in kept)]
    for path in cache_dir().iterdir():
        path.chmod(0o400)
    cache_dir().chmod(0o500)

    done = subprocess.run(command, capture_output=True, text=True)

    cache_dir().chmod(0o700)
    assert (done.stdout, done.stderr) == ("True 0\n", "")


def test_odd_inodes_times_limits_and_names_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "a").write_bytes(b"one")
    status = list(os.stat(tmp_path / "a"))
    status[1] = 2**64 - 1  # st_ino, of a file system that hashes names
    times = {"st_mtime_ns": -11_644_473_600 * 10**9, "st_ctime_ns": 2**64}  # of NTFS's year 1601, and of a broken clock
    look = look_of(os.stat_result(status, times))
    with closing(EmbeddingStore("r", "local-dir:caf\udce9", D, max_pixels=10**30)) as store:
        path = str(tmp_path / "a")
        store.keep([(Sight(path, content_of(b"one"), file_key(path, look)), vector(1))])
        assert store.kept == 1
        assert len(store.find([path], [file_key(path, look)])) == 1
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        store.keep([(Sight("relative", content_of(b"two"), file_key("relative", look)), vector(2))])
        assert (store.kept, found_in(store, ["relative"])) == (2, {})
    assert counts() == {"local-dir:caf\\udce9": 2}


def test_an_embedding_already_used_is_not_replaced(kept: list[Sight]) -> None:
    with closing(opened()) as store:
        store.keep([(kept[0], vector(7))])  # encoded twice, by another run or within a batch
        assert np.array_equal(found_in(store, [kept[0].name])[kept[0].name], vector(0))


def test_starting_over_keeps_what_another_run_has_started(kept: list[Sight]) -> None:
    with closing(opened()) as store:
        store._damaged = True  # it saw the old file, which another has replaced since
        clear()
        with closing(opened()) as other:
            other.keep([(kept[0], vector(3))])
        store.keep([(kept[2], vector(2))])
        assert set(found_in(store, [each.name for each in kept])) == {kept[0].name, kept[2].name}


def test_all_its_files_are_the_users_alone(kept: list[Sight]) -> None:
    with closing(opened()) as store:
        store.keep([(Sight("x", content_of(b"x"), None), vector(1))])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in cache_dir().iterdir()}
    assert len(modes) == 3  # with -wal and -shm
    assert set(modes.values()) == {0o600}


def test_a_file_system_without_shared_memory_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own stand-in for one: locks by files, and no WAL."""
    connect = sqlite3.connect

    def dotfile(database: object, **options: object) -> sqlite3.Connection:
        uri = str(database) if str(database).startswith("file:") else f"file:{database}?mode=rwc"
        return connect(f"{uri}&vfs=unix-dotfile", **options | {"uri": True})  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(store_module.sqlite3, "connect", dotfile)
    first = sight(tmp_path / "a", b"one")
    with closing(opened()) as store:
        store.keep([(first, vector(1))])
        assert store._writer is not None
        assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert np.array_equal(found_in(store, [first.name])[first.name], vector(1))
    with closing(opened()) as store:
        assert looked_up(store, [first.name])


def blake2b_of(content: bytes, value: np.ndarray) -> bytes:
    """What the first versions kept beside a vector."""
    return hashlib.blake2b(b"r" + content + value.tobytes(), digest_size=8).digest()


def test_what_an_earlier_version_kept_is_read(kept: list[Sight]) -> None:
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        for number, (each, seed) in enumerate(((kept[0], 0), (kept[2], 2)), 1):
            digest = blake2b_of(each.content, vector(seed))
            connection.execute("UPDATE embeddings SET digest = ? WHERE id = ?", (digest, number))

    with closing(opened()) as store:
        found = found_in(store, [each.name for each in kept])
        assert [np.array_equal(found[each.name], vector(seed)) for each, seed in zip(kept, (0, 0, 2), strict=True)]
        store.keep([(kept[0], vector(7))])  # it is whole, so it stays
        assert np.array_equal(found_in(store, [kept[0].name])[kept[0].name], vector(0))
    assert verify() == (2, 0)


@pytest.mark.parametrize("width", [1, 3, 512])
def test_the_checksum_detects_every_flipped_bit_and_another_recipe_or_content(width: int) -> None:
    value = vector(0)[None, :width]
    content, other = content_of(b"x"), content_of(b"y")
    (kept,) = check_sums("r", [content], value)
    bits = np.unpackbits(value.view(np.uint8))
    changed = np.stack([bits] * len(bits)) ^ np.eye(len(bits), dtype=np.uint8)
    changed = np.packbits(changed, axis=1).view(np.float32)

    assert (check_sums("r", [content] * len(bits), changed) != kept).all()
    assert check_sums("s", [content], value)[0] != kept != check_sums("r", [other], value)[0]
    digests = [kept.tobytes(), blake2b_of(content, value), kept.tobytes(), blake2b_of(other, value)]
    rows = np.concatenate([value, value, value + 1, value])
    assert are_whole("r", [content] * 4, rows, digests).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "change",
    ["vector = substr(vector, 5)", "vector = NULL", "vector = 7", "digest = 'text'", "digest = substr(digest, 2)"],
)
def test_a_row_with_a_bad_vector_or_digest_is_damaged(kept: list[Sight], change: str) -> None:
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        connection.execute(f"UPDATE embeddings SET {change} WHERE id = 1")

    with closing(opened()) as store:
        assert set(found_in(store, [each.name for each in kept])) == {kept[2].name}
        store.keep([(kept[0], vector(0))])
        assert np.array_equal(found_in(store, [kept[0].name])[kept[0].name], vector(0))
    assert verify() == (2, 0)
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        connection.execute(f"UPDATE embeddings SET {change} WHERE id = 2")
    assert verify() == (2, 1)


def test_a_path_given_twice_is_found_twice(kept: list[Sight]) -> None:
    paths = [kept[2].name, kept[0].name, kept[2].name, f"{kept[0].name}/../a"]  # a is no folder

    with closing(opened()) as store:
        assert list(looked_up(store, paths).places) == [0, 1, 2]


def test_keys_are_found_in_any_order_and_among_many_others(tmp_path: Path) -> None:
    sights = [sight(tmp_path / f"{i:03d}", b"%d" % i) for i in range(300)]
    paths = [each.name for each in sights]
    with closing(opened()) as store:
        store.keep([(each, vector(i)) for i, each in enumerate(sights)])
        for some in (paths[::-1], [paths[0], paths[-1]], [paths[7], str(tmp_path / "gone"), paths[3]], paths[5:6], []):
            found = found_in(store, some)
            assert list(found) == [path for path in some if path in paths]
            assert all(np.array_equal(found[path], vector(int(path[-3:]))) for path in found)


def test_a_key_does_not_stand_for_an_embedding_that_took_the_place_of_another(kept: list[Sight]) -> None:
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        connection.execute("DELETE FROM embeddings WHERE id = 1")
        connection.execute("UPDATE embeddings SET id = 1")  # as SQLite may number the next one

    with closing(opened()) as store:
        assert found_in(store, [each.name for each in kept]) == {}


def make_older(kept: list[Sight]) -> None:
    """Make the store what it was when looks were columns."""
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        connection.execute("DROP TABLE seen")
        connection.execute(
            "CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, inode INTEGER,"
            " content BLOB) WITHOUT ROWID"
        )
        for each in kept:
            is_at = os.stat(each.name)
            look = (is_at.st_size, is_at.st_mtime_ns, is_at.st_ctime_ns, is_at.st_ino)
            connection.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)", (os.fsencode(each.name), *look, each.content)
            )


def test_files_that_an_older_version_has_seen_are_known(kept: list[Sight]) -> None:
    with closing(opened("other")) as store:
        store.keep([(kept[0], vector(5))])
    make_older(kept)
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        connection.execute("INSERT INTO files VALUES ('/text', 1, 2, 3, 'four', ?)", (kept[2].content,))  # damage

    for _ in range(2):
        with closing(opened()) as store:
            found = found_in(store, [each.name for each in kept])
            assert [np.array_equal(found[each.name], vector(i)) for each, i in zip(kept, (0, 0, 2), strict=True)]
        with closing(opened("other")) as store:
            found = found_in(store, [each.name for each in kept])
            assert set(found) == {kept[0].name, kept[1].name}
            assert np.array_equal(found[kept[0].name], vector(5))


def test_an_older_store_that_cannot_be_written_is_left_alone(
    kept: list[Sight], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked() -> sqlite3.Connection:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    make_older(kept)
    monkeypatch.setattr(store_module, "open_for_writing", locked)
    with closing(opened()) as store:
        assert found_in(store, [each.name for each in kept]) == {}
        known = store.find_content(kept[2])
        assert known is not None
        assert np.array_equal(known.vectors[0], vector(2))
        store.keep([], [known])

    assert counts() == {"tiny": 2}
