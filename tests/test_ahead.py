import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import HANGS
from decoded import Batch, decode_batches, one_by_one
from PIL import Image
from test_decode import SIMPLE

from zsclip.errors import InputError
from zsclip.pictures.pictures import Pictures
from zsclip.pixels import ahead as ahead_module
from zsclip.pixels.ahead import FOUND_BATCH, LOOK_UP, PATHS_AHEAD
from zsclip.pixels.decode import decode_image
from zsclip.pixels.skipped import Skipped


@dataclass(frozen=True)
class Known:
    """What some names were found to be, as the store gives it in columns."""

    names: list[str]
    places: list[int]
    values: list[object]

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int) -> "Known":
        return Known(self.names[start:stop], self.places[start:stop], self.values[start:stop])


def finding(known: Callable[[str], object]) -> Callable[[Sequence[str], Sequence[bytes | None]], Known]:
    """Find those names of which something is known."""

    def find(names: Sequence[str], keys: Sequence[bytes | None]) -> Known:
        assert len(keys) == len(names)
        values = list(map(known, names))
        places = [place for place, value in enumerate(values) if value is not None]
        return Known([names[place] for place in places], places, [values[place] for place in places])

    return find


class Ahead(ahead_module.Ahead):
    """With paths in the place of pictures, work on a path, and rows out of columns."""

    def __init__(self, paths: Iterable[str], work: Callable[[str], object], **options) -> None:
        super().__init__(one_by_one(paths), lambda pictures, place: work(pictures.names[place]), **options)

    def batches(self, batch_size: int) -> Iterator[list[tuple[str, object]]]:
        for batch in ahead_module.Ahead.batches(self, batch_size):
            rows = []
            for part in batch:
                rows += zip(part.names, part.values, strict=True) if isinstance(part, Known) else [part]
            yield rows


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Nine files, each of a grey of its own; the third and the last are bad."""
    for i in range(9):
        Image.new("RGB", (10, 12), (20 * i,) * 3).save(tmp_path / f"{i}.png")
    for i in (2, 8):
        (tmp_path / f"{i}.png").write_bytes(b"no")
    return [str(tmp_path / f"{i}.png") for i in range(9)]


def decoded(paths: Iterable[str], batch_size: int, threads: int = 2) -> list[Batch]:
    return list(decode_batches(paths, SIMPLE, batch_size=batch_size, threads=threads))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_batches_are_one_by_one_decoding_in_order(files, count, threads, patient):
    expected = [decode_image(path, SIMPLE) for path in files[:count]]
    good = [pixels for pixels in expected if not isinstance(pixels, Skipped)]

    batches = decoded(files[:count], batch_size=4, threads=threads)

    assert [len(batch.rows) for batch in batches] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    rows = [row for batch in batches for row in batch.rows]
    assert rows == [e if isinstance(e, Skipped) else path for path, e in zip(files, expected, strict=False)]
    assert all(batch.pixels.dtype == np.uint8 and batch.pixels.flags.c_contiguous for batch in batches)
    assert np.array_equal(
        np.concatenate([np.empty((0, 3, 8, 8)), *(b.pixels for b in batches)]), np.array([*good]).reshape(-1, 3, 8, 8)
    )


def test_a_run_much_longer_than_the_look_ahead_comes_to_its_end(files, patient):
    batches = decoded(itertools.islice(itertools.cycle(files), 100), batch_size=4)

    assert [len(batch.rows) for batch in batches] == [4] * 25


def test_a_batch_of_bad_files_has_no_pixels_but_their_shape(files, patient):
    (batch,) = decoded([files[2], files[8]], batch_size=4)

    assert [row.error for row in batch.rows if isinstance(row, Skipped)] == ["unreadable", "unreadable"]
    assert batch.pixels.shape == (0, 3, 8, 8)
    assert batch.pixels.dtype == np.uint8


def counting(limit: int) -> tuple[Callable[[str], int], threading.Event, threading.Event]:
    """Work that tells when it was done so often, and when once more."""
    enough, too_many, begun = threading.Event(), threading.Event(), itertools.count(1)

    def work(path: str) -> int:
        done = next(begun)
        if done == limit:
            enough.set()
        if done > limit:
            too_many.set()
        return done

    return work, enough, too_many


@pytest.mark.parametrize("asked", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 10])
def test_no_more_than_two_batches_ahead_are_worked_on(batch_size, asked):
    work, enough, too_many = counting((asked + 2) * batch_size)

    with Ahead(itertools.repeat("a", 1000), work, batch_size=batch_size, threads=4) as ahead:
        for _ in itertools.islice(ahead.batches(batch_size), asked):
            pass

        assert enough.wait(30)
        assert not too_many.wait(0.3)


@pytest.fixture
def patient(monkeypatch):
    """Threads may be slow on a busy machine: that makes no pause, and what comes first is waited for."""
    monkeypatch.setattr(ahead_module, "IDLE_SECONDS", HANGS)
    monkeypatch.setattr(ahead_module, "MOMENT_SECONDS", HANGS)
    monkeypatch.setattr(ahead_module, "FIRST_SECONDS", HANGS)


def test_a_list_without_end_is_read_only_so_far_ahead(patient):
    far_enough, too_far = threading.Event(), threading.Event()

    def paths() -> Iterator[str]:
        for asked in itertools.count(1):
            if asked == PATHS_AHEAD + FOUND_BATCH:  # those of the first batch are yielded when the second is asked for
                far_enough.set()
            if asked > PATHS_AHEAD + FOUND_BATCH:
                too_far.set()
            yield "a"

    with Ahead(paths(), len, find=finding(lambda path: 1), batch_size=4, threads=1) as ahead:
        batches = ahead.batches(4)
        assert next(batches) == [("a", 1)] * FOUND_BATCH
        assert next(batches) == [("a", 1)] * FOUND_BATCH

        assert far_enough.wait(30)
        assert not too_far.wait(0.3)


def test_a_batch_larger_than_the_lookahead_is_filled(patient):
    paths = [str(i) for i in range(3 * PATHS_AHEAD)]

    with Ahead(paths, len, find=finding(lambda path: 1), batch_size=None, threads=1) as ahead:
        assert [len(batch) for batch in ahead.batches(PATHS_AHEAD + 100)] == [
            PATHS_AHEAD + 100,
            PATHS_AHEAD + 100,
            PATHS_AHEAD - 200,
        ]


def test_a_slow_source_never_waits_for_a_full_batch(files):
    more = [threading.Event() for _ in range(3)]

    def slow() -> Iterator[str]:
        yield files[0]
        yield files[1]
        for event in more:
            assert event.wait(30)
            yield files[3]

    batches = decode_batches(slow(), SIMPLE, batch_size=100, threads=2)
    rows = list(next(batches).rows)
    if len(rows) == 1:
        rows += next(batches).rows
    assert rows == [files[0], files[1]]
    for event in more:  # each answer comes though nothing has been written after its path
        event.set()
        assert next(batches).rows == (files[3],)
    assert list(batches) == []


def test_a_pause_is_reported_once_and_before_an_error():
    more, asked = threading.Event(), []

    def slow() -> Iterator[str]:
        yield "a"
        more.wait(30)
        yield "b"
        raise OSError("the disk is gone")

    with Ahead(slow(), len, batch_size=1, threads=1) as ahead:
        batches = ahead.batches(1)
        assert [next(batches), next(batches)] == [[("a", 1)], []]
        threading.Timer(0.3, more.set).start()  # six times as long as a pause
        assert next(batches) == [("b", 1)]
        assert next(batches) == []
        with pytest.raises(OSError, match="the disk is gone"):
            asked.append(next(batches))
    assert asked == []


def test_a_batch_may_exceed_its_size_only_with_found_pictures(patient):
    paths = [f"{'new' if i % 100 == 0 else 'old'} {i}" for i in range(5 * FOUND_BATCH)]

    find = finding(lambda path: path if path.startswith("old") else None)
    with Ahead(paths, str, find=find, batch_size=4, threads=2) as ahead:
        batches = [batch for batch in ahead.batches(4) if batch]

    assert [row for batch in batches for row in batch] == [(path, path) for path in paths]
    assert [sum(path.startswith("new") for path, _ in batch) for batch in batches[:-1]] == [4] * (len(batches) - 1)
    with Ahead(paths[1:100] * 30, str, find=find, batch_size=4, threads=2) as ahead:
        sizes = [len(batch) for batch in ahead.batches(4) if batch]
    assert sizes == [FOUND_BATCH] * 2 + [99 * 30 - 2 * FOUND_BATCH]


def test_what_the_work_raises_comes_after_the_rows_before_it(patient):
    def work(path: str) -> str:
        if path == "c":
            raise KeyError(path)
        return path

    with Ahead("abcd", work, batch_size=10, threads=2) as ahead:
        batches = ahead.batches(10)
        assert [row for row, _ in next(filter(None, batches))] == ["a", "b"]
        with pytest.raises(KeyError):
            list(batches)


def test_what_the_source_raises_comes_after_the_rows_before_it(files):
    def failing() -> Iterator[str]:
        yield files[0]
        raise OSError("the disk is gone")

    batches = decode_batches(failing(), SIMPLE, batch_size=100, threads=2)

    assert next(batches).rows == (files[0],)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_closing_early_stops_the_threads_and_asks_for_no_more(files):
    asked = 0

    def counted() -> Iterator[str]:
        nonlocal asked
        for path in itertools.cycle(files):
            asked += 1
            yield path

    before = set(threading.enumerate())
    batches = decode_batches(counted(), SIMPLE, batch_size=2, threads=2)
    next(batches)
    ours = set(threading.enumerate()) - before
    assert len(ours) >= 2

    batches.close()
    for thread in ours:
        thread.join(30)

    assert not any(thread.is_alive() for thread in ours)
    assert asked <= PATHS_AHEAD + 2


def test_a_signal_at_any_point_ends_the_run_and_leaves_no_lock_held(files):
    class Signal(BaseException):
        pass

    def raising_at(point):
        points = itertools.count(1)

        def trace(frame, event, argument):
            if next(points) == point:
                raise Signal
            return trace

        return trace

    before, interrupted = sys.gettrace(), 0
    for point in itertools.count(1):
        try:
            with Ahead(files[:2], len, batch_size=1, threads=1) as ahead:
                sys.settrace(raising_at(point))
                try:
                    batches = list(ahead.batches(1))
                finally:
                    sys.settrace(before)
        except Signal:
            interrupted += 1
        else:
            break

    assert len(batches) == 2
    assert interrupted == point - 1 > 30


def test_a_signal_that_does_not_wake_the_run_is_still_seen(files):
    """As one that comes between the last look for signals and the wait: here another thread takes it."""
    script = textwrap.dedent("""
        import os, signal, sys, threading, time
        from zsclip.pictures.pictures import Pictures
        from zsclip.pixels.ahead import Ahead

        def silent():
            yield Pictures([sys.argv[1]])
            time.sleep(1000)

        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
        with Ahead(silent(), lambda pictures, place: place, batch_size=1, threads=1) as ahead:
            batches = ahead.batches(1)
            next(batches)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            next(filter(None, batches), None)  # the first is empty
        sys.exit(1)
    """)

    result = subprocess.run([sys.executable, "-c", script, files[0]], cwd=Path(__file__).parent, timeout=HANGS)

    assert result.returncode == 7


def test_closing_while_the_source_waits_does_not_wait_for_it(files):
    never = threading.Event()

    def stuck() -> Iterator[str]:
        yield files[0]
        never.wait(60)

    batches = decode_batches(stuck(), SIMPLE, batch_size=2, threads=2)
    assert next(batches).rows == (files[0],)
    batches.close()

    assert not never.is_set()
    never.set()


@pytest.mark.parametrize("ending", ["batches.close()", "raise KeyboardInterrupt", "pass"])
def test_the_interpreter_ends_while_stdin_is_silent(files, ending):
    code = f"""
        import sys
        from decoded import decode_batches
        from zsclip.pixels.fit import Preprocess
        from zsclip.pictures.files import find_images
        batches = decode_batches(find_images(["-"]), Preprocess((8, 8), (0,) * 3, (1,) * 3), batch_size=4, threads=2)
        print(next(batches).rows, flush=True)
        try:
            {ending}
        except KeyboardInterrupt:
            print("interrupted")
    """
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdin.write(os.fsencode(files[0] + "\n"))
        run.stdin.flush()  # and it stays open: the reader waits for more

        assert run.wait(HANGS) == 0
        assert run.stdout.read().decode().startswith(f"('{files[0]}',)\n")
        assert run.stderr.read() == b""


def test_pictures_are_decoded_before_anyone_asks_for_a_batch(patient):
    work, enough, too_many = counting(6)

    with Ahead(itertools.repeat("a", 1000), work, batch_size=2, threads=2) as decoder:
        assert enough.wait(30)
        assert not too_many.wait(0.3)

        batches = decoder.batches(4)
        assert [len(next(batches)) for _ in range(5)] == [4] * 5


def test_an_abandoned_look_ahead_ends_its_threads(files):
    before = set(threading.enumerate())
    with Ahead(itertools.cycle(files), len, batch_size=None, threads=2):
        ours = set(threading.enumerate()) - before
    for thread in ours:
        thread.join(30)

    assert ours
    assert not any(thread.is_alive() for thread in ours)


# Processors.


def test_what_is_found_is_not_worked_on_and_keeps_its_place(patient):
    worked = []

    def work(path: str) -> str:
        worked.append(path)
        return path.upper()

    find = finding(lambda path: "known" if path in "bce" else None)
    with Ahead("abcdef", work, find=find, batch_size=4, threads=2) as ahead:
        assert ahead.begins_with() == "A"
        rows = [row for rows in ahead.batches(4) for row in rows]

    assert rows == [("a", "A"), ("b", "known"), ("c", "known"), ("d", "D"), ("e", "known"), ("f", "F")]
    assert sorted(worked) == ["a", "d", "f"]
    with Ahead("bca", work, find=find, batch_size=4, threads=2) as ahead:
        assert ahead.begins_with().values[0] == "known"
    with Ahead("", work, find=find, batch_size=4, threads=2) as ahead:
        assert ahead._begins_with.get(timeout=60) is None  # which is said, and not found out by waiting


def test_the_first_result_waits_for_a_slow_list():
    def paths() -> Iterator[str]:
        time.sleep(0.5)  # longer than a moment
        yield "a"

    with Ahead(paths(), len, find=finding(lambda path: 1), batch_size=4, threads=1) as ahead:
        assert ahead.begins_with().values == [1]


def test_a_slow_start_is_not_waited_for():
    may_end = threading.Event()

    def work(path: str) -> str:
        assert may_end.wait(60)
        return path

    with Ahead("a", work, batch_size=4, threads=1) as ahead:
        assert ahead.begins_with() is None
        may_end.set()
        assert [batch for batch in ahead.batches(4) if batch] == [[("a", "a")]]


def test_a_look_up_that_fails_is_reported_and_not_waited_for(patient):
    def find(names: Sequence[str], keys: Sequence[bytes | None]) -> Known:
        raise ZeroDivisionError

    with Ahead("ab", len, find=find, batch_size=4, threads=2) as ahead:
        assert ahead.begins_with() is None
        with pytest.raises(ZeroDivisionError):
            list(ahead.batches(4))


class Spin:
    """Hangs in computing, which a thread cannot be taken out of, if the path says so, until it is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self, path: str) -> str:
        while path == "hangs" and not self.over.is_set():
            pass
        return path


