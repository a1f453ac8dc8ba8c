"""Zip archives: hostile and cut ones cost their own rows."""

import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from album import ALBUM, content_of, write_zip

from zsclip.pictures.files import find_images


def test_hostile_zip_members_become_error_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(
            ("more.png", "claims.png", "crc.png", "locked.png", "lzma.png", "gone.png", "good.png")
        ):
            archive.writestr(
                name, bytes(5_000_000) if number == 0 else b"hello", zipfile.ZIP_DEFLATED if number < 3 else 0
            )
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\1\2")
    for field, value in (
        ("more.png", (24, 1000)),
        ("claims.png", (24, 1 << 31)),
        ("crc.png", (16, 7)),
        ("gone.png", (42, 9)),
    ):
        at = data.index(field.encode(), start) - 46
        struct.pack_into("<I", data, at + value[0], value[1])
    struct.pack_into("<H", data, data.index(b"locked.png", start) - 46 + 8, 1)
    struct.pack_into("<H", data, data.index(b"lzma.png", start) - 46 + 10, 14)
    path.write_bytes(data)

    tracemalloc.start()
    found = dict(content_of(find_images([str(path)])))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert most < 2_000_000
    assert list(found) == [f"{path}#{name}.png" for name in ("more", "claims", "crc", "locked", "lzma", "gone", "good")]
    kinds = [data if isinstance(data, bytes) else data.partition(":")[0] for data in found.values()]
    assert kinds == ["unreadable", "too-large", "unreadable", "unsupported", "unsupported", "unreadable", b"hello"]


def test_a_zip_cut_anywhere_gives_its_complete_members_and_one_row_more(tmp_path: Path) -> None:
    path, album = tmp_path / "a.zip", [(name, data or b"x") for name, data in ALBUM.items()]
    write_zip(path, album)
    whole, chance = path.read_bytes(), random.Random(0)
    with zipfile.ZipFile(path) as archive:
        ends = [*(info.header_offset for info in archive.infolist()[1:]), archive.start_dir]
    for cut in [chance.randrange(40, len(whole) - 1) for _ in range(60)] + [
        ends[3],
        ends[3] - 1,
        ends[-1],
        len(whole) - 1,
    ]:
        path.write_bytes(whole[:cut])

        *found, broken = content_of(find_images([str(path)]))

        complete = sum(end <= cut for end in ends)
        assert found == [(f"{path}#{name}", data) for name, data in album[:complete]], cut
        assert broken == (
            str(path), "unreadable: the archive is cut off or damaged: it has no directory"
        )  # fmt: skip
    for other in (b"", b"no archive", ALBUM["00.jpeg"][2:]):
        path.write_bytes(other)
        assert content_of(find_images([str(path)])) == [(str(path), "unreadable: not a ZIP archive")]


def test_a_zip64_and_a_zip_behind_a_program_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    album = [(f"{i}.png", bytes([i]) * 200) for i in range(8)]
    write_zip(tmp_path / "a.zip", album)
    assert b"PK\6\6" in (tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\n" * 99 + (tmp_path / "a.zip").read_bytes())

    for name in ("a.zip", "b.zip"):
        assert [data for _, data in content_of(find_images([str(tmp_path / name)]))] == [data for _, data in album]
