"""`zsclip apply --tag exiftool`: what happens to pictures, and how it is taken back."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trees
from conftest import HANGS
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sidecars import BARE, lists_in
from test_apply import Given, Run, given, row
from trees import snapshot, take_back

from zsclip.out.exiftool import ExifTool

__all__ = ["given"]


@pytest.fixture
def exiftool() -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed: apt install libimage-exiftool-perl")


def pixels(path: Path) -> Path:
    """Make a real picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def packet_of(picture: Path) -> bytes:
    with ExifTool() as exiftool:
        return exiftool.read_packet(str(picture)) or BARE.encode()


def tags_of(picture: Path) -> list[str]:
    return lists_in(packet_of(picture))["lr"]


def test_pictures_are_tagged_by_exiftool_and_restored(given: Given, run: Run, tmp_path: Path, exiftool: None) -> None:
    names = ["-a.jpg", "new\n%d line.jpg", "b.png", "\udcff.webp", "c.bmp", "link.jpg"]
    for name in names[:5]:
        pixels(tmp_path / "in" / name)
    (tmp_path / "in/link.jpg").symlink_to("b.png")
    subprocess.run(["exiftool", "-q", "-overwrite_original", "-XMP-xmp:Rating=3", tmp_path / "in/b.png"], check=True)
    os.chmod(tmp_path / "in/b.png", 0o640)
    (tmp_path / "in/b.png_original").write_text("of others")
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f"<?xml version='1.0'?>{BARE}")  # exiftool reads this, but does not write it
    Image.new("RGB", (8, 8)).save(tmp_path / "in/xml.png", pnginfo=info)
    given(*(row(f"in/{name}", "dog", "snow") for name in [*names, "xml.png"]))
    before = snapshot(tmp_path / "in")

    done = run("apply", "rows.jsonl", "--tag", "exiftool")

    assert done.returncode == 1
    left = "left in/c.bmp: exiftool: Writing of BMP files is not yet supported"
    link = "left in/link.jpg: a symbolic link; tag the file that it leads to, or use --tag xmp"
    none = "left in/xml.png: exiftool wrote no tags"
    assert done.stderr.decode().splitlines()[:4] == [link, left, none, "4 files tagged"]
    for name in names[:4]:
        assert tags_of(tmp_path / "in" / name) == ["dog", "snow"]
        assert Image.open(tmp_path / "in" / name).size == (8, 8)
    assert b"<xmp:Rating>3</xmp:Rating>" in packet_of(tmp_path / "in/b.png")
    assert (tmp_path / "in/b.png").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "in/b.png_original").read_text() == "of others"
    assert (tmp_path / "in/b.png_original-2").read_bytes() == before[os.fsencode(tmp_path / "in/b.png")][1]
    assert run("apply", "rows.jsonl", "--tag", "exiftool").stderr.splitlines()[3] == b"4 tagged already"
    undone = run("apply", "--undo", "rows.jsonl.apply.jsonl")
    assert (undone.returncode, undone.stderr) == (0, b"4 files restored\n")
    assert snapshot(tmp_path / "in") == before


def test_several_runs_of_exiftool_are_taken_back_to_the_byte(
    given: Given, run: Run, tmp_path: Path, exiftool: None
) -> None:
    for name in "ab":
        pixels(tmp_path / f"in/{name}.jpg")
    before = snapshot(tmp_path / "in")
    for rows in ([row("in/a.jpg", "dog"), row("in/b.jpg", "dog")], [row("in/a.jpg", "cat")], [row("in/a.jpg")]):
        given(*rows)
        assert run("apply", "rows.jsonl", "--tag", "exiftool").returncode == 0
    kept = ["a.jpg", "a.jpg_original", "a.jpg_original-2", "a.jpg_original-3", "b.jpg", "b.jpg_original"]
    assert sorted(os.listdir(tmp_path / "in")) == kept
    assert tags_of(tmp_path / "in/a.jpg") == []

    done = run("apply", "--undo", "rows.jsonl.apply.jsonl")

    assert (done.returncode, done.stderr) == (0, b"4 files restored\n")
    assert snapshot(tmp_path / "in") == before


@pytest.mark.parametrize("changed", [False, True])
def test_what_a_killed_run_put_into_a_picture_is_taken_back_unless_it_has_changed_since(
    changed: bool, given: Given, run: Run, tmp_path: Path, exiftool: None
) -> None:
    """The run is killed between the new picture and the line that says so."""
    picture, log = pixels(tmp_path / "in/a.jpg"), tmp_path / "rows.jsonl.apply.jsonl"
    before = snapshot(tmp_path / "in")
    given(row("in/a.jpg", "dog"))
    run("apply", "rows.jsonl", "--tag", "exiftool")
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"done"' not in line))
    if changed:
        Image.new("RGB", (8, 8), "blue").save(tmp_path / "in/new.jpg")
        os.replace(tmp_path / "in/new.jpg", picture)
    after = snapshot(tmp_path / "in")

    done = run("apply", "--undo", "rows.jsonl.apply.jsonl")

    if changed:
        assert done.stderr == b"left in/a.jpg: has changed since\nnothing is left to take back\n"
        assert snapshot(tmp_path / "in") == after
    else:
        assert (done.returncode, done.stderr) == (0, b"1 file restored\n")
        assert snapshot(tmp_path / "in") == before


