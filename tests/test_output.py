import io
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

import pytest
from columns import columns
from test_sinks import SURE

from zsclip.answers.answers import Answers, Row
from zsclip.cli.rows import Output
from zsclip.errors import InputError, OutputError
from zsclip.out.output import check_output, check_outputs_differ, format_of, make_folder, open_output
from zsclip.out.sinks import SINKS


def test_the_format_follows_the_ending_or_the_reader() -> None:
    assert format_of(None, is_terminal=True) == "table"
    assert format_of(None, is_terminal=False) == "jsonl"
    assert [format_of(f"rows.{ending}", is_terminal=True) for ending in ("jsonl", "csv", "TSV")] == [
        "jsonl",
        "csv",
        "tsv",
    ]


@pytest.mark.parametrize("target", ["rows.txt", "rows", "rows.csv.gz"])
def test_an_ending_that_names_no_format_lists_those_that_do(target: str) -> None:
    with pytest.raises(InputError, match=rf"^{target}: .*\.csv, \.html, \.jsonl, \.parquet, \.tsv, or --format$"):
        format_of(target, is_terminal=True)


def test_a_device_needs_no_ending() -> None:
    assert format_of("/dev/full", is_terminal=True) == "jsonl"
    assert format_of("/dev/stdout", is_terminal=True) == "jsonl"


# The target


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume_at": 0}])
def test_rows_that_another_run_is_writing_are_not_touched(tmp_path: Path, options: dict[str, int]) -> None:
    target = str(tmp_path / "rows.jsonl")
    with open_output(target) as out:
        for written in ("", "a row\n"):
            out.write(written)
            out.flush()
            with pytest.raises(OutputError, match="another run is writing to it"), open_output(target, **options):
                pass
            assert (tmp_path / "rows.jsonl.part").read_text() == written
    assert (tmp_path / "rows.jsonl").read_text() == "a row\n"


@pytest.mark.parametrize("left", [None, "a row\n"])
def test_rows_that_another_run_finished_or_began_again_meanwhile_are_left_alone(
    tmp_path: Path, left: str | None
) -> None:
    target, part = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.part"
    target.write_text("all rows\n" * 9)
    if left is not None:
        part.write_text(left)

    with (
        pytest.raises(OutputError, match="another run has continued"),
        open_output(str(target), resume_at=50, overwrite=True),
    ):
        pass

    assert target.read_text() == "all rows\n" * 9
    assert (part.read_text() if part.exists() else None) == left


@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_an_open_descriptor_is_written_at_its_position(tmp_path: Path, target: str) -> None:
    code = (
        "import sys; from zsclip.out.output import open_output\nwith open_output(sys.argv[1]) as out: out.write('b\\n')"
    )
    with open(tmp_path / "rows", "w") as file:
        file.write("a\n")
        file.flush()
        subprocess.run([sys.executable, "-c", code, target], stdout=file, check=True)
        subprocess.run(["echo", "c"], stdout=file, check=True)

    assert (tmp_path / "rows").read_text() == "a\nb\nc\n"


