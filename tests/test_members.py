"""Members of archives: their names are only names, and each is read again from where it lies."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from album import ALBUM, LABELS, Run, content_of, folder_of, good_album, picture, rows_of, write, write_tar, write_zip
from PIL import Image

from zsclip.pictures import columns, shards
from zsclip.pictures.files import find_images
from zsclip.pictures.pictures import pictures_named
from zsclip.pixels.search_summary import passed_over_line, why_no_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_names_in_archives_are_only_names(tmp_path: Path) -> None:
    names = ["/etc/a.png", "../../up.png", "./here.png", "a//b.png", "C:\\x.png", "same.png", "same.png"]
    album = [(name, str(number).encode()) for number, name in enumerate(names)]
    hidden = [
        (".hidden.png", b""),
        ("._a.png", b""),
        ("__MACOSX/a.png", b""),
        ("d/.git/a.png", b""),
        ("@eaDir/a.png", b""),
    ]
    write_tar(tmp_path / "a.tar", [*album, *hidden])
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(tmp_path / "a.zip", [*album, *hidden])

    for kind in ("tar", "zip"):
        found = find_images([str(tmp_path / f"a.{kind}")])
        assert content_of(found) == [(f"{tmp_path}/a.{kind}#{name}", data) for name, data in album]
        assert found.passed_over.hidden == len(hidden)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.zip"]


def test_members_of_one_name_are_told_apart_when_they_are_read_again(run: Run, tmp_path: Path, model: str) -> None:
    chance = np.random.default_rng(1)
    good, other = picture(chance), picture(chance)
    write_tar(tmp_path / "a.tar", [("a.png", good), ("a.png", b"bad"), ("a.png", other)])
    names = list(find_images([str(tmp_path / "a.tar")]))
    assert [pictures_named(names[::-1]).open(place).read() for place in range(3)] == [other, b"bad", good]
    command = ("classify", "a.tar", *LABELS, "-m", model, "-q")

    assert run(*command, "-o", "rows.jsonl", "--report", "page.html", "--contact-sheet", "sheet.png").returncode == 1
    before = (tmp_path / "rows.jsonl").read_bytes()
    page = (tmp_path / "page.html").read_text()
    cards = json.loads(page.partition('id="rows">')[2].partition("</script>")[0])
    assert [card[0] for card in cards] == ["a.tar#a.png"] * 3
    assert len({card[7] for card in cards}) == 3  # thumbnails, and none of the damaged one
    assert [card[1] for card in cards] == ["a.tar#a.png"] * 3  # the archive that each is in

    assert run(*command, "-o", "rows.jsonl", "--retry-errors").returncode == 1
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_paths_and_the_sheet_show_members(run: Run, tmp_path: Path, model: str) -> None:
    album = good_album()[:6]
    write_zip(tmp_path / "a.zip", album)
    folder_of(tmp_path / "album", dict(album))

    done = run("classify", "a.zip", *LABELS, "-m", model, "-f", "paths", "-q", "--contact-sheet", "a.png")
    run("classify", *(f"album/{name}" for name, _ in album), *LABELS, "-m", model, "-q", "--contact-sheet", "b.png")

    assert done.stdout.decode().splitlines() == [f"a.zip#{name}" for name, _ in album]
    ours, files = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert (ours[:100] == files[:100]).all()  # the first row of thumbnails, above their names


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_hundred_thousand_empty_members_are_passed_over_quickly(kind: str, tmp_path: Path) -> None:
    album = [(f"{i}.png" if i % 100 == 0 else f"{i}.txt", b"") for i in range(100_000)]
    (write_tar if kind == "tar" else write_zip)(tmp_path / f"a.{kind}", album)
    begun = time.process_time()

    found = find_images([str(tmp_path / f"a.{kind}")])

    assert len(list(found)) == 1000
    assert time.process_time() - begun < 30
    assert passed_over_line(found.passed_over) == ""
    assert found.passed_over.about[".txt"] == 99_000


@pytest.mark.parametrize("kind", ["a.tar", "a.zip", "a.tar.gz"])
def test_a_large_picture_is_not_held_in_memory(
    kind: str, run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAX_BYTES", 3000)
    monkeypatch.setattr(shards, "_LARGEST_PACKED", 3000)
    chance = np.random.default_rng(0)
    album = {f"{i}.{kind.lower()}": picture(chance, kind) for i in range(12) for kind in ("TIFF", "PNG", "BMP")}
    folder_of(tmp_path / "album", album)
    album = {name: album[name] for name in sorted(album)}
    write(tmp_path / kind, list(album.items()), "album")
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "--no-store", "-q")

    found, expected = rows_of(run(*command, kind)), rows_of(run(*command, "album"))

    sizes = [len(data) for data in album.values()]
    assert min(sizes) < 3000 < max(sizes)
    if kind == "a.tar":
        (some,) = find_images([str(tmp_path / kind)]).rest()
        assert some.read is not None
        in_memory = [isinstance(some.read(place), bytes) for place in range(len(some))]
        assert in_memory == [size <= 3000 for size in sizes]
    for number, (row, same, size) in enumerate(zip(found, expected, sizes, strict=True)):
        is_packed = kind == "a.tar.gz" or (kind == "a.zip" and number % 2)
        if size > 3000 and is_packed:
            assert row["error"] == "too-large"
            assert row["message"] == f"{size:,} bytes, too large for a compressed archive; unpack it first"
        else:
            assert row["score"] == pytest.approx(same["score"], abs=1e-5)
            assert (row["label"], row["error"]) == (same["label"], None)


def test_pictures_may_be_read_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 4000)
    monkeypatch.setattr("zsclip.pictures.tars._BLOCK_BYTES", 4000)
    album = [(str(i) + ".png", random.Random(i).randbytes(i * 37 % 900 + 1)) for i in range(200)]
    write_tar(tmp_path / "a.tar.gz", album, mode="w:gz")
    pq.write_table(pa.table({"image": [data for _, data in album]}), tmp_path / "a.parquet", row_group_size=70)
    for name in ("a.tar.gz", "a.parquet"):
        groups = list(find_images([str(tmp_path / name)]).rest())
        assert len(groups) > 5
        pairs = [(some, place) for some in groups for place in range(len(some))]
        expected = dict(zip(((id(some), place) for some, place in pairs), (data for _, data in album), strict=True))
        random.Random(0).shuffle(pairs)
        for some, place in pairs:
            assert some.open(place).read() == expected[id(some), place]


def test_folders_count_archives_and_say_how_they_are_read(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"{i}.TAR": b"" for i in range(3)} | {"a.png": b"", "b.zip": b"", "c.csv": b""})

    for all_files in (False, True):
        found = find_images([str(tmp_path)], all_files=all_files)
        names = [os.path.basename(path) for path in found]
        assert names == (["a.png", "c.csv"] if all_files else ["a.png"])
        line = "passed over: 3 .tar (archives; name them to read them), 1 .zip (an archive; name it to read it)"
        assert passed_over_line(found.passed_over).replace(", 1 .csv", "") == (
            line if all_files else f"{line} (--all-files tries it)"
        )


def test_a_webdatasets_summary_is_short_and_no_images_has_a_reason(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar", [(f"{i}.{ending}", b"") for i in range(3) for ending in ("jpg", "json", "cls", "mp4")]
    )
    found = find_images([str(tmp_path / "a.tar")])
    assert len(list(found)) == 3
    assert passed_over_line(found.passed_over) == "passed over: 3 videos in archives"

    found = find_images([str(tmp_path / "a.tar")], exclude=["*.jpg"])
    assert not list(found)
    assert why_no_images(found.passed_over) == (
        "no images; passed over: 3 videos in archives; --exclude left out 3; 6 text and data files in archives"
    )
    names = [name.partition("#")[2] for name in find_images([str(tmp_path / "a.tar")], all_files=True)]
    assert len(names) == 12


def test_archives_in_archives_are_not_read_and_the_cure_is_one_that_helps(run: Run, tmp_path: Path, model: str) -> None:
    write_tar(tmp_path / "inner.tar", good_album()[:1])
    inner = (tmp_path / "inner.tar").read_bytes()
    write_tar(tmp_path / "a.tar", [("inner.tar", inner), ("x.tar.gz", b""), ("a.txt", b"")])
    found = find_images([str(tmp_path / "a.tar")])

    assert not list(found)
    assert passed_over_line(found.passed_over) == "passed over: 2 archives in archives"
    assert why_no_images(found.passed_over) == (
        "no images; passed over: 2 archives in archives; 1 text or data file in archives"
    )
    for arguments in (("a.tar", "--all-files"), ("a.tar#inner.tar",)):
        row, *_ = rows_of(run("classify", *arguments, *LABELS, "-m", model, "-f", "jsonl", "-q"))
        assert (row["error"], row["message"]) == ("unsupported", "an archive or a list in an archive; unpack it first")


def test_exclude_and_limit_go_by_members(tmp_path: Path) -> None:
    album = [(name, b"x") for name in ("a/1.png", "a/2.png", "b/1.png", "c.png", "b/a/3.png")]
    write_tar(tmp_path / "x.tar", album)
    write_zip(tmp_path / "x.zip", album)
    pq.write_table(pa.table({"image": [b"x"] * 5}), tmp_path / "x.parquet")

    def found(kind: str, **options: Any) -> list[str]:
        return [name.partition("#")[2] for name in find_images([str(tmp_path / f"x.{kind}")], **options)]

    for kind in ("tar", "zip"):
        assert found(kind, exclude=["a"]) == ["b/1.png", "c.png"]
        assert found(kind, exclude=["a/*"]) == ["b/1.png", "c.png", "b/a/3.png"]
        assert found(kind, exclude=["1.png"], limit=2) == ["a/2.png", "c.png"]
    assert found("parquet", exclude=["3"], limit=4) == ["0", "1", "2", "4"]
    assert len(list(find_images([str(tmp_path / "x.tar"), str(tmp_path / "x.zip")], limit=7))) == 7


def test_a_row_of_parquet_files_with_several_columns_of_images_needs_the_column(
    run: Run, tmp_path: Path, model: str
) -> None:
    data = [data for _, data in good_album()]
    pq.write_table(pa.table({"first": data[:3], "second": data[3:6]}), tmp_path / "x.parquet")
    command = ("classify", *LABELS, "-f", "jsonl", "-q", "--no-store", "--batch-size", "1")

    whole = rows_of(run(*command, "x.parquet", "--column", "second", "-m", model))
    one = run(*command, "x.parquet#1", "--column", "second", "-m", model)
    unknown = run(*command, "x.parquet#1", "-m", "nowhere")  # found out before the model is looked for

    assert rows_of(one) == whole[1:2]
    assert unknown.returncode == 2
    assert unknown.stderr == (
        b"zsclip: x.parquet: several columns may hold the images: first, second; choose one with --column\n"
    )


def test_a_picture_with_the_ending_of_an_archive_is_a_picture(tmp_path: Path) -> None:
    (tmp_path / "photo.tar").write_bytes(ALBUM["00.png"])

    assert content_of(find_images([str(tmp_path / "photo.tar")])) == [(str(tmp_path / "photo.tar"), ALBUM["00.png"])]