@pytest.fixture
def spin() -> Iterator[Spin]:
    spin = Spin()
    yield spin
    spin.over.set()


def test_a_hanging_picture_is_given_up_alone(monkeypatch, spin):
    monkeypatch.setattr(ahead_module, "CPU_SECONDS", 0.2)
    given_up = []

    def give_up(path: str, thread: int) -> str:
        given_up.append(thread)
        return "late"

    paths = ["a", "hangs", "b", "hangs", "hangs", *"cdefgh"]
    before = set(threading.enumerate())
    with Ahead(paths, spin, give_up=give_up, batch_size=4, threads=1) as ahead:
        rows = [row for rows in ahead.batches(4) for row in rows]
        ours = set(threading.enumerate()) - before

    assert rows == [(path, "late" if path == "hangs" else path) for path in paths]
    assert len(set(given_up)) == 3
    spin.over.set()
    for thread in ours:
        thread.join(30)
    assert not any(thread.is_alive() for thread in ours)


def test_a_large_picture_may_take_longer(monkeypatch, spin):
    monkeypatch.setattr(ahead_module, "CPU_SECONDS", 0.1)
    asked: list[int] = []

    def seconds(thread: int) -> float:
        asked.append(thread)
        return 0.1 if len(asked) > 3 else 100

    with Ahead(["hangs"], spin, give_up=lambda *_: "late", cpu_seconds=seconds, batch_size=1, threads=1) as ahead:
        assert [row for rows in ahead.batches(1) for row in rows] == [("hangs", "late")]
    assert len(asked) == 4


