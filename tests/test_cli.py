"""The command line: its help in this process, its runs as processes of their own with real pipes, files and signals."""

import csv
import io
import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import HANGS, wait_for_lines
from PIL import Image
from typer.main import get_command

from zsclip.cli.main import app, main
from zsclip.kept.cache import FILE_NAME, cache_dir
from zsclip.kept.storefile import FILE_NAME as STORE_NAME
from zsclip.models.catalogue import published_models, write_models

Run = Callable[..., subprocess.CompletedProcess[bytes]]
COLOURS = ("--labels", "red,green,blue")


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> str:
    return f"local-dir:{tiny_model('plain')}"


@pytest.fixture
def start(model: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Give a function that starts `zsclip classify - ARGUMENTS`, to be talked with while it runs."""
    started: list[subprocess.Popen[bytes]] = []

    def classify(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "zsclip", "classify", "-", *COLOURS, "--model", model, *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path))
        return started[-1]

    yield classify
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def commands() -> dict[str, str]:
    """Every command, as it is typed, with its docstring."""
    root = get_command(app)
    found = {}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        found |= {name: command} if below is None else {f"{name} {each}": below[each] for each in below}
    return {name: command.callback.__doc__ or "" for name, command in found.items()}


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(commands()) >= {"classify", "prompts list", "prompts show", "models fetch", "cache clear"}
    for name, docstring in commands().items():
        assert f"Examples:\n\n        zsclip {name}" in docstring, name
        assert main([*name.split(), "--help"]) == 0
        assert f"Usage: zsclip {name}" in capsys.readouterr().out


def test_the_readme_shows_exactly_the_commands_that_exist() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    code = r"(?:\$ (?:\w+=\S+ )*|\| |`)"  # a prompt, perhaps with variables; a pipe; a code span
    shown = set(re.findall(code + r"zsclip ((?:(?:prompts|models|cache) )?[a-z]+\b)", readme))

    assert shown == set(commands())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["classify"], 2, "missing argument"),
        (["classify", "x.jpg", "--labls", "a"], 2, "no such option: --labls"),
        (["clasify"], 2, "no such command 'clasify'"),
        (["classify", "."], 2, "label"),
        (["classify", ".", "--labels", "cat"], 2, "cat"),
        (["classify", ".", "--labels", "cat,dog,cat"], 2, "'cat' was already given"),
        (["classify", "nope.jpg", "--labels", "a,b"], 2, "no such file or folder: 'nope.jpg'"),
        (["classify", "ftp://a/b.jpg", "--labels", "a,b"], 2, "use one of http, https"),
        (["classify", ".", "--labels", "a,b", "--prompts", "nope"], 2, "nope"),
        (["classify", ".", "--labels", "a,b", "--template", "a photo"], 2, "{}"),
        (["classify", ".", "--labels", "a,b", "--labels-file", "nope.txt"], 2, "nope.txt"),
        (["classify", ".", "--labels", "a,b", "--only", "c"], 2, "--only: 'c'"),
        (["classify", ".", "--labels", "a,b", "--device", "gpu"], 2, "--device: 'gpu'"),
        (["classify", ".", "--labels", "a,b", "--batch-size", "0"], 2, "--batch-size: '0'"),
        (["classify", ".", "--labels", "a,b", "--threshold", "2"], 2, "--threshold"),
        (["classify", ".", "--labels", "a,b", "--print0"], 2, "--format paths"),
        (["classify", ".", "--labels", "a,b", "-o", "x.xlsx"], 2, ".csv"),
        (["classify", ".", "--labels", "a,b", "-o", "no/such/folder/x.csv"], 4, "no/such/folder/x.csv"),
        (["classify", ".", "--labels", "a,b", "--model", "nope"], 3, "no model 'nope'"),
        (["classify", ".", "--labels", "a,b"], 3, "'base' is not available"),
        (["models", "info", "nope"], 3, "no model 'nope'"),
    ],
)
def test_a_mistake_gets_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All of them are found without loading a model; the last two answer for a machine without weights or network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == code

    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("zsclip: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.glob("*.part")) == []


def test_a_folder_becomes_rows_in_order(run: Run, photos: Path, model: str) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff nonsense")

    result = run("classify", "photos", *COLOURS, "--model", model, "-k", "2")

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 1
    assert [row["file_name"] for row in rows] == [
        f"photos/{name}" for name in ("blue.png", "broken.jpg", "green.png", "red.png")
    ]
    assert [row["error"] for row in rows] == [None, "unreadable", None, None]
    assert len({tuple(row) for row in rows}) == 1
    assert all(len(row["predictions"]) == 2 for row in rows if row["error"] is None)
    summary = result.stderr.decode()
    assert summary.startswith("4 images")
    assert "1 failed: unreadable 1" in summary


def test_quiet_says_nothing_when_all_is_well(run: Run, photos: Path, model: str) -> None:
    result = run(
        "classify", "photos", "--labels", "red,猫", "--model", model, "-q", "--template", "{} " * 1 + "a " * 90
    )

    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.count(b"\n") == 3


def test_cut_prompts_and_unread_scripts_are_noted_once_also_from_the_cache(run: Run, photos: Path, model: str) -> None:
    arguments = ("classify", "photos", "--labels", "red,猫", "--model", model, "--template", "a long {} " + "a " * 90)

    for _ in range(2):
        lines = run(*arguments).stderr.decode().splitlines()
        assert sum("were cut: 'a long red" in line for line in lines) == 1
        assert sum("'猫'" in line and "--model multilingual" in line for line in lines) == 1


def test_an_empty_folder_is_not_a_success(run: Run, tmp_path: Path, model: str) -> None:
    (tmp_path / "empty").mkdir()

    result = run("classify", "empty", *COLOURS, "--model", model)

    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        b"",
        b"zsclip: no images: 'empty' has no files; check the path\n",
    )
    quiet = run("classify", "empty", *COLOURS, "--model", model, "-q")
    assert (quiet.returncode, quiet.stderr) == (1, b"zsclip: no images: 'empty' has no files; check the path\n")


def test_formats_agree(run: Run, photos: Path, model: str) -> None:
    arguments = ("classify", "photos", *COLOURS, "--model", model)

    rows = [json.loads(line) for line in run(*arguments, "-o", "rows.jsonl").stdout.splitlines()]
    assert rows == []
    rows = [json.loads(line) for line in (photos.parent / "rows.jsonl").read_text().splitlines()]
    table = list(csv.DictReader(io.StringIO(run(*arguments, "--format", "csv").stdout.decode())))
    only = rows[0]["label"]
    paths = run(*arguments, "--format", "paths", "--print0", "--only", only).stdout

    assert [(row["file_name"], row["label"]) for row in table] == [(row["file_name"], row["label"]) for row in rows]
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]
    assert paths.decode().split("\0")[:-1] == [row["file_name"] for row in rows if row["label"] == only]


def test_only_unknown_keeps_pictures_without_an_answer(run: Run, photos: Path, model: str) -> None:
    (photos / "bad.png").write_bytes(b"no picture")
    arguments = ("classify", "photos", *COLOURS, "--model", model, "-q")
    scores = sorted(json.loads(line)["score"] or 0 for line in run(*arguments).stdout.splitlines())
    arguments += ("--threshold", str((scores[-2] + scores[-1]) / 2))  # the surest picture alone has an answer
    rows = [json.loads(line) for line in run(*arguments).stdout.splitlines()]
    unknown = [row["file_name"] for row in rows if row["label"] is None and row["error"] is None]
    (answered,) = (row for row in rows if row["label"] is not None)

    paths = run(*arguments, "--only", "unknown", "--format", "paths")
    both = run(*arguments, "--only", "unknown", "--only", answered["label"])
    named = run(*arguments, "--label", "unknown", "--only", "unknown", "--format", "paths")

    assert len(unknown) == 2
    assert (paths.returncode, paths.stdout.decode().splitlines()) == (1, unknown)
    assert [json.loads(line)["file_name"] for line in both.stdout.splitlines()] == sorted(
        [*unknown, answered["file_name"]]
    )
    assert b"photos/bad.png" not in paths.stdout + both.stdout
    assert (named.returncode, named.stdout) == (1, b"")  # a label of that name, which no picture has


def test_known_pictures_are_answered_without_torch(photos: Path, model: str, tmp_path: Path) -> None:
    """And with the numbers that were computed; a label that is not known takes the model again."""
    for i in range(40):
        Image.new("RGB", (40, 40), (5 * i, 90, 250 - 5 * i)).save(photos / f"{i}.png")
    (photos / "bad.png").write_bytes(b"no picture")
    script = (
        "import sys\n"
        "from zsclip.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'open_clip', 'torchvision', 'transformers', 'timm'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, "classify", "photos", "--model", model, "--top-k", "3", "--threads", "2"]

    def rows(*arguments: str) -> tuple[bytes, str]:
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=False)
        return done.stdout, done.stderr.decode().splitlines()[-1]

    first, of_first = rows(*COLOURS)
    again, of_again = rows(*COLOURS)
    without, of_without = rows(*COLOURS, "--no-store")
    shorter, of_shorter = rows("--labels", "red,blue")
    other, of_other = rows("--labels", "red,blue,yellow")

    assert first.count(b"\n") == 44
    assert again == first
    assert [json.loads(a)["label"] for a in without.splitlines()] == [
        json.loads(b)["label"] for b in first.splitlines()
    ]
    assert of_again == of_shorter == "1 []"
    assert all("torch" in message for message in (of_first, of_without, of_other))
    assert (shorter.count(b"\n"), other.count(b"\n")) == (44, 44)


def test_the_store_is_listed_verified_and_emptied(run: Run, photos: Path, model: str) -> None:
    arguments = ("classify", "photos", *COLOURS, "--model", model)

    first, again = run(*arguments).stderr.decode(), run(*arguments).stderr.decode()
    assert f"embeddings are kept in {cache_dir()}, " in first  # the run that makes the store says where it is
    assert "earlier run" not in first
    assert "embeddings" not in again
    assert "3 images, encoded by an earlier run\n" in again
    unkept = run(*arguments, "--no-store").stderr
    assert b"embeddings" not in unkept
    assert b"earlier" not in unkept
    assert run("cache", "info").stdout.decode().splitlines()[-1] == f"  3 images, encoded by {model}"
    intact = run("cache", "verify").stdout.decode()
    assert re.fullmatch(r"3 image embeddings and \d+ other rows, 0 damaged\n", intact)
    path = cache_dir() / STORE_NAME
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE embeddings SET vector = zeroblob(128) WHERE id = 1")
    with closing(sqlite3.connect(cache_dir() / FILE_NAME)) as connection, connection:
        connection.execute("UPDATE rows SET value = zeroblob(LENGTH(value)) WHERE kind = 'text'")
    damaged = run("cache", "verify")
    assert (damaged.returncode, damaged.stdout.decode()) == (1, intact.replace("0 damaged", "4 damaged and deleted"))
    assert b"label embeddings" not in run("cache", "info").stdout
    assert b", 2 of them encoded by an earlier run\n" in run(*arguments).stderr
    assert b"freed" in run("cache", "gc", "--max-size", "0").stdout
    assert run("cache", "verify").stdout.startswith(b"0 image embeddings and ")
    assert run("cache", "gc", "--max-size", "much").returncode == 2
    path.write_bytes(b"no database" * 1000)
    broken = run("cache", "verify")
    assert (broken.returncode, broken.stderr.count(b"\n")) == (1, 1)
    assert b"`zsclip cache clear` resets it" in broken.stderr
    assert run("cache", "clear").returncode == 0
    assert not path.exists()


def test_resume_needs_a_file(run: Run, photos: Path, model: str) -> None:
    for flags, message in (
        (["--resume"], "--resume: needs the file of the earlier run; add -o FILE"),
        (["--retry-errors", "-o", "/dev/null"], "--retry-errors: needs the file of the earlier run; add -o FILE"),
        (["--resume", "--overwrite", "-o", "x.csv"], "--resume: keeps the rows that --overwrite would discard; "),
    ):
        result = run("classify", "photos", *COLOURS, "--model", model, *flags)
        assert (result.returncode, result.stdout) == (2, b"")
        assert f"zsclip: {message}".encode() in result.stderr


def test_resume_accepts_a_finished_file_of_the_same_run_and_refuses_others(
    photos: Path,
    model: str,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photos.parent)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff nonsense")
    arguments = ["classify", "photos", *COLOURS, "--model", model, "-o", "rows.csv"]
    assert main([*arguments, "-q"]) == 1
    rows = Path("rows.csv").read_bytes()
    capfd.readouterr()

    def message(code: int, *arguments: str) -> str:
        assert main([*arguments]) == code
        assert sorted(os.listdir()) == ["photos", "rows.csv"]
        captured = capfd.readouterr()
        assert captured.out == ""
        return captured.err

    complete = "zsclip: rows.csv: already complete: 4 images, 1 failed; --retry-errors tries them again\n"
    assert message(1, *arguments, "--resume") == complete
    assert message(1, *arguments, "--resume", "-q") == ""
    other = [*arguments, "--label", "fox", "--model", str(tiny_model("siglip")), "--prompts", "plain", "--resume"]
    assert message(2, *other) == (
        "zsclip: rows.csv: made with other settings: labels: red, green, blue -> red, green, blue, fox; "
        f"prompts: photo -> plain; model: {model} -> {tiny_model('siglip')}; write to another file, or add --overwrite "
        "to replace it\n"
    )
    assert Path("rows.csv").read_bytes() == rows


def test_only_the_failed_rows_of_a_finished_file_are_made_again(
    photos: Path, model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos.parent)
    (photos / "a.png").write_bytes(b"nonsense")
    (photos / "c.png").write_bytes(b"nonsense")
    arguments = ["classify", "photos", *COLOURS, "--model", model, "-k", "2"]
    assert main([*arguments, "-o", "rows.csv"]) == 1
    before = Path("rows.csv").read_text().splitlines()
    capfd.readouterr()
    (photos / "a.png").write_bytes((photos / "red.png").read_bytes())
    Image.new("RGB", (40, 30), "white").save(photos / "blue.png")  # answered before: its row stays

    assert main([*arguments, "-o", "rows.csv", "--retry-errors"]) == 1

    message = capfd.readouterr().err
    assert message.startswith("2 images")
    assert "\nwrote rows.csv (" in message
    after = Path("rows.csv").read_text().splitlines()
    assert main([*arguments, "-o", "fresh.csv", "-q"]) == 1
    fresh = Path("fresh.csv").read_text().splitlines()
    assert before[1].startswith("photos/a.png,,,,,,,unreadable")
    assert after == [before[0], *fresh[1:3], *before[2:]]
    assert fresh[3:5] != before[2:4]
    (photos / "c.png").write_bytes((photos / "red.png").read_bytes())
    assert main([*arguments, "-o", "rows.csv", "--retry-errors", "-q"]) == 0
    capfd.readouterr()
    assert main([*arguments, "-o", "rows.csv", "--retry-errors"]) == 0
    assert capfd.readouterr().err == "zsclip: rows.csv: already complete: 5 images\n"


def test_a_siglip_model_scores_each_label_by_itself(run: Run, photos: Path, tiny_model: Callable[[str], Path]) -> None:
    result = run("classify", "photos", *COLOURS, "--model", tiny_model("siglip"), "--multi-label", "--threshold", "0")

    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["score_kind"] for row in rows] == ["sigmoid"] * 3
    assert [len(row["predictions"]) for row in rows] == [3] * 3


def test_names_survive_find_print0(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    odd = [b"new\nline.png", b"caf\xe9.png", "日本.png".encode(), b"tab\t.png", b'"quoted", .png', b"-dash.png"]
    for name in odd:
        (photos / os.fsdecode(name)).write_bytes((photos / "red.png").read_bytes())
    listing = subprocess.run(["find", "photos", "-print0"], cwd=tmp_path, capture_output=True, check=True).stdout
    expected = [name for name in listing.split(b"\0")[:-1] if name != b"photos"]

    result = run("classify", "-", "-0", *COLOURS, "--model", model, "--format", "paths", "--print0", input=listing)

    assert result.stdout.split(b"\0")[:-1] == expected
    assert b"photos" in result.stderr  # the folder among them is skipped with a note
    rows = [json.loads(line) for line in run("classify", "photos", *COLOURS, "--model", model).stdout.splitlines()]
    assert {os.fsencode(row["file_name"]) for row in rows} >= {b"photos/" + name for name in odd}


def test_head_ends_the_run_quietly(photos: Path, model: str, tmp_path: Path) -> None:
    for i in range(300):
        os.link(photos / "red.png", photos / f"{i}.png")
    command = f"{sys.executable} -m zsclip classify photos {' '.join(COLOURS)} --model {model} -q --batch-size 4"

    result = subprocess.run(
        ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}"], cwd=tmp_path, capture_output=True, text=True
    )

    row, code = result.stdout.splitlines()
    assert json.loads(row)["file_name"] == "photos/0.png"
    assert (code, result.stderr) == ("0", "")


def test_a_slow_producer_is_answered_while_it_still_writes(
    start: Callable[..., subprocess.Popen[bytes]], photos: Path
) -> None:
    process = start()
    assert process.stdin is not None
    assert process.stdout is not None
    for name in ("red", "green", "blue"):
        process.stdin.write(f"photos/{name}.png\n".encode())
        process.stdin.flush()

        assert json.loads(process.stdout.readline())["file_name"] == f"photos/{name}.png"
    process.stdin.close()
    assert process.wait(HANGS) == 0


@pytest.mark.parametrize(
    ("number", "code", "ended"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_an_interrupted_run_leaves_its_finished_rows_and_says_how_to_go_on(
    number: int, code: int, ended: str, start: Callable[..., subprocess.Popen[bytes]], photos: Path, tmp_path: Path
) -> None:
    process = start("-o", "rows.jsonl")
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"photos/red.png\nphotos/gone.png\n")
    process.stdin.flush()
    part = tmp_path / "rows.jsonl.part"
    wait_for_lines(part, 2, process)

    process.send_signal(number)

    assert process.wait(HANGS) == code
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["photos/red.png", "photos/gone.png"]
    assert not (tmp_path / "rows.jsonl").exists()
    message = process.stderr.read().decode()
    assert message == f"zsclip: {ended}: 2 rows are in rows.jsonl.part; add --resume to continue\n"
    assert main(["classify", "-", *COLOURS, "-o", str(tmp_path / "rows.jsonl")]) == 2  # never silently overwritten


def test_under_nohup_a_run_outlives_its_terminal(photos: Path, model: str, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # all that nohup does
        "from zsclip.cli.main import main\n"
        "import zsclip.pictures.files\n"
        "find = zsclip.pictures.files.find_images\n"
        "def hang_up(*arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    return find(*arguments, **options)\n"
        "zsclip.pictures.files.find_images = hang_up\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "classify", "photos", *COLOURS, "--model", model]

    result = subprocess.run(command, cwd=tmp_path, capture_output=True)

    assert (result.returncode, result.stdout.count(b"\n")) == (0, 3)


def test_a_run_that_ends_before_its_first_row_leaves_no_file(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start("-o", "rows.csv")
    while not (tmp_path / "rows.csv.part").exists():
        assert process.poll() is None
        time.sleep(0.01)

    process.send_signal(signal.SIGTERM)

    assert process.wait(HANGS) == 143
    assert list(tmp_path.glob("rows*")) == []


def test_a_machine_that_cannot_compile_says_what_to_leave_out(
    run_alone: Run, photos: Path, model: str, tmp_path: Path
) -> None:
    arguments = ("classify", "photos", *COLOURS, "--model", model, "--device", "cpu", "--compile")
    result = run_alone(*arguments, CXX="false", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "compiled"))

    assert (result.returncode, result.stdout) == (3, b"")
    (line,) = result.stderr.decode().splitlines()
    assert "cannot be compiled here: InvalidCxxCompiler" in line
    assert line.endswith("; leave out --compile")


def test_a_mistyped_model_keeps_the_rows_of_an_earlier_run(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv.part").write_text("precious")

    result = run("classify", "photos", *COLOURS, "--model", "nope", "-o", "rows.csv", "--overwrite")

    assert result.returncode == 3
    assert (tmp_path / "rows.csv.part").read_text() == "precious"


def test_a_finished_file_is_kept_before_a_model_is_looked_for(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("old.csv", "old.html", "old.png", "old.json"):
        Path(name).write_text("precious")
    classify = ["classify", "photos", *COLOURS]
    for arguments, name, hint in (
        ([*classify, "-o", "old.csv"], "old.csv", ", or --resume if this is the same run again"),
        ([*classify, "--report", "old.html"], "old.html", ""),
        ([*classify, "--contact-sheet", "old.png"], "old.png", ""),
        (["eval", "photos", "--rows", "old.csv"], "old.csv", ""),
        (["eval", "photos", "--report", "old.html"], "old.html", ""),
        (["eval", "photos", "--confusion", "old.png"], "old.png", ""),
        (["calibrate", "photos", "-o", "old.json"], "old.json", ""),
    ):
        assert main([*arguments, "--model", "nowhere"]) == 2
        message = capfd.readouterr().err
        assert message == f"zsclip: {name}: already exists; add --overwrite to replace it{hint}\n"
        assert Path(name).read_text() == "precious"


def test_a_closed_stderr_lets_nothing_into_the_results(photos: Path, model: str, tmp_path: Path) -> None:
    """libtiff writes to descriptor 2 itself, which must not be the results' file."""
    command = f"{sys.executable} -m zsclip classify photos {' '.join(COLOURS)} --model {model} -o rows.jsonl 2>&-"
    Image.new("1", (64, 64)).save(photos / "fax.tif", compression="group4")
    fax = bytearray((photos / "fax.tif").read_bytes())
    fax[8:40] = bytes(range(200, 232))
    (photos / "fax.tif").write_bytes(fax)

    subprocess.run(["bash", "-c", command], cwd=tmp_path)

    assert len([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]) == 4


def test_a_dash_as_output_is_stdout(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    result = run("classify", "photos", *COLOURS, "--model", model, "-o", "-", "--only", " red ", "--format", "paths")

    assert result.returncode == 0
    assert not (tmp_path / "-").exists()


def test_a_full_disk_is_exit_4_for_lists_too() -> None:
    for command in (["prompts", "list"], ["models", "list"]):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([sys.executable, "-m", "zsclip", *command], stdout=full, stderr=subprocess.PIPE)

        assert (result.returncode, result.stderr.count(b"\n")) == (4, 1)
        closed = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m zsclip {' '.join(command)} >&-"], capture_output=True
        )
        assert (closed.returncode, closed.stderr.count(b"\n")) == (4, 1)


def test_a_full_disk_is_exit_4(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    arguments = ["classify", "photos", *COLOURS, "--model", model, "-q"]
    with open("/dev/full", "wb") as full:
        piped = subprocess.run(
            [sys.executable, "-m", "zsclip", *arguments], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path
        )

    for result in (run(*arguments, "-o", "/dev/full"), piped):
        assert result.returncode == 4
        assert result.stderr.startswith(b"zsclip: ")
        assert result.stderr.count(b"\n") == 1
        assert b"no space left" in result.stderr


def test_a_closed_stdout_is_reported_in_one_line(photos: Path, model: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m zsclip classify photos {' '.join(COLOURS)} --model {model} >&-"

    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)

    assert (result.returncode, result.stderr.count("\n")) == (4, 1)
    assert result.stderr.startswith("zsclip: standard output: it is closed")


def test_a_damaged_or_unwritable_cache_changes_no_row(run_alone: Run, photos: Path, model: str) -> None:
    arguments = ("classify", "photos", *COLOURS, "--model", model, "-q")
    expected = run_alone(*arguments)
    assert (expected.returncode, expected.stderr) == (0, b"")
    (cache_dir() / FILE_NAME).write_bytes(b"damaged" * 1000)

    for result in (run_alone(*arguments), run_alone(*arguments, ZSCLIP_CACHE_DIR="/proc/nowhere")):
        assert (result.returncode, result.stderr, result.stdout) == (0, b"", expected.stdout)


def test_a_terminal_gets_a_table_and_sees_what_is_going_on_before(photos: Path, model: str, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "zsclip", "classify", "photos", *COLOURS, "--model", model],
        stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, cwd=tmp_path, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            some = os.read(leader, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not some:
            break
        seen += some
    os.close(leader)

    assert process.wait(HANGS) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    progress, *rows = re.split(r"(?=photos/\w+\.png)", text)
    assert [row.split()[0] for row in rows] == [f"photos/{c}.png" for c in ("blue", "green", "red")]
    assert re.search(r"looking for model .*loading ", progress, re.DOTALL)
    assert not any(" of 3 images" in row for row in rows)  # nothing is drawn between rows
    assert "█" in text or "▏" in text or "▌" in text
    assert re.search(r"^3 images( in \d|\s*$)", text, re.MULTILINE)  # no time under 0.05 s


def test_every_flag_of_train_reaches_the_recipe(
    tiny_model: Callable[[str], Path], tmp_path: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("red", "green", "blue"):
        (photos / name).mkdir()
        (photos / f"{name}.png").rename(photos / name / "a.png")
    model = tiny_model("plain")
    given = ["train", str(photos), "--out", str(tmp_path / "out"), "--holdout", "0", "--epochs", "1"]
    given += ["--precision", "fp32"]  # and not what this machine makes of "auto"
    arch = ["--arch", str(model / "open_clip_config.json")]
    assert main([*given, *arch]) == 0
    changes = {
        "epochs": "2", "batch-size": "20", "accumulate": "2", "learning-rate": "1e-4", "weight-decay": "0.2",
        "warmup": "0.5", "precision": "bf16", "average": "0.5", "start-size": "16", "prompts": "plain",
        "synonyms": "0.5", "broader": "0.5", "other-data-weight": "0.5", "crop-scale": "0.5", "blur": "0.5",
        "chroma": "0.5", "saturation": "0.5", "sharpen": "0.5", "colour": "0.5", "holdout": "9",
        "save-precision": "fp32", "seed": "1",
    }  # fmt: skip
    attempts = [(name, [*arch, f"--{name}", value]) for name, value in changes.items()]
    attempts += [(name, [*arch, f"--{name}"]) for name in ("broader-are-true", "against-all-labels")]
    attempts += [(f"lock-{tower}", ["--init", str(model), f"--lock-{tower}"]) for tower in ("image", "text")]
    for name, flags in attempts:
        capfd.readouterr()

        assert main([*given, *flags]) == 2
        assert re.search(rf"was trained with (.*, )?{name} .* \(now .*\)", capfd.readouterr().err), name


def test_a_training_that_is_stopped_goes_on_and_its_model_classifies(
    run: Run, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    for name, colour in (("red", (220, 30, 30)), ("green", (30, 200, 40)), ("blue", (30, 40, 220))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(30):
            Image.new("RGB", (32, 32), tuple(value + i for value in colour)).save(tmp_path / f"data/{name}/{i}.png")
    arguments = ["train", "data", "--out", "out", "--arch", str(tiny_model("plain") / "open_clip_config.json")]
    arguments += [
        "--epochs",
        "6",
        "--batch-size",
        "30",
        "--precision",
        "fp32",
        "--holdout",
        "9",
        "--learning-rate",
        "1e-3",
    ]
    arguments += ["--crop-scale", "0.9", "--prompts", "photo", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zsclip", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert process.stdout is not None
    assert b"epoch 0 (before training): " in process.stderr.readline()
    assert b"epoch 1: " in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANGS) == 143
    assert process.stdout.read() == b""
    process.stdout.close()
    process.stderr.close()
    assert not (tmp_path / "out" / "open_clip_model.safetensors").exists()

    rest = run(*arguments)

    assert (rest.returncode, rest.stdout) == (0, b"out\n")
    assert b"epoch 1: " not in rest.stderr
    complete = run(*arguments)
    assert (complete.returncode, complete.stdout) == (0, b"out\n")
    assert b"out: this training was already complete; use another --out to train again\n" in complete.stderr
    assert b"epoch 6: " in rest.stderr
    result = run("classify", "data", "--labels", "red,green,blue", "--model", "out", "-q")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    right = sum(row["label"] == Path(row["file_name"]).parent.name for row in rows)
    assert right / len(rows) > 0.9


def examples_of_train() -> list[str]:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ (zsclip train .*)$", readme, re.MULTILINE)
    return [*shown, *re.findall(r"^ +(zsclip train .*)$", commands()["train"], re.MULTILINE)]


@pytest.mark.parametrize("example", examples_of_train())
def test_the_examples_of_train_run_and_their_model_classifies(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    example: str,
) -> None:
    for name, colour in (("oak", (220, 30, 30)), ("ash", (30, 200, 40)), ("elm", (30, 40, 220))):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (32, 32), tuple(value + i for value in colour)).save(tmp_path / f"labelled/{name}/{i}.png")
    monkeypatch.chdir(tmp_path)
    _, *arguments = shlex.split(example)
    out = arguments[arguments.index("--out") + 1]

    assert main([str(tiny_model("plain")) if word == "base" else word for word in arguments]) == 0

    captured = capfd.readouterr()
    assert captured.out == f"{out}\n"
    message = captured.err.splitlines()
    assert message[0].startswith("epoch 0 (before training): ")
    assert message[0].endswith("of 6 held-out images, 3 labels")
    assert message[-1].startswith("zsclip: held-out: ")
    assert not [line for line in message if "worse" in line]
    assert main(["classify", "labelled", "--labels", "oak,ash,elm", "--model", out, "-q"]) == 0


def test_prompts_show_counts_tokens_and_marks_what_is_cut(
    model: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("cat\n" + "very " * 40 + "dog\n")

    assert main(["prompts", "show", "photo", "--labels-file", str(tmp_path / "labels.txt"), "--model", model]) == 0

    cat, dog = capfd.readouterr().out.splitlines()
    assert cat == "cat\t8\ta photo of a cat."
    assert dog.endswith("cut at 24")


def test_prompts_list_and_show_without_labels(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts", "list"]) == 0
    assert "photo" in capfd.readouterr().out
    assert main(["prompts", "show", "plain"]) == 0
    assert capfd.readouterr().out == "{}\n"


def test_models_list_has_a_line_a_model(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0

    header, *lines = (line.split("\t") for line in capfd.readouterr().out.splitlines())
    table = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert table["ViT-B-32-256,datacomp_s34b_b86k"]["alias"] == "base"
    large = table["ViT-L-14,datacomp_xl_s13b_b90k"]
    assert large["ImageNet top-1"] == "79.2%"
    assert large["download (MB)"] == "~1710"  # 428 million parameters of 4 bytes
    assert not table["tiny"]["download (MB)"].startswith("~")  # its file is here
    assert len(table) == len(lines) > 190


def test_models_list_takes_words_to_look_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "vit-l", "OPENAI"]) == 0

    names = [line.split("\t")[0] for line in capfd.readouterr().out.splitlines()[1:]]
    assert {"ViT-L-14,openai", "ViT-L-14-336,openai"} <= set(names)
    assert all("vit-l" in name.lower() and "openai" in name for name in names)
    assert main(["models", "list", "multilingual"]) == 0  # an alias
    assert "SigLIP2" in capfd.readouterr().out
    assert main(["models", "list", "nope"]) == 2
    assert "no model matches 'nope'" in capfd.readouterr().err


@pytest.mark.parametrize("columns", ["80", "120"])
def test_models_list_is_an_aligned_table_on_a_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", columns)
    out = Terminal()
    write_models(published_models(), out)

    header, *lines = out.getvalue().splitlines()
    assert max(map(len, [header, *lines])) <= int(columns)
    assert ("GFLOPs" in header) == (columns == "120")
    (base,) = (line for line in lines if "(base)" in line)
    assert base.startswith("ViT-B-32-256,datacomp_s34b_b86k (base) ")
    assert base[: header.index("download") + len("download")].endswith(" ~0.61 GB")  # 151 million parameters
    assert "\x1b" not in out.getvalue()


def test_models_info_describes_a_model(tiny_model: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "info", str(tiny_model("siglip"))]) == 0

    message = capfd.readouterr().out
    assert "24 x 24 px (both sides scaled; " in message
    assert "sigmoid" in message
    assert str(tiny_model("siglip") / "open_clip_model.safetensors") in message


def test_cache_info_and_clear(run: Run, photos: Path, model: str, capfd: pytest.CaptureFixture[str]) -> None:
    run("classify", "photos", *COLOURS, "--model", model)

    assert main(["cache", "info"]) == 0
    assert re.search(r"^label embeddings +3 rows", capfd.readouterr().out, flags=re.MULTILINE)
    assert main(["cache", "clear"]) == 0
    assert main(["cache", "info"]) == 0
    assert "rows" not in capfd.readouterr().out.replace("freed", "")


def test_the_version_is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"zsclip {version('zsclip')}\n"


def test_pictures_of_every_odd_kind_get_an_answer(run: Run, tmp_path: Path, model: str) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK", "F"):
        ending = {"CMYK": "jpg", "F": "tif"}.get(mode, "png")
        Image.new(mode, (20, 10)).save(folder / f"{mode.replace(';', '')}.{ending}")

    result = run("classify", "odd", *COLOURS, "--model", model)

    assert result.returncode == 0
    assert result.stdout.count(b'"error": null') == 9
