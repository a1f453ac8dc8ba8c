"""A file that could not be read, or not further: once it is whole, --retry-errors puts its images where its row was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from album import LABELS, Run, good_album, write, write_tar
from clips import make_clip
from conftest import wait_for_lines
from servers import serving

from zsclip.pictures import far_file, fetch
from zsclip.pictures.files import find_images

# Numbers are the same in any company only if all batches have the same shape.
ALIKE = (*LABELS, "-q", "--no-store", "--batch-size", "1")
GOOD = good_album()[:8]


def rows_in(path: Path) -> list[str]:
    """The names in a file of rows, in order."""
    if path.suffix == ".jsonl":
        return [json.loads(line)["file_name"] for line in path.read_text().splitlines()]
    mark = "\t" if path.suffix == ".tsv" else ","
    return [line.split(mark)[0] for line in path.read_text().splitlines()[1:]]


def cut(path: Path, left: float) -> None:
    """Cut a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])


def without_end(path: Path) -> None:
    """Cut off the end marker of a tar archive: all members are there."""
    *_, last = find_images([str(path)]).rest()
    place = path.read_bytes().rstrip(b"\0")
    path.write_bytes(place + bytes(-len(place) % 512))
    assert len(last) > 0


def spoil(path: Path) -> None:
    """Put something else in the place of a file."""
    path.write_bytes(b"nothing that can be read")


HURT = {
    "tar that is cut off": ("a.tar", lambda path: cut(path, 0.5), 4),
    "tar without its end": ("a.tar", without_end, 9),
    "tar that is none": ("a.tar", spoil, 1),
    "tar.gz that is cut off": ("a.tar.gz", lambda path: cut(path, 0.6), None),
    "zip that is none": ("a.zip", spoil, 1),
    "zip without its directory": ("a.zip", lambda path: cut(path, 0.6), None),
    "parquet that is none": ("struct.parquet", spoil, 1),
    "mp4 without its index": ("a.mp4", lambda path: cut(path, 0.5), 1),
    "mkv that is cut off": ("a.mkv", lambda path: cut(path, 0.5), None),
}


def make(path: Path) -> None:
    if path.suffix in (".mp4", ".mkv"):
        make_clip(path, 100)
    else:
        write(path, GOOD, "album")


def done(run: Run, folder: Path, inputs: list[str], *arguments: str, code: int) -> subprocess.CompletedProcess[bytes]:
    ended = run("classify", *inputs, *ALIKE, *arguments)
    assert ended.returncode == code, ended.stderr
    assert not [name for name in os.listdir(folder) if ".part" in name]
    return ended


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *((kind, "jsonl") for kind in HURT),
        ("tar without its end", "csv"),  # nothing comes in the place of rows, so the header must not go with them
        ("tar that is none", "csv"),
        ("tar that is cut off", "tsv"),
    ],
)
def test_a_file_that_is_whole_again_has_its_images_in_the_place_of_its_row(
    kind: str, ending: str, run: Run, tmp_path: Path, model: str
) -> None:
    name, hurt, count = HURT[kind]
    make(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for number, (_, data) in enumerate(GOOD[:3]):
        (tmp_path / f"{number}.png").write_bytes(data)
    (tmp_path / "bad.png").write_bytes(b"no image")
    inputs = [name, "0.png", "bad.png", name, "1.png", name, name, "2.png", "--every", "250ms", "-m", model]
    done(run, tmp_path, inputs, "-o", f"expected.{ending}", code=1)
    hurt(tmp_path / name)
    done(run, tmp_path, inputs, "-o", f"rows.{ending}", code=1)
    rows = tmp_path / f"rows.{ending}"
    hurt_rows, before = rows_in(rows), rows.read_bytes()
    assert hurt_rows.count(name) == 4
    assert count is None or hurt_rows.index("0.png") == count

    done(run, tmp_path, inputs, "-o", rows.name, "--retry-errors", code=1)  # it still fails
    assert rows.read_bytes() == before
    (tmp_path / name).write_bytes(whole)
    done(run, tmp_path, inputs, "-o", rows.name, "--resume", code=1)  # does not try it again
    assert rows.read_bytes() == before
    done(run, tmp_path, inputs, "-o", rows.name, "--retry-errors", code=1)

    assert rows.read_bytes() == (tmp_path / f"expected.{ending}").read_bytes()
    (tmp_path / "bad.png").write_bytes(GOOD[0][1])
    done(run, tmp_path, inputs, "-o", rows.name, "--retry-errors", code=0)  # the rows after it are still found
    done(run, tmp_path, inputs, "-o", f"good.{ending}", code=0)
    assert rows.read_bytes() == (tmp_path / f"good.{ending}").read_bytes()


def test_an_archive_that_reaches_further_but_not_to_its_end_keeps_one_row(run: Run, tmp_path: Path, model: str) -> None:
    path = tmp_path / "a.tar"
    make(path)
    whole = path.read_bytes()
    inputs = ["a.tar", "-m", model]
    for left in (0.4, 0.7):
        path.write_bytes(whole)
        cut(path, left)
        flags = ("--retry-errors",) if left == 0.7 else ()
        done(run, tmp_path, inputs, "-o", "rows.jsonl", *flags, code=1)
    done(run, tmp_path, inputs, "-o", "expected.jsonl", code=1)

    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()
    assert rows_in(tmp_path / "rows.jsonl").count("a.tar") == 1
    path.write_bytes(whole)
    done(run, tmp_path, inputs, "-o", "rows.jsonl", "--retry-errors", code=0)
    assert rows_in(tmp_path / "rows.jsonl") == [f"a.tar#{name}" for name, _ in GOOD]


def test_an_archive_without_images_leaves_the_header_when_its_row_goes(run: Run, tmp_path: Path, model: str) -> None:
    write_tar(tmp_path / "a.tar", [("a.txt", b"text")])
    (tmp_path / "0.png").write_bytes(GOOD[0][1])
    inputs = ["a.tar", "0.png", "-m", model]
    done(run, tmp_path, inputs, "-o", "expected.csv", code=0)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:1024])
    done(run, tmp_path, inputs, "-o", "rows.csv", code=1)
    assert rows_in(tmp_path / "rows.csv") == ["a.tar", "0.png"]
    (tmp_path / "a.tar").write_bytes(whole)

    done(run, tmp_path, inputs, "-o", "rows.csv", "--retry-errors", code=0)

    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