def test_a_replaced_thread_ends_when_it_returns(monkeypatch, spin):
    monkeypatch.setattr(ahead_module, "CPU_SECONDS", 0.1)
    hung, workers = [], []

    def work(path: str) -> str:
        if path == "hangs":
            hung.append(threading.current_thread())
            return spin(path)
        if path == "2":
            spin.over.set()
            hung[0].join(30)  # it ends, or works on all others
        workers.append(threading.current_thread())
        return path

    paths = ["hangs", *map(str, range(8))]
    with Ahead(paths, work, give_up=lambda path, thread: path, batch_size=4, threads=1) as ahead:
        assert sum(map(len, ahead.batches(4))) == 9
    assert len(workers) == 8
    assert hung[0] not in workers


def test_a_waiting_picture_does_not_count_as_hanging(monkeypatch):
    monkeypatch.setattr(ahead_module, "CPU_SECONDS", 0.2)

    def wait(path: str) -> str:
        time.sleep(1)
        return path

    def give_up(path: str, thread: int) -> str:
        return "late"

    with Ahead("ab", wait, give_up=give_up, batch_size=4, threads=2) as ahead:
        assert [row for rows in ahead.batches(4) for row in rows] == [("a", "a"), ("b", "b")]
    monkeypatch.setattr(ahead_module, "WALL_SECONDS", 0.2)
    never = threading.Event()
    with Ahead("ab", lambda path: str(never.wait(60)), give_up=give_up, batch_size=4, threads=2) as ahead:
        assert [row for rows in ahead.batches(4) for row in rows] == [("a", "late"), ("b", "late")]