def test_a_tagged_picture_that_changed_or_lost_its_original_stays(
    given: Given, run: Run, tmp_path: Path, exiftool: None
) -> None:
    for name in "ab":
        pixels(tmp_path / f"{name}.jpg")
    given(row("a.jpg", "dog"), row("b.jpg", "dog"))
    run("apply", "rows.jsonl", "--tag", "exiftool")
    (tmp_path / "a.jpg_original").unlink()
    pixels(tmp_path / "b.jpg")
    before = snapshot(tmp_path)

    done = run("apply", "--undo", "rows.jsonl.apply.jsonl")

    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "left b.jpg: has changed since",
        f"left a.jpg: the original, {tmp_path}/a.jpg_original, is gone or has changed",
        "nothing is left to take back",
    ]
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_a_run_of_exiftool_killed_before_any_system_call_goes_on_and_is_taken_back(
    tmp_path: Path, exiftool: None
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    done = subprocess.run(
        [sys.executable, trees.__file__, str(tmp_path / "one"), str(tmp_path / "two"), "exiftool"],
        capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert [line for line in lines if not line.endswith(" kills")] == []
    assert [int(line.split()[-2]) >= least for line, least in zip(lines, (20, 4), strict=True)] == [True, True]


@pytest.mark.slow
def test_exiftool_killed_at_random_moments_loses_nothing(tmp_path: Path, exiftool: None) -> None:
    chance = random.Random(0)
    for number in range(30):
        root = tmp_path / f"{number}"
        names = [os.fspath(pixels(root / f"{i}.jpg")) for i in range(6)]
        before = snapshot(root)
        rows = "".join(json.dumps(row(name, "dog")) + "\n" for name in names)
        (tmp_path / f"{number}.jsonl").write_text(rows)
        command = [sys.executable, "-m", "zsclip", "apply", f"{number}.jsonl", "--tag", "exiftool", "-q"]
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
        log = tmp_path / f"{number}.jsonl.apply.jsonl"
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.01)
        time.sleep(chance.random())
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # exiftool, too
        process.wait()

        for name in names:
            assert Image.open(name).getpixel((0, 0))
        subprocess.run(command, cwd=tmp_path, check=True)
        assert [tags_of(Path(name)) for name in names] == [["dog"]] * 6
        assert sorted(os.listdir(root)) == sorted(f"{i}.jpg{end}" for i in range(6) for end in ("", "_original"))
        assert take_back(log).left == []
        assert snapshot(root) == before


def test_without_exiftool_a_line_says_how_to_install_it(
    given: Given, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(row("a.jpg", "dog"))
    monkeypatch.setenv("PATH", str(tmp_path))

    done = run("apply", "rows.jsonl", "--tag", "exiftool")

    assert done.returncode == 2
    assert done.stderr.decode().startswith("zsclip: --tag exiftool: exiftool is not installed; install it (Debian: apt")
    assert done.stderr.count(b"\n") == 1


def test_an_image_whose_xmp_goes_on_elsewhere_is_left(given: Given, run: Run, tmp_path: Path, exiftool: None) -> None:
    """Exiftool would drop what does not fit into the first 64 KB, or the second of two packets."""
    long, twice = pixels(tmp_path / "long.jpg"), pixels(tmp_path / "twice.jpg")
    (tmp_path / "text").write_text("x" * 100_000)
    subprocess.run(
        ["exiftool", "-q", "-overwrite_original", "-XMP-dc:Description<=text", long], check=True, cwd=tmp_path
    )
    packet = b"http://ns.adobe.com/xap/1.0/\0" + BARE.encode()
    segment = b"\xff\xe1" + (len(packet) + 2).to_bytes(2) + packet
    twice.write_bytes(twice.read_bytes()[:2] + segment * 2 + twice.read_bytes()[2:])
    given(row("long.jpg", "dog"), row("twice.jpg", "dog"))
    before = snapshot(tmp_path)

    done = run("apply", "rows.jsonl", "--tag", "exiftool", "-q")

    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "left long.jpg: its XMP is longer than 64 KB, and exiftool would drop the rest; use --tag xmp",
        "left twice.jpg: its XMP: not XML: junk after document element in line 1",
    ]
    assert snapshot(tmp_path) == before


def test_a_nul_after_the_xmp_of_an_image_is_no_obstacle(given: Given, run: Run, tmp_path: Path, exiftool: None) -> None:
    picture = pixels(tmp_path / "a.jpg")
    packet = b"http://ns.adobe.com/xap/1.0/\0" + BARE.encode() + b"\0"
    segment = b"\xff\xe1" + (len(packet) + 2).to_bytes(2) + packet
    picture.write_bytes(picture.read_bytes()[:2] + segment + picture.read_bytes()[2:])
    given(row("a.jpg", "dog"))

    assert run("apply", "rows.jsonl", "--tag", "exiftool").returncode == 0
    assert tags_of(picture) == ["dog"]