def test_an_archive_whose_members_have_changed_is_another_list(run: Run, tmp_path: Path, model: str) -> None:
    make(tmp_path / "a.tar")
    cut(tmp_path / "a.tar", 0.5)
    inputs = ["a.tar", "-m", model]
    done(run, tmp_path, inputs, "-o", "rows.jsonl", code=1)
    before = (tmp_path / "rows.jsonl").read_bytes()
    write_tar(tmp_path / "a.tar", [(f"other {name}", data) for name, data in GOOD])

    ended = done(run, tmp_path, inputs, "-o", "rows.jsonl", "--retry-errors", code=2)

    assert ended.stderr.startswith(b"zsclip: rows.jsonl: made with other settings: images: 4 -> 8;")
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_a_run_that_was_killed_goes_on_and_then_tries_its_files_again(run: Run, tmp_path: Path, model: str) -> None:
    make(tmp_path / "a.tar")
    whole = (tmp_path / "a.tar").read_bytes()
    for number, (_, data) in enumerate(GOOD):
        (tmp_path / f"{number}.png").write_bytes(data)
    names = [f"{number}.png" for number in range(8)]
    done(run, tmp_path, ["a.tar", *names, "-m", model], "-o", "expected.csv", code=0)
    cut(tmp_path / "a.tar", 0.5)
    arguments = ["classify", "a.tar", "-", "-m", model, *ALIKE, "-o", "rows.csv"]
    command = [sys.executable, "-m", "zsclip", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(f"{name}\n".encode() for name in names[:3]))
        process.stdin.flush()
        wait_for_lines(tmp_path / "rows.csv.part", 8, process)  # a header, 3 members, the archive, 3 files
        process.kill()
    (tmp_path / "a.tar").write_bytes(whole)

    ended = run(*arguments, "--retry-errors", input="\n".join(names).encode())

    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


@pytest.mark.parametrize("name", ["a.tar", "a.zip", "struct.parquet", "a.csv", "a.mp4"])
def test_a_server_that_is_up_again_sends_what_was_missing(
    name: str, run: Run, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(fetch, "_FIRST_WAIT_SECONDS", 0.01)
    make(tmp_path / name)
    if name == "a.csv":
        (tmp_path / "album").mkdir()
        for each, data in GOOD:
            (tmp_path / "album" / each).parent.mkdir(exist_ok=True)
            (tmp_path / "album" / each).write_bytes(data)
    is_down = True
    with serving(tmp_path, fault=lambda path, count: 503 if is_down and path == name else None) as server:
        inputs = [f"{server.url}/{name}", "--every", "1s", "-m", model]
        done(run, tmp_path, inputs, "-o", "rows.jsonl", code=1)
        assert rows_in(tmp_path / "rows.jsonl") == [inputs[0]]
        is_down = False
        far_file._BLOCKS._blocks.clear()
        fetch._server.cache_clear()

        done(run, tmp_path, inputs, "-o", "rows.jsonl", "--retry-errors", code=0)
        done(run, tmp_path, inputs, "-o", "expected.jsonl", code=0)

    assert len(rows_in(tmp_path / "rows.jsonl")) == (4 if name == "a.mp4" else 8)
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()


def test_a_folder_of_parts_has_the_images_of_a_file_that_is_whole_again(run: Run, tmp_path: Path, model: str) -> None:
    import pyarrow.parquet as pq

    make(tmp_path / "a.tar")
    whole = (tmp_path / "a.tar").read_bytes()
    cut(tmp_path / "a.tar", 0.5)
    inputs = ["a.tar", "-m", model]
    done(run, tmp_path, inputs, "-o", "out/", code=1)
    (tmp_path / "a.tar").write_bytes(whole)

    done(run, tmp_path, inputs, "-o", "out/", "--retry-errors", code=0)

    assert pq.read_table(tmp_path / "out")["file_name"].to_pylist() == [f"a.tar#{name}" for name, _ in GOOD]