def test_a_picture_that_has_not_started_gets_more_time(monkeypatch):
    monkeypatch.setattr(ahead_module, "WALL_SECONDS", 2)
    asked, is_asked, never = [], threading.Event(), threading.Event()

    def give_up(path: str, thread: int) -> str | None:
        asked.append(path)
        is_asked.set()
        return None if len(asked) == 1 else "late"

    def wait(path: str) -> str:
        assert is_asked.wait(60)
        never.wait(1.2)  # it is looked at twice more in that time, and asked for again only after 2.5
        return path

    with Ahead("a", wait, give_up=give_up, batch_size=4, threads=1) as ahead:
        assert [batch for batch in ahead.batches(4) if batch] == [[("a", "a")]]
    assert asked == ["a"]


def test_too_many_hanging_pictures_end_the_run(monkeypatch, spin):
    """Also one that comes earlier in order, and is found to hang later."""
    monkeypatch.setattr(ahead_module, "CPU_SECONDS", 0.05)
    monkeypatch.setattr(ahead_module, "MAX_GIVEN_UP", 0)

    with (
        Ahead(["hangs", "hangs"], spin, give_up=lambda path, thread: path, batch_size=2, threads=2) as ahead,
        pytest.raises(InputError, match="0 images were given up"),
    ):
        list(ahead.batches(2))


