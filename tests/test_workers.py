"""Processes that decode give what threads give, and whatever becomes of them costs time, never a picture."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HANGS, preprocess_for
from PIL import Image

from zsclip.kept.store import EmbeddingStore, Stored
from zsclip.models.embed import Pixels, look_ahead
from zsclip.pictures import identity
from zsclip.pictures.identity import Sight, content_of
from zsclip.pictures.pictures import Pictures
from zsclip.pixels import workers as workers_module
from zsclip.pixels.decode import decode_image
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import DEFAULT_DECODING, Decoding
from zsclip.pixels.skipped import Skipped
from zsclip.pixels.workers import (
    PATIENCE,
    SMALL_BYTES,
    SMALL_PIXELS,
    SOON,
    WORKER_CPU_SECONDS,
    Elsewhere,
    _Process,
    processes_for,
    read_file,
    worker_pool,
)

PREPROCESS = Preprocess((40, 30), (0.1,) * 3, (0.2,) * 3, "bilinear", "longest", 7)
MANY = 6  # threads


class Pool:
    """Pools of processes from the first picture on, and all processes that they started."""

    def __init__(self) -> None:
        self.started: list[_Process] = []

    def __call__(
        self,
        decoding: Decoding = DEFAULT_DECODING,
        *,
        processes: int = MANY,
        soon: int = 0,
        patience: float = PATIENCE,
        cpu_seconds: float = WORKER_CPU_SECONDS,
    ) -> AbstractContextManager[Elsewhere]:
        def start(preprocess: Preprocess, decoding: Decoding) -> _Process:
            self.started.append(_Process(preprocess, decoding, cpu_seconds=cpu_seconds))
            return self.started[-1]

        return worker_pool(PREPROCESS, decoding, MANY, processes=processes, soon=soon, patience=patience, start=start)


@pytest.fixture
def pool() -> Pool:
    return Pool()


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


def rows(files: Iterable[str], elsewhere: Elsewhere | None = None, decoding: Decoding = DEFAULT_DECODING) -> list[Row]:
    """Every path with its pixels and what was read, or with why there are none; as runs do it, on MANY threads."""

    def row(path: str) -> Row:
        if elsewhere is not None and (done := elsewhere(path)) is not None:
            pixels, sight = done
            return path, [pixels.tolist(), sight.name, sight.content]
        outcome = decode_image(path, PREPROCESS, decoding)
        if isinstance(outcome, Skipped):
            return path, repr(outcome)
        return path, [outcome.tolist(), path, content_of(Path(path).read_bytes())]

    with ThreadPoolExecutor(MANY) as threads:
        return list(threads.map(row, files))


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(max_pixels=2000), Decoding(fast_jpeg=True)])
def test_processes_give_what_threads_give(decoding: Decoding, files: list[str], pool: Pool) -> None:
    with pool(decoding) as elsewhere:
        assert rows(files * 5, elsewhere, decoding) == rows(files * 5, None, decoding)

    assert 1 <= len(pool.started) <= MANY
    assert all(process._process.returncode is not None for process in pool.started)


def test_a_run_takes_what_processes_decode(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "available_cpus", lambda: MANY)
    paths = [files[0]] * (SOON + 100)

    with look_ahead([Pictures(paths)], PREPROCESS, DEFAULT_DECODING, None, batch_size=4, threads=MANY) as ahead:
        found = [(path, outcome) for batch in ahead.batches(4) for path, outcome in batch]

    assert [path for path, _ in found] == paths
    (expected,) = rows(files[:1])
    for _, outcome in found:
        assert isinstance(outcome, Pixels)
        assert outcome.pixels.tolist() == expected[1][0]


def test_what_was_just_written_may_be_written_again(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "GRAIN_NS", HANGS * 10**9)  # in this process
    os.utime(files[0], (1, 1))
    read = read_file(files[0], 10**6)
    later = time.time() + HANGS
    os.utime(files[1], (later, later))
    process = _Process(PREPROCESS, Decoding())
    decoded = process.decode(files[1])
    process.end()

    assert read is not None
    assert read[1].key is None  # its ctime is new
    assert decoded is not None
    assert decoded[1].key is None


@pytest.mark.parametrize(
    ("threads", "cpus", "processes"), [(4, 64, 0), (64, 4, 0), (5, 64, 5), (64, 5, 5), (65, 64, 64), (500, 500, 64)]
)
def test_few_threads_or_processors_need_no_processes(threads: int, cpus: int, processes: int) -> None:
    assert processes_for(threads, cpus) == processes


def test_few_pictures_start_no_process(files: list[str], pool: Pool) -> None:
    with pool(soon=3) as elsewhere:
        assert [elsewhere(path) for path in files[:3]] == [None] * 3
        assert pool.started == []
        assert elsewhere(files[3]) is not None
    assert len(pool.started) == 1


def test_a_large_picture_is_left_to_the_threads_and_their_budget(tmp_path: Path) -> None:
    process = _Process(preprocess_for(8), Decoding())
    for more in (0, 1):
        Image.new("RGB", (SMALL_PIXELS // 1000 + more, 1000), "red").save(tmp_path / f"{more}.png")
    small, large, heavy = (str(tmp_path / name) for name in ("0.png", "1.png", "heavy.png"))
    Path(heavy).write_bytes(Path(small).read_bytes() + bytes(SMALL_BYTES))

    answers = [process.decode(path) for path in (small, large, small, heavy, small)]
    process.end()

    assert [answer is not None for answer in answers] == [True, False, True, False, True]


def test_a_process_that_computes_for_too_long_is_ended(tmp_path: Path) -> None:
    Image.new("RGB", (1500, 1500)).save(tmp_path / "x.png")
    process = _Process(preprocess_for(8), Decoding(), cpu_seconds=0.001)

    with pytest.raises(OSError, match="has ended"):
        process.decode(str(tmp_path / "x.png"))
    assert process._process.wait(HANGS) == -signal.SIGPROF
    process.end()


def test_a_killed_process_costs_no_picture(files: list[str], pool: Pool) -> None:
    with pool(processes=1) as elsewhere:
        assert elsewhere(files[0]) is not None
        pool.started[0]._process.kill()
        pool.started[0]._process.wait()
        assert rows(files[1:4], elsewhere) == rows(files[1:4])
        assert elsewhere(files[0]) is not None
    assert len(pool.started) == 2


def test_a_late_answer_is_discarded(files: list[str], pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows(files[:6])
    empty, calls = np.empty, itertools.count()

    def no_memory_once(*given: Any, **more: Any) -> Any:
        if next(calls) == 1:
            raise MemoryError
        return empty(*given, **more)

    monkeypatch.setattr(np, "empty", no_memory_once)
    with pool(processes=1, patience=HANGS) as elsewhere:
        assert rows(files[:6], elsewhere) == expected
    assert len(pool.started) == 2


def test_hanging_processes_do_not_block_threads(files: list[str], pool: Pool) -> None:
    with ThreadPoolExecutor(2) as threads, pool(processes=1, patience=0.3) as elsewhere:
        assert elsewhere(files[0]) is not None
        os.kill(pool.started[0]._process.pid, signal.SIGSTOP)
        hung = threads.submit(elsewhere, files[0])
        others = threads.submit(lambda: [elsewhere(files[0]) for _ in range(1000)])
        assert others.result(100) == [None] * 1000  # the first waits, and no other: that would be five minutes
        assert not hung.done()
        os.kill(pool.started[0]._process.pid, signal.SIGCONT)
        assert hung.result(30) is not None
        assert elsewhere(files[0]) is not None


def test_a_broken_process_is_not_restarted_for_every_picture(
    files: list[str], pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(files)
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pool() as elsewhere:
        assert rows(files * 2, elsewhere) == expected * 2
    assert len(pool.started) == MANY


def test_threads_decode_when_no_process_can_be_started(
    files: list[str], monkeypatch: pytest.MonkeyPatch, pool: Pool
) -> None:
    expected = rows(files)
    for executable in ("/nowhere/python", None):
        monkeypatch.setattr(sys, "executable", executable)
        with pool() as elsewhere:
            assert rows(files, elsewhere) == expected
    assert pool.started == []


def test_waiting_threads_return_at_shutdown(files: list[str], pool: Pool) -> None:
    with ThreadPoolExecutor(2) as threads:
        with pool(processes=1, patience=3600) as elsewhere:
            assert elsewhere(files[0]) is not None
            os.kill(pool.started[0]._process.pid, signal.SIGSTOP)
            # One waits for an answer, one for a process.
            asked = [threads.submit(elsewhere, files[0]) for _ in range(2)]
            assert not wait(asked, 0.2).done
        assert [one.result(HANGS) for one in asked] == [None, None]
    assert len(pool.started) == 1


def test_a_picture_that_was_moved_is_not_encoded_again(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "available_cpus", lambda: MANY)
    content = content_of(Path(files[0]).read_bytes())
    with closing(EmbeddingStore("r", "none", 3, max_pixels=10**6)) as store:
        store.keep([(Sight(files[0], content, None), np.array([1, 0, 0], np.float32))])
        moved = [files[0] + "moved.png"] * (SOON + 1)
        os.rename(files[0], moved[0])

        with look_ahead([Pictures(moved)], PREPROCESS, DEFAULT_DECODING, store, batch_size=4, threads=MANY) as ahead:
            outcomes = [outcome for batch in ahead.batches(4) for _, outcome in batch]

    assert all(isinstance(outcome, Stored) for outcome in outcomes)


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
def test_no_process_survives_the_run(number: int, long_run: tuple[subprocess.Popen[bytes], list[int]]) -> None:
    run, children = long_run

    run.send_signal(number)
    _, errors = run.communicate(timeout=HANGS)

    ended = threading.Event()
    for _ in range(100 * HANGS):
        if not any(is_alive(pid) for pid in children):
            break
        ended.wait(0.01)
    assert not any(is_alive(pid) for pid in children)
    assert errors.count(b"Traceback") == (number == signal.SIGINT)  # the run's own


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
