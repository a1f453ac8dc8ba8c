"""What goes wrong around a run that fills a folder: a bucket that is busy, a full disk, archives that are replaced."""

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from album import picture, write_tar
from conftest import HANGS
from servers import serving
from test_parts import command, data, ended, parts_of, plain, rows_of, started
from test_s3 import serving_s3, upload

__all__ = ["data", "plain"]  # fixtures

Run = Callable[..., subprocess.CompletedProcess[bytes]]

ENGINES = [(), ("--engine", "ray", "-j", "1")]


@pytest.fixture(autouse=True)
def _ray_as_tests_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would keep a token in the home folder, and let its workers wait for all else that this machine does."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in actors of one processor: sums are the same to the last digit


@pytest.fixture
def bucket(data: Path) -> Iterator[None]:
    """A bucket with two archives, and with pictures in a folder."""
    for path in (data / "photos").iterdir():
        if not path.name.isprintable():  # not UTF-8
            path.unlink()
    with serving_s3() as files:
        upload(data, files)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_bucket_that_is_busy_for_a_while_costs_nothing(
    engine: tuple[str, ...], bucket: None, data: Path, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ("classify", "s3://bucket/x-*.tar", "s3://bucket/photos", "-l", "red,green,blue", "-m", plain)
    arguments = [*inputs, "--precision", "fp32", "--no-store", "--shard-size", "6", "--batch-size", "1"]
    ended(started([*arguments, "-o", "expected/"], data))
    busy_until = [time.monotonic() + 600]
    with serving(data, behind=os.environ["AWS_ENDPOINT_URL"]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)

        def fault(path: str, count: int) -> int | None:
            if len(server.asked) == 12:  # the run has been planned
                busy_until[0] = time.monotonic() + 3
            return 503 if len(server.asked) >= 12 and time.monotonic() < busy_until[0] else None

        server.fault = fault

        told = ended(started([*arguments, "-o", "out/", *engine], data))

    assert time.monotonic() > busy_until[0], told
    assert parts_of(data / "out") == parts_of(data / "expected"), told
    assert rows_of(data / "out") == rows_of(data / "expected")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_bucket_that_is_down_ends_in_rows_and_the_next_run_mends_them(
    engine: tuple[str, ...], bucket: None, data: Path, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ("classify", "s3://bucket/x-*.tar", "-l", "red,green,blue", "-m", plain, "--precision", "fp32")
    arguments = [*inputs, "--no-store"]
    ended(started([*arguments, "-o", "expected/"], data))
    real = os.environ["AWS_ENDPOINT_URL"]
    with serving(data, behind=real) as server, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        server.fault = lambda path, count: 503 if len(server.asked) > 6 else None
        begun = time.monotonic()

        process = started([*arguments, "-o", "out/", *engine], data)
        told = ended(process)

    assert process.returncode == 1, told
    assert time.monotonic() - begun < 300
    assert {row["error"] for row in rows_of(data / "out")} <= {None, "unreadable"}
    assert any(row["error"] for row in rows_of(data / "out"))
    ended(started([*arguments, "-o", "out/", "--retry-errors", *engine], data))
    assert rows_of(data / "out") == rows_of(data / "expected")


@pytest.fixture
def small_disk() -> str:
    """A shell command that makes ./out a small disk of its own; it sees no other process's."""
    mounts = ["unshare", "-rm", "sh", "-c", "mkdir -p /tmp && mount -t tmpfs -o size=64k tmpfs /mnt"]
    if shutil.which("unshare") is None or subprocess.run(mounts, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own")
    return "mkdir -p out && mount -t tmpfs -o size=64k tmpfs out"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_full_disk_is_one_line_and_with_room_the_run_goes_on(
    engine: tuple[str, ...], small_disk: str, data: Path, plain: str
) -> None:
    arguments = command(plain, "--no-store", "--shard-size", "1")
    ended(started([*arguments, "-o", "expected/"], data))
    size = sum(path.stat().st_size for path in (data / "expected").iterdir())
    assert size > 100_000
    script = (
        f'{small_disk}; "$@"; echo "code $?" >&2; ls out > full; mount -o remount,size=10m out; "$@"; cp -r out copied'
    )
    shell = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-m", "zsclip", *arguments, *engine]

    done = subprocess.run(shell, cwd=data, capture_output=True, text=True, timeout=HANGS)

    lines = done.stderr.splitlines()
    told = lines[: lines.index("code 4")] if "code 4" in lines else []
    assert told, done.stderr
    assert told[-1] == "zsclip: out/: no space left on device; free some space and run again"
    assert sum(line.startswith("zsclip: out/: no space") for line in told) == 1
    full = (data / "full").read_text().split()
    assert 1 <= len(full) < len(parts_of(data / "expected"))
    assert rows_of(data / "copied") == rows_of(data / "expected")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_archive_that_is_replaced_during_a_run_is_never_mixed(
    engine: tuple[str, ...], run: Run, data: Path, plain: str
) -> None:
    chance, choose = np.random.default_rng(1), random.Random(1)
    versions = [[(f"{version}-{i}.png", picture(chance)) for i in range(40)] for version in range(2)]
    arguments = ["classify", "y-{0..3}.tar", "-l", "red,green,blue", "-m", plain, "--precision", "fp32"]
    arguments += ["--batch-size", "1", "-o", "out/", "--no-store"]
    stop, replaced = threading.Event(), [0]

    def put(number: int, version: int) -> None:
        write_tar(data / "new", versions[version])
        os.replace(data / "new", data / f"y-{number}.tar")

    def replace() -> None:
        while not stop.wait(choose.random()):
            put(choose.randrange(4), choose.randrange(2))
            replaced[0] += 1

    for number in range(4):
        put(number, 0)
    thread = threading.Thread(target=replace)
    thread.start()
    for _ in range(1 if engine else 3):  # Ray takes long to start
        process = started([*arguments, *engine], data)
        told = ended(process)
        assert process.returncode in (0, 1), told
        for part in parts_of(data / "out"):
            rows = rows_of(data / "out" / part)
            assert len({row["file_name"].partition("#")[2][:2] for row in rows if not row["error"]}) == 1
            assert len(rows) == 40 or rows[-1]["error"], told
    stop.set()
    thread.join()
    for number in range(4):
        put(number, 1)
        os.utime(data / f"y-{number}.tar", ns=(number, number))

    told = ended(started(arguments, data))

    assert replaced[0] >= 3
    assert [row["file_name"] for row in rows_of(data / "out")] == [
        f"y-{number}.tar#1-{i}.png" for number in range(4) for i in range(40)
    ], told
    assert not any(row["error"] for row in rows_of(data / "out"))
