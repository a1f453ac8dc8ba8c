"""Rows in a folder of parts: those of a single run, whoever wrote which part and whatever was killed on the way."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from clips import make_clip
from conftest import HANGS
from PIL import Image
from test_parquet_rows import as_json

from zsclip.answers.answers import Answers
from zsclip.answers.classifier import build_classifier
from zsclip.cli.rows import Output
from zsclip.engine import part_files
from zsclip.engine import parts as engine
from zsclip.engine.claims import Claims
from zsclip.engine.footers import Footers
from zsclip.engine.options import Computing, Scoring
from zsclip.engine.question import Teachers, read_question
from zsclip.engine.run import embedding
from zsclip.engine.shards import Finding, Shard, plan
from zsclip.errors import InputError
from zsclip.out.output import make_folder
from zsclip.out.parquet import read_about
from zsclip.pictures.passed_over import PassedOver
from zsclip.words.labels import read_labels

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def plain(tiny_model: Callable[[str], Path]) -> str:
    return str(tiny_model("plain"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty pictures in a folder, one of them damaged and one with a name that is not UTF-8, and ten in two tars."""
    noise = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(30):
        Image.fromarray(noise.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i:02}.png")
    for number in range(2):
        with tarfile.open(tmp_path / f"x-{number}.tar", "w") as archive:
            for i in range(20 + 5 * number, 25 + 5 * number):
                path = tmp_path / "photos" / f"{i:02}.png"
                archive.add(path, path.name)
                path.unlink()
    (tmp_path / "photos" / "05.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    os.rename(tmp_path / "photos" / "07.png", os.fsencode(tmp_path / "photos") + b"/07\xff.png")
    return tmp_path


def asked(model: str) -> list[str]:
    return ["classify", "x-0.tar", "x-1.tar", "photos", "-l", "red,green,blue", "-m", model, "--precision", "fp32"]


def command(model: str, *more: str) -> list[str]:
    return [*asked(model), "-o", "out/", "--shard-size", "6", *more]


def parts_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of all parts in the order of their names, as readers of such a folder give them."""
    return as_json(pa.dataset.dataset(folder).to_table())


def test_parts_hold_the_rows_of_a_single_run(run: Run, data: Path, plain: str) -> None:
    done = run(*command(plain, "-k", "2"))
    whole = run(*asked(plain), "-k", "2", "-f", "jsonl")

    assert done.returncode == 1, done.stderr
    assert [name[:12] for name in parts_of(data / "out")] == [f"files-{i:06}" for i in range(4)] + [
        "x-0.tar-" + parts_of(data / "out")[4][8:12],
        "x-1.tar-" + parts_of(data / "out")[5][8:12],
    ]
    expected = [json.loads(line) for line in whole.stdout.splitlines()]
    assert len(expected) == 30
    assert rows_of(data / "out") == sorted(expected, key=lambda row: row["file_name"])
    about, end = read_about(str(data / "out" / "files-000000.parquet")) or ({}, {})
    assert about["settings"]["labels"]["is"] == ["red", "green", "blue"]
    assert end == {"images": 6, "failed": {"unreadable": 1}}
    assert b"wrote 6 parts in out/\n" in done.stderr


@pytest.mark.parametrize(
    "options",
    [("--only", "red"), ("--multi-label", "--threshold", "0.5"), ("--embeddings", "float16"), ("--all-files",)],
)
def test_options_mean_the_same_for_parts(options: tuple[str, ...], run: Run, data: Path, plain: str) -> None:
    arguments = ("classify", "photos", "-l", "red,green,blue", "-m", plain, "--precision", "fp32", *options)

    assert run(*arguments, "-o", "out/", "--shard-size", "7").returncode == 1
    assert run(*arguments, "-o", "whole.parquet").returncode == 1

    parts = pa.dataset.dataset(data / "out").to_table()
    assert parts.equals(pq.read_table(data / "whole.parquet"))
    assert len(parts_of(data / "out")) == 3


def test_complete_parts_are_kept_and_missing_ones_are_made(run: Run, data: Path, plain: str) -> None:
    run(*command(plain))
    expected = rows_of(data / "out")
    before = {name: (data / "out" / name).stat().st_mtime_ns for name in parts_of(data / "out")}
    (data / "out" / "files-000001.parquet").unlink()
    cut = data / "out" / "files-000002.parquet"
    cut.write_bytes(cut.read_bytes()[:-1])

    again = run(*command(plain))

    assert rows_of(data / "out") == expected
    after = {name: (data / "out" / name).stat().st_mtime_ns for name in before}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"files-000001.parquet", "files-000002.parquet"}
    assert b"wrote 2 parts in out/, 4 complete before" in again.stderr
    nothing = run(*command(plain))
    assert nothing.stderr.decode() == (
        "zsclip: out/: already complete: 30 images, 1 failed; --retry-errors tries them again\n"
    )
    assert nothing.returncode == 1


def test_parts_of_another_run_are_refused_in_words(run: Run, data: Path, plain: str) -> None:
    run(*command(plain))
    before = rows_of(data / "out")
    (data / "more").mkdir()

    labels = run(*command(plain, "-l", "red,blue"))
    size = run(*command(plain, "--shard-size", "7"))
    one_tar = run("classify", "x-0.tar", "-l", "red,blue", "-m", plain, "--precision", "fp32", "-o", "out/")
    more = run(*command(plain, "more"))

    assert (labels.returncode, b"labels: red, green, blue -> red, blue" in labels.stderr) == (2, True)
    assert (size.returncode, b"shard-size: 6 -> 7" in size.stderr) == (2, True)
    assert (one_tar.returncode, b"labels: " in one_tar.stderr) == (2, True)
    assert (more.returncode, b"images: photos -> photos, more" in more.stderr) == (2, True)
    assert rows_of(data / "out") == before
    assert run(*command(plain, "--shard-size", "7", "--overwrite")).returncode == 1
    assert [len(pq.read_table(data / "out" / name)) for name in parts_of(data / "out")] == [7, 7, 6, 5, 5]
    assert rows_of(data / "out") == before


def test_a_part_of_another_run_is_refused_even_if_this_one_has_no_such_shard(run: Run, data: Path, plain: str) -> None:
    run("classify", "x-0.tar", "-l", "red,blue", "-m", plain, "-o", "out/")

    done = run("classify", "x-1.tar", "-l", "red,green", "-m", plain, "-o", "out/")

    assert (done.returncode, b"labels: red, blue -> red, green" in done.stderr) == (2, True)
    assert len(parts_of(data / "out")) == 1


def test_an_archive_may_have_the_name_of_loose_files(run: Run, data: Path, plain: str) -> None:
    (data / "x-0.tar").rename(data / "files-000000.tar")

    assert run("classify", "files-000000.tar", "-l", "red,blue", "-m", plain, "-o", "out/").returncode == 0
    assert run("classify", "photos", "-l", "red,blue", "-m", plain, "-o", "out/").returncode == 1

    again = run("classify", "files-000000.tar", "photos", "-l", "red,blue", "-m", plain, "-o", "out/")
    assert b"already complete: 25 images" in again.stderr, again.stderr


def test_several_may_fill_a_folder_with_an_archive_each(run: Run, data: Path, plain: str) -> None:
    for number in range(2):
        done = run("classify", f"x-{number}.tar", "-l", "red,blue", "-m", plain, "-o", "out/")
        assert done.returncode == 0, done.stderr

    assert [row["file_name"] for row in rows_of(data / "out")] == [f"x-{i // 5 - 4}.tar#{i}.png" for i in range(20, 30)]


def test_a_shard_that_has_changed_is_done_again(run: Run, data: Path, plain: str) -> None:
    run(*command(plain))
    with tarfile.open(data / "x-1.tar", "a") as archive:
        archive.add(data / "photos" / "00.png", "00.png")
    (data / "photos" / "19.png").unlink()
    (data / "photos" / "18.png").unlink()

    again = run(*command(plain))

    told = again.stderr.decode()
    assert "x-1.tar has changed, so it is written again" in told
    assert "no longer among the inputs have rows in 'out/files-000003.parquet'; delete them" in told
    assert "wrote 1 part in out/, 4 complete before" in told
    assert "x-1.tar#00.png" in [row["file_name"] for row in rows_of(data / "out")]


def test_failed_images_are_tried_again(run: Run, data: Path, plain: str) -> None:
    good, bad = data / "photos" / "00.png", data / "photos" / "05.png"
    bad.write_bytes(bad.read_bytes().ljust(good.stat().st_size))
    os.utime(bad, ns=(1, 1))
    run(*command(plain))
    shutil.copy(good, bad)
    os.utime(bad, ns=(1, 1))  # it looks the same

    assert run(*command(plain)).returncode == 1
    done = run(*command(plain, "--retry-errors"))

    assert done.returncode == 0
    assert b"wrote 1 part in out/, 5 complete before" in done.stderr
    assert not any(row["error"] for row in rows_of(data / "out"))


def test_loose_files_whose_content_has_changed_are_done_again(run: Run, data: Path, plain: str) -> None:
    run(*command(plain))
    shutil.copy(data / "photos" / "00.png", data / "photos" / "05.png")

    done = run(*command(plain))

    assert done.returncode == 0, done.stderr
    assert b"files-000000.parquet: one of its images has changed, so it is written again" in done.stderr
    assert b"wrote 1 part in out/, 5 complete before" in done.stderr


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
@pytest.mark.parametrize("kind", ["parquet", "text", "empty"])
def test_a_file_of_others_under_the_name_of_a_part_is_refused(
    kind: str, more: tuple[str, ...], run: Run, data: Path, plain: str
) -> None:
    foreign = data / "out" / "files-000003.parquet"
    foreign.parent.mkdir()
    if kind == "parquet":
        pq.write_table(pa.table({"mine": [1, 2, 3]}), foreign)
    else:
        foreign.write_text("mine" if kind == "text" else "")
    before = foreign.read_bytes()

    done = run(*command(plain, *more))

    told = "out/files-000003.parquet: is not a part of such a run; move it away, or choose another folder"
    assert (done.returncode, done.stderr.decode()) == (2, f"zsclip: {told}\n")
    assert foreign.read_bytes() == before
    assert parts_of(data / "out") == ["files-000003.parquet"]


def test_an_input_that_the_run_would_replace_is_refused(run: Run, data: Path, plain: str) -> None:
    run("classify", "photos", "-l", "red,blue", "-m", plain, "-o", "out/")
    os.link(data / "out" / "files-000000.parquet", data / "list.parquet")
    before = (data / "list.parquet").read_bytes()

    done = run("classify", "list.parquet", "-l", "red,green", "-m", plain, "-o", "out/", "--overwrite")

    assert (done.returncode, b"out/files-000000.parquet: is an input of this run" in done.stderr) == (2, True)
    assert (data / "out" / "files-000000.parquet").read_bytes() == before
    assert parts_of(data / "out") == ["files-000000.parquet"]


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("x.parquet/", "x.parquet: is a file, not a folder; choose another name"),
        ("x.parquet/sub/", "x.parquet: is a file, not a folder; choose another name"),
        ("/dev/null/", "/dev/null: is a file, not a folder; choose another name"),
        ("gone/", "gone: is a link to nothing, not a folder; choose another name"),
    ],
)
def test_a_file_in_place_of_the_folder_is_one_line(output: str, told: str, run: Run, data: Path) -> None:
    (data / "x.parquet").touch()
    (data / "gone").symlink_to("nothing")

    done = run("classify", "photos", "-l", "red,blue", "-o", output)

    assert (done.returncode, done.stderr.decode()) == (4, f"zsclip: {told}\n")


def test_a_folder_that_cannot_hold_claims_is_one_line(run: Run, data: Path, plain: str) -> None:
    (data / "out").mkdir()
    (data / "out" / ".unfinished").touch()

    done = run(*command(plain))

    told = "zsclip: out/.unfinished: not a directory; choose a place that you can write to\n"
    assert (done.returncode, done.stderr.decode()) == (4, told)


def test_a_name_that_may_be_a_folder_is_offered_as_one() -> None:
    assert Output(output="rows.csv").sink_name == "csv"
    with pytest.raises(InputError, match=r"^nofolder: unknown extension; .*, or nofolder/ for a folder of parts$"):
        Output(output="nofolder")
    with pytest.raises(InputError, match=r"^-o: the name is empty; "):
        Output(output="")


def test_a_container_that_goes_or_is_damaged_is_a_row(run: Run, data: Path, plain: str) -> None:
    (data / "x-0.tar").write_bytes((data / "x-0.tar").read_bytes()[:1500])

    done = run(*command(plain))

    assert done.returncode == 1
    rows = [row for row in rows_of(data / "out") if row["file_name"].startswith("x-0.tar")]
    assert rows[-1]["error"] == "unreadable"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"output": "out/", "format": "csv"}, "-o out/: "),
        ({"output": "out/", "report": "a.html"}, "--report: "),
        ({"output": "out/", "contact_sheet": "a.png"}, "--contact-sheet: "),
        ({"output": "a.parquet", "shard_size": 3}, "--shard-size: "),
        ({"shard_size": 3}, "--shard-size: "),
    ],
)
def test_what_a_folder_cannot_hold_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"^{told}"):
        Output(**options)


def test_an_existing_folder_needs_no_slash(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    assert Output(output=str(tmp_path / "out")).folder == str(tmp_path / "out")
    assert Output(output="nothing.parquet").folder is None


def test_an_image_through_stdin_is_refused(run: Run, data: Path, plain: str) -> None:
    picture = (data / "photos" / "00.png").read_bytes()

    done = run("classify", "-", "-l", "red,blue", "-m", plain, "-o", "out/", input=picture)
    paths = run("classify", "-", "-l", "red,blue", "-m", plain, "-o", "out/", input=b"photos/00.png\nphotos/01.png\n")

    assert (done.returncode, b"single members of archives and frames cannot be shared" in done.stderr) == (
        2,
        True,
    )
    assert paths.returncode == 0
    assert [row["file_name"] for row in rows_of(data / "out")] == ["photos/00.png", "photos/01.png"]


def test_no_images_say_why(run: Run, tmp_path: Path, plain: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").touch()

    done = run("classify", "photos", "-l", "red,blue", "-m", plain, "-o", "out/")

    assert done.returncode == 1
    assert b"no images; passed over: 1 .txt" in done.stderr


def started(arguments: Sequence[str], folder: Path, script: str = "") -> "subprocess.Popen[bytes]":
    """Start zsclip, or a script that runs it."""
    command = [sys.executable, *(["-c", script] if script else ["-m", "zsclip"]), *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ended(process: "subprocess.Popen[bytes]") -> str:
    assert process.stderr is not None
    told = process.stderr.read().decode()
    process.stderr.close()
    process.wait(HANGS)
    return told


def test_processes_that_share_a_run_do_each_part_once(run: Run, data: Path, plain: str) -> None:
    arguments = command(plain, "--no-store", "--shard-size", "2")
    run(*arguments)
    expected = rows_of(data / "out")
    shutil.rmtree(data / "out")

    told = [ended(process) for process in [started(arguments, data) for _ in range(3)]]

    assert rows_of(data / "out") == expected
    assert len(parts_of(data / "out")) == 12
    assert "zsclip: " not in "".join(told).replace("zsclip: out/: already complete", "")
    wrote = [int(line.split()[1]) for each in told for line in each.splitlines() if line.startswith("wrote ")]
    assert sum(wrote) == 12


_LOGGED = """
import sys; from zsclip.cli.main import main; import zsclip.engine.parts as parts
write = parts.Parts.write
def logged(self, shard, temporary, answer):
    with open("begun", "a") as file:
        file.write(shard.name + chr(10))
    return write(self, shard, temporary, answer)
parts.Parts.write = logged
sys.exit(main(sys.argv[1:]))
"""


def kill_at_random(run: Run, data: Path, plain: str, times: int) -> None:
    """Kill one of two processes that share a run, or both, again and again; each costs the shard it works on."""
    arguments = command(plain, "--shard-size", "1", "--batch-size", "1", "-j", "1")
    begun = time.monotonic()
    run(*arguments)
    expected = rows_of(data / "out")
    shutil.rmtree(data / "out")
    pace = max(3.0, time.monotonic() - begun)
    choose = random.Random(times)
    begun_by, cut = data / "begun", 0
    for round_ in range(times):
        if round_ % 10 == 0 and (data / "out").exists():
            shutil.rmtree(data / "out")
            begun_by.unlink(missing_ok=True)
            cut = 0
        processes = [started(arguments, data, _LOGGED) for _ in range(2)]
        time.sleep(choose.random() * pace)
        for process in processes if choose.random() < 0.5 else processes[:1]:
            cut += process.poll() is None
            process.send_signal(signal.SIGKILL)
        for process in processes:
            told = ended(process)
            # The one that does not have the damaged picture may end with 0, before the other one has written it.
            is_left_to_other = process.returncode == 0 and "1 being written by other processes" in told
            assert is_left_to_other or process.returncode in (1, -signal.SIGKILL), told
        shards = begun_by.read_text().split() if begun_by.exists() else []
        assert len(shards) <= len(set(shards)) + cut

    done = run(*arguments)

    assert cut
    assert done.returncode == 1
    assert rows_of(data / "out") == expected
    assert parts_of(data / "out") == sorted(
        [f"files-{i:06}.parquet" for i in range(20)] + [n for n in parts_of(data / "out") if n.startswith("x-")]
    )


def test_processes_that_are_killed_leave_nothing_that_matters(run: Run, data: Path, plain: str) -> None:
    kill_at_random(run, data, plain, 2)


@pytest.mark.slow
def test_thirty_kills_leave_nothing_that_matters(run: Run, data: Path, plain: str) -> None:
    kill_at_random(run, data, plain, 30)


def test_an_interrupted_run_says_how_to_go_on_and_leaves_no_claim(run: Run, data: Path, plain: str) -> None:
    arguments = command(plain, "--shard-size", "1", "--batch-size", "1", "--no-store")
    process = started(arguments, data)
    while not (data / "out" / "files-000000.parquet").exists():
        assert process.poll() is None
        time.sleep(0.01)

    process.send_signal(signal.SIGINT)
    told = ended(process)

    assert process.returncode == 130
    assert told.startswith("zsclip: interrupted: ")
    assert "in out/ are complete; run the same command again to continue" in told
    unfinished = data / "out" / ".unfinished"
    assert not unfinished.exists() or not list(unfinished.iterdir())
    assert run(*arguments).returncode == 1
    assert len(rows_of(data / "out")) == 30


def test_a_full_disk_is_one_line_and_leaves_no_part(run_alone: Run, data: Path, plain: str) -> None:
    """A limit on the size of files stands for it."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from zsclip.cli.main import main; import zsclip.engine.parts as parts;"
        "made = parts.write_parquet\n"
        "def limited(*a, **b):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); made(*a, **b)\n"
        "parts.write_parquet = limited\n"
        "sys.exit(main(sys.argv[1:]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, *command(plain, "--no-store")], cwd=data, capture_output=True, text=True
    )

    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1] == "zsclip: out/: file too large; choose a place that you can write to"
    assert parts_of(data / "out") in ([], [".unfinished"])


