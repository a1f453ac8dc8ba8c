"""Tar archives: found as tarfile finds them, cut or hostile ones cost a row and no time, and nothing is unpacked."""

import gzip
import io
import os
import random
import tarfile
import time
from pathlib import Path

import pytest
from album import ALBUM, LABELS, Run, content_of, good_album, rows_of, write_tar
from servers import serving

from zsclip.kept.contents import MEMBERS
from zsclip.pictures import identity, tars
from zsclip.pictures.files import find_images
from zsclip.pictures.remote import Network
from zsclip.pictures.shards import Inflated, open_shard
from zsclip.pixels.search_summary import passed_over_line


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


def test_a_tar_is_walked_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", -(10**12))
    write_tar(tmp_path / "a.tar", [(os.fsdecode(b"\xe9.png"), b"one"), ("readme.md", b"x"), (".hidden.png", b"x")])
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.LNKTYPE, os.fsdecode(b"\xe9.png")
        archive.addfile(link)
        link.type, link.name = tarfile.SYMTYPE, "soft.png"
        archive.addfile(link)

    def found() -> tuple[object, ...]:
        images = find_images([str(tmp_path / "a.tar")], network=Network(members=MEMBERS))
        keys = [key for some in find_images([str(tmp_path / "a.tar")]).rest() for key in some.keys(0, len(some)) or ()]
        return content_of(images), keys, passed_over_line(images.passed_over)

    walked, walks = found(), []
    assert [data for _, data in walked[0]] == [b"one", b"one"]  # type: ignore[attr-defined]
    whole = tars._Headers
    monkeypatch.setattr(tars, "_Headers", lambda *args: walks.append(args) or whole(*args))
    assert found() == walked
    assert len(walks) == 3  # for the keys, which nothing is kept for, and to find what the link stands for, twice
    write_tar(tmp_path / "a.tar", [("b.png", b"another")])
    assert found()[0] == [(f"{tmp_path}/a.tar#b.png", b"another")]


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


@pytest.mark.parametrize("is_far", [False, True])
def test_a_wrong_checksum_at_the_end_of_a_compressed_tar_is_a_row_more(is_far: bool, tmp_path: Path) -> None:
    album = [(name, data or b"x") for name, data in ALBUM.items()]
    write_tar(tmp_path / "a.tar", album)
    whole = bytearray((tmp_path / "a.tar").read_bytes())
    good = gzip.compress(whole, 0)  # stored as it is, so that a wrong bit is a wrong pixel and no more
    place = good.find(album[0][1])
    flipped = bytes([*good[: place + 9], good[place + 9] ^ 1, *good[place + 10 :]])
    wrong = "unreadable: damaged: its checksum does not match; images may be wrong"
    short = "unreadable: the archive is cut off before its checksum; images may be wrong"
    length = bytes([*good[:-1], good[-1] ^ 1])
    for data, expected in (
        (good, []), (good + good, []), (good + b"\0" * 99, []), (good + b"garbage", []),
        (flipped, [wrong]), (length, [wrong]), (good[:-3], [short]),
    ):  # fmt: skip
        (tmp_path / "a.tar.gz").write_bytes(data)
        with serving(tmp_path) as server:
            root = server.url if is_far else str(tmp_path)
            found = content_of(find_images([f"{root}/a.tar.gz"]))

        assert [name for name, _ in found[: len(album)]] == [f"{root}/a.tar.gz#{name}" for name, _ in album]
        assert (found[: len(album)] == [(f"{root}/a.tar.gz#{name}", data) for name, data in album]) == (data != flipped)
        assert found[len(album) :] == [(f"{root}/a.tar.gz", message) for message in expected]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_data_after_the_end_marker_are_passed_over_with_a_word(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", -(10**12))
    write_tar(tmp_path / "a.tar", [("a.png", b"hello")])
    one = (tmp_path / "a.tar").read_bytes()
    for data, expected in (
        (one, ""), (one + one, "passed over: 1 block of data after the end of an archive"),
    ):  # fmt: skip
        (tmp_path / f"a.{ending}").write_bytes(gzip.compress(data) if ending == "tar.gz" else data)

        for _ in range(2):  # what is kept of an archive must not hide its tail
            found = find_images([str(tmp_path / f"a.{ending}")], network=Network(members=MEMBERS))

            assert content_of(found) == [(f"{tmp_path}/a.{ending}#a.png", b"hello")]
            assert passed_over_line(found.passed_over) == expected


def test_a_short_tar_ends_where_its_file_does(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(header(b"a.png", b"00000000005\0") + b"hello")

    assert content_of(find_images([str(tmp_path / "a.tar")])) == [
        (f"{tmp_path}/a.tar#a.png", b"hello"),
        (
            str(tmp_path / "a.tar"),
            "unreadable: the archive ends at byte 517 without an end marker; it may be cut off",
        ),
    ]


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
