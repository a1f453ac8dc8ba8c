"""Going on with a run that was cut: the finished file is that of a run that was not, or the run says what changed."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from test_sinks import SURE

from zsclip.answers.answers import Row
from zsclip.errors import InputError
from zsclip.out.journal import Journal
from zsclip.out.output import open_output
from zsclip.out.sinks import SINKS, write_csv
from zsclip.pixels.skipped import Skipped

PATHS = [f"{i}.png" for i in range(10)]
SETTINGS = {"label list": "3 labels", "threshold": None}


class Killed(BaseException):
    pass


def batches(paths: list[str], killed_after: int | None = None, bad: tuple[str, ...] = ()) -> Iterator[list[Row]]:
    """Rows of two pictures at a time, up to a kill."""
    for start in range(0, len(paths), 2):
        if start == killed_after:
            raise Killed
        yield [
            Skipped(path, "unreadable", "no") if path in bad else replace(SURE, path=path)
            for path in paths[start : start + 2]
        ]


def run(target: Path, paths: list[str], *, resume: bool = False, settings: dict | None = None, **options) -> str:
    """A run of one format or the other into a file; gives the content of what is there then."""
    retry_errors = options.pop("retry_errors", False)
    journal = Journal(str(target), settings or SETTINGS)
    left = iter(paths)
    point = journal.go_on(left, retry_errors=retry_errors) if resume else None
    with journal, open_output(str(target), go_on_at=point.size if point else None) as out:
        journal.begin()
        rows = journal.noted(batches(list(left), **options), out)
        if target.suffix == ".csv":
            write_csv(rows, out, header=not (point and point.pictures))
        else:
            SINKS["jsonl"](rows, out)
    return target.read_text()


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("killed_after", [0, 2, 4, 8])
@pytest.mark.parametrize(
    "damage", [lambda data: data, lambda data: data + b'{"half a ro' * 9999, lambda data: data[:-7]]
)
def test_a_cut_run_ends_as_one_that_was_not(tmp_path: Path, ending: str, killed_after: int, damage) -> None:
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


def test_killed_before_its_first_row_it_begins(tmp_path: Path) -> None:
    expected = run(tmp_path / "expected.csv", PATHS)
    (tmp_path / "rows.csv.part").touch()

    assert run(tmp_path / "rows.csv", PATHS, resume=True) == expected


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "rows.csv", PATHS, killed_after=4)
    before = (tmp_path / "rows.csv.part").read_bytes()

    with pytest.raises(InputError, match=r"begun with another threshold \(None, now 0.5\); repeat .*--overwrite"):
        run(tmp_path / "rows.csv", PATHS, resume=True, settings=SETTINGS | {"threshold": 0.5})

    assert (tmp_path / "rows.csv.part").read_bytes() == before


def test_another_list_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "rows.csv", PATHS, killed_after=6)
    for other in (["new.png", *PATHS], PATHS[:3], [*PATHS[:3], "x.png", *PATHS[4:]]):
        with pytest.raises(InputError, match=r"pictures \d to \d are not those of the list"):
            run(tmp_path / "rows.csv", other, resume=True)

    longer = [*PATHS, "more.png"]
    assert run(tmp_path / "rows.csv", longer, resume=True) == run(tmp_path / "expected.csv", longer)


def test_failed_pictures_are_tried_again_if_that_is_wanted(tmp_path: Path) -> None:
    expected = run(tmp_path / "expected.csv", PATHS)
    with pytest.raises(Killed):
        run(tmp_path / "rows.csv", PATHS, killed_after=8, bad=("5.png",))
    journal = Journal(str(tmp_path / "rows.csv"), SETTINGS)
    point = journal.go_on(iter(PATHS))
    assert point is not None
    assert (point.pictures, point.failed) == (8, 1)

    assert run(tmp_path / "rows.csv", PATHS, resume=True, retry_errors=True) == expected


def test_rows_of_nobody_knows_what_are_refused(tmp_path: Path) -> None:
    part = tmp_path / "rows.csv.part"
    part.write_text("precious")
    for text in (None, "", "[1]\n", "no json\n", '"text"\n'):
        if text is not None:
            Path(f"{part}.json").write_text(text)
        with pytest.raises(InputError, match="does not tell how it was begun"):
            run(tmp_path / "rows.csv", PATHS, resume=True)
    assert part.read_text() == "precious"


def test_names_that_are_no_text_are_names(tmp_path: Path) -> None:
    paths = [os.fsdecode(name) for name in (b"caf\xe9", b"a\nb", b"c", b"d")]
    with pytest.raises(Killed):
        run(tmp_path / "rows.csv", paths, killed_after=2)

    journal = Journal(str(tmp_path / "rows.csv"), SETTINGS)
    left = iter(paths)
    point = journal.go_on(left)
    assert point is not None
    assert (point.pictures, list(islice(left, 9))) == (2, paths[2:])
    assert json.loads((tmp_path / "rows.csv.part.json").read_text().splitlines()[0]) == SETTINGS