def test_a_dry_run_says_what_is_left_and_writes_nothing(run: Run, data: Path, plain: str) -> None:
    before = run(*command(plain, "--dry-run"))
    assert not (data / "out").exists()
    run(*command(plain))
    (data / "out" / "files-000001.parquet").unlink()
    kept = parts_of(data / "out")

    after = run(*command(plain, "--dry-run"))
    done = run(*command(plain, "-l", "red,blue", "--dry-run"))
    file = run(*asked(plain), "-o", "rows.csv", "--dry-run")

    assert (before.returncode, after.returncode, file.returncode) == (0, 0, 0), file.stderr
    first, second = before.stdout.decode().splitlines()
    assert first == "6 shards, 0 complete; left: 30 images"
    assert re.fullmatch(r"[\d,]+ a second on this machine: about \d+:\d\d, less if embeddings are stored", second)
    assert after.stdout.decode().splitlines()[0] == "6 shards, 5 complete; left: 6 images"
    assert (done.returncode, b"labels: " in done.stderr) == (2, True)
    assert file.stdout.decode().splitlines()[0] == "30 images"
    assert parts_of(data / "out") == kept
    assert not (data / "rows.csv").exists()


def test_images_of_many_archives_are_estimated_from_a_few(run: Run, data: Path, plain: str) -> None:
    for number in range(2, 9):
        shutil.copy(data / "x-0.tar", data / f"x-{number}.tar")

    done = run("classify", "x-{2..8}.tar", "-l", "red,blue", "-m", plain, "-o", "out/", "--dry-run")

    assert done.stdout.decode().splitlines()[0] == "7 shards, 0 complete; left: about 35 images"


