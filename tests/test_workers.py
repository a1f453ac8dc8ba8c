"""Processes that decode give what threads give, and whatever becomes of them costs time, never a picture."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import preprocess_for
from decoded import one_by_one
from PIL import Image

from zsclip.kept.store import EmbeddingStore
from zsclip.models.embed import Outcome, Pixels, look_ahead
from zsclip.pixels import workers as workers_module
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import DEFAULT_DECODING, Decoding
from zsclip.pixels.workers import SMALL_BYTES, SMALL_PIXELS, _Process, read_file, worker_pool

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

    monkeypatch.setattr(workers_module, "_Process", Started)
    monkeypatch.setattr(workers_module, "SOON", 0)
    monkeypatch.setattr(workers_module, "available_cpus", lambda: MANY)
    return all_started


@pytest.fixture
def one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many processes."""
    monkeypatch.setattr(workers_module, "processes_for", lambda threads: 1)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Small pictures of many kinds, a turned and a transparent one among them; then what is none."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (70, 50, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=turned)
    for ending in ("jpg", "png", "webp", "gif", "bmp", "tiff", "jp2", "ppm"):
        picture.save(tmp_path / f"a.{ending}")
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("RGBA").rotate(9).save(tmp_path / "transparent.png")
    picture.save(os.fsencode(tmp_path) + b"/name \xff\n.png")
    good = sorted(os.path.join(tmp_path, name) for name in os.listdir(tmp_path))
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(Path(tmp_path / "a.png").read_bytes()[:-200])
    return [*good, *(str(tmp_path / name) for name in ("empty.png", "cut.png", "missing.png", "nul\0.png"))]


Row = tuple[str, list[object] | str]


def rows(
    files: list[str], threads: int, decoding: Decoding = DEFAULT_DECODING, store: EmbeddingStore | None = None
) -> list[Row]:
    """Every path with its pixels and what was read, or with why there are none."""
    with look_ahead(one_by_one(files), PREPROCESS, decoding, store, batch_size=4, threads=threads) as ahead:
        done = [row for batch in ahead.batches(4) for row in batch]
    return [(row[0], told(row[1])) for row in done if isinstance(row, tuple)]


def told(outcome: Outcome) -> list[object] | str:
    if isinstance(outcome, Pixels) and outcome.sight is not None:
        return [outcome.pixels.tolist(), outcome.sight.path, outcome.sight.content]  # its look: in a moment it is old
    return repr(outcome)


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(max_pixels=2000), Decoding(fast_jpeg=True)])
def test_processes_give_what_threads_give(decoding: Decoding, files: list[str], started: list[_Process]) -> None:
    expected = rows(files * 5, 2, decoding)
    assert started == []

    assert rows(files * 5, MANY, decoding) == expected

    assert 1 <= len(started) <= MANY
    assert all(process._process.returncode is not None for process in started)


def test_what_was_just_written_may_be_written_again(files: list[str]) -> None:
    os.utime(files[0], (1, 1))
    process = _Process(PREPROCESS, Decoding())
    looks = [sight.look for _, sight in filter(None, map(process.decode, files[:2]))]
    process.end()

    assert looks == [None, None]  # its ctime is new


