"""Looks that another process takes: the keys are those that this process would give, whatever happens to the other."""

import os
import random
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from conftest import preprocess_for

from zsclip.kept.store import EmbeddingStore, Stored
from zsclip.models.embed import look_ahead
from zsclip.pictures import looks
from zsclip.pictures.files import find_images
from zsclip.pictures.identity import Sight, content_of, file_keys
from zsclip.pictures.looks import SOON, looking_ahead
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.limits import Decoding

NAMES = [
    "a.jpg",
    "IMG 1.JPG",
    "new\nline.png",
    "日本.png",
    "\udcff\udc80.jpg",
    "e\u0301.gif",
    "dir/b.jpg",
    "dir/a\t.png",
]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dir").mkdir()
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(b"x" * number)
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keys_of(groups: Iterable[Pictures], soon: int = 0) -> list[bytes | None]:
    """Give the keys of all groups, in the slices of a run."""
    with looking_ahead(groups, soon=soon) as found:
        return [key for some in list(found) for at in range(0, len(some), 3) for key in some.keys(at, at + 3) or ()]


def groups_of(names: Sequence[str], size: int) -> list[Pictures]:
    return [Pictures(names[start : start + size]) for start in range(0, len(names), size)]


def change(chance: random.Random, path: Path) -> None:
    """Change a file in a way of which the size, and perhaps the time of its content, say nothing."""
    status, data = path.stat(), path.read_bytes()
    other = path.with_name("other")
    way = chance.choice(["write", "replace", "remove", "rename"])
    if way == "write":
        path.write_bytes(data)
    elif way == "replace":
        other.write_bytes(data)
        other.replace(path)
    elif way == "rename":
        path.rename(other)
    else:
        path.unlink()
    if path.exists():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("seed", range(8))
def test_keys_are_those_that_one_process_gives_also_after_changes(seed: int, tree: Path) -> None:
    chance = random.Random(seed)
    names = [
        *NAMES,
        "link.jpg",
        "itself.jpg",
        "missing.jpg",
        "",
        "a.jpg/",
        "no\0name",
        "./dir//b.jpg",
        str(tree / "a.jpg"),
    ]
    chance.shuffle(names)
    groups = groups_of(names, chance.choice([1, 2, 5, 100]))
    before = file_keys(names)
    changed = chance.sample(NAMES, 2)
    for name in changed:
        change(chance, tree / name)

    keys = keys_of(groups, chance.choice([0, 3]))

    assert keys == file_keys(names)
    assert all(keys[place] != before[place] for place, name in enumerate(names) if name in changed)


def test_keys_come_although_the_process_ends(tree: Path) -> None:
    with looking_ahead(groups_of(NAMES, 2), soon=0) as found:
        first = next(found)
        keys = list(first.keys(0, 2) or ())
        for process in children():
            os.kill(process, signal.SIGKILL)
        keys += [key for some in found for key in some.keys(0, 2) or ()]

    assert keys == file_keys(NAMES)


def test_keys_come_although_the_process_is_stopped(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_STUCK_SECONDS", 0.2)
    many = [Pictures(NAMES * 200)] * 50  # more than the pipes hold
    keys: list[bytes | None] = []
    with looking_ahead(many, soon=0) as found:
        first = next(found)
        for process in children():
            os.kill(process, signal.SIGSTOP)
        asked: SimpleQueue[Pictures | None] = SimpleQueue()
        asked.put(first)

        def ask() -> None:
            for some in found:
                asked.put(some)
            asked.put(None)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        while (some := asked.get(timeout=10)) is not None:
            keys += some.keys(0, len(some)) or ()
        thread.join()
    assert keys == file_keys(NAMES * 200) * 50
    assert not children()


@pytest.mark.parametrize("program", ["", None, "/does/not/exist", "/bin/false", "/bin/true"])
def test_keys_come_although_no_process_can_be_started(
    program: str | None, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)

    assert keys_of(groups_of(NAMES, 2)) == file_keys(NAMES)


def test_a_bundled_program_is_not_started_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with looking_ahead(groups_of(NAMES, 2), soon=0) as found:
        keys = [key for some in found for key in some.keys(0, 2) or ()]

        assert not children()
    assert keys == file_keys(NAMES)


def test_a_run_that_ends_early_leaves_no_process(tree: Path) -> None:
    many = [Pictures(NAMES * 200)] * 50  # more than the pipes hold
    with looking_ahead(many, soon=0) as found:
        thread = threading.Thread(target=lambda: list(found))
        thread.start()
        while not children():
            pass
    thread.join(10)

    assert not thread.is_alive()
    assert not children()


def test_few_files_and_what_are_no_files_start_no_process(tree: Path) -> None:
    of_a_tar = Pictures(["t.tar#a.jpg"] * SOON, read=lambda place: b"", key=lambda place: b"key")
    with looking_ahead([of_a_tar, of_a_tar, *groups_of(NAMES, 2)]) as found:
        keys = [key for some in found for key in some.keys(0, 1) or ()]

        assert not children()
    assert keys == [b"key"] * 2 + file_keys(NAMES[::2])


def test_a_change_behind_the_first_thousands_is_seen(tmp_path: Path) -> None:
    for number in range(SOON + 1500):
        (tmp_path / f"{number:05}.ppm").write_bytes(b"P6 1 1 255 %05d" % number)
    names = list(find_images([str(tmp_path)]))
    vectors = np.arange(3 * len(names), dtype=np.float32).reshape(-1, 3)
    with closing(EmbeddingStore("r", "colours", 3, max_pixels=100)) as store:
        keys = zip(names, file_keys(names), strict=True)
        store.keep(zip([Sight(name, content_of(name.encode()), key) for name, key in keys], vectors, strict=True))
        changed = [3, SOON - 1, SOON + 1000, len(names) - 1]
        for place in changed:
            os.utime(names[place], ns=(0, os.stat(names[place]).st_mtime_ns))

        found: list[int] = []
        groups = find_images([str(tmp_path)]).rest()
        with look_ahead(groups, preprocess_for(8), Decoding(100), store, batch_size=None, threads=2) as ahead:
            for batch in ahead.batches(4):
                for each in batch:
                    found += (each.vectors[:, 0] / 3).astype(int).tolist() if isinstance(each, Stored) else [-1]
            assert children()

    assert found == [-1 if place in changed else place for place in range(len(names))]


def children() -> list[int]:
    """Give this process's children that take looks."""
    script = os.fsencode(looks.stat_script.__file__)
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and script in status.with_name("cmdline").read_bytes():
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found
