"""Images in archives, Parquet files and lists get the rows that they get as files; and nothing is lost or believed."""

import csv
import gzip
import io
import json
import os
import random
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HANGS
from PIL import Image

from zsclip import Answers, Classifier
from zsclip.errors import InputError
from zsclip.pictures import columns, identity, shards
from zsclip.pictures.containers import expand_braces
from zsclip.pictures.files import find_images
from zsclip.pictures.pictures import Paths, pictures_named
from zsclip.pictures.refused import Refused
from zsclip.pictures.shards import Inflated, open_shard
from zsclip.pixels.search_summary import passed_over_line, why_no_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Run = Callable[..., subprocess.CompletedProcess[bytes]]
LABELS = ("--labels", "red,green,blue,a dog,w7")
KINDS = ("a.tar", "a.tar.gz", "a.zip", "struct.parquet", "binary.parquet", "paths.parquet", "a.csv", "a.tsv", "a.jsonl")


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("plain"))


def picture(chance: np.random.Generator, kind: str = "PNG") -> bytes:
    """A picture of coarse noise."""
    size = tuple(int(side) for side in chance.integers(8, 90, 2))
    file = io.BytesIO()
    Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size).save(file, kind)  # type: ignore[arg-type]
    return file.getvalue()


def make_album() -> dict[str, bytes]:
    """Thirty files by name, in the order of a folder: pictures, some of them damaged, some with odd names."""
    chance = np.random.default_rng(0)
    album = {
        f"{'below/' * (i % 3)}{i:02}.{kind.lower()}": picture(chance, kind)
        for i in range(9)
        for kind in ("PNG", "JPEG")
    }
    odd = [
        "caf\u00e9.png",
        "cafe\u0301.png",
        "#17.png",
        "two\nlines.png",
        'a b, "c".png',
        "=1+1.png",
        "x" * 120 + ".png",
    ]
    album |= {name: picture(chance) for name in odd}
    album |= {os.fsdecode(b"bad\xe9.png"): picture(chance)}
    album |= {
        "damaged.jpeg": album["00.jpeg"][:-40],
        "empty.jpg": b"",
        "text.jpg": b"no picture at all",
        "cut.png": album["00.png"][:60],
    }
    return album


ALBUM = make_album()


def folder_of(root: Path, album: Mapping[str, bytes] = ALBUM) -> list[str]:
    """Write the files, and give their names in the order in which a folder is walked."""
    for name, data in album.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return [os.path.relpath(path, root) for path in find_images([str(root)])]


def write_tar(
    path: Path, album: Sequence[tuple[str, bytes]], *, mode: str = "w", format: int = tarfile.PAX_FORMAT
) -> None:
    with tarfile.open(path, mode, format=format, encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
        for name, data in album:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_zip(path: Path, album: Sequence[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, data) in enumerate(album):
            kind = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(name.replace("\udce9", "@"), data, kind)
    if any("\udce9" in name for name, _ in album):
        path.write_bytes(path.read_bytes().replace(b"bad@.png", b"bad\xe9.png"))


def write(path: Path, album: Sequence[tuple[str, bytes]], folder: str) -> None:
    """Write the pictures, or with the same names as in the folder their paths, in the way that the ending says."""
    names, data = [f"{folder}/{name}" for name, _ in album], [data for _, data in album]
    if path.name.endswith((".tar", ".gz")):
        write_tar(path, album, mode="w:gz" if path.suffix == ".gz" else "w")
    elif path.suffix == ".zip":
        write_zip(path, album)
    elif path.name == "paths.parquet":
        pq.write_table(pa.table({"id": range(len(names)), "path": names}), path)
    elif path.suffix == ".parquet":
        structs = [{"bytes": each, "path": None} for each in data]
        column = pa.array(structs if path.stem == "struct" else data)
        pq.write_table(pa.table({"label": range(len(data)), "picture": column}), path, row_group_size=7)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"file_name": name, "x": 1}) + "\n" for name in names))
    else:
        with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([["x", "image"], *([number, name] for number, name in enumerate(names))])


