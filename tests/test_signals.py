import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import HANGS
from PIL import Image

from zsclip.cli.held_signals import HeldSignals
from zsclip.cli.signals import Interrupted, Terminated, ending_signals

_EXCEPTIONS = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated, signal.SIGHUP: Terminated}


def swallow(number: int) -> None:
    """What the import of a compiled extension may do to a signal that arrives in it."""
    with suppress(BaseException):
        signal.raise_signal(number)


def go_on(number: int) -> None:
    swallow(number)
    time.sleep(HANGS)


@pytest.mark.parametrize("number", _EXCEPTIONS)
def test_a_signal_that_was_swallowed_is_raised_again(number: signal.Signals) -> None:
    with ending_signals() as received, pytest.raises(_EXCEPTIONS[number]):
        go_on(number)

    assert received == [number]


def test_what_is_still_cleaning_up_is_left_alone() -> None:
    cleaned = []

    def pictures():
        try:
            yield 1
        finally:  # closed when its frame goes: no exception is being handled there
            time.sleep(1.2)
            cleaned.append("pictures")

    def run() -> None:
        for _ in pictures():
            signal.raise_signal(signal.SIGINT)

    with ending_signals(), pytest.raises(Interrupted):
        run()

    assert cleaned == ["pictures"]


def test_handlers_and_timers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (*_EXCEPTIONS, signal.SIGALRM)]

    with ending_signals():
        swallow(signal.SIGTERM)

    assert [signal.getsignal(number) for number in (*_EXCEPTIONS, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_signals() as received:
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert received == []


def arrives_in_a_batch(number: int, held: HeldSignals, end: Exception | None = None) -> None:
    with held:
        held.hold()
        signal.raise_signal(number)
        if end is not None:
            raise end


@pytest.mark.parametrize("number", _EXCEPTIONS)
@pytest.mark.parametrize("end", [None, BrokenPipeError()])
def test_a_signal_that_still_waits_at_the_end_is_handed_on(number: signal.Signals, end: Exception | None) -> None:
    before = signal.getsignal(number)
    with ending_signals() as received, pytest.raises(_EXCEPTIONS[number]):
        arrives_in_a_batch(number, HeldSignals(), end)

    assert received == [number]
    assert signal.getsignal(number) == before


def test_a_failure_is_reported_though_a_signal_waits() -> None:
    held = HeldSignals()
    with ending_signals() as received, pytest.raises(OSError, match="disk full"):
        arrives_in_a_batch(signal.SIGINT, held, OSError("disk full"))

    assert received == []
    with held:
        held.let_go()  # nothing is left of it


def wait_until_asleep(pid: int) -> None:
    """Wait until a process has waited for something for a while."""
    asleep = 0
    deadline = time.monotonic() + HANGS
    while asleep < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "hung up")]
)
def test_a_signal_before_the_first_row_says_how_to_go_on(number: signal.Signals, how: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.txt")  # the run waits for someone to write labels
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    command = [sys.executable, "-m", "zsclip", "classify", "x.png", "--labels-file", "labels.txt", "-m", "tiny"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background would ignore it

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        pipe = os.open(tmp_path / "labels.txt", os.O_WRONLY)  # as soon as it is opened to be read
        wait_until_asleep(process.pid)  # Python would only note a signal that comes between opening and reading
        process.send_signal(number)
        try:
            _, message = process.communicate(timeout=HANGS)
        finally:
            process.kill()
            os.close(pipe)

    assert process.returncode == 128 + number
    assert message.decode().strip() == f"zsclip: {how}; run the same command again"


@pytest.mark.slow
@pytest.mark.parametrize("number", _EXCEPTIONS)
def test_a_signal_at_any_moment_of_a_start_ends_the_run(
    number: signal.Signals, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        Image.effect_noise((3000, 2000), 90).save(tmp_path / "pictures" / f"{i}.png", compress_level=1)
    command = [sys.executable, "-m", "zsclip", "classify", "pictures", "-l", "red,green", "-f", "jsonl", "--no-store"]
    command += ["--model", str(tiny_model("plain")), "-q", "--batch-size", "1"]
    begun = time.monotonic()
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    seconds = time.monotonic() - begun
    chance = random.Random(0)
    codes = []
    while len(codes) < 100:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.3, 0.9) * seconds)
        if process.poll() is not None:  # ended before, as the first run was slower: try sooner
            seconds *= 0.9
            continue
        os.kill(process.pid, number)
        codes.append(process.wait(HANGS))

    assert set(codes) <= {128 + number, -number, 0}, codes
    assert codes.count(0) <= 3  # ended by themselves just then