def test_few_threads_processors_or_pictures_start_none(
    files: list[str], started: list[_Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows(files, 4)
    with monkeypatch.context() as small:
        small.setattr(workers_module, "available_cpus", lambda: 4)
        rows(files, MANY)
    monkeypatch.setattr(workers_module, "SOON", 3)
    rows(files[:3], MANY)
    assert started == []
    rows(files[:4], MANY)
    assert len(started) == 1


def test_a_large_picture_is_left_to_the_threads_and_their_budget(tmp_path: Path) -> None:
    process = _Process(preprocess_for(8), Decoding())
    for more in (0, 1):
        Image.new("RGB", (SMALL_PIXELS // 1000 + more, 1000), "red").save(tmp_path / f"{more}.png")
    small, large, heavy = (str(tmp_path / name) for name in ("0.png", "1.png", "heavy.png"))
    Path(heavy).write_bytes(Path(small).read_bytes() + bytes(SMALL_BYTES))

    answers = [process.decode(path) for path in (small, large, small, heavy, small)]
    process.end()

    assert [answer is not None for answer in answers] == [True, False, True, False, True]


def test_one_that_computes_for_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (1500, 1500)).save(tmp_path / "x.png")
    monkeypatch.setattr(workers_module, "WORKER_CPU_SECONDS", 0.001)
    process = _Process(preprocess_for(8), Decoding())

    with pytest.raises(OSError, match="has ended"):
        process.decode(str(tmp_path / "x.png"))
    assert process._process.wait(10) == -signal.SIGPROF
    process.end()


def test_one_that_is_killed_costs_no_picture(files: list[str], started: list[_Process], one_cpu: None) -> None:
    expected = rows(files[:4], 2)
    started.clear()

    def killing() -> Iterator[str]:
        yield files[0]
        while not (started and started[0].has_answered):
            time.sleep(0.01)
        started[0]._process.kill()
        started[0]._process.wait()
        yield from files[1:4]

    assert rows(killing(), MANY) == expected  # type: ignore[arg-type]
    assert len(started) == 2


def test_what_is_left_unread_is_not_the_answer_to_the_next(
    files: list[str], started: list[_Process], one_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(files[:6], 2)
    started.clear()
    empty, calls = np.empty, itertools.count()

    def no_memory_once(*given: Any, **more: Any) -> Any:
        if next(calls) == 1:
            raise MemoryError
        return empty(*given, **more)

    monkeypatch.setattr(workers_module.np, "empty", no_memory_once)
    assert rows(files[:6], MANY) == expected
    assert len(started) == 2


def test_processes_that_hang_take_no_thread_along(
    files: list[str], started: list[_Process], one_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "PATIENCE", 0.3)
    with ThreadPoolExecutor(1) as pool, worker_pool(PREPROCESS, Decoding(), MANY) as elsewhere:
        assert elsewhere(files[0]) is not None
        os.kill(started[0]._process.pid, signal.SIGSTOP)
        hung = pool.submit(elsewhere, files[0])
        begun = time.monotonic()
        assert [elsewhere(path) for path in files[:9]] == [None] * 9
        assert 0.2 < time.monotonic() - begun < 2
        os.kill(started[0]._process.pid, signal.SIGCONT)
        assert hung.result(30) is not None
        assert elsewhere(files[0]) is not None


def test_one_that_cannot_work_is_not_started_for_every_picture(
    files: list[str], started: list[_Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(files, 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")

    assert rows(files * 2, MANY) == expected * 2
    assert len(started) == MANY


def test_none_can_be_started(files: list[str], monkeypatch: pytest.MonkeyPatch, started: list[_Process]) -> None:
    expected = rows(files, 2)
    for executable in ("/nowhere/python", None):
        monkeypatch.setattr(sys, "executable", executable)
        assert rows(files, MANY) == expected
    assert started == []


def test_threads_that_wait_when_all_ends_come_back(files: list[str], started: list[_Process], one_cpu: None) -> None:
    with ThreadPoolExecutor(2) as pool:
        with worker_pool(PREPROCESS, Decoding(), MANY) as elsewhere:
            assert elsewhere(files[0]) is not None
            os.kill(started[0]._process.pid, signal.SIGSTOP)
            waiting = [pool.submit(elsewhere, files[0]) for _ in range(2)]  # for an answer, for a process
            time.sleep(0.2)
            assert not any(one.done() for one in waiting)
        assert [one.result(30) for one in waiting] == [None, None]
    assert len(started) == 1


def test_a_picture_that_was_moved_is_not_encoded_again(files: list[str], started: list[_Process]) -> None:
    with closing(EmbeddingStore("r", "none", 3, max_pixels=10**6)) as store:
        _, sight = read_file(files[0], 10**6) or (b"", None)
        assert sight is not None
        store.keep([(sight, np.array([1, 0, 0], np.float32))])
        os.rename(files[0], files[0] + "moved.png")

        ((_, row),) = rows([files[0] + "moved.png"], MANY, store=store)

    assert isinstance(row, str)
    assert row.startswith("Stored(")
    assert len(started) == 1


@pytest.fixture
def long_run(files: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A run that decodes without end, and the processes that do it."""
    code = """
        import sys
        from itertools import repeat
        from zsclip.pictures.pictures import Pictures
        from zsclip.pixels import workers
        workers.available_cpus = lambda: 6
        from zsclip.pixels.fit import Preprocess
        from zsclip.pixels.limits import Decoding
        from zsclip.models.embed import look_ahead
        with look_ahead(
            repeat(Pictures(sys.argv[1:])), Preprocess((8, 8), (0,) * 3, (1,) * 3), Decoding(), None,
            batch_size=64, threads=6,
        ) as ahead:
            for number, _ in enumerate(ahead.batches(64)):
                if number == 20:
                    print(flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), files[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        tasks = Path(f"/proc/{run.pid}/task").iterdir()  # a process is the child of the thread that started it
        children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
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
