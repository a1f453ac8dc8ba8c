"""Continuing a run that was cut, or is finished: the file is that of one run, or the run says what changed."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import pytest
from columns import columns
from test_sinks import SURE

from zsclip.answers.answers import Answers, Row
from zsclip.errors import InputError
from zsclip.out.changes import changes
from zsclip.out.journal import Journal
from zsclip.out.output import open_output
from zsclip.out.sinks import SINKS, write_csv
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Paths, Pictures
from zsclip.pixels.skipped import Skipped

PATHS = [f"{i}.png" for i in range(10)]
SETTINGS = {"labels": {"is": ["cat", "dog"], "digest": "a"}, "threshold": None}


class Killed(BaseException):
    pass


def listed(paths: list[str]) -> Paths:
    return Paths([Pictures(paths)], PassedOver())


def batches(
    paths: list[str], killed_after: int | None = None, bad: tuple[str, ...] = (), tried: list[str] | None = None
) -> Iterator[Answers]:
    """Rows of two pictures at a time, up to a kill."""
    for start in range(0, len(paths), 2):
        if start == killed_after:
            raise Killed
        if tried is not None:
            tried += paths[start : start + 2]
        rows: list[Row] = [
            Skipped(path, "unreadable", "no") if path in bad else replace(SURE, file_name=path)
            for path in paths[start : start + 2]
        ]
        yield columns(rows)


def write(target: Path, rows: Iterator[Answers], out: TextIO, *, header: bool) -> None:
    if target.suffix == ".csv":
        write_csv(rows, out, header=header)
    else:
        SINKS[target.suffix[1:]](rows, out)


def run(
    target: Path,
    paths: list[str],
    *,
    resume: bool = False,
    retry: bool = False,
    settings: dict | None = None,
    overwrite: bool = False,
    **options,
) -> str:
    """A run of one format or another into a file, as the command line does it; gives the content of the file."""
    journal = Journal(str(target), settings or SETTINGS, overwrite=overwrite)
    left = listed(paths)
    point = journal.resume(left) if resume or retry else None
    end = journal.check_finished(left) if (resume or retry) and point is None else None
    resume_at = point.size if point else None
    if end is None:
        with journal, open_output(str(target), overwrite=journal.overwrite, resume_at=resume_at) as out:
            journal.begin()
            rows = journal.noted(batches(list(left), **options), out)
            write(target, rows, out, header=not (point and point.pictures))
            journal.record_finished(out)
    if retry and journal.has_failures:
        with journal, open(target, "rb") as old, open_output(str(target), overwrite=True) as out:
            journal.begin(retries=True)
            header = journal.retries_first_row
            write(target, journal.retried(batches(journal.failed_paths, **options), old, out), out, header=header)
            journal.record_finished(out)
    return target.read_text()


def test_a_run_that_is_killed_while_its_journal_begins_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*paths: str) -> None:
        assert Path(paths[0]).name == "rows.csv.part.json.new"
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            run(tmp_path / "rows.csv", PATHS)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("killed_after", [0, 2, 4, 8])
@pytest.mark.parametrize(
    "damage", [lambda data: data, lambda data: data + b'{"half a ro' * 9999, lambda data: data[:-7]]
)
def test_a_resumed_run_writes_the_same_file(tmp_path: Path, ending: str, killed_after: int, damage) -> None:
    expected = run(tmp_path / f"expected.{ending}", PATHS)
    target = tmp_path / f"rows.{ending}"
    with pytest.raises(Killed):
        run(target, PATHS, killed_after=killed_after)
    part = target.with_name(target.name + ".part")
    if killed_after:
        part.write_bytes(damage(part.read_bytes()))  # what a kill in the middle of a write leaves
        with open(f"{part}.json", "a") as file:
            file.write("[6, 0")

    assert run(target, PATHS, resume=True) == expected
    assert sorted(os.listdir(tmp_path)) == [f"expected.{ending}", f"rows.{ending}"]


def test_a_run_may_be_cut_again_and_again(tmp_path: Path) -> None:
    expected = run(tmp_path / "expected.csv", PATHS)
    for _ in range(4):
        with pytest.raises(Killed):
            run(tmp_path / "rows.csv", PATHS, resume=True, killed_after=2)

    assert run(tmp_path / "rows.csv", PATHS, resume=True, killed_after=4) == expected


def test_a_run_that_was_killed_before_its_first_row_starts_again(tmp_path: Path) -> None:
    expected = run(tmp_path / "expected.csv", PATHS)
    (tmp_path / "rows.csv.part").touch()

    assert run(tmp_path / "rows.csv", PATHS, resume=True) == expected


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "rows.csv", PATHS, killed_after=4)
    before = (tmp_path / "rows.csv.part").read_bytes()

    with pytest.raises(
        InputError, match=r"started with other settings: threshold: none -> 0.5; use those, or .*--overwrite"
    ):
        run(tmp_path / "rows.csv", PATHS, resume=True, settings=SETTINGS | {"threshold": 0.5})

    assert (tmp_path / "rows.csv.part").read_bytes() == before


def test_another_list_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "rows.csv", PATHS, killed_after=6)
    for other in (["new.png", *PATHS], PATHS[:3], [*PATHS[:3], "x.png", *PATHS[4:]]):
        with pytest.raises(InputError, match=r"images \d to \d differ from the list"):
            run(tmp_path / "rows.csv", other, resume=True)

    longer = [*PATHS, "more.png"]
    assert run(tmp_path / "rows.csv", longer, resume=True) == run(tmp_path / "expected.csv", longer)


BAD = ("0.png", "3.png", "4.png", "5.png", "9.png")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "paths", "table"])
@pytest.mark.parametrize("killed_after", [None, 2, 6, 8])
def test_only_failed_pictures_are_tried_again(tmp_path: Path, ending: str, killed_after: int | None) -> None:
    """Of a finished file and of one that was cut; the first row and the last, neighbours, and one that fails again."""
    expected = run(tmp_path / f"expected.{ending}", PATHS, bad=("4.png",))
    target = tmp_path / f"rows.{ending}"
    try:
        run(target, PATHS, killed_after=killed_after, bad=BAD)
    except Killed:
        assert killed_after
    tried: list[str] = []

    assert run(target, PATHS, retry=True, bad=("4.png",), tried=tried) == expected

    first = killed_after or 10
    failed = [path for path in PATHS[:first] if path in BAD]
    assert tried == PATHS[first:] + failed
    assert run(target, PATHS, retry=True) == run(tmp_path / f"good.{ending}", PATHS)
    assert sorted(os.listdir(tmp_path)) == [f"expected.{ending}", f"good.{ending}", f"rows.{ending}"]


def test_a_picture_that_failed_in_this_very_run_is_not_tried_twice(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "rows.csv", PATHS, killed_after=4, bad=BAD)
    tried: list[str] = []

    run(tmp_path / "rows.csv", PATHS, retry=True, bad=BAD, tried=tried)

    assert tried == [*PATHS[4:], "0.png", "3.png"]
    tried.clear()
    assert run(tmp_path / "rows.csv", PATHS, retry=True, tried=tried) == run(tmp_path / "expected.csv", PATHS)
    assert tried == list(BAD)


@pytest.mark.parametrize("is_killed", [False, True])
def test_trying_again_may_be_cut_and_the_finished_file_stays(tmp_path: Path, is_killed: bool) -> None:
    target = tmp_path / "rows.jsonl"
    before = run(target, PATHS, bad=BAD)
    journal = Journal(str(target), SETTINGS)
    journal.check_finished(listed(PATHS))

    def cut() -> None:
        with journal, open(target, "rb") as old, open_output(str(target), overwrite=True) as out:
            journal.begin(retries=True)
            some = batches(journal.failed_paths, killed_after=2)
            write(target, journal.retried(some, old, out), out, header=False)

    with pytest.raises(Killed):
        cut()
    if is_killed:  # with what a kill would have left
        (tmp_path / "rows.jsonl.part").write_text(before[:300])
        header = {"version": 2, "overwrite": False, "retries": True, "settings": SETTINGS}
        (tmp_path / "rows.jsonl.part.json").write_text(json.dumps(header) + "\n")
    else:
        assert os.listdir(tmp_path) == ["rows.jsonl"]
    assert target.read_text() == before
    assert run(target, PATHS, resume=True) == before

    assert run(target, PATHS, retry=True) == run(tmp_path / "expected.jsonl", PATHS)
    assert sorted(os.listdir(tmp_path)) == ["expected.jsonl", "rows.jsonl"]


def test_a_finished_file_is_known_wherever_it_is_moved(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    rows = run(target, PATHS, bad=("3.png",))
    (tmp_path / "elsewhere").mkdir()
    moved = target.rename(tmp_path / "elsewhere" / "answers.csv")

    end = Journal(str(moved), SETTINGS).check_finished(listed(PATHS))

    assert end is not None
    assert (end.pictures, end.failed) == (10, 1)
    assert Journal(str(target), SETTINGS).check_finished(listed(PATHS)) is None
    assert run(moved, PATHS, resume=True) == rows
    assert os.listdir(tmp_path / "elsewhere") == ["answers.csv"]


def test_a_finished_file_of_another_run_is_refused_in_words(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    rows = run(target, PATHS)
    labels = {"is": ["cat", "dog", "fox"], "digest": "b"}
    swapped = [*PATHS[:3], "x.png", *PATHS[4:]]

    for paths, settings, message in (
        (PATHS, SETTINGS | {"labels": labels}, "labels: cat, dog -> cat, dog, fox;"),
        (PATHS, {"labels": labels, "threshold": 0.5}, "labels: .*fox; threshold: none -> 0.5;"),
        ([*PATHS, "more.png"], SETTINGS, "images: 10 -> 11;"),
        (PATHS[:9], SETTINGS, "images: 10 -> 9;"),
        (swapped, SETTINGS, "images: a different list of 10;"),
    ):
        with pytest.raises(InputError, match=rf"rows.csv: made with other settings: {message} .*--overwrite"):
            run(target, paths, resume=True, settings=settings)
    assert target.read_text() == rows


def test_the_same_rows_may_be_those_of_several_runs(tmp_path: Path) -> None:
    others = [SETTINGS | {"threshold": threshold} for threshold in range(20)]
    for settings in (SETTINGS, SETTINGS | {"threshold": 0.5}):
        run(tmp_path / "rows.csv", [], settings=settings, overwrite=True)

    for settings in (SETTINGS, SETTINGS | {"threshold": 0.5}):
        assert run(tmp_path / "rows.csv", [], settings=settings, resume=True)
    with pytest.raises(InputError, match=r"threshold: 0.5 -> 3;"):
        run(tmp_path / "rows.csv", [], settings=others[3], resume=True)
    for settings in others:
        run(tmp_path / "rows.csv", [], settings=settings, overwrite=True)
    with pytest.raises(InputError, match=r"threshold: 19 -> none;"):  # only the latest records are kept
        run(tmp_path / "rows.csv", [], resume=True)


def test_a_finished_file_without_a_record_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    for text in ("", "precious", run(tmp_path / "other.csv", PATHS) + "edited\n"):
        target.write_text(text)
        for options in ({"resume": True}, {"retry": True}):
            with pytest.raises(
                InputError, match=r"rows.csv: there is no record of how this file was made; .*--overwrite"
            ):
                run(target, PATHS, **options)
        assert target.read_text() == text


def test_a_run_that_was_to_replace_a_file_still_does_when_it_is_continued(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    run(target, PATHS, bad=BAD)
    with pytest.raises(Killed):
        run(target, PATHS, overwrite=True, killed_after=4)

    assert run(target, PATHS, resume=True) == run(tmp_path / "expected.csv", PATHS)


def test_a_run_that_was_killed_before_its_first_row_leaves_the_finished_file(tmp_path: Path) -> None:
    rows = run(tmp_path / "rows.csv", PATHS)
    (tmp_path / "rows.csv.part").touch()

    assert run(tmp_path / "rows.csv", PATHS, resume=True) == rows


def test_half_a_copy_of_a_file_that_is_gone_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.part").write_text("some rows\n")
    header = {"version": 2, "overwrite": False, "retries": True, "settings": SETTINGS}
    (tmp_path / "rows.csv.part.json").write_text(json.dumps(header) + "\n")

    with pytest.raises(InputError, match=r"rows.csv.part: a copy of .*rows.csv, which is gone; add --overwrite"):
        run(tmp_path / "rows.csv", PATHS, resume=True)


def test_a_file_created_after_the_interruption_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    with pytest.raises(Killed):
        run(target, PATHS, killed_after=4)
    target.write_text("precious")

    with pytest.raises(InputError, match=r"rows.csv: already exists beside .*rows.csv.part; move one of the two away"):
        run(target, PATHS, resume=True)

    assert target.read_text() == "precious"


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"model": {"is": "tiny", "digest": 1}}, {"model": {"is": "base", "digest": 2}}, ["model: tiny -> base"]),
        ({"model": {"is": "tiny", "digest": 1}}, {"model": {"is": "other name", "digest": 1}}, []),
        (
            {"prompts": {"is": "photo", "digest": 1}},
            {"prompts": {"is": "photo", "digest": 2}},
            ["prompts: photo (content changed)"],
        ),
        ({"a": None, "b": True, "c": 1}, {"a": 0, "b": False, "c": 1}, ["a: none -> 0", "b: yes -> no"]),
        ({"only": []}, {"only": ["cat"]}, ["only: none -> cat"]),
        ({"old": 1}, {"new": 2}, ["old: 1 -> none", "new: none -> 2"]),
        (
            {"labels": [*"abcdefghi"]},
            {"labels": [*"bcdefghixy"]},
            ["labels: 9 -> 10 (new: x, y; gone: a)"],
        ),
        ({"labels": [*"abcdefghi"]}, {"labels": [*"bacdefghi"]}, ["labels: 9 -> 9 (in another order)"]),
        (
            {"labels": ["a"]},
            {"labels": [*"abcdefghij"]},
            ["labels: 1 -> 10 (new: b, c, d, e, f, g, h, i and 1 more)"],
        ),
    ],
)
def test_changes_are_reported_in_words(before: dict, now: dict, message: list[str]) -> None:
    assert list(changes(before, now)) == message


def test_rows_without_a_record_are_refused(tmp_path: Path) -> None:
    part = tmp_path / "rows.csv.part"
    part.write_text("precious")
    for text in (None, "", "[1]\n", "no json\n", '"text"\n', '{"label list": "of an older version"}\n'):
        if text is not None:
            Path(f"{part}.json").write_text(text)
        with pytest.raises(InputError, match=r"cannot be resumed: .* is missing, damaged or of another version"):
            run(tmp_path / "rows.csv", PATHS, resume=True)
    assert part.read_text() == "precious"


def test_a_run_with_names_that_are_not_text_is_resumed(tmp_path: Path) -> None:
    paths = [os.fsdecode(name) for name in (b"caf\xe9", b"a\nb", b"c", b"d")]
    with pytest.raises(Killed):
        run(tmp_path / "rows.csv", paths, killed_after=2)

    journal = Journal(str(tmp_path / "rows.csv"), SETTINGS)
    left = listed(paths)
    point = journal.resume(left)
    assert point is not None
    assert (point.pictures, list(islice(left, 9))) == (2, paths[2:])
    assert json.loads((tmp_path / "rows.csv.part.json").read_text().splitlines()[0])["settings"] == SETTINGS
