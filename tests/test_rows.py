"""Where rows go, as the options say it, and what an interrupted run says of them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import skimage
from conftest import HANGS
from PIL import Image

from zsclip.answers.answers import Answers
from zsclip.cli.rows import Output
from zsclip.cli.start import Start, resume_hint
from zsclip.cli.tally import Tally
from zsclip.errors import InputError
from zsclip.out import jsonl
from zsclip.out.journal import Point

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.mark.parametrize(
    ("options", "only", "is_retry", "message"),
    [
        ({"output": "a.jsonl"}, [], False, "3 rows are in a.jsonl.part; add --resume to continue"),
        ({"output": "a.jsonl"}, ["cat"], False, "rows of 3 images are in a.jsonl.part; add --resume to continue"),
        ({"output": "a.csv"}, [], False, "rows of 3 images are in a.csv.part; add --resume to continue"),
        ({}, [], False, "the rows of 3 images were written; with -o FILE a run can be resumed"),
        ({"output": "/dev/null"}, [], False, "the rows of 3 images were written; with -o FILE a run can be resumed"),
        ({"output": "a.html"}, [], False, "3 images done; run again with --overwrite; what was encoded is kept"),
        (
            {"output": "a.csv", "report": "a.html"},
            [],
            False,
            "3 images done; run again with --overwrite; what was encoded is kept",
        ),
        ({"output": "a.csv", "retry_errors": True}, [], True, "a.csv is unchanged; run the same command again"),
    ],
)
def test_an_interrupted_run_says_what_is_written_and_how_to_go_on(
    options: dict[str, Any],
    only: list[str],
    is_retry: bool,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    tally = Tally()
    tally.written = 3

    assert resume_hint(Output(**options), Start(), tally, is_retry, only) == message


def test_rows_of_an_earlier_run_count_failed_ones_too() -> None:
    output = Output(output="a.jsonl", resume=True)
    start = Start(point=Point(5, 2, 100, ""))
    tally = start.tally(output)

    assert resume_hint(output, start, tally, False, []).startswith("5 rows are in ")
    tally.written = 1
    assert resume_hint(output, start, tally, False, []).startswith("6 rows are in ")
    assert resume_hint(Output(output="a.jsonl"), Start(), Tally(), False, []).startswith("no rows were written")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"print0": True}, "--print0: "),
        ({"report": "a.pdf"}, "--report: "),
        ({"contact_sheet": "a.jpg"}, "--contact-sheet: "),
        ({"output": "a.xlsx"}, "a.xlsx: "),
        ({"resume": True}, "--resume: "),
        ({"resume": True, "output": "a.csv", "overwrite": True}, "--resume: "),
        ({"resume": True, "output": "a.csv", "report": "a.html"}, "--resume: "),
        ({"retry_errors": True}, "--retry-errors: "),
        ({"retry_errors": True, "output": "a.html"}, "--retry-errors: "),
    ],
)
def test_options_for_files_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        Output(**options)


def test_a_page_and_a_sheet_beside_rows_are_named_in_the_summary(
    run: Run, photos: Path, tiny_model: Callable[[str], Path]
) -> None:
    arguments = ("-l", "red,green", "-m", tiny_model("plain"), "-o", "a.jsonl", "--report", "a.html")

    done = run("classify", "photos", *arguments, "--contact-sheet", "a.png", "-n", "2")

    assert done.returncode == 0, done.stderr
    (wrote,) = (line for line in done.stderr.decode().splitlines() if line.startswith("wrote "))
    assert [part.split(" (")[0] for part in wrote.removeprefix("wrote ").split(", ")] == ["a.jsonl", "a.html", "a.png"]
    rows = [json.loads(line) for line in (photos.parent / "a.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["photos/blue.png", "photos/green.png"]
    assert (photos.parent / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (("-o", "rows.jsonl"), "zsclip: interrupted: 6 rows are in rows.jsonl.part; add --resume to continue\n"),
        ((), "zsclip: interrupted: the rows of 6 images were written; with -o FILE a run can be resumed\n"),
    ],
)
def test_an_interrupt_while_lines_are_built_waits_until_they_are_written(
    target: tuple[str, ...],
    message: str,
    run: Run,
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 0, 255 - 30 * i)).save(tmp_path / "pictures" / f"{i}.png")
    classify = ("classify", "pictures", "-l", "red,blue", "-m", tiny_model("plain"), "--batch-size", "2", "-q")
    expected = run(*classify, "--no-store").stdout
    beginnings = jsonl._beginnings

    def interrupted(answers: Answers, labels: Sequence[str]) -> list[str]:
        if "pictures/5.png" in answers.names:
            signal.raise_signal(signal.SIGINT)
        return beginnings(answers, labels)

    with monkeypatch.context() as patch:
        patch.setattr(jsonl, "_beginnings", interrupted)
        done = run(*classify, "--no-store", *target)

    part = tmp_path / "rows.jsonl.part"
    rows = part.read_bytes() if target else done.stdout
    assert (done.returncode, done.stderr.decode()) == (130, message)
    assert rows == b"".join(expected.splitlines(keepends=True)[:6])
    if target:
        assert run(*classify, "--no-store", *target, "--resume").returncode == 0
        assert (tmp_path / "rows.jsonl").read_bytes() == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_has_written_to_a_pipe_what_it_says(
    number: int, run: Run, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Stored pictures come 1,024 at a time, and a pipe holds a quarter of their rows: the reader takes the others."""
    (tmp_path / "pictures").mkdir()
    for i in range(1500):  # one that was not changed a moment ago
        (tmp_path / "pictures" / f"{i:04}.png").symlink_to(
            Path(skimage.__file__).parent / "data" / "chessboard_RGB.png"
        )
    classify = ("classify", "pictures", "-l", "red,blue", "-m", str(tiny_model("plain")), "-q")
    expected = run(*classify).stdout
    process = subprocess.Popen(
        [sys.executable, "-m", "zsclip", *classify], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()

    process.send_signal(number)
    rows = first + process.stdout.read()
    message = process.stderr.read().decode()
    process.stdout.close()
    process.stderr.close()

    assert process.wait(HANGS) == 128 + number
    assert expected.startswith(rows)
    assert rows.count(b"\n") == 1024
    assert "the rows of 1,024 images were written" in message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_works_when_the_reader_of_the_pipe_has_left(
    number: int, run: Run, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """The signal waits for the batch that is being written, and the closed pipe ends that."""
    (tmp_path / "pictures").mkdir()
    for i in range(1500):
        (tmp_path / "pictures" / f"{i:04}.png").symlink_to(
            Path(skimage.__file__).parent / "data" / "chessboard_RGB.png"
        )
    classify = ("classify", "pictures", "-l", "red,blue", "-m", str(tiny_model("plain")))
    run(*classify)
    process = subprocess.Popen(
        [sys.executable, "-m", "zsclip", *classify], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()

    process.send_signal(number)
    process.stdout.close()
    message = process.stderr.read().decode()
    process.stderr.close()

    assert process.wait(HANGS) == 128 + number
    assert message.startswith("zsclip: interrupted: " if number == signal.SIGINT else "zsclip: terminated: ")
    assert message.count("\n") == 1
