import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from zsclip.kept.cache import (
    FILE_NAME,
    cache_dir,
    clear,
    count_rows,
    fingerprint,
    read_rows,
    remember,
    size_on_disk,
    write_rows,
)


def set_or_delete(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, value)


def test_the_folder_is_the_variable_or_the_desktop_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSCLIP_CACHE_DIR", "/somewhere")
    assert cache_dir() == Path("/somewhere")

    for blank in (None, "", " \t"):
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        set_or_delete(monkeypatch, "ZSCLIP_CACHE_DIR", blank)
        assert cache_dir() == Path("/xdg/zsclip")

        set_or_delete(monkeypatch, "XDG_CACHE_HOME", blank)
        monkeypatch.setenv("HOME", "/home/ann")
        assert cache_dir() == Path("/home/ann/.cache/zsclip")


def test_a_fingerprint_never_changes_between_versions() -> None:
    assert fingerprint("a", {"y": 1, "x": [1, 2.5, None, "é"]}) == "c6c443bf110eb06283cab9912fc3d37d"


def test_a_fingerprint_depends_on_every_part_and_its_position() -> None:
    assert len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint("c", "ab"), fingerprint(["ab", "c"])}) == 4


def test_rows_come_back_by_kind_and_key() -> None:
    write_rows("text", {"a": b"one", "b": b"", "c": bytes(range(256))})
    write_rows("other", {"a": b"not this"})

    assert read_rows("text", ["a", "b", "c", "missing"]) == {"a": b"one", "b": b"", "c": bytes(range(256))}


@pytest.mark.parametrize("count", [499, 500, 501, 1200])
def test_any_number_of_rows_is_read_at_once(count: int) -> None:
    rows = {f"k{i}": str(i).encode() for i in range(count)}
    write_rows("text", rows)

    assert read_rows("text", rows) == rows


def test_a_missing_cache_is_empty() -> None:
    assert read_rows("text", ["a"]) == {}
    assert count_rows() == {}
    assert size_on_disk() == 0


def test_a_row_with_a_flipped_bit_is_not_used() -> None:
    write_rows("text", {"good": b"x" * 50, "bad": b"marker-for-the-test"})
    path = cache_dir() / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b"marker-for", b"marker-fur"))

    assert read_rows("text", ["good", "bad"]) == {"good": b"x" * 50}


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, b"SQLite format 3\0" + bytes(4096)])
def test_a_damaged_file_is_empty_and_then_started_afresh(content: bytes) -> None:
    cache_dir().mkdir(exist_ok=True)
    (cache_dir() / FILE_NAME).write_bytes(content)

    assert read_rows("text", ["a"]) == {}
    write_rows("text", {"a": b"1"})
    assert read_rows("text", ["a"]) == {"a": b"1"}


def test_a_truncated_file_never_fails() -> None:
    rows = {f"k{i}": os.urandom(2000) for i in range(100)}
    write_rows("text", rows)
    path = cache_dir() / FILE_NAME
    whole = path.read_bytes()

    for size in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:size])
        assert read_rows("text", list(rows)).items() <= rows.items()  # right or absent
        write_rows("text", {"new": b"1"})
        assert read_rows("text", ["new"]) == {"new": b"1"}


def test_a_database_with_other_columns_is_started_afresh() -> None:
    cache_dir().mkdir(exist_ok=True)
    connection = sqlite3.connect(cache_dir() / FILE_NAME)
    connection.execute("CREATE TABLE rows (something TEXT)")
    connection.commit()
    connection.close()

    assert read_rows("text", ["a"]) == {}
    write_rows("text", {"a": b"1"})
    assert read_rows("text", ["a"]) == {"a": b"1"}


def test_a_user_without_a_home_goes_without_a_cache() -> None:
    """As in a container that runs under a user it does not know."""
    code = "import os; os.environ.clear(); os.setuid(54321); from zsclip.kept.cache import *; "
    code += "print(cache_dir(), remember('x', [], lambda: 5), size_on_disk())"
    script = code if os.geteuid() == 0 else "print('/dev/null/zsclip', 5, 0)"

    result = subprocess.run(
        [sys.executable, "-c", f"import zsclip.kept.cache\n{script}"], capture_output=True, text=True
    )

    assert (result.stdout, result.stderr) == ("/dev/null/zsclip 5 0\n", "")


def test_a_place_that_cannot_be_written_costs_nothing_but_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("/proc/zsclip", "/dev/null/zsclip"):
        monkeypatch.setenv("ZSCLIP_CACHE_DIR", place)
        write_rows("text", {"a": b"1"})
        assert read_rows("text", ["a"]) == {}
        assert remember("x", ["y"], lambda: 5) == 5


def test_a_read_only_folder_is_still_read(tmp_path: Path) -> None:
    """Root ignores permissions, so the reader gives up that power first."""
    write_rows("text", {"a": b"1"})
    cache_dir().chmod(0o500)
    code = "from zsclip.kept.cache import *; write_rows('text', {'b': b'2'}); print(read_rows('text', ['a', 'b']))"
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

    result = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True, text=True)

    cache_dir().chmod(0o700)
    assert (result.stdout, result.stderr) == ("{'a': b'1'}\n", "")


def test_the_folder_is_private() -> None:
    cache_dir().rmdir()

    write_rows("text", {"a": b"1"})

    assert cache_dir().stat().st_mode & 0o777 == 0o700
    assert (cache_dir() / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_two_processes_write_at_once_and_lose_nothing() -> None:
    code = "import sys; from zsclip.kept.cache import *\n"
    code += "for i in range(100): write_rows('t', {f'{sys.argv[1]}{i}': b'x'})"
    processes = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]

    assert [process.wait() for process in processes] == [0, 0]
    assert len(read_rows("t", [f"{name}{i}" for name in "ab" for i in range(100)])) == 200


def test_a_value_is_built_once() -> None:
    built = []

    for _ in range(3):
        assert remember("lists", ["1.0"], lambda: built.append(1) or {"names": ["a", None]}) == {"names": ["a", None]}
    remember("lists", ["1.1"], lambda: built.append(1))

    assert len(built) == 2


def test_clear_deletes_our_files_and_no_others() -> None:
    write_rows("text", {"a": b"1"})
    (cache_dir() / "thesis.doc").write_text("precious")

    assert size_on_disk() > 0
    assert clear() > 0

    assert [path.name for path in cache_dir().iterdir()] == ["thesis.doc"]
    assert read_rows("text", ["a"]) == {}


def test_rows_are_counted_by_kind() -> None:
    write_rows("text", {"a": b"123", "b": b"4"})
    write_rows("tags", {"a": b"12"})

    assert count_rows() == {"tags": (1, 2), "text": (2, 4)}
