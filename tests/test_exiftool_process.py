"""The running exiftool of a run: it answers as a process for every picture would, and nothing of it is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HANGS
from test_apply import Given, Run, given, row
from test_exiftool import exiftool, pixels, tags_of
from trees import apply, snapshot, take_back

from zsclip.out.exiftool import ExifTool
from zsclip.out.reader import Answered
from zsclip.out.tagplan import Tagging
from zsclip.out.xmp import Tag, tagged
from zsclip.pictures.refused import Refused

__all__ = ["exiftool", "given"]

pytestmark = pytest.mark.usefixtures("exiftool")
PROC = Path("/proc")
AWKWARD = [
    " a", "#a", "#[CSTR]a\\n", "-a", "-execute1", "a\nb", "a\r", "%d", "50%f", "$x@y`z`", "q\"u'", "\udcff", "日本",
    "  ", "{ready}", "-b=c", "-XMP<=x", "@", "~", "a\\", ";&|",
]  # fmt: skip


def test_names_that_look_like_something_else_are_names(tmp_path: Path) -> None:
    """As a picture's, with and without an ending, and as that of its folder."""
    root, log = tmp_path / "in", tmp_path / "log"
    paths = [root / "all" / f"{name}{end}" for name in AWKWARD for end in (".jpg", "")]
    paths += [root / name / "a.jpg" for name in AWKWARD]
    template = pixels(tmp_path / "a.jpg").read_bytes()
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(template)
    before = snapshot(root)
    rows = [Answered(os.fspath(path), (("dog", 0.9),)) for path in paths]

    _, outcome = apply(rows, Tagging(embeds=True), log)

    assert outcome.left == []
    made = {path.read_bytes() for path in paths}
    assert len(made) == 1
    assert tags_of(paths[0]) == ["dog"]
    assert len(snapshot(root)) == len(before) + len(paths)
    assert take_back(log).left == []
    assert snapshot(root) == before


def by_itself(folder: Path, *options: str) -> tuple[int, bytes, str]:
    """What a process of its own answers."""
    done = subprocess.run(["exiftool", "-config", "", "-q", "-q", *options], cwd=folder, capture_output=True)
    return done.returncode, done.stdout, done.stderr.decode().strip()


def test_answers_are_those_of_a_process_for_every_picture(tmp_path: Path) -> None:
    packet = tagged(None, [Tag("dog", "animal")])
    assert packet is not None
    (tmp_path / "packet").write_bytes(packet)
    for name in ("a.jpg", "b.png", "c.bmp", "d.webp", "e.tif", "f.gif"):
        pixels(tmp_path / name)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    (tmp_path / "text.jpg").write_text("{ready}\n")
    (tmp_path / "empty.jpg").touch()

    with ExifTool() as running:
        for path in sorted(tmp_path.glob("*.*")):
            wrote, _, said = by_itself(tmp_path, "-o", "./expected", "-XMP<=packet", f"./{path.name}")
            if wrote:
                with pytest.raises(Refused) as refused:
                    running.write_packet(str(path), packet, str(tmp_path / "found"))
                why = said.removeprefix("Error: ").removesuffix(f" - ./{path.name}")
                assert refused.value.message == f"exiftool: {why}"
                assert not (tmp_path / "found").exists()
                continue
            running.write_packet(str(path), packet, str(tmp_path / "found"))
            assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()
            expected = by_itself(tmp_path, "-b", "-a", "-XMP", "./expected")
            assert (0, running.read_packet(str(tmp_path / "found")), "") == expected
            for made in ("found", "expected"):
                (tmp_path / made).unlink()


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a script before the real exiftool, which it finds in $REAL; give a file for it to write to, $SAID."""
    real = shutil.which("exiftool")
    program = folder / "bin/exiftool"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("REAL", str(real))
    monkeypatch.setenv("SAID", str(folder / "said"))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return folder / "said"


def test_a_run_starts_one_process(given: Given, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"in/{i}.jpg" for i in range(9)]
    for name in names:
        pixels(tmp_path / name)
    given(*(row(name, "dog") for name in names))
    said = stand_in(tmp_path, monkeypatch, 'echo started >> "$SAID"; exec "$REAL" "$@"')

    assert run("apply", "rows.jsonl", "--tag", "exiftool").stderr.splitlines()[0] == b"9 files tagged"

    assert said.read_text() == "started\n"


def test_an_exiftool_that_dies_costs_one_picture(
    given: Given, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when it is to write bad.jpg, of which it has read the XMP before."""
    names = ["in/a.jpg", "in/bad.jpg", "in/c.jpg", "in/d.jpg"]
    for name in names:
        pixels(tmp_path / name)
    given(*(row(name, "dog") for name in names))
    before = snapshot(tmp_path / "in")
    kill = 'case $x in *.part) w=1;; *bad*) [ "$w" ] && kill -9 0;; -exec*) w=;; esac; echo "$x"'
    stand_in(tmp_path, monkeypatch, f'while read -r x; do {kill}; done | "$REAL" "$@"')

    done = run("apply", "rows.jsonl", "--tag", "exiftool")

    assert done.returncode == 1
    left = "left in/bad.jpg: exiftool ended; run the same command again"
    assert done.stderr.decode().splitlines()[:2] == [left, "3 files tagged"]
    expected = sorted([*(name[3:] for name in names), *(f"{name}.jpg_original" for name in "acd")])
    assert sorted(os.listdir(tmp_path / "in")) == expected
    assert run("apply", "--undo", "rows.jsonl.apply.jsonl").returncode == 0
    assert snapshot(tmp_path / "in") == before