def rows_of(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def content_of(paths: Paths) -> list[tuple[str, bytes | str]]:
    """Read all pictures; give the kind of error and the message in place of one that cannot be read."""
    found: list[tuple[str, bytes | str]] = []
    for some in paths.rest():
        for place, name in enumerate(some.names):
            try:
                with some.open(place) as file:
                    found.append((str(name), file.read()))
            except Refused as e:
                found.append((str(name), f"{e.kind}: {e.message}"))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_same_pictures_in_a_folder(kind: str, run: Run, tmp_path: Path, model: str) -> None:
    names = [name for name in folder_of(tmp_path / "album") if kind != "paths.parquet" or name.isascii()]
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "--no-store", "-q", "-k", "5")
    expected = {row["file_name"]: row for row in rows_of(run(*command, "album"))}
    write(tmp_path / kind, [(name, ALBUM[name]) for name in names], "album")
    column = ("--column", "path") if kind == "paths.parquet" else ()

    done = run(*command, kind, *column)

    is_rows, is_listed = kind in ("struct.parquet", "binary.parquet"), kind in KINDS[5:]
    found = rows_of(done)
    assert done.returncode == 1  # some are damaged
    assert len(found) == len(names) >= 27
    for number, (row, name) in enumerate(zip(found, names, strict=True)):
        own = f"album/{name}" if is_listed else f"{kind}#{number if is_rows else name}"
        assert os.fsencode(row["file_name"]) == os.fsencode(own)
        same = expected[f"album/{name}"]
        assert row["error"] == same["error"]
        assert row["message"] == same["message"]
        assert row["label"] == same["label"]
        assert numbers_of(row) == pytest.approx(numbers_of(same), abs=1e-5)
    assert sum(row["error"] is None for row in found) >= 23


def numbers_of(row: Mapping[str, Any]) -> list[float]:
    return [row["score"] or 0.0, *(each[key] for each in row["predictions"] for key in ("score", "cosine"))]


def good_album() -> list[tuple[str, bytes]]:
    return [(f"{name}", data) for name, data in ALBUM.items() if name[0] in "0b" and "\udce9" not in name]