def test_a_file_that_is_named_by_way_of_proc_is_a_file_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("of last week\n")

    with pytest.raises(InputError, match=r"rows\.csv: already exists"), open_output("/proc/self/cwd/rows.csv"):
        pass

    assert Path("rows.csv").read_text() == "of last week\n"


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_text("of last week\n")

    with open_output(str(target), overwrite=True) as out:
        SINKS["jsonl"]([columns([SURE])], out)
        assert target.read_text() == "of last week\n"

    assert json.loads(target.read_text())["label"] == "cat"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_a_run_that_fails_leaves_its_complete_rows_in_the_part_file(tmp_path: Path) -> None:
    def batches() -> Iterator[Answers]:
        yield columns([SURE] * 1000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_output(str(tmp_path / "rows.jsonl")) as out:
        SINKS["jsonl"](batches(), out)

    assert os.listdir(tmp_path) == ["rows.jsonl.part"]
    lines = (tmp_path / "rows.jsonl.part").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["cat"] * 1000


class Interrupted(io.TextIOBase):
    """A stream that gets a signal after N writes."""

    def __init__(self, out: TextIO, writes: int) -> None:
        self._out, self._left = out, writes

    def write(self, text: str) -> int:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        return self._out.write(text)


def test_rows_that_were_not_yet_flushed_survive_a_failure_whole(tmp_path: Path) -> None:
    batch = columns([SURE] * 100)
    for name, writes in (("rows.jsonl", 3), ("rows.csv", 4)):  # of these one is the header
        with pytest.raises(KeyboardInterrupt), open_output(str(tmp_path / name)) as out:
            SINKS[name[5:]]([batch], Interrupted(out, writes))  # type: ignore[arg-type]

    lines = (tmp_path / "rows.jsonl.part").read_text().splitlines()
    assert 3 <= len(lines) < 100
    assert {json.loads(line)["label"] for line in lines} == {"cat"}
    assert (tmp_path / "rows.csv.part").read_text().splitlines()[1:] == [
        "a/cat.jpg,1,cat,cat,0.931244,0.287113,softmax,,",
        "a/cat.jpg,2,cat,dog,0.0687,0.21,softmax,,",
        "a/cat.jpg,1,cat,cat,0.931244,0.287113,softmax,,",
    ]


def test_a_run_that_fails_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_output(str(tmp_path / "rows.jsonl")):
        raise RuntimeError

    assert os.listdir(tmp_path) == []


def test_a_part_file_of_an_earlier_run_is_kept_unless_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl.part").write_text("half a night's work, much longer than the new rows" * 10)

    with (
        pytest.raises(
            InputError,
            match=r"^rows.jsonl.part: .* add --overwrite to start again, or --resume to continue it",
        ),
        open_output("rows.jsonl", resumable=True),
    ):
        pass
    assert "half a night" in Path("rows.jsonl.part").read_text()

    with open_output("rows.jsonl", overwrite=True) as out:
        SINKS["paths"]([columns([SURE])], out)
    assert Path("rows.jsonl").read_text() == "a/cat.jpg\n"
    assert os.listdir() == ["rows.jsonl"]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_finished_file_is_kept_unless_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("real.jsonl").write_text("a night's work\n")
    name = "link.jsonl" if is_link else "real.jsonl"
    if is_link:
        os.symlink("real.jsonl", name)

    for resumable, hint in ((True, ", or --resume if this is the same run again"), (False, "")):
        message = f"^{name}: already exists; add --overwrite to replace it{hint}$"
        with pytest.raises(InputError, match=message):
            check_output(name, resumable=resumable)
        with pytest.raises(InputError, match=message), open_output(name, resumable=resumable):
            pass
    assert Path("real.jsonl").read_text() == "a night's work\n"
    assert not list(tmp_path.glob("*.part"))

    check_output(name, overwrite=True)
    with open_output(name, overwrite=True) as out:
        out.write("new\n")
    assert Path("real.jsonl").read_text() == "new\n"


def test_a_file_that_something_else_creates_during_the_run_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"

    def run() -> None:
        with open_output(str(target)) as out:
            out.write("a row\n")
            target.write_text("of someone else\n")

    with pytest.raises(
        OutputError, match=r"rows.jsonl: another program .* in the meantime; your rows are in .*\.part$"
    ):
        run()

    assert target.read_text() == "of someone else\n"
    assert (tmp_path / "rows.jsonl.part").read_text() == "a row\n"


def test_a_symlink_stays_one_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "rows.csv").symlink_to("real/rows.csv")

    with open_output(str(tmp_path / "rows.csv")) as out:
        out.write("a row\n")

    assert (tmp_path / "rows.csv").is_symlink()
    assert (tmp_path / "real" / "rows.csv").read_text() == "a row\n"


def test_a_folder_that_does_not_exist_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with (
        pytest.raises(OutputError, match=r"^new/rows.csv: no such file or directory; make its folder first$"),
        open_output("new/rows.csv"),
    ):
        pass


@pytest.mark.parametrize("target", ["s3://bucket/rows.csv", "s3://bucket/rows/", "https://host/rows.parquet"])
def test_a_url_is_no_output(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match="only local files can be written"):
        check_outputs_differ([("-o", target)])
    if target.endswith("/"):
        with pytest.raises(InputError, match="only local files can be written"):
            Output(output=target)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    """Also where the system names a folder above it."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"^/proc/none/new/: no such file or directory; "):
        make_folder("/proc/none/new/")
    with pytest.raises(OutputError, match=r"file: is a file, not a folder; "):
        make_folder(str(tmp_path / "file" / "new"))
    for _ in range(2):
        make_folder(str(tmp_path / "some" / "new"))
    assert (tmp_path / "some" / "new").is_dir()


def test_a_folder_as_target_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder; give a file name"), open_output(str(tmp_path)):
        pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("rows", [[SURE], [SURE] * 1000])
def test_a_full_disk_is_an_output_error_of_one_line(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").symlink_to("/dev/full")

    with (
        pytest.raises(OutputError, match=r"^/\S+/rows.csv: no space left on device; free some space and run again$"),
        open_output(str(tmp_path / "rows.csv")) as out,
    ):
        SINKS["csv"]([columns(rows)], out)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_only_at_the_end_is_an_output_error_too() -> None:
    with pytest.raises(OutputError, match="no space left"), open_output("/dev/full") as out:
        out.write("a row still in the buffer\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_an_interrupt_stays_an_interrupt_though_the_last_rows_cannot_be_written() -> None:
    with pytest.raises(KeyboardInterrupt), open_output("/dev/full") as out:
        SINKS["jsonl"]([columns([SURE] * 100)], Interrupted(out, 1))  # type: ignore[arg-type]


def test_an_error_of_the_run_itself_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), open_output(str(tmp_path / "rows.csv")):
        raise PermissionError("of something else")


def test_a_signal_in_the_middle_of_a_write_repeats_nothing(tmp_path: Path) -> None:
    """The reader takes nothing until the pipe is full and the signal has come, then all there is."""
    code = """
        import os, signal, sys, threading
        from zsclip.out.output import open_output
        from zsclip.pixels.skipped import Skipped
        from zsclip.out.sinks import write_jsonl
        from columns import columns
        signal.signal(signal.SIGTERM, lambda *_: (print("came", file=sys.stderr, flush=True), sys.exit(143)))
        rows = [columns([Skipped(f"{i:06}", "missing", "x" * 90) for i in range(256)])] * 99
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with open_output(None) as out:
            write_jsonl(rows, out)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.readline() == b"came\n"

    lines = process.stdout.read().split(b"\n")

    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 143
    names = [json.loads(line)["file_name"] for line in lines[:-1]]
    assert names == [f"{i % 256:06}" for i in range(len(names))]
    assert lines[-1] == b""