def test_an_exiftool_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = pixels(tmp_path / "a.jpg")
    stand_in(tmp_path, monkeypatch, 'echo "Can\'t locate Image/ExifTool.pm" >&2; echo more >&2; exit 2')

    with ExifTool() as running:
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                running.read_packet(str(picture))
            assert refused.value.message == (
                "exiftool ended: Can't locate Image/ExifTool.pm; run the same command again"
            )


@pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_exiftool_that_hangs_or_is_killed_costs_one_picture(number: int, tmp_path: Path) -> None:
    picture = pixels(tmp_path / "a.jpg")
    with ExifTool(seconds=5) as running:
        assert running.read_packet(str(picture)) is None
        [process] = [each for each in below(os.getpid()) if (PROC / f"{each}/comm").read_text() == "exiftool\n"]
        os.kill(process, number)

        with pytest.raises(Refused) as refused:
            running.read_packet(str(picture))

        kind, *messages = "unreadable", "exiftool ended; run the same command again"
        if number == signal.SIGSTOP:
            kind, *messages = "timeout", "exiftool takes more than 5 s"
        else:  # the shell may have had the time to say so
            messages.append("exiftool ended: Killed; run the same command again")
        assert refused.value.kind == kind
        assert refused.value.message in messages
        wait_until_ended([process])
        assert running.read_packet(str(picture)) is None
    wait_until_ended(below(os.getpid()))


def test_a_picture_with_a_process_of_its_own_may_take_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = pixels(tmp_path / "slow\n.jpg")
    stand_in(tmp_path, monkeypatch, "exec sleep 1000")

    with ExifTool(seconds=1) as running, pytest.raises(Refused, match="exiftool takes more than 1 s"):
        running.read_packet(str(picture))


def below(number: int) -> list[int]:
    """Give the processes that a process has started, and those that these have, but none that has ended."""
    parents: dict[int, int] = {}
    for entry in PROC.glob("[0-9]*/stat"):
        try:
            about = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if about[0] != "Z":
            parents[int(entry.parent.name)] = int(about[1])
    found = [number]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def are_running(numbers: list[int]) -> Iterator[int]:
    for number in numbers:
        try:
            if (PROC / f"{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield number
        except OSError:
            continue


def wait_until_ended(numbers: list[int]) -> None:
    """A process that is killed ends a little later."""
    deadline = time.monotonic() + HANGS
    while list(are_running(numbers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_no_process_and_no_file(number: int, tmp_path: Path) -> None:
    for i in range(100):
        pixels(tmp_path / f"in/{i}.jpg")
    lines = "".join(json.dumps(row(f"in/{i}.jpg", "dog")) + "\n" for i in range(100))
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "temporary").mkdir()
    before = snapshot(tmp_path / "in")
    command = [sys.executable, "-m", "zsclip", "apply", "rows.jsonl", "--tag", "exiftool", "-q"]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, env=environment)
    while len(os.listdir(tmp_path / "in")) < 105:
        assert process.poll() is None
    started = below(process.pid)
    assert started

    process.send_signal(number)

    assert process.wait(HANGS) == (-number if number == signal.SIGKILL else 128 + number)
    assert len(os.listdir(tmp_path / "in")) < 170  # threads do not go on to the end of their 32 pictures
    wait_until_ended(started)
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0
    assert sorted(os.listdir(tmp_path / "in")) == sorted(
        f"{i}.jpg{end}" for i in range(100) for end in ("", "_original")
    )
    assert os.listdir(tmp_path / "temporary") == []
    assert take_back(tmp_path / "rows.jsonl.apply.jsonl").left == []
    assert snapshot(tmp_path / "in") == before
