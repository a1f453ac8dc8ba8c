"""What a run survives, on real processes: kills, full disks, pictures that come and go, another run beside it."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import HANGS, wait_for_lines
from PIL import Image

COLOURS = ("--labels", "red,green,blue", "-q", "--threads", "2")


def command(model: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "zsclip", "classify", *arguments, *COLOURS, "--model", f"local-dir:{model}"]


def make_pictures(folder: Path, count: int) -> Path:
    """Small pictures of all colours, every hundredth one bad."""
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (count, 3))
    for i, colour in enumerate(colours):
        path = folder / f"{i:04d}.png"
        if i % 100 == 7:
            path.write_bytes(b"bad")
        else:
            Image.new("RGB", (16, 16), tuple(colour.tolist())).save(path)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("store", [(), ("--no-store",)])
def test_a_run_killed_and_resumed_writes_the_same_file(
    tiny_model: Callable[[str], Path], tmp_path: Path, store: tuple[str, ...]
) -> None:
    make_pictures(tmp_path / "pictures", 2000)
    whole = command(tiny_model("plain"), "pictures", "--batch-size", "8", *store)
    subprocess.run([*whole, "-o", "expected.csv"], cwd=tmp_path)
    expected = (tmp_path / "expected.csv").read_bytes()
    assert expected.count(b"\n") == 2001
    begun = time.monotonic()
    subprocess.run([*whole, "-o", "rows.csv"], cwd=tmp_path)
    seconds = time.monotonic() - begun
    assert (tmp_path / "rows.csv").read_bytes() == expected
    kills, chance = 0, random.Random(0)
    while kills < 15:
        (tmp_path / "rows.csv").unlink(missing_ok=True)
        process = subprocess.Popen([*whole, "-o", "rows.csv", "--resume"], cwd=tmp_path)
        try:
            process.wait(seconds * chance.uniform(0.3, 1.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert process.returncode == 1  # some pictures are bad
        assert (tmp_path / "rows.csv").read_bytes() == expected
    assert subprocess.run([*whole, "-o", "rows.csv", "--resume"], cwd=tmp_path).returncode == 1
    assert (tmp_path / "rows.csv").read_bytes() == expected
    assert sorted(os.listdir(tmp_path)) == ["expected.csv", "pictures", "rows.csv"]


def test_no_room_for_store_and_cache_costs_no_row(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", 120)
    whole = command(tiny_model("plain"), "pictures")
    expected = subprocess.run([*whole, "--no-store"], cwd=tmp_path, capture_output=True).stdout

    def no_file_above_8_kilobytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    environment = os.environ | {"ZSCLIP_CACHE_DIR": str(tmp_path / "cache")}
    for _ in range(2):
        done = subprocess.run(
            whole, cwd=tmp_path, capture_output=True, env=environment, preexec_fn=no_file_above_8_kilobytes
        )
        assert (done.returncode, done.stderr) == (1, b"")
        assert done.stdout == expected
    done = subprocess.run(
        [*whole, "-o", "rows.jsonl"], cwd=tmp_path, capture_output=True, preexec_fn=no_file_above_8_kilobytes
    )
    assert done.returncode == 4
    assert done.stderr.startswith(b"zsclip: rows.jsonl: file too large")
    assert (tmp_path / "rows.jsonl.part").read_bytes() == expected[:8192]
    subprocess.run([*whole, "-o", "rows.jsonl", "--resume"], cwd=tmp_path)
    assert (tmp_path / "rows.jsonl").read_bytes() == expected


def test_pictures_may_come_and_go_during_the_run(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    process = subprocess.Popen(
        command(tiny_model("plain"), "-"), cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    def answer(name: str) -> dict[str, object]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{name}\n".encode())
        process.stdin.flush()
        row: dict[str, object] = json.loads(process.stdout.readline())
        return row

    first = answer("a.png")
    assert first["error"] is None
    (tmp_path / "a.png").unlink()
    assert answer("a.png")["error"] == "missing"
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "a.png")
    second = answer("a.png")
    assert (second["error"], second["cosine"] == first["cosine"]) == (None, False)
    (tmp_path / "a.png").write_bytes(b"")
    assert answer("a.png")["error"] == "unreadable"
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").mkdir()
    os.rmdir(tmp_path / "a.png")
    os.symlink("a.png", tmp_path / "a.png")
    assert answer("a.png")["error"] == "missing"  # a link to itself
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(HANGS) == 1
    assert process.stdout is not None
    process.stdout.close()


def test_two_runs_over_one_folder_at_once(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", 300)
    whole = command(tiny_model("plain"), "pictures", "--batch-size", "4")
    expected = subprocess.run([*whole, "--no-store"], cwd=tmp_path, capture_output=True).stdout

    both = [subprocess.Popen(whole, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]

    outputs = [process.communicate() for process in both]
    assert [message for _, message in outputs] == [b"", b""]
    again = subprocess.run(whole, cwd=tmp_path, capture_output=True).stdout
    for output in (again, *(rows for rows, _ in outputs)):
        for one, other in zip(output.splitlines(), expected.splitlines(), strict=True):
            row, twin = json.loads(one), json.loads(other)
            assert (row["file_name"], row["label"]) == (twin["file_name"], twin["label"])
            assert row["cosine"] == pytest.approx(twin["cosine"], abs=1e-5)  # batches may fall otherwise


def test_a_file_is_written_by_one_run_at_a_time(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    whole = command(tiny_model("plain"), "-", "-o", "rows.jsonl")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    first = subprocess.Popen(whole, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert first.stdin is not None
    first.stdin.write(b"a.png\n")
    first.stdin.flush()
    wait_for_lines(tmp_path / "rows.jsonl.part", 1, first)

    for flag in ("--resume", "--overwrite"):
        second = subprocess.run([*whole, flag], cwd=tmp_path, input=b"a.png\n", capture_output=True)
        assert second.returncode == 4
        assert b"another run is writing to it" in second.stderr
    first.stdin.write(b"a.png\n")
    first.stdin.close()
    assert first.wait(HANGS) == 0
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2
    assert first.stderr is not None
    first.stderr.close()


def test_ctrl_c_and_resume_is_one_file(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", 40)
    names = sorted(f"pictures/{name}" for name in os.listdir(tmp_path / "pictures"))
    whole = command(tiny_model("plain"), "-", "-o", "rows.csv", "--top-k", "2", "--batch-size", "4")
    process = subprocess.Popen(whole, cwd=tmp_path, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write("".join(f"{name}\n" for name in names[:12]).encode())
    process.stdin.flush()
    wait_for_lines(tmp_path / "rows.csv.part", 24, process)  # a header, two lines a picture, one for the bad one
    process.send_signal(signal.SIGINT)
    assert process.wait(HANGS) == 130  # though its stdin is still open
    process.stdin.close()
    listing = "".join(f"{name}\n" for name in names).encode()
    changed = subprocess.run(
        [*whole, "--resume", "--threshold", "0.9"], cwd=tmp_path, input=listing, capture_output=True
    )
    assert changed.returncode == 2
    assert (
        b"rows.csv.part: started with other settings: threshold: none -> 0.9; use those, or add --overwrite"
        in changed.stderr
    )

    assert subprocess.run([*whole, "--resume"], cwd=tmp_path, input=listing).returncode == 1

    expected = [*whole[: whole.index("-o")], *whole[whole.index("-o") + 2 :], "--format", "csv"]
    rows = subprocess.run(expected, cwd=tmp_path, input=listing, capture_output=True).stdout
    assert (tmp_path / "rows.csv").read_bytes() == rows


def test_a_folder_on_which_every_picture_fails_ends_with_a_row_for_each(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    for i in range(70):
        (tmp_path / f"{i}.jpg").write_bytes(b"bad" * i)

    done = subprocess.run(command(tiny_model("plain"), "."), cwd=tmp_path, capture_output=True)

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [row["error"] for row in rows] == ["unreadable"] * 70