def test_nothing_left_takes_no_time(run: Run, data: Path, plain: str) -> None:
    run(*command(plain))

    assert run(*command(plain, "--dry-run")).stdout == b"6 shards, 6 complete; left: 0 images\n"


def test_videos_give_the_frames_of_a_single_run(run: Run, data: Path, plain: str) -> None:
    make_clip(data / "named.mp4", 75)
    make_clip(data / "photos" / "08a.mp4", 50)
    arguments = ("classify", "named.mp4", "photos", "-l", "red,blue", "-m", plain, "--every", "1s")

    done = run(*arguments, "-o", "out/", "--shard-size", "8")
    whole = run(*arguments, "-f", "jsonl")

    assert done.returncode == 1, done.stderr
    rows = [json.loads(line) for line in whole.stdout.splitlines()]
    assert sum(row["file_name"].startswith("photos/08a.mp4#t=") for row in rows) == 2
    assert sorted(rows_of(data / "out"), key=lambda row: row["file_name"]) == sorted(
        rows, key=lambda row: row["file_name"]
    )
    other = run(*arguments, "--every", "2s", "-o", "out/", "--shard-size", "8")
    assert b"every: 1s -> 2s" in other.stderr


def test_overwrite_writes_every_part_again_once(run: Run, data: Path, plain: str) -> None:
    run(*command(plain))
    run(*command(plain, "--overwrite"))
    before = {name: (data / "out" / name).stat().st_mtime_ns for name in parts_of(data / "out")}
    expected = rows_of(data / "out")

    told = [ended(process) for process in [started(command(plain, "--overwrite"), data) for _ in range(2)]]

    assert all((data / "out" / name).stat().st_mtime_ns > time_ns for name, time_ns in before.items())
    assert rows_of(data / "out") == expected
    wrote = [int(line.split()[1]) for each in told for line in each.splitlines() if line.startswith("wrote ")]
    assert sum(wrote) == 6, told
    assert not (data / "out" / ".unfinished").exists()


