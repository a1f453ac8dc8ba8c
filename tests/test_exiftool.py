"""XMP that is in a picture in ways which exiftool reads, but does not write."""

import subprocess
from pathlib import Path

from sidecars import BARE
from test_apply import Given, Run, given, row
from test_tags import exiftool, pixels, tags_of
from trees import snapshot

__all__ = ["exiftool", "given"]


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
