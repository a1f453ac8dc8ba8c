"""Copies and moves that never overwrite, also on file systems without hard links."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zsclip.out.transfer import are_same, copy_file, move_file, settle_copy, settle_move

Transfer = Callable[[str, str, str], None]


@pytest.fixture(params=["hard links", "no hard links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without hard links, which FAT does not have."""
    if request.param == "no hard links":

        def refuse(*arguments: object, **options: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    return str(request.param)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, Path, str]]:
    """A file, a place for it, and a temporary name."""
    source = tmp_path / "a.jpg"
    source.write_bytes(b"picture")
    os.utime(source, ns=(5, 123_456_789))
    source.chmod(0o640)
    yield source, tmp_path / "b.jpg", str(tmp_path / ".part")
    assert not (tmp_path / ".part").exists()


@pytest.mark.parametrize("transfer", [copy_file, move_file])
def test_the_new_file_has_the_bytes_times_mode_and_tags(
    transfer: Transfer, links: str, places: tuple[Path, Path, str]
) -> None:
    source, target, part = places
    os.setxattr(source, "user.xdg.tags", b"cat")

    transfer(str(source), str(target), part)

    status = target.stat()
    assert os.getxattr(target, "user.xdg.tags") == b"cat"
    assert target.read_bytes() == b"picture"
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (123_456_789, 0o640)
    assert source.exists() == (transfer is copy_file)


@pytest.mark.parametrize("transfer", [copy_file, move_file])
def test_nothing_is_overwritten(transfer: Transfer, links: str, places: tuple[Path, Path, str]) -> None:
    source, target, part = places
    for make in (lambda: target.write_bytes(b""), lambda: target.symlink_to("nothing"), target.mkdir):
        make()

        with pytest.raises(FileExistsError):
            transfer(str(source), str(target), part)
        assert source.read_bytes() == b"picture"
        assert target.is_symlink() or target.is_dir() or target.read_bytes() == b""
        target.rmdir() if target.is_dir() else target.unlink()


def test_a_file_that_cannot_be_deleted_is_not_moved(
    places: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, part = places
    unlink = os.unlink

    def refuse(path: str) -> None:
        if path == str(source):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)

    with pytest.raises(PermissionError):
        move_file(str(source), str(target), part)
    monkeypatch.undo()
    assert source.exists()
    assert not target.exists()


def test_a_folder_or_a_pipe_is_not_copied(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            copy_file(str(tmp_path / name), str(tmp_path / "b"), str(tmp_path / ".part"))
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_an_unfinished_move_is_taken_back_and_a_finished_one_is_not(places: tuple[Path, Path, str]) -> None:
    source, target, part = places
    three = (str(source), str(target), part)

    assert settle_move(*three) is False  # nothing has happened
    Path(part).write_bytes(b"pict")
    assert settle_move(*three) is False  # half a copy
    os.link(source, target)
    assert settle_move(*three) is False  # two names
    assert not target.exists()
    os.close(os.open(target, os.O_CREAT, 0))
    assert settle_move(*three) is False  # a reserved name
    assert not target.exists()
    target.write_bytes(b"another")
    assert settle_move(*three) is False  # of others
    assert target.read_bytes() == b"another"
    target.unlink()
    os.rename(source, target)
    os.link(target, part)
    assert settle_move(*three) is True
    assert target.read_bytes() == b"picture"


def test_an_unfinished_copy_is_tidied_up(places: tuple[Path, Path, str]) -> None:
    source, target, part = places

    assert settle_copy(str(target), part) is False
    Path(part).write_bytes(b"pict")
    assert settle_copy(str(target), part) is False
    Path(part).write_bytes(b"picture")
    os.link(part, target)
    assert settle_copy(str(target), part) is True
    assert settle_copy(str(target), part) is None  # only its bytes can show it
    assert are_same(str(source), str(target))


def test_files_are_the_same_by_their_bytes(tmp_path: Path) -> None:
    for name, data in {"a": b"x" * 3_000_000, "b": b"x" * 3_000_000, "c": b"x" * 2_999_999 + b"y", "d": b"x"}.items():
        (tmp_path / name).write_bytes(data)

    def is_same(name: str) -> bool:
        return are_same(str(tmp_path / "a"), str(tmp_path / name))

    assert [is_same(name) for name in ("a", "b", "c", "d", "gone", ".")] == [True, True, False, False, False, False]