def test_two_runs_with_other_settings_do_not_mix(run: Run, data: Path, plain: str) -> None:
    first = Claims(str(data / "out" / ".unfinished"))
    (data / "out").mkdir()
    process = started(command(plain, "--no-store", "--shard-size", "1", "--batch-size", "1"), data)
    while not (data / "out" / ".unfinished").exists() or not first.names():
        assert process.poll() is None
        time.sleep(0.001)

    other = run(*command(plain, "-l", "red,blue", "--overwrite"))
    told = ended(process)

    assert process.returncode == 1, told
    assert (other.returncode, other.stderr.count(b"\n")) == (2, 1), other.stderr
    assert b"out/: another process is filling it with other settings: labels: red, green, blue -> " in other.stderr
    assert len(rows_of(data / "out")) == 30
    assert not (data / "out" / ".unfinished").exists()


def test_an_archive_that_is_replaced_while_it_is_read_is_counted_once(run_alone: Run, data: Path, plain: str) -> None:
    script = (
        "import os, sys; from zsclip.cli.main import main; import zsclip.engine.parts as parts\n"
        "made, times = parts.write_parquet, []\n"
        "def replacing(*a, **b):\n"
        "    made(*a, **b); times.append(1); len(times) == 1 and os.utime('x-0.tar', ns=(1, 1))\n"
        "parts.write_parquet = replacing\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["classify", "x-0.tar", "-l", "red,blue", "-m", plain, "--no-store", "-o", "out/"]

    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=data, capture_output=True, text=True)

    assert "was replaced while it was read, so it is read again" in done.stderr
    assert re.search(r"^5 images", done.stderr, re.MULTILINE), done.stderr


