"""How a run is cut into shards: the same for everyone, whatever the containers hold."""

import os
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from zsclip.engine import shards
from zsclip.engine.shards import Finding, Shard
from zsclip.errors import InputError
from zsclip.pictures.passed_over import PassedOver


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder of ten pictures, one of them with a name that is not UTF-8."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for i in range(9):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    os.rename("photos/4.png", b"photos/sub/\xff.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "sub" / "a.png")
    (tmp_path / "photos" / "notes.txt").write_text("")
    return tmp_path


def tar(path: Path, *files: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for file in files:
            archive.add(file, file.name)


def plan(finding: Finding, passed_over: PassedOver, **options: Any) -> Sequence[Shard]:
    return shards.plan(finding, passed_over, **options).shards


def names_of(shard: Shard, finding: Finding) -> list[str]:
    return [name for some in shard.pictures(finding, PassedOver()) for name in some.names]


def test_loose_files_are_counted_off_in_the_order_of_the_walk(pictures: Path) -> None:
    finding, passed_over, seen = Finding(("photos",), size=4), PassedOver(), list[int]()

    found = plan(finding, passed_over, progress=seen.append)

    assert [(shard.name, shard.count) for shard in found] == [
        ("files-000000", 4),
        ("files-000001", 4),
        ("files-000002", 2),
    ]
    names = [name for shard in found for name in names_of(shard, finding)]
    assert names == [f"photos/{i}.png" for i in range(9) if i != 4] + ["photos/sub/a.png", "photos/sub/\udcff.png"]
    assert passed_over.endings == {".txt": 1}
    assert seen[-1] == 10
    assert plan(finding, PassedOver()) == found


@pytest.mark.parametrize(("size", "counts"), [(1, [1] * 10), (5, [5, 5]), (9, [9, 1]), (10, [10]), (11, [10])])
def test_shards_of_every_size_hold_all_files(size: int, counts: list[int], pictures: Path) -> None:
    assert [shard.count for shard in plan(Finding(("photos",), size), PassedOver())] == counts


def test_a_container_is_a_shard_that_is_not_opened(pictures: Path) -> None:
    tar(pictures / "a" / "x.tar", pictures / "photos" / "1.png", pictures / "photos" / "2.png")
    tar(pictures / "b" / "x.tar", pictures / "photos" / "3.png")
    (pictures / "c.tar").write_bytes(b"not one")
    inputs = ("a/x.tar", "photos/0.png", "b/x.tar", "c.tar", "a/x.tar", "photos/1.png")
    finding = Finding(inputs, size=10)

    found = plan(finding, PassedOver())

    assert [shard.path for shard in found] == ["a/x.tar", "b/x.tar", "c.tar", "a/x.tar", ""]
    assert len({shard.name for shard in found}) == 5
    assert all(shard.name.startswith("x.tar-") for shard in found if shard.path.endswith("x.tar"))
    assert names_of(found[0], finding) == ["a/x.tar#1.png", "a/x.tar#2.png"]
    assert names_of(found[-1], finding) == ["photos/0.png", "photos/1.png"]
    assert plan(Finding(("./a/x.tar",), 10), PassedOver())[0].name == found[0].name


def test_a_shard_changes_with_what_it_is_made_of(pictures: Path) -> None:
    tar(pictures / "x.tar", pictures / "photos" / "1.png")
    finding = Finding(("x.tar", "photos"), size=100)
    container, loose = plan(finding, PassedOver())
    before = container.identity(), loose.identity()

    assert (container.identity(), loose.identity()) == before
    os.utime("x.tar", ns=(1, 1))
    os.rename("photos/1.png", "photos/11.png")
    assert loose.identity() != before[1]
    _, renamed = plan(finding, PassedOver())
    assert container.identity() != before[0]
    assert renamed.name == loose.name
    assert renamed.identity() != before[1]
    os.unlink("x.tar")
    assert container.identity()["size"] is None
    (row,) = container.pictures(finding, PassedOver())
    assert row.names == ("x.tar",)
    assert row.read is not None
    with pytest.raises(FileNotFoundError):
        row.read(0)


def test_loose_files_change_with_their_size_and_their_time(pictures: Path) -> None:
    (shard,) = plan(Finding(("photos",), size=100), PassedOver())
    os.utime("photos/1.png", ns=(5, 5))
    before = shard.identity()

    os.utime("photos/1.png", ns=(5, 6))
    later = shard.identity()
    with open("photos/1.png", "ab") as file:
        file.write(b"more")
    os.utime("photos/1.png", ns=(5, 5))

    assert before != later
    assert before != shard.identity()
    assert later != shard.identity()


def test_what_is_excluded_has_no_shard(pictures: Path) -> None:
    tar(pictures / "x.tar", pictures / "photos" / "1.png", pictures / "photos" / "2.png")
    tar(pictures / "y.tar", pictures / "photos" / "1.png")
    finding = Finding(("x.tar", "y.tar", "photos"), size=100, exclude=("y.tar", "2.png", "sub"))

    found = plan(finding, PassedOver())

    assert [shard.path for shard in found] == ["x.tar", ""]
    assert names_of(found[0], finding) == ["x.tar#1.png"]
    assert found[1].count == 7


def test_a_limit_counts_loose_files_only(pictures: Path) -> None:
    tar(pictures / "x.tar", pictures / "photos" / "1.png")

    assert [shard.count for shard in plan(Finding(("photos",), 2, limit=3), PassedOver())] == [2, 1]
    with pytest.raises(InputError, match=r"^--limit: cannot be used with -o FOLDER/ for archives"):
        plan(Finding(("photos", "x.tar"), 2, limit=3), PassedOver())


def test_a_shard_can_be_sent_to_another_process(pictures: Path) -> None:
    (shard,) = plan(Finding(("photos",), 10), PassedOver())

    assert pickle.loads(pickle.dumps(shard)) == shard


def test_only_inputs_of_loose_files_are_named_as_such(pictures: Path) -> None:
    for name in ("x-0.tar", "x-1.tar"):
        tar(pictures / name, pictures / "photos" / "1.png")

    assert shards.plan(Finding(("photos", "x-{0..1}.tar", "photos/*.png"), 9), PassedOver()).loose == (
        "photos",
        "photos/*.png",
    )