def test_what_would_be_refused_is_known_beforehand_and_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.part").write_text("rows of an earlier run")

    with pytest.raises(InputError, match="--overwrite"):
        check_output(str(tmp_path / "rows.csv"))
    check_output(str(tmp_path / "rows.csv"), overwrite=True)
    with pytest.raises(OutputError, match="make its folder first"):
        check_output(str(tmp_path / "no" / "rows.csv"))

    assert os.listdir(tmp_path) == ["rows.csv.part"]
    assert (tmp_path / "rows.csv.part").read_text() == "rows of an earlier run"


def test_a_fifo_is_written_directly(tmp_path: Path) -> None:
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE) as reader:
        with open_output(str(fifo)) as out:
            SINKS["paths"]([columns([SURE])], out)
        assert reader.stdout is not None
        assert reader.stdout.read() == b"a/cat.jpg\n"

    assert os.listdir(tmp_path) == ["rows.jsonl"]


# Standard output, in a process of its own


def run_in_child(block: str, stdout: int | BinaryIO = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    program = (
        "from columns import columns\nfrom zsclip.answers.answers import *\nfrom zsclip.pixels.skipped import *\n"
        "from zsclip.out.output import *\nfrom zsclip.out.sinks import *\n"
        "best = Candidate('\\u732b', 0.5, 0.25)\n"
        "row = Prediction('\\udcff.jpg', '\\u732b', best, (best,), 'softmax')\n" + block
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent,
    )


def test_standard_output_is_utf8_and_keeps_raw_names_whatever_the_locale() -> None:
    child = run_in_child("with open_output(None) as out: write_csv([columns([row])], out)")

    assert child.stdout.splitlines()[1:] == ["\udcff.jpg,1,猫,猫,0.5,0.25,softmax,,".encode(errors="surrogateescape")]
    assert (child.returncode, child.stderr) == (0, b"")


def test_standard_output_stays_open_after_the_rows() -> None:
    child = run_in_child("for _ in range(2):\n    with open_output(None) as out: write_paths([columns([row])], out)")

    assert child.stdout == b"\xff.jpg\n\xff.jpg\n"


def test_a_closed_pipe_passes_up_and_leaves_nothing_to_complain_about() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)

    child = run_in_child(
        "try:\n"
        "    with open_output(None) as out: write_jsonl([columns([row])] * 10, out)\n"
        "except BrokenPipeError: raise SystemExit(7)\n",
        stdout=write_end,
    )
    os.close(write_end)

    assert (child.returncode, child.stderr) == (7, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_standard_output_is_one_error_and_no_complaint_at_exit() -> None:
    with open("/dev/full", "wb") as full:
        child = run_in_child(
            "import sys\n"
            "try:\n"
            "    with open_output(None) as out: write_jsonl([columns([row])] * 10, out)\n"
            "except OutputError as e: print(e, file=sys.stderr)\n",
            stdout=full,
        )

    assert child.stderr == b"standard output: no space left on device; free some space and run again\n"


def test_a_closed_standard_output_is_an_output_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(OutputError, match="standard output: it is closed"), open_output(None):
        pass


def test_a_stream_put_in_the_place_of_standard_output_gets_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with open_output(None) as out:
        SINKS["paths"]([columns([SURE])], out)

    assert capsys.readouterr().out == "a/cat.jpg\n"
