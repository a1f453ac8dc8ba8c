"""Processes that decode give what threads give, and whatever becomes of them costs time, never a picture."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import preprocess_for
from PIL import Image

from zsclip import decoders as decoders_module
from zsclip.decode import Decoding, Preprocess
from zsclip.decoders import SMALL_PIXELS, _decode, _Process, decoders

PREPROCESS = Preprocess((40, 30), (0.1,) * 3, (0.2,) * 3, "bilinear", "longest", 7)
MANY = 6  # threads


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[_Process]:
    """The processes that were started; from the first picture on."""
    all_started: list[_Process] = []

    class Started(_Process):
        def __init__(self, preprocess: Preprocess, decoding: Decoding) -> None:
            super().__init__(preprocess, decoding)
            all_started.append(self)

    monkeypatch.setattr(decoders_module, "_Process", Started)
    monkeypatch.setattr(decoders_module, "SOON", 0)
    return all_started


@pytest.fixture
def one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many processes."""
    monkeypatch.setattr(decoders_module, "available_cpus", lambda: 1)


@pytest.fixture
def files(tmp_path: Path) -> list[bytes]:
    """Small pictures of many kinds, a turned and a transparent one among them."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (70, 50, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=turned)
    for ending in ("jpg", "png", "webp", "gif", "bmp", "tiff", "jp2", "ppm"):
        picture.save(tmp_path / f"a.{ending}")
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("RGBA").rotate(9).save(tmp_path / "transparent.png")
    return [path.read_bytes() for path in sorted(tmp_path.iterdir())]


def outcome(decode: Callable[[bytes], np.ndarray], data: bytes) -> list[object] | str:
    try:
        return decode(data).tolist()
    except Exception as e:
        return f"{type(e)} {re.sub('0x[0-9a-f]+', '', str(e))}"


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(max_pixels=2000), Decoding(fast_jpeg=True)])
def test_processes_give_what_threads_give(decoding: Decoding, files: list[bytes], started: list[_Process]) -> None:
    files += [b"", b"no picture", files[0][:-200], files[1] + b"more"]
    expected = [outcome(lambda data: _decode(data, PREPROCESS, decoding), data) for data in files]

    with decoders(PREPROCESS, decoding, MANY) as decode, ThreadPoolExecutor(MANY) as pool:
        assert list(pool.map(lambda data: outcome(decode, data), files * 5)) == expected * 5

    assert 1 <= len(started) <= min(MANY, os.cpu_count() or 1)
    assert all(process._process.returncode is not None for process in started)


def test_few_threads_and_few_pictures_start_none(
    files: list[bytes], started: list[_Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    with decoders(PREPROCESS, Decoding(), 4) as decode:
        decode(files[0])
    monkeypatch.setattr(decoders_module, "SOON", 3)
    with decoders(PREPROCESS, Decoding(), MANY) as decode:
        for data in files[:3]:
            decode(data)
        assert started == []
        decode(files[3])
    assert len(started) == 1


def test_a_large_picture_is_left_to_the_threads_and_their_budget() -> None:
    process = _Process(preprocess_for(8), Decoding())
    small, large = (png(SMALL_PIXELS // 1000 + more, 1000) for more in (0, 1))

    assert process.decode(small) is not None
    assert process.decode(large) is None
    assert process.decode(small) is not None
    process.end()


def png(width: int, height: int) -> bytes:
    from io import BytesIO

    file = BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def test_one_that_computes_for_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_module, "CPU_SECONDS", 0.001)
    process = _Process(preprocess_for(8), Decoding())

    with pytest.raises(OSError, match="has ended"):
        process.decode(png(1500, 1500))
    assert process._process.wait(10) == -signal.SIGPROF
    process.end()


def test_one_that_is_killed_costs_no_picture(files: list[bytes], started: list[_Process], one_cpu: None) -> None:
    expected = _decode(files[0], PREPROCESS, Decoding())
    with decoders(PREPROCESS, Decoding(), MANY) as decode:
        for killed in range(3):
            assert np.array_equal(decode(files[0]), expected)
            assert len(started) == killed + 1
            started[-1]._process.kill()
            started[-1]._process.wait()
            assert np.array_equal(decode(files[0]), expected)  # here, as the process is found to have ended


def test_none_can_be_started(files: list[bytes], monkeypatch: pytest.MonkeyPatch, started: list[_Process]) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with decoders(PREPROCESS, Decoding(), MANY) as decode:
        assert np.array_equal(decode(files[0]), _decode(files[0], PREPROCESS, Decoding()))
    assert started == []


def test_threads_that_wait_when_all_ends_come_back(started: list[_Process], files: list[bytes], one_cpu: None) -> None:
    with ThreadPoolExecutor(2) as pool:
        with decoders(PREPROCESS, Decoding(), MANY) as decode:
            decode(files[0])
            os.kill(started[0]._process.pid, signal.SIGSTOP)
            waiting = [pool.submit(decode, files[0]) for _ in range(2)]  # for an answer, for a process
            time.sleep(0.2)
            assert not any(one.done() for one in waiting)
        for one in waiting:
            assert np.array_equal(one.result(30), _decode(files[0], PREPROCESS, Decoding()))
    assert len(started) == 1
    assert started[0]._process.returncode == -signal.SIGKILL


@pytest.fixture
def long_run(tmp_path: Path, files: list[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A run that decodes without end, and the processes that do it."""
    (tmp_path / "picture").write_bytes(files[0])
    code = """
        import sys
        from itertools import cycle
        from zsclip.decode import Decoding, Preprocess
        from zsclip.embed import look_ahead
        with look_ahead(
            cycle(sys.argv[1:]), Preprocess((8, 8), (0,) * 3, (1,) * 3), Decoding(), None, batch_size=64, threads=6
        ) as ahead:
            for number, _ in enumerate(ahead.batches(64)):
                if number == 20:
                    print(flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "picture")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        children = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
        # Those that a thread started are its children.
        for task in Path(f"/proc/{run.pid}/task").iterdir():
            children += [int(pid) for pid in (task / "children").read_text().split()]
        assert children
        yield run, children
        run.kill()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nobody_is_left_behind(number: int, long_run: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    run, children = long_run

    run.send_signal(number)
    _, errors = run.communicate(timeout=30)

    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and is_alive(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert errors.count(b"Traceback") == (number == signal.SIGINT)  # the run's own


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