def test_a_part_that_was_completed_a_moment_before_the_claim_is_not_written_again(
    photos: Path, plain: str, tmp_path: Path
) -> None:
    question = read_question(read_labels("red,blue"), None, Scoring(), Teachers())
    finding, folder = Finding((str(photos),), size=10), tmp_path / "out"
    asked = part_files.Run(
        question, frozenset(), plain, True, Computing("cpu", precision="fp32"), False, finding, str(folder)
    )
    encoder = asked.computing.encoder(plain, True)
    mine, others = (engine.Parts(asked, [str(photos)], encoder, print, Footers()) for _ in range(2))
    matrix = build_classifier(question.words, encoder)
    (shard,) = plan(finding, PassedOver()).shards
    make_folder(asked.folder)
    mine.check()

    def answer(shard: Shard, counts: engine.Counts) -> Iterator[Answers]:
        pictures = shard.pictures(finding, PassedOver())
        with embedding(pictures, encoder, None, asked.computing) as embedded:
            yield from counts.of(engine.answers_of(embedded, matrix, asked, mine.rule))

    class Late(Claims):
        @contextmanager
        def take(self, name: str) -> Iterator[str | None]:
            assert engine.do_shard(shard, others, answer).how == "written"
            with super().take(name) as temporary:
                yield temporary

    mine.claims = Late(str(folder / ".unfinished"))

    done = engine.do_shard(shard, mine, answer)

    assert (done.how, done.counts.images) == ("beside", 3)
