"""Files that give no pixels, and what is said of them."""

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from album import LABELS, Run, rows_of, write_tar
from PIL import Image
from servers import serving
from test_decode import SIMPLE, noise, png, run_python, skipped
from tiffs import RGB, quadrants, tiff

from zsclip.pictures.refused import Refused
from zsclip.pixels.decode import decode_image, upright


def test_every_bad_file_becomes_a_skipped_of_its_kind(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "page.jpg").write_text("\n<!doctype html><html>")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    noise(64, 64).save(tmp_path / "whole.jpg")
    noise(64, 64).save(tmp_path / "whole.png")
    for name in ("whole.jpg", "whole.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut{name[-4:]}").write_bytes(whole[: len(whole) // 2])

    seen = {name: skipped(tmp_path / name) for name in (
        "empty.jpg", "text.jpg", "page.jpg", "folder.jpg", "broken.jpg", "loop.jpg", "cut.jpg", "cut.png", "none.jpg",
        "text.jpg/x.jpg", "x" * 300, "a\0b",
    )}  # fmt: skip

    assert {name: (row.error, row.message) for name, row in seen.items() if not name.startswith("cut")} == {
        "empty.jpg": ("unreadable", "the file is empty"),
        "text.jpg": ("unreadable", "damaged, or not an image in a supported format"),
        "page.jpg": ("unreadable", "a web page or drawing (HTML, SVG), not an image"),
        "folder.jpg": ("not-a-file", "a folder"),
        "broken.jpg": ("missing", "no such file or directory"),
        "loop.jpg": ("missing", "too many levels of symbolic links"),
        "none.jpg": ("missing", "no such file or directory"),
        "text.jpg/x.jpg": ("missing", "not a directory"),
        "x" * 300: ("missing", "file name too long"),
        "a\0b": ("missing", "the path holds a NUL byte; paths separated by NUL need --null"),
    }
    for name in ("cut.jpg", "cut.png"):
        assert seen[name].error == "unreadable"
        assert seen[name].message.startswith("cannot decode: image file is truncated")


def test_a_pipe_a_socket_and_a_device_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for a writer
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")

        for path in (tmp_path / "pipe.jpg", tmp_path / "s.jpg", "/dev/null"):
            assert skipped(path).error == "not-a-file"


def test_a_file_without_permission_says_so(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    tmp_path.chmod(0o755)
    code = """
        import os
        from zsclip.pixels.decode import *
        preprocess = Preprocess((8, 8), (0,) * 3, (1,) * 3)
        decode_image("nope", preprocess)  # loads what it needs while it may
        if os.geteuid() == 0:
            os.setuid(65534)  # to root nothing is unreadable
        print(decode_image("x.png", preprocess))
    """

    run = run_python(code, cwd=tmp_path)

    assert run.stdout == "Skipped(file_name='x.png', error='permission', message='permission denied', truth=None)\n"


def test_raw_videos_and_drawings_are_refused_with_the_reason(tmp_path):
    for name in ("x.CR2", "x.dng", "x.mp4", "x.svg", "x.pdf"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="TIFF")  # as RAW is: Pillow would show its thumbnail

    assert "camera RAW is not supported" in skipped(tmp_path / "x.CR2").message
    assert "camera RAW is not supported" in skipped(tmp_path / "x.dng").message
    assert "a video" in skipped(tmp_path / "x.mp4").message
    assert "export it as PNG" in skipped(tmp_path / "x.svg").message
    assert "export it as PNG" in skipped(tmp_path / "x.pdf").message


KINDS = {
    "lfs.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n", "Git LFS pointer"),
    "page.jpg": (b"\xef\xbb\xbf\r\n<!DOCTYPE html><html>", "web page"),
    "mp4.jpg": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "a video"),
    "mov.jpg": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
    "old_mov.jpg": (b"\0\0\0\x08wide\0\0\0\0mdat", "a video"),
    "avi.jpg": (b"RIFF\x24\0\0\0AVI LIST", "a video"),
    "webm.jpg": (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1", "a video"),
    "mpeg.jpg": (b"\0\0\1\xba\x44\0\4", "a video"),
    "stream.jpg": ((b"G" + bytes(187)) * 3, "a video"),
    "zip.jpg": (b"PK\3\4\x14\0", "ZIP archive"),
    "gzip.jpg": (b"\x1f\x8b\x08\0", "gzip"),
    "xz.jpg": (b"\xfd7zXZ\0\0\4", "xz"),
    "zstd.jpg": (b"\x28\xb5\x2f\xfd\x24", "zstd"),
    "rar.jpg": (b"Rar!\x1a\7\1\0", "RAR archive"),
    "7z.jpg": (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive"),
    "tar.jpg": (b"a.jpg".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0"), "TAR archive"),
    "jxl.jpg": (b"\xff\x0a\xfa\x1f", "JPEG XL"),
    "boxed_jxl.jpg": (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JPEG XL"),
    "psd.jpg": (b"8BPS\0\1\0\0\0\0\0\0", "PSD"),
    "xcf.jpg": (b"gimp xcf v011\0", "XCF"),
    "pdf.jpg": (b"%PDF-1.7\n", "PDF"),
    "svg.jpg": (b'<?xml version="1.0"?>\n<svg width="9">', "SVG: a drawing"),
    "page_with_svg.jpg": (b"<!DOCTYPE HTML><HTML><body><svg>", "web page"),
    "cr3.jpg": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera RAW"),
    "raf.jpg": (b"FUJIFILMCCD-RAW 0201", "camera RAW"),
    "rw2.jpg": (b"IIU\0\x18\0\0\0", "camera RAW"),
    "orf.jpg": (b"IIRO\x08\0\0\0", "camera RAW"),
    "exr.jpg": (b"v/1\1\2\0\0\0", "OpenEXR"),
    "numpy.jpg": (b"\x93NUMPY\1\0v\0{'descr'", "NumPy"),
    "parquet.jpg": (b"PAR1\x15\4", "Parquet"),
    "sound.jpg": (b"ID3\4\0", "sound"),
    "json.jpg": (b'{"message": "Not Found", "status": 404}', "text"),
    "zeros.jpg": (bytes(5000), "only NUL bytes"),
    "noise.jpg": (bytes(range(128, 256)), "damaged, or not an image"),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_message_names_what_the_file_is(tmp_path, name):
    content, words = KINDS[name]
    (tmp_path / name).write_bytes(content)

    row = skipped(tmp_path / name)

    assert words in row.message
    pictures = ("RAW", "video", "JPEG XL", "PSD", "XCF", "OpenEXR", "PDF", "SVG")
    assert row.error == ("unsupported" if any(each in words for each in pictures) else "unreadable")


def test_the_message_is_the_same_for_a_member_of_an_archive():
    with pytest.raises(Refused, match="Git LFS pointer"), upright(io.BytesIO(KINDS["lfs.jpg"][0])):
        pass


@pytest.mark.parametrize(
    "tags",
    [
        {50706: ("B", (1, 4, 0, 0))},  # DNG
        {254: ("I", (1,)), 330: ("I", (8, 8))},  # as NEF and ARW: the first picture is a preview
        {262: ("H", (32803,))},
    ],
)
def test_raw_is_recognised_by_its_tags_whatever_its_name(tmp_path, tags):
    (tmp_path / "x.jpg").write_bytes(tiff(quadrants([(255, 0, 0)] * 4), RGB, tags=tags))

    assert (skipped(tmp_path / "x.jpg").error, "camera RAW" in skipped(tmp_path / "x.jpg").message) == (
        "unsupported",
        True,
    )


def test_canons_raw_is_recognised_by_its_start(tmp_path):
    data = tiff(quadrants([(255, 0, 0)] * 4), RGB)
    (tmp_path / "x.jpg").write_bytes(data[:8] + b"CR\2\0" + data[12:])

    assert "camera RAW" in skipped(tmp_path / "x.jpg").message


def test_heic_without_pillow_heif_names_the_cure(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(100))
    code = f"""
        import sys
        sys.modules["pillow_heif"] = None  # as if it were not installed
        from zsclip.pixels.decode import *
        print(decode_image({str(tmp_path / "x.jpg")!r}, Preprocess((8, 8), (0,) * 3, (1,) * 3)).message)
    """

    assert run_python(code).stdout == "a HEIC image; to read it: pip install 'zsclip[heic]'\n"


def test_no_memory_left_is_a_row_too(tmp_path):
    (tmp_path / "x.png").write_bytes(png(12_000, 12_000, 1, 0, bytes(12_000 * 1501)))
    code = """
        import resource
        from zsclip.pixels.decode import *
        preprocess = Preprocess((8, 8), (0,) * 3, (1,) * 3)
        decode_image("nope", preprocess)
        resource.setrlimit(resource.RLIMIT_DATA, (100 << 20, 100 << 20))
        print(decode_image("x.png", preprocess).error)
    """

    assert run_python(code, cwd=tmp_path).stdout == "out-of-memory\n"


@pytest.mark.parametrize(("name", "kind"), [("x.mov", "JPEG"), ("x.raw", "PNG"), ("x.svg", "WEBP"), ("x.pdf", "GIF")])
def test_a_picture_is_read_whatever_its_ending_says(name: str, kind: str, tmp_path) -> None:
    for size in ((16, 16), (9000, 1), (1, 9000)):
        noise(*size).save(tmp_path / name, format=kind)

        assert isinstance(decode_image(str(tmp_path / name), SIMPLE), np.ndarray)


def test_a_video_that_is_met_as_an_image_says_what_to_do_where_it_is(run: Run, tmp_path: Path, model: str) -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("av")
    video = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(300)
    for name in ("v.mp4", "v.jpg"):
        (tmp_path / name).write_bytes(video)
    write_tar(tmp_path / "a.tar", [("v.jpg", video)])
    with serving(tmp_path) as server:
        names = ["v.mp4", "v.jpg", "a.tar#v.jpg", f"{server.url}/v.mp4", f"{server.url}/v.jpg"]
        names += [f"{server.url}/v.mp4#t=3.000", "v.mp4#t=3.000", "w.mp4#t=3.000"]
        (tmp_path / "list.csv").write_text("\n".join(["file_name", *names]))
        rows = rows_of(run("classify", "list.csv", *LABELS, "-m", model, "-f", "jsonl", "-q"))

    assert {row["file_name"]: row["message"] for row in rows} == dict(
        zip(
            names,
            [
                "a video; name it on the command line to classify its frames",
                "a video, but not named like one; rename it .mp4 or what it is, and name it on the command line",
                "a video; videos in archives are not read; unpack it first",
                "a video; name it on the command line to classify its frames",
                "a video, but its URL does not end in .mp4 or the like; download it first",
                "damaged, or not a video in a supported format",
                "damaged, or not a video in a supported format",
                "no such file or directory",
            ],
            strict=True,
        )
    )
