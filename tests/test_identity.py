"""A file's key is its absolute path and its look, whichever way it is named."""

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from conftest import touch, touch_back

from zsclip.pictures.identity import LOOK_BYTES, absolute_paths, file_key, file_keys, look_of

NAMES = ["a.jpg", "/a.jpg", "b/c d.png", "/b/c.png", "./a", "../a", "a/../b", "a/./b", "a//b", "//a", "///a", "a/", "/"]
NAMES += [".", "..", ".a", "/.a/b", "a/.b", "", "caf\udce9", "/caf\u00e9", "a\nb", "a.", "/a/..", "a\0b", "\0"]


def test_paths_become_absolute_as_abspath_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    for names in ([], *product(NAMES), *product(NAMES, NAMES)):
        assert absolute_paths(names) == [os.fsencode(os.path.abspath(name)) for name in names], names


def test_paths_in_the_root_begin_with_one_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")

    assert absolute_paths(["a.jpg"]) == [b"/a.jpg"]
    assert absolute_paths(["b/c.png", "./a.jpg"]) == [b"/b/c.png", b"/a.jpg"]


def test_files_that_do_not_exist_have_no_key(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    path = str(tmp_path / "a")

    assert file_keys([f"{path}b", path, "a\0b"]) == [None, file_key(path, look_of(os.stat(path))), None]


def test_relative_paths_have_no_key_where_the_working_directory_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "gone").mkdir()
    look = look_of(os.stat(tmp_path / "a"))
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert file_keys(["a", str(tmp_path / "a")])[0] is None
    assert file_key("a", look) is None
    assert file_key(str(tmp_path / "a"), look) is not None


def rewrite(path: Path) -> None:
    path.write_bytes(b"ONE")  # as long as before


def lengthen(path: Path) -> None:
    path.write_bytes(b"three")


@pytest.mark.parametrize("change", [rewrite, lengthen, touch, touch_back])
def test_a_changed_file_has_another_key(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = file_keys([str(path)])
    change(path)

    assert file_keys([str(path)]) != before


@pytest.mark.parametrize("place", [1, 6, 8, 9])  # inode, size, and the seconds of mtime and ctime
def test_every_field_changes_the_key(place: int, tmp_path: Path) -> None:
    status = os.stat(tmp_path)
    numbers = list(status)
    names = ("st_mtime_ns", "st_ctime_ns")
    times = {name: getattr(status, name) + 10**9 * (place == at) for name, at in zip(names, (8, 9), strict=True)}
    numbers[place] += 1

    assert look_of(os.stat_result(numbers, times)) != look_of(status)


@pytest.mark.parametrize("inode", [2**64 - 1, 5])
def test_inodes_and_times_that_are_too_large_are_no_error(inode: int, tmp_path: Path) -> None:
    numbers = list(os.stat(tmp_path))
    numbers[1] = inode
    times = {"st_mtime_ns": -11_644_473_600 * 10**9, "st_ctime_ns": 2**64}  # of NTFS's year 1601, and of a broken clock

    assert len(look_of(os.stat_result(numbers, times))) == LOOK_BYTES
