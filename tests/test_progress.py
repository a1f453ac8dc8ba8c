"""What a person sees while a run goes on, and what the summary says at its end."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from columns import columns
from test_sinks import SURE

import zsclip.cli.progress
from zsclip.answers.answers import Answers
from zsclip.cli.held_signals import HeldSignals
from zsclip.cli.options import Messages
from zsclip.cli.parts import shards_status
from zsclip.cli.progress import Listing, Progress, images_status, total_of
from zsclip.cli.run import Session, first_look, interruptible
from zsclip.cli.speed import Speed, Store
from zsclip.cli.tally import Tally
from zsclip.cli.terminal import duration, sized
from zsclip.cli.training import training_line
from zsclip.engine.parts import Counts
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.skipped import Skipped
from zsclip.training.log import EncodingProgress, StepDone


def counted(tally: Tally, batches: list[Answers]) -> None:
    for _ in tally.count(batches, HeldSignals()):
        pass


def listed(names: str) -> Iterator[Pictures]:
    """One picture at a time."""
    return (Pictures([name]) for name in names)


def test_the_time_left_is_known_with_the_total() -> None:
    tally = Tally(done=100)
    counted(tally, [columns([SURE] * 9 + [Skipped("a", "missing", "")])])
    tally.started = time.monotonic() - 10

    assert images_status(tally, 1110) == "110 of 1,110 images, 1 a second, 16:40 left, 1 failed"
    assert images_status(tally, None) == "110 images, 1 a second, 1 failed"
    tally.started -= 300
    assert images_status(tally, None) == "110 images, 0.03 a second, 1 failed"
    assert images_status(Tally(), 5) == "0 of 5 images"


def test_shards_are_counted_with_the_time_left_and_failures_by_kind() -> None:
    tally = Tally()
    assert shards_status(tally, 20) == "0 of 20 shards, 0 images"
    counted(tally, [columns([SURE] * 97 + [Skipped("a", "missing", "")] + [Skipped("a", "timeout", "")] * 2)])
    tally.shards.update(written=4, complete=5, elsewhere=1)
    tally.done = 1000
    tally.started = time.monotonic() - 10

    assert shards_status(tally, 20) == ("10 of 20 shards, 1,100 images, 10 a second, 0:25 left, 2 timeout, 1 missing")


def test_the_summary_says_what_has_become_of_every_part() -> None:
    tally = Tally()
    tally.folder = "out/"
    tally.shards.update(written=3, complete=1, beside=4, elsewhere=2)
    tally.add(Counts(5, 1, Counter(cat=3), Counter(missing=1)))

    assert tally.summary()[1:] == [
        "cat 3, unknown 1",
        "1 failed: missing 1",
        "wrote 3 parts in out/, 1 complete before, 4 written by other processes, 2 being written by other processes",
        "out/ is not complete yet; run again when the other processes have ended",
    ]
    assert tally.exit_code == 1


def test_a_process_that_finds_all_shards_taken_has_not_failed() -> None:
    tally = Tally()
    tally.folder = "out/"
    tally.shards.update(elsewhere=2)

    assert tally.exit_code == 0
    assert tally.summary() == [
        "no images were left to this process",
        "wrote 0 parts in out/, 2 being written by other processes",
        "out/ is not complete yet; run again when the other processes have ended",
    ]
    tally.shards.update(failed=1)
    assert tally.exit_code == 1


def test_a_listing_keeps_order_knows_its_total_and_raises_in_turn() -> None:
    some = [Pictures(["a", "b"]), Pictures(["c"])]
    listing = Listing(iter(some))
    assert list(listing) == some
    assert listing.total == 3

    def broken() -> Iterator[Pictures]:
        yield some[0]
        raise OSError("no")

    listing = Listing(broken())
    pictures = iter(listing)
    assert next(pictures) is some[0]
    with pytest.raises(OSError, match="no"):
        next(pictures)
    assert listing.total is None


def test_a_listing_runs_ahead_of_its_consumer() -> None:
    ended = threading.Event()

    def pictures() -> Iterator[Pictures]:
        yield from listed("ab")
        ended.set()

    listing = Listing(pictures())

    assert ended.wait(30)  # though nothing was taken
    assert [each.names for each in listing] == [["a"], ["b"]]


def test_a_listing_stays_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zsclip.cli.progress, "_MOST_LISTED", 10)
    asked = 0

    def pictures() -> Iterator[Pictures]:
        nonlocal asked
        while asked < 100:
            asked += 1
            yield Pictures(["a", "b"])

    listing = iter(Listing(pictures()))
    for taken in range(1, 101):
        next(listing)
        assert asked <= taken + 6
    assert next(listing, None) is None


def test_the_total_counts_what_was_done_before() -> None:
    tally = Tally(done=5)
    listing = Listing(listed("abc"))
    list(listing)

    assert total_of(listing, tally)() == 8
    assert total_of([Pictures("ab")], tally)() == 7
    assert total_of(listed("ab"), tally)() is None
    assert total_of(listed("ab"), tally, limit=9)() == 9


def test_where_nobody_looks_progress_does_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(False) as progress:
        progress.step("loading tiny")
        progress.prompts(1, 2)
        progress.images(Tally(), lambda: 3)

    assert capfd.readouterr() == ("", "")


def test_a_batch_is_written_once_the_next_one_is_asked_for() -> None:
    tally = Tally()
    batches = tally.count([columns([SURE]), columns([SURE, SURE])], HeldSignals())

    next(batches)
    assert tally.written == 0
    next(batches)
    assert tally.written == 1
    assert next(batches, None) is None
    assert tally.written == 3


@pytest.mark.parametrize(
    ("seconds", "known", "said"),
    [
        (0.01, 0, "2 images"),
        (0.01, 2, "2 images, encoded by an earlier run"),
        (8, 2, "2 images, encoded by an earlier run"),
        (8, 1, "2 images in 8.0 s (0.2 a second), 1 of them encoded by an earlier run"),
        (0.1, 0, "2 images in 0.1 s (20 a second)"),
    ],
)
def test_the_summary_gives_a_time_and_a_rate_where_they_say_something(seconds: float, known: int, said: str) -> None:
    tally = Tally()
    counted(tally, [columns([SURE, SURE])])
    tally.started, tally.known = time.monotonic() - seconds, known

    assert tally.summary()[0] == said


def test_what_a_first_look_has_encoded_is_from_no_earlier_run() -> None:
    look, tally = Tally(), Tally()
    look.encoded, look.known, look.started = 2, 1, time.monotonic() - 8
    counted(tally, [columns([SURE, SURE])])
    tally.known = 2  # found in the store now

    tally.after(look)

    assert tally.summary()[0] == "2 images in 8.0 s (0.2 a second), 1 of them encoded by an earlier run"


def test_an_interrupted_first_look_has_its_images_in_the_counts_of_the_run() -> None:
    session = Session(Speed(), Store(), Messages(), Progress(visible=False))

    def look() -> None:
        with first_look(session) as own:
            own.tally.encoded = 7
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    assert session.tally.images == 7


def test_the_summary_names_files_and_the_store_where_it_is_new(tmp_path: Path) -> None:
    tally = Tally()
    counted(tally, [columns([SURE, Skipped("a", "missing", "")])])
    tally.known, tally.new_store = 1, "/cache"
    file = tmp_path / "rows.csv"
    file.write_bytes(b"x" * 1234)

    speed, answers, failed, wrote, kept = tally.summary([os.fspath(file)])

    assert speed == "2 images, 1 of them encoded by an earlier run"
    assert answers == f"{SURE.label} 1"
    assert failed == "1 failed: missing 1"
    assert wrote == f"wrote {file} (1.2 kB)"
    assert kept.startswith("embeddings are kept in /cache, ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "zsclip: interrupted: add --resume\n"),
        (SystemExit(143), "zsclip: terminated: add --resume\n"),
        (SystemExit(129), "zsclip: hung up: add --resume\n"),
        (SystemExit(0), ""),
        (SystemExit("what"), ""),
    ],
)
def test_an_interruption_says_how_to_go_on(
    error: BaseException, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)), interruptible(lambda: "add --resume"):
        raise error

    assert capsys.readouterr().err == message


def test_sizes_and_times_are_readable() -> None:
    assert [sized(size) for size in (1, 999, 1500, 2_500_000, 3_200_000_000)] == [
        "1 byte", "999 bytes", "1.5 kB", "2.5 MB", "3.2 GB",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (5, 65, 3725)] == ["0:05", "1:05", "1:02:05"]


def test_lines_of_training_leave_room_for_a_bar() -> None:
    step = StepDone(100, 10_000, 20_000, (224, 224), 12.345, 1e-3, 100.0, 12_345.6, 360_000.0)
    for event in (step, EncodingProgress(1_000, 2_000, 12_345.6, 360_000.0)):
        line, done, total = training_line(event)

        assert len(line) <= 64  # and 16 for the bar
        assert 2 * done == total