@pytest.mark.parametrize("kind", KINDS[:5])
def test_a_second_run_reads_no_picture(
    kind: str, run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = good_album()
    write(tmp_path / kind, album, "")
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    command = ("classify", kind, *LABELS, "-m", model, "-f", "jsonl")
    first = run(*command)
    assert b"encoded by an earlier run" not in first.stderr

    def refuse(*arguments: object) -> bytes:
        raise AssertionError("a picture is read")

    for module, name in (("shards", "Shard.picture"), ("columns", "_read_block"), ("tars", "check_packed")):
        monkeypatch.setattr(f"zsclip.pictures.{module}.{name}", refuse)
    second = run(*command)

    assert first.stdout == second.stdout
    assert second.stderr.decode().startswith(f"{len(album)} images, encoded by an earlier run\n")


def test_a_shard_that_was_changed_a_moment_ago_gives_no_keys_and_a_changed_one_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "a.tar", good_album())

    def keys() -> list[bytes | None]:
        return [key for some in find_images([str(tmp_path / "a.tar")]).rest() for key in some.keys(0, len(some)) or ()]

    assert set(keys()) == {None}
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    first = keys()
    assert None not in first
    assert len(set(first)) == len(good_album())
    assert first == sorted(first, key=bytes)  # type: ignore[arg-type]
    assert keys() == first
    status = os.stat(tmp_path / "a.tar")
    with open(tmp_path / "a.tar", "r+b") as file:
        file.write(b"x")
    os.utime(tmp_path / "a.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not set(keys()) & set(first)


def test_a_shard_that_changes_during_the_run_is_not_read_on(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, [("a.png", b"first")])
    (some,) = find_images([str(path)]).rest()
    shards._opened.cache_clear()
    path.unlink()
    write_tar(path, [("a.png", b"other")])

    with pytest.raises(Refused, match="has changed since this run began"):
        some.open(0)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_tar_cut_anywhere_gives_its_complete_members_and_one_row_more(
    ending: str, format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsclip.pictures.tars._BLOCK_BYTES", 3000)
    path, album = tmp_path / f"a.{ending}", [(name, data or b"x") for name, data in ALBUM.items()]
    write_tar(path, album, format=format)
    whole, chance = path.read_bytes(), random.Random(0)
    with tarfile.open(path) as archive:
        ends = [member.offset_data + member.size for member in archive]
        last = archive.getmembers()[-1]
    cuts = [chance.randrange(1, ends[-1]) for _ in range(60)] + [512, ends[0], ends[4] - 1, ends[4], ends[4] + 512]
    for cut in cuts:
        part = whole[:cut]
        if ending == "tar.gz":
            part = gzip.compress(whole, 1)
            size = cut * len(part) // len(whole) or 1
            part = part[:size]
            complete = None
        else:
            complete = sum(end <= cut for end in ends)
        path.write_bytes(part)

        *found, broken = content_of(find_images([str(path)]))

        assert found == [(f"{path}#{name}", data) for name, data in album[: len(found)]], cut
        assert complete is None or len(found) == complete, cut
        assert broken[0] == str(path)
        assert str(broken[1]).startswith("unreadable: ")
        assert any(
            text in str(broken[1]) for text in ("damaged at byte", "ends at byte", "not a tar", "is cut off inside")
        ), broken
    path.write_bytes(gzip.compress(whole) if ending == "tar.gz" else whole)
    assert content_of(find_images([str(path)])) == [(f"{path}#{name}", data) for name, data in album]
    assert last.size > 0


def test_a_damaged_header_in_the_middle_ends_a_tar_with_a_row(run: Run, tmp_path: Path, model: str) -> None:
    album = good_album()
    write_tar(tmp_path / "a.tar", album)
    with tarfile.open(tmp_path / "a.tar") as archive:
        place = archive.getmembers()[5].offset
    with open(tmp_path / "a.tar", "r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 20)

    done = run("classify", "a.tar", *LABELS, "-m", model, "-f", "jsonl", "-q")

    rows = rows_of(done)
    assert done.returncode == 1
    assert [row["file_name"] for row in rows] == [*(f"a.tar#{name}" for name, _ in album[:5]), "a.tar"]
    assert rows[-1]["error"] == "unreadable"
    assert rows[-1]["message"] == f"the archive is damaged at byte {place:,}: bad checksum; what follows is lost"


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of a tar, with a size that tarfile would not write."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    block[: len(name)], block[124:136], block[156:157], block[148:156] = name, size, kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "bad",
    [
        header(b"a.png", b"\xff" * 12),  # a negative size
        header(b"a.png", b"\x80" + b"\xff" * 11),
        header(b"x", b"77777777777\0", b"x") + b"16 path=b.png\n",  # 8 GB of names
        header(b"x", b"77777777777\0", b"L"),
        header(b"x", b"00000001000\0", b"x")
        + b"20 size=-9999999999\n".ljust(512, b"\0")
        + header(b"a.png", b"00000000000\0"),
        b"".join(header(b"x", b"00000001000\0", b"x") + b"12 path=b.p\n".ljust(512, b"\0") for _ in range(3000)),
        b"\x1f\x8b" + b"\0" * 600,
        b"",
        b"no archive",
        b"\xff" * 5000,
    ],
)
def test_a_hostile_tar_is_one_row_in_no_time(bad: bytes, tmp_path: Path) -> None:
    good = header(b"first.png", b"00000000005\0") + b"hello".ljust(512, b"\0")
    begun = time.process_time()
    for start in (b"", good):
        (tmp_path / "a.tar").write_bytes(start + bad)

        *found, (name, broken) = content_of(find_images([str(tmp_path / "a.tar")]))

        assert [data for _, data in found] == [b"hello"] * bool(start)
        assert name == str(tmp_path / "a.tar")
        assert str(broken).startswith("unreadable: ")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(format: int, tmp_path: Path) -> None:
    names = [
        "d" * 60 + "/" + "e" * 60 + ".png",
        "n" * 96 + ".png",
        "caf\u00e9.png",
        os.fsdecode(b"\xe9.png"),
        "d/a.png",
    ]
    album = [(name, bytes(size)) for size, name in zip((1, 511, 512, 513, 5000), names, strict=True)]
    write_tar(tmp_path / "a.tar", album, format=format)
    with tarfile.open(tmp_path / "a.tar", errors="surrogateescape") as archive:
        expected = [(f"{tmp_path}/a.tar#{each.name}", archive.extractfile(each).read()) for each in archive]  # type: ignore[union-attr]

    assert expected == [(f"{tmp_path}/a.tar#{name}", data) for name, data in album]
    assert content_of(find_images([str(tmp_path / "a.tar")])) == expected


def test_a_header_that_is_as_long_as_the_memory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(header(b"x", b"77777777777\0", b"x"))
    os.truncate(tmp_path / "a.tar", 1 << 34)  # a hole

    ((_, broken),) = content_of(find_images([str(tmp_path / "a.tar")]))

    assert broken == "unreadable: not a tar archive, or a damaged one: a header of 8,589,934,592 bytes"


def test_special_members_of_a_tar_become_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in (
            ("early.png", tarfile.LNKTYPE, "later.png"), ("a.png", b"0", ""), ("soft.png", tarfile.SYMTYPE, "a.png"),
            ("hard.png", tarfile.LNKTYPE, "a.png"), ("lost.png", tarfile.LNKTYPE, "gone.png"),
            ("fifo.png", tarfile.FIFOTYPE, ""), ("folder.png", tarfile.DIRTYPE, ""),
            ("sparse.png", tarfile.GNUTYPE_SPARSE, ""), ("later.png", b"0", ""),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, 5 if kind == b"0" else 0
            archive.addfile(member, io.BytesIO(name[:5].encode()))

    found = find_images([str(path)])

    assert content_of(found) == [
        (f"{path}#early.png", b"later"),
        (f"{path}#a.png", b"a.png"),
        (f"{path}#hard.png", b"a.png"),
        (f"{path}#sparse.png", "unsupported: a sparse file in a tar archive; unpack it first"),
        (f"{path}#later.png", b"later"),
    ]
    assert passed_over_line(found.passed_over) == "passed over: 3 links in archives"


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
    assert [card[1] for card in cards] == [None] * 3  # nothing to link to

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


def test_bytes_are_inflated_right_wherever_one_goes_on(tmp_path: Path) -> None:
    chance = random.Random(0)
    parts = [chance.randbytes(40_000) + bytes(300_000), b"", b"x" * 90_000]
    whole = b"".join(parts)
    (tmp_path / "a.gz").write_bytes(b"".join(map(gzip.compress, parts)) + bytes(700))
    file = Inflated(open_shard(str(tmp_path / "a.gz")).read)
    copies = [(0, file.copy())]
    place = 0
    while place < len(whole):
        offset, size = place + chance.choice((0, 0, 77, 5000)), chance.choice((1, 512, 70_000))
        assert file.read(offset, size) == whole[offset : offset + size]
        place = offset + size
        copies.append((min(place, len(whole)), file.copy()))
    chance.shuffle(copies)
    for place, copy in copies:
        assert copy.copy().read(place, 1 << 20) == whole[place:]


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


def test_parquet_rows_without_bytes_are_read_from_files_or_fail(
    run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", 0)
    chance = np.random.default_rng(0)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.png").write_bytes(picture(chance))
    os.mkfifo(tmp_path / "below" / "fifo.png")
    cells = [
        (picture(chance), "x"),
        None,
        (None, "a.png"),
        (None, None),
        (None, "gone.png"),
        (None, "fifo.png"),
        (b"", ""),
    ]
    rows = [None if cell is None else {"bytes": cell[0], "path": cell[1]} for cell in cells]
    pq.write_table(pa.table({"image": pa.array(rows)}), tmp_path / "below" / "a.parquet")
    command = ("classify", "below/a.parquet", *LABELS, "-m", model, "-f", "jsonl", "-q")

    first = rows_of(run(*command))
    same = rows_of(run(*command))
    (tmp_path / "below" / "a.png").write_bytes(picture(chance))
    changed = rows_of(run(*command))

    assert [row["file_name"] for row in first] == [f"below/a.parquet#{number}" for number in range(7)]
    kinds = [None, "missing", None, "missing", "missing", "not-a-file", "unreadable"]
    assert [row["error"] for row in first] == kinds
    assert first[1]["message"] == "the row has no image"
    assert same == first
    assert [before == after for before, after in zip(first, changed, strict=True)] == [True] * 2 + [False] + [True] * 4


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    album = [random.Random(i).randbytes(500) for i in range(40)]
    pq.write_table(pa.table({"image": album}), tmp_path / "a.parquet", row_group_size=10, compression="none")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    at = data.index(album[10])
    data[at - 4 : at] = b"\xff" * 4
    (tmp_path / "a.parquet").write_bytes(data)

    found = [data for _, data in content_of(find_images([str(tmp_path / "a.parquet")]))]

    assert (found[:10], found[20:]) == (album[:10], album[20:])
    assert all(str(each).startswith("unreadable: row group 1 is damaged: ") for each in found[10:20])
    (tmp_path / "a.parquet").write_bytes(data[:-20])
    ((name, broken),) = content_of(find_images([str(tmp_path / "a.parquet")]))
    assert name == str(tmp_path / "a.parquet")
    assert str(broken).startswith("unreadable: damaged, or not Parquet: ")


BINARY, STRUCT = pa.array([b"x"]), pa.array([{"bytes": b"x", "path": "y"}])


@pytest.mark.parametrize(
    ("table", "column", "found"),
    [
        ({"a": STRUCT, "image": BINARY}, None, "a"),
        ({"a": BINARY, "jpg": BINARY, "path": ["x"]}, None, "jpg"),
        ({"a": BINARY, "path": ["x"]}, None, "a"),
        ({"image": ["x"], "file_name": ["x"]}, None, "file_name"),
        ({"image": STRUCT, "b": STRUCT}, "b", "b"),
        ({"image": pa.array([b"x"], pa.large_binary()), "n": [1]}, None, "image"),
        ({"image": BINARY.dictionary_encode()}, None, "image"),
        ({"a": STRUCT, "b": STRUCT}, None, "several columns may hold the images: a, b; choose one with --column"),
        (
            {"png": BINARY, "jpg": BINARY},
            None,
            "several columns may hold the images: png, jpg; choose one with --column",
        ),
        ({"n": [1], "text": ["x"]}, None, "found no column of images among n, text; name one with --column"),
        ({"n": [1], "image": BINARY}, "n", "column 'n' holds int64, not images; choose another"),
        ({"image": BINARY}, "imgae", "no column 'imgae'; it has image"),
    ],
)
def test_the_column_with_the_images_is_found_or_asked_for(
    table: dict[str, Any], column: str | None, found: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    schema = pq.read_schema(tmp_path / "a.parquet")
    if found in table:
        assert columns.find_column("", schema, column).name == found
        return
    with pytest.raises(InputError) as raised:
        find_images([str(tmp_path / "a.parquet")], column=column)
    assert str(raised.value) == f"{tmp_path}/a.parquet: {found}"


def test_without_pyarrow_the_error_shows_how_to_install_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    done = run("classify", "a.parquet", *LABELS)

    assert done.returncode == 2
    assert done.stderr == b"zsclip: a.parquet: reading Parquet needs pyarrow: pip install 'zsclip[parquet]'\n"


def test_lists_are_relative_and_what_is_missing_is_a_row(run: Run, tmp_path: Path, model: str) -> None:
    chance = np.random.default_rng(0)
    folder_of(tmp_path / "d", {"a.png": picture(chance), "b.png": picture(chance)})
    (tmp_path / "b.csv").write_text("file_name, x\n d/a.png , 1, more\n")
    lines = ["file_name,path", "a.png,x", f"{tmp_path}/d/b.png,x", "gone.png,x", ",x", "https://a.b/c.png,x"]
    (tmp_path / "d" / "a.csv").write_text("\n".join(lines))
    (tmp_path / "d" / "a.ndjson").write_text('{"path": "b.png"}\nnonsense\n\n{"image": 1}\n{"image": "a.png"}\n')
    command = ("classify", *LABELS, "-m", model, "-f", "jsonl", "-q")

    done = run(*command, "d/a.csv", "d/a.ndjson", "b.csv")

    assert [(row["file_name"], row["error"]) for row in rows_of(done)] == [
        ("d/a.png", None), (f"{tmp_path}/d/b.png", None), ("d/gone.png", "missing"), ("d/a.csv:5", "missing"),
        ("https://a.b/c.png", "not-a-file"), ("d/b.png", None), ("d/a.ndjson:2", "missing"),
        ("d/a.ndjson:4", "missing"), ("d/a.png", None), ("d/a.png", None),
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_our_own_rows_are_a_list_of_the_same_pictures(ending: str, run: Run, tmp_path: Path, model: str) -> None:
    chance = np.random.default_rng(0)
    names = ["a.png", " spaced.png ", "tab\tand\\t.png", "two\nlines.png", os.fsdecode(b"\xe9.png"), "cut.png"]
    folder_of(tmp_path / "d", {name: picture(chance) if name != "cut.png" else b"bad" for name in names})
    (tmp_path / "rows").mkdir()
    command = ("classify", *LABELS, "-m", model, "-q", "-k", "2")
    assert run(*command, "d", "-o", f"rows/a.{ending}").returncode == 1

    again = run(*command, f"rows/a.{ending}", "-f", ending)

    assert again.stdout == (tmp_path / "rows" / f"a.{ending}").read_bytes()


def test_a_list_without_a_column_of_paths_is_refused(run: Run, tmp_path: Path, model: str) -> None:
    (tmp_path / "a.csv").write_text("name,label\nx,y\n")
    (tmp_path / "a.jsonl").write_text('{"name": "x"}\n')
    for name, found in (("a.csv", "name, label"), ("a.jsonl", "name")):
        done = run("classify", name, *LABELS)
        assert done.returncode == 2
        assert done.stderr.decode() == (
            f"zsclip: {name}: needs a column of image paths named file_name or path or image; found {found}\n"
        )
    done = run("classify", "a.csv", *LABELS, "-m", model, "--exclude", "*.csv", "-q")
    assert (done.returncode, done.stderr) == (1, b"zsclip: no images: --exclude left out 1\n")


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


def test_containers_that_come_through_stdin_or_a_list_are_rows(run: Run, tmp_path: Path, model: str) -> None:
    write_tar(tmp_path / "a.tar", good_album()[:1])
    (tmp_path / "a.csv").write_text("file_name\na.tar\n")
    for given, text in (("-", b"a.tar\n"), ("a.csv", b"")):
        (row,) = rows_of(run("classify", given, *LABELS, "-m", model, "-f", "jsonl", "-q", input=text))
        assert (row["file_name"], row["error"]) == ("a.tar", "unsupported")
        assert row["message"] == "an archive or a list; name it on the command line to read the images in it"


def test_a_picture_with_the_ending_of_an_archive_is_a_picture(tmp_path: Path) -> None:
    (tmp_path / "photo.tar").write_bytes(ALBUM["00.png"])

    assert content_of(find_images([str(tmp_path / "photo.tar")])) == [(str(tmp_path / "photo.tar"), ALBUM["00.png"])]


@pytest.mark.parametrize("name", ["a.tar", "a.csv", "d/a.png"])
def test_an_input_is_not_replaced(name: str, run: Run, tmp_path: Path, model: str) -> None:
    folder_of(tmp_path / "d", {"a.png": ALBUM["00.png"]})
    write_tar(tmp_path / "a.tar", good_album()[:2])
    (tmp_path / "a.csv").write_text("file_name\nd/a.png\n")
    before = (tmp_path / name).read_bytes()

    done = run("classify", "a.tar", "a.csv", *LABELS, "-m", model, "-f", "csv", "-o", name, "--overwrite")

    assert done.returncode == 2
    assert b"would overwrite" in done.stderr
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("s-{000..002}.tar", ["s-000.tar", "s-001.tar", "s-002.tar"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{3..1..2}x", ["3x", "1x"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{a,b{1,2}}x", ["ax", "b1x", "b2x"]),
        ("{,a}b", ["b", "ab"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{a}", ["{a}"]),
        ("{1..2", ["{1..2"]),
        ("}{", ["}{"]),
    ],
)
def test_brace_ranges_are_expanded(text: str, meant: list[str]) -> None:
    assert expand_braces(text) == meant
    assert subprocess.run(["bash", "-c", f"echo {text}"], capture_output=True).stdout.decode().split() == meant


def test_brace_ranges_are_inputs_unless_a_file_is_called_so(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"s-{i:03}.png": b"" for i in range(12)} | {"{a,b}.png": b"", "a.png": b"", "b.png": b""})

    def found(text: str) -> list[str]:
        return [os.path.basename(path) for path in find_images([str(tmp_path / text)])]

    assert found("s-{009..011}.png") == ["s-009.png", "s-010.png", "s-011.png"]
    assert found("s-00{1,3}*") == ["s-001.png", "s-003.png"]
    assert found("{a,b}.png") == ["{a,b}.png"]
    with pytest.raises(InputError, match=r"no such file or folder: '.*s-012.png'"):
        found("s-{009..012}.png")
    for huge in ("{0..99999999999}", "{1..999}{1..999}"):
        with pytest.raises(InputError, match="stands for more than 100,000 files; use a smaller range"):
            found(huge)


def test_a_column_needs_something_that_has_columns(run: Run, tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [])

    done = run("classify", "a.tar", *LABELS, "--column", "image")

    assert done.returncode == 2
    assert done.stderr == b"zsclip: --column: only Parquet files and lists have columns; give one, or leave it out\n"


def test_from_python_an_archive_gives_answers_for_its_members(tmp_path: Path, model: str) -> None:
    album = good_album()[:4]
    write_tar(tmp_path / "a.tar", album)
    write_zip(tmp_path / "b.zip", album[:1])
    classify = Classifier(["red", "green", "blue"], model=model)

    answers = classify(tmp_path / "a.tar")
    several = classify([tmp_path / "b.zip", album[3][1], str(tmp_path / "a.tar")])

    assert isinstance(answers, Answers)
    assert list(answers.names) == [f"{tmp_path}/a.tar#{name}" for name, _ in album]
    assert "image/webp" in answers._repr_html_()
    assert len(classify(tmp_path / "b.zip")) == 1
    assert len(classify(f"{tmp_path}/{{a.tar,b.zip}}")) == 5
    assert several.labels == [*answers.labels[:1], answers.labels[3], *answers.labels]
    assert several._repr_html_().count("image/webp") == 6


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "struct.parquet"])
def test_a_run_over_an_archive_that_was_killed_goes_on(kind: str, tmp_path: Path, model: str) -> None:
    names = folder_of(tmp_path / "album")
    write(tmp_path / kind, [(name, ALBUM[name]) for name in names], "album")
    command = [sys.executable, "-m", "zsclip", "classify", kind, *LABELS, "-m", model, "-q", "--no-store"]
    command += ["--batch-size", "1", "-j", "1", "-o", "rows.jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path)
    while not (tmp_path / "rows.jsonl.part").exists() or (tmp_path / "rows.jsonl.part").read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait(HANGS)
    done = (tmp_path / "rows.jsonl.part").read_bytes().count(b"\n")
    assert 5 <= done < len(names)

    resumed = subprocess.run([*command, "--resume"], cwd=tmp_path, timeout=HANGS)
    rows = (tmp_path / "rows.jsonl").read_bytes()
    (tmp_path / "rows.jsonl").unlink()
    whole = subprocess.run(command, cwd=tmp_path, timeout=HANGS)

    assert resumed.returncode == whole.returncode == 1
    assert rows == (tmp_path / "rows.jsonl").read_bytes()
