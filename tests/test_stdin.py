"""What comes through standard input: lists as Windows writes them, and one picture; real pipes, real processes."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import HANGS
from PIL import Image, features

from zsclip.errors import InputError
from zsclip.pictures.files import find_images
from zsclip.pictures.stdin import paths_in_file, read_stdin

Run = Callable[..., subprocess.CompletedProcess[bytes]]
COLOURS = ("--labels", "red,green,blue")
BOM = b"\xef\xbb\xbf"
FORMATS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000", "AVIF"]


def picture(kind: str, size: tuple[int, int] = (60, 40), mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, kind)
    return out.getvalue()


def paths_of(pipe, data: bytes, *, null: bool = False) -> list[str]:
    read_fd, writer = pipe
    writer.write(data)
    writer.close()
    return list(find_images(["-"], stdin_fd=read_fd, null=null))


@pytest.mark.parametrize(
    "data",
    [
        b"a.jpg\r\nb c.png\r\n",
        BOM + b"a.jpg\r\nb c.png",
        BOM + b"a.jpg\nb c.png\n",
        b"a.jpg\r\n" + BOM + b"b c.png\r\n",  # two lists put together
        b"\r\n\r\na.jpg\r\r\n\r\nb c.png\r",
    ],
)
def test_what_windows_adds_to_a_list_is_dropped(pipe, data: bytes) -> None:
    assert paths_of(pipe, data) == ["a.jpg", "b c.png"]


def test_paths_that_end_in_nul_are_taken_as_they_are(pipe) -> None:
    data = b"a.jpg\r\0" + BOM + b"b.jpg\0"

    assert [os.fsencode(path) for path in paths_of(pipe, data, null=True)] == data.split(b"\0")[:-1]


def test_a_list_in_utf16_is_refused(pipe) -> None:
    with pytest.raises(InputError, match=r"^stdin: a list in UTF-16; save it in UTF-8$"):
        paths_of(pipe, "a.jpg\r\nb.jpg\r\n".encode("utf-16"))


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_on_stdin_is_one_picture(pipe, kind: str, null: bool) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    read_fd, writer = pipe
    data = picture(kind)
    found = read_stdin(read_fd, null=null)
    # The first bytes one by one, as a slow producer may write them.
    for place in range(40):
        writer.write(data[place : place + 1])
    writer.write(data[40:])
    writer.close()

    (one,) = found

    assert one.names == ("-",)
    assert one.open(0).read() == data
    assert one.open(0).read() == data  # once more, for a thumbnail


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_all_modes_begin_like_pictures(mode: str, pipe) -> None:
    read_fd, writer = pipe
    data = picture("TIFF" if mode in ("CMYK", "I;16") else "PNG", (300, 2), "RGB" if mode == "I;16" else mode)
    writer.write(data)
    writer.close()

    assert [some.names for some in read_stdin(read_fd)] == [("-",)]


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("size", [(8192, 3), (3, 8192), (12_345, 9_000), (65_535, 65_535), (0x2A2A, 0x0A0A)])
@pytest.mark.parametrize("has_palette", [True, False])
def test_a_gif_of_any_size_is_a_picture(pipe, size: tuple[int, int], has_palette: bool, null: bool) -> None:
    read_fd, writer = pipe
    data = bytearray(picture("GIF"))
    data[6:10] = struct.pack("<HH", *size)
    data[11] = 7  # the background
    if not has_palette:  # each frame has its own
        table = 3 << (data[10] & 7) + 1
        data[10:13], data[13 : 13 + table] = bytes(3), b""
    writer.write(data)
    writer.close()

    assert [some.names for some in read_stdin(read_fd, null=null)] == [("-",)]


@pytest.mark.parametrize("data", [b"P6\n# by hand\n2 1\n255\n" + b"\0" * 6, b"P1 # x\n2 2\n0 1\n1 0\n", b"P5\t1 1 9 a"])
def test_a_ppm_may_have_comments_and_any_white_space(data: bytes, pipe) -> None:
    read_fd, writer = pipe
    writer.write(data)
    writer.close()

    assert [some.names for some in read_stdin(read_fd)] == [("-",)]


@pytest.mark.parametrize(
    "name",
    [
        "BMW.jpg",
        "BM",
        "GIF89a.gif",
        "GIF89a",
        "GIF89abc",
        "GIF89abcdé.gif",
        "GIF89a1.gif",
        "GIF89a12.gif",
        "RIFF.webp",
        "II.tif",
        "MM",
        "P5.jpg",
        "8BPS",
        "%PDF.jpg",
        "version https:",
        "<b>.jpg",
        "PK.zip",
        "RIFF AVI",
        "\udcff.jpg",
        "\udc89P",
        "é",
    ],
)
@pytest.mark.parametrize("null", [False, True])
def test_a_name_that_begins_like_a_picture_is_a_name_and_is_not_held_back(pipe, name: str, null: bool) -> None:
    read_fd, writer = pipe
    writer.write(os.fsencode(name) + (b"\0" if null else b"\n"))  # and stays open

    assert next(find_images(["-"], stdin_fd=read_fd, null=null)) == name


def test_a_file_called_like_the_first_line_of_a_ppm_is_a_name(
    pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("P5").touch()
    read_fd, writer = pipe
    writer.write(b"P5\n")

    assert next(find_images(["-"], stdin_fd=read_fd)) == "P5"


def test_a_list_that_is_a_file_can_be_looked_at_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(BOM + b"a.jpg\r\nb.jpg\r\n")
    with open(tmp_path / "list.txt", "rb") as file:
        assert list(paths_in_file(file.fileno())) == ["a.jpg", "b.jpg"]
        assert list(find_images(["-"], stdin_fd=file.fileno())) == ["a.jpg", "b.jpg"]
        assert list(paths_in_file(file.fileno())) == []


def test_a_pipe_is_not_looked_at_before_it_is_read(pipe) -> None:
    pipe[1].write(b"a.jpg\n")  # and stays open

    assert list(paths_in_file(pipe[0])) == []
    assert next(find_images(["-"], stdin_fd=pipe[0])) == "a.jpg"


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("plain"))


@pytest.mark.parametrize("data", [b"red.png\r\nblue.png\r\n", BOM + b"red.png\r\nblue.png\r\n"])
def test_a_windows_list_gives_rows(data: bytes, run: Run, photos: Path, tmp_path: Path, model: str) -> None:
    for name in ("red.png", "blue.png"):
        (photos / name).rename(tmp_path / name)

    done = run("classify", "-", *COLOURS, "-m", model, "-q", input=data)

    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(line)["file_name"] for line in done.stdout.splitlines()] == ["red.png", "blue.png"]


@pytest.mark.parametrize("flags", [(), ("-0",)])
def test_a_picture_on_stdin_gets_the_answer_of_its_file(
    flags: tuple[str, ...], run: Run, tmp_path: Path, model: str
) -> None:
    data = picture("JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    of_file = json.loads(run("classify", "a.jpg", *COLOURS, "-m", model, "-q").stdout)

    done = run("classify", "-", *flags, *COLOURS, "-m", model, "-q", "--no-store", input=data)

    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == of_file | {"file_name": "-"}


def test_a_broken_picture_on_stdin_is_one_row_and_can_be_tried_again(run: Run, tmp_path: Path, model: str) -> None:
    data = picture("JPEG", (200, 200))
    command = ("classify", "-", *COLOURS, "-m", model, "-q", "-o", "rows.jsonl")

    assert run(*command, input=data[:3000]).returncode == 1
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (row["file_name"], row["error"]) == ("-", "unreadable")

    assert run(*command, "--retry-errors", input=data).returncode == 0
    (row,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (row["file_name"], row["error"]) == ("-", None)


NO_PICTURES = {
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n",
    "page": b"\n <!DOCTYPE html>\n<html><body>Not found</body></html>\n",
    "capitals": BOM + b"<HTML>\n<BODY>Not found\n",
    "drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>\n',
    "document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "zip": b"PK\3\4\x14\0\0\0\x08\0\n\n\n" + b"\0" * 20 + b"a.jpg\n",
    "gzip": gzip.compress(b"a.jpg\nb.jpg\n"),
    "bzip2": bz2.compress(b"a.jpg\n"),
    "xz": lzma.compress(b"a.jpg\n"),
    "avi": b"RIFF\n\n\0\0AVI LIST" + b"\n" * 40,
    "matroska": b"\x1a\x45\xdf\xa3\x01\0\0\n" + b"\n" * 40,
    "sound": b"ID3\4\0\0\0\0\n\n" + b"\n" * 40,
}


@pytest.mark.parametrize("flags", [(), ("-0",)])
@pytest.mark.parametrize("kind", NO_PICTURES)
def test_a_file_that_is_neither_a_picture_nor_a_list_is_named_for_what_it_is(
    kind: str, flags: tuple[str, ...], run: Run, tmp_path: Path, model: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(NO_PICTURES[kind])
    of_file = json.loads(run("classify", "a.jpg", *COLOURS, "-m", model, "-q").stdout)

    done = run("classify", "-", *flags, *COLOURS, "-m", model, "-q", input=NO_PICTURES[kind])

    assert (done.returncode, done.stderr) == (1, b"")
    assert json.loads(done.stdout) == of_file | {"file_name": "-"}
    assert of_file["error"] in ("unreadable", "unsupported")


def test_a_pointer_that_a_slow_producer_writes_is_not_a_list(pipe) -> None:
    read_fd, writer = pipe
    found = read_stdin(read_fd)
    for byte in NO_PICTURES["pointer"]:
        writer.write(bytes([byte]))
    writer.close()

    assert [some.names for some in found] == [("-",)]


def test_an_empty_stdin_says_so(run: Run, photos: Path, model: str) -> None:
    command = ("classify", "-", *COLOURS, "-m", model)
    for data, why in ((b"", "stdin is empty"), (b"\n\r\n", "stdin has only empty lines")):
        done = run(*command, input=data)
        assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", f"zsclip: no images: {why}\n")

    done = run(*command, "-q", input=b"photos\n")
    assert (done.returncode, done.stderr) == (1, b"zsclip: no images: stdin names only folders\n")


def test_answers_come_while_the_list_is_still_being_written(photos: Path, model: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zsclip", "classify", "-", *COLOURS, "-m", model, "-f", "jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for start, name in ((BOM, "red"), (b"", "blue")):
        process.stdin.write(start + f"photos/{name}.png\r\n".encode())
        process.stdin.flush()

        assert json.loads(process.stdout.readline())["file_name"] == f"photos/{name}.png"
    process.stdin.close()
    process.stdout.close()
    assert process.wait(HANGS) == 0


def test_a_picture_on_stdin_is_seen_in_the_report_and_on_the_sheet(run: Run, tmp_path: Path, model: str) -> None:
    data = picture("PNG")
    (tmp_path / "a.png").write_bytes(data)
    for name, given in (("file", "a.png"), ("stdin", "-")):
        flags = ("--report", f"{name}.html", "--contact-sheet", f"{name}.png", "-q")
        assert run("classify", given, *COLOURS, "-m", model, *flags, input=data).returncode == 0

    pages = ((tmp_path / f"{name}.html").read_text() for name in ("stdin", "file"))
    # A minute may have passed between them, and the names are in the id of the run.
    ours, files = (re.sub(r'"made": ?"[^"]*"|"id": "[0-9a-f]{32}"', "", page) for page in pages)
    assert ours == files.replace('["a.png", "a.png", ', '["-", null, ')
    with Image.open(tmp_path / "stdin.png") as sheet:
        assert len(sheet.getcolors(1 << 24) or ()) > 500  # of the noise
