"""Walks of random folders, against a twin that looks at one name after the other."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from zsclip.pictures.endings import picture_endings
from zsclip.pictures.files import find_images
from zsclip.pictures.passed_over import PassedOver, ending_of

STEMS = ["a", "b", "IMG 1", "new\nline", "日本", "e\u0301", "\udcff\udc80", "\U0001f436", ".hidden", "._a", "-", "0"]
ENDINGS = [".jpg", ".JPG", ".png", ".Tiff", ".txt", ".jpg.bak", ".NEF", ".", ""]
FOLDERS = ["a", "a.jpg", "b", "\udce9", ".git", "@eaDir", "node_modules", "z@eaDir", "a-2"]


def make_folder(chance: random.Random, folder: Path, root: Path, depth: int = 0) -> None:
    """Fill a folder at random, sometimes with enough for several groups, and with links that lead anywhere."""
    folder.mkdir()
    endings = ENDINGS[:1] if chance.random() < 0.4 else ENDINGS
    for name in {chance.choice(STEMS) + chance.choice(endings) for _ in range(chance.randrange(12))}:
        (folder / name).touch()
    for number in range(chance.choice([0, 0, 510, 1030]) if depth < 2 else 0):
        (folder / f"{number:04}{chance.choice(endings)}").touch()
    for name in chance.sample(FOLDERS, chance.randrange(4)) if depth < 3 else ():
        if not (folder / name).exists():
            make_folder(chance, folder / name, root, depth + 1)
    for name in ("to a folder", "itself.jpg", "nothing.jpg"):
        if chance.random() < 0.3:
            (folder / name).symlink_to({"to a folder": chance.choice([root, folder.parent])}.get(name, name))


def one_by_one(folder: str, visited: set[tuple[int, int]], passed_over: PassedOver) -> Iterator[str | None]:
    """Yield the images below a folder, and None wherever another folder begins."""
    yield None
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    is_folder = {name: os.path.isdir(os.path.join(folder, name)) for name in os.listdir(folder)}
    for name in sorted(is_folder, key=lambda name: os.fsencode(name) + b"/" * is_folder[name]):
        path = os.path.join(folder, name)
        if name.startswith(".") or name in ("@eaDir", "node_modules"):
            passed_over.hidden += 1
        elif is_folder[name]:
            yield from one_by_one(path, visited, passed_over)
        elif name[name.rfind(".") :].lower() in picture_endings():
            yield path
        else:
            passed_over.endings[ending_of(name)] += 1


def in_groups(found: Iterator[str | None]) -> Iterator[list[str]]:
    group: list[str] = []
    for path in found:
        if path is not None:
            group.append(path)
        if group and (path is None or len(group) == 512):
            yield group
            group = []
    if group:
        yield group


@pytest.mark.parametrize("seed", range(20))
def test_a_walk_finds_and_counts_what_looking_at_each_name_does(seed: int, tmp_path: Path) -> None:
    make_folder(random.Random(seed), tmp_path / "root", tmp_path / "root")
    root, expected = str(tmp_path / "root"), PassedOver()
    groups = list(in_groups(one_by_one(root, set(), expected)))

    paths = find_images([root])

    assert [list(some.names) for some in paths.rest()] == groups
    assert paths.passed_over.endings == expected.endings
    assert paths.passed_over.hidden == expected.hidden


@pytest.mark.parametrize("limit", [1, 3, 512, 513, 700])
def test_what_lies_behind_the_group_that_reaches_the_limit_is_not_counted(limit: int, tmp_path: Path) -> None:
    names = [f"{number:03}{'.txt' if number % 3 == 1 else '.jpg'}" for number in range(800)]
    for name in names:
        (tmp_path / name).touch()
    images = [place for place, name in enumerate(names) if name.endswith(".jpg")]
    looked_at = names[: images[511] + 1] if limit <= 512 else names

    paths = find_images([str(tmp_path)], limit=limit)

    assert len(list(paths)) == min(limit, len(images))
    assert paths.passed_over.endings == Counter(name[3:] for name in looked_at if name.endswith(".txt"))