def test_a_run_of_nothing_but_hangs_comes_to_an_end(monkeypatch, spin):
    monkeypatch.setattr(ahead_module, "CPU_SECONDS", 0.05)
    monkeypatch.setattr(ahead_module, "MAX_GIVEN_UP", 2)

    with (
        Ahead(["hangs"] * 9, spin, give_up=lambda path, thread: path, batch_size=2, threads=1) as ahead,
        pytest.raises(InputError, match="2 images were given up"),
    ):
        list(ahead.batches(2))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("together", [1, 7, LOOK_UP, 3 * LOOK_UP + 5])
@pytest.mark.parametrize("batch_size", [1, 32, 1500])
def test_rows_do_not_depend_on_how_pictures_are_grouped(share, together, batch_size, patient):
    random = np.random.default_rng(0)
    names = [f"{'old' if random.random() < share else 'new'} {i}" for i in range(2 * LOOK_UP + 11)]
    batches = [Pictures(names[i : i + together]) for i in range(0, len(names), together)]
    find = finding(lambda path: ("found", path) if path.startswith("old") else None)
    expected = [(name, ("found" if name.startswith("old") else "made", name)) for name in names]

    with ahead_module.Ahead(
        batches, lambda pictures, place: ("made", pictures.names[place]), find=find, batch_size=None, threads=2
    ) as ahead:
        found = list(Ahead.batches(ahead, batch_size))

    assert [row for batch in found for row in batch] == expected
    assert all(sum(name.startswith("new") for name, _ in batch) <= batch_size for batch in found)
    assert all(len(batch) <= max(batch_size, FOUND_BATCH) for batch in found)


def test_pictures_without_keys_are_not_looked_up():
    pictures = [Pictures(["a"], lambda place: b""), Pictures(["a"])]

    with ahead_module.Ahead(
        pictures, lambda pictures, place: "made", find=finding(lambda path: "found"), batch_size=2, threads=1
    ) as ahead:
        rows = [row for batch in Ahead.batches(ahead, 2) for row in batch]

    assert rows == [("a", "made"), ("a", "found")]
