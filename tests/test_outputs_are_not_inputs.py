"""No output destroys an input, however its path is spelt: through the real command line, on real files."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HANGS, make_class_folders

from zsclip.cli.options import Inputs

COLOURS = ("--labels", "red,green,blue")
LOST = {
    "--labels-file": ("labels.txt", "red\ngreen\nblue\n"),
    "--prompts": ("prompts.txt", "a photo of a {}.\n"),
    "--distractors": ("others.txt", "cat\ndog\n"),
}


@pytest.fixture
def model(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A model of one's own, as nothing may happen to the one that tests share."""
    return Path(shutil.copytree(tiny_model("plain"), tmp_path / "model"))


@pytest.fixture
def refused(run: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path) -> Callable[..., str]:
    """Give a function: arguments -> the one line of a refusal, which left every file as it was."""

    def message(*arguments: str | Path, input: bytes = b"", overwrite: bool = True) -> str:
        before = contents(tmp_path)
        done = run(*arguments, *["--overwrite"] * overwrite, input=input)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count(b"\n") == 1, done.stderr
        assert contents(tmp_path) == before
        assert done.stdout == b""
        return done.stderr.decode()

    return message


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("flag", LOST)
def test_rows_do_not_replace_a_file_of_words(
    flag: str, overwrite: bool, photos: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    name, text = LOST[flag]
    (tmp_path / name).write_text(text)
    labels = () if flag == "--labels-file" else COLOURS

    said = refused(
        "classify", "photos", *labels, flag, name, "-m", model, "-f", "jsonl", "-o", f"./{name}", overwrite=overwrite
    )

    assert said == (
        f"zsclip: -o ./{name}: would overwrite {flag} {name}, which this run reads; write to another file\n"
    )


def test_rows_do_not_replace_a_calibration(model: Path, tmp_path: Path, refused: Callable[..., str], run) -> None:
    make_class_folders(tmp_path / "data", ("cat", "dog"), 8)
    assert run("calibrate", "data", "-m", model, "-o", "c.json", "-q", "--target-share", "0.5").returncode == 0

    said = refused(
        "classify", "data", "-l", "cat,dog", "--calibration", "c.json", "-m", model, "-f", "csv", "-o", "c.json"
    )

    assert "would overwrite --calibration c.json" in said


@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_rows_do_not_replace_a_file_of_the_model(
    name: str, photos: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    for option in (model, f"local-dir:{model}"):
        said = refused("classify", "photos", *COLOURS, "-m", option, "-f", "jsonl", "-o", f"model/{name}")

        assert f"would overwrite a file of the model {option}" in said


def test_rows_do_not_replace_a_file_of_the_model_that_a_calibration_names(
    model: Path, tmp_path: Path, refused: Callable[..., str], run
) -> None:
    make_class_folders(tmp_path / "data", ("cat", "dog"), 8)
    assert run("calibrate", "data", "-m", model, "-o", "c.json", "-q", "--target-share", "0.5").returncode == 0
    (model / "notes.csv").write_text("beside the weights\n")

    for command in (("classify", "-o"), ("eval", "--rows")):
        said = refused(command[0], "data", "--calibration", "c.json", command[1], "model/notes.csv")

        assert f"{command[1]} model/notes.csv: would overwrite a file of the model {model}" in said


def test_a_comparison_is_not_appended_to_a_file_of_a_model(data: Path, model: Path, tmp_path: Path) -> None:
    before = contents(model)
    command = [sys.executable, "-m", "zsclip", "compare", "data", "-m", str(model), "-m", "tiny"]
    with open(model / "open_clip_config.json", "ab") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, cwd=tmp_path, timeout=HANGS)

    assert done.returncode == 2
    assert f"standard output: would overwrite a file of the model {model}".encode() in done.stderr
    assert contents(model) == before


@pytest.mark.parametrize("given", ["photos/red.png", "photos", "photos/*.png", "photos/../photos", "."])
@pytest.mark.parametrize("overwrite", [False, True])
def test_rows_do_not_replace_an_image(
    given: str, overwrite: bool, photos: Path, model: Path, refused: Callable[..., str]
) -> None:
    said = refused("classify", given, *COLOURS, "-m", model, "-f", "csv", "-o", "photos/red.png", overwrite=overwrite)

    assert "zsclip: -o photos/red.png: would overwrite the image '" in said


def test_a_link_to_an_input_is_the_input(
    photos: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "link.csv").symlink_to("photos/red.png")
    (tmp_path / "hard.csv").hardlink_to(photos / "red.png")
    (tmp_path / "elsewhere").symlink_to("photos")

    for name in ("link.csv", "hard.csv", "elsewhere/../photos/red.png"):
        assert "would overwrite the image" in refused(
            "classify", "elsewhere", *COLOURS, "-m", model, "-f", "csv", "-o", name
        )


@pytest.mark.parametrize("name", ["rows.csv", "sheet.png"])
def test_an_output_reached_through_a_link_in_a_folder_counts_as_its_image(
    name: str, photos: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(photos / "red.png", tmp_path / "out" / name)
    flags = ("-o", f"out/{name}") if name == "rows.csv" else ("-o", "new.csv", "--contact-sheet", f"out/{name}")
    links = {
        "hard": lambda: (photos / "a.png").hardlink_to(tmp_path / "out" / name),
        "symbolic": lambda: (photos / "a.png").symlink_to(f"../out/{name}"),
        "to its folder": lambda: (photos / "a").symlink_to("../out"),
    }
    for kind, link in links.items():
        link()

        said = refused("classify", "photos", *COLOURS, "-m", model, *flags, *["--all-files"] * (kind[:2] == "to"))

        assert f"{flags[-2]} out/{name}: would overwrite the image 'photos/a" in said, kind
        next(photos.glob("a*")).unlink()


def test_folders_are_walked_once_unless_an_output_may_be_an_image_in_them(photos: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "rows.csv", tmp_path / "sheet.png", photos / "rows.csv", photos / "sheet.png"):
        file.touch()
    (tmp_path / "also.csv").hardlink_to(tmp_path / "rows.csv")
    (tmp_path / "elsewhere").symlink_to("photos")
    images = {str(photos / name) for name in ("blue.png", "green.png", "red.png", "sheet.png")}

    def read(*written: Path, **options: object) -> set[str]:
        others = {"all_files": False} | options
        given = Inputs(inputs=[str(tmp_path / "elsewhere"), str(tmp_path / "*.png")], **others)  # type: ignore[arg-type]
        return {os.path.realpath(path) for _, path in given.reads([*map(str, written)])}

    alone = {str(tmp_path / "sheet.png")}
    for written in ((), (photos / "rows.csv",), (tmp_path / "sheet.png",), (photos / "gone.png",)):
        assert read(*written) == alone
    assert read(tmp_path / "rows.csv") == read(photos / "sheet.png") == read(Path("/dev/stdout")) == images | alone
    assert read(photos / "rows.csv", all_files=True) == images | alone | {str(photos / "rows.csv")}


def test_an_image_that_is_left_out_may_be_replaced(photos: Path, model: Path, run) -> None:
    command = ("classify", "photos", *COLOURS, "-m", model, "--contact-sheet", "photos/sheet.png", "-q")
    assert run(*command, "-o", "a.csv").returncode == 0

    again = run(*command, "-o", "b.csv", "--overwrite", "--exclude", "sheet.png")
    assert (again.returncode, again.stderr) == (0, b"")
    assert b"would overwrite the image 'photos/sheet.png'" in run(*command, "-o", "c.csv", "--overwrite").stderr


@pytest.mark.parametrize("is_file", [True, False])
def test_an_image_or_list_that_stdin_names_is_not_replaced(
    is_file: bool, photos: Path, model: Path, tmp_path: Path, run_alone
) -> None:
    (tmp_path / "list.txt").write_text("photos/green.png\nphotos/red.png\n")
    before = contents(photos)
    for target in ("photos/red.png", *["list.txt"] * is_file):
        with open(tmp_path / "list.txt", "rb") as names:
            command = [sys.executable, "-m", "zsclip", "classify", "-", *COLOURS, "-m", str(model), "-f", "csv"]
            done = subprocess.run(
                [*command, "-o", target, "--overwrite"],
                **({"stdin": names} if is_file else {"input": names.read()}),
                capture_output=True,
                cwd=tmp_path,
                timeout=HANGS,
            )

        assert done.returncode == 2, done.stderr
        assert f"-o {target}: would overwrite ".encode() in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert contents(photos) == before
    assert (tmp_path / "list.txt").read_text().startswith("photos/green.png\n")
    if is_file:
        assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize("given", ["a.tar#d/red.png", "list.csv", "-"])
def test_an_archive_is_not_replaced_by_the_rows_of_one_of_its_members(
    given: str, photos: Path, model: Path, tmp_path: Path, run, run_alone
) -> None:
    """A pipe as stdin, which only a process of its own has, is not read ahead."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(photos, "d")
    (tmp_path / "list.csv").write_text("file_name\na.tar#d/red.png\n")
    before = (tmp_path / "a.tar").read_bytes()

    command = ("classify", given, *COLOURS, "-m", model, "-f", "csv", "-o", "a.tar", "--overwrite")
    done = run_alone(*command, input=b"a.tar#d/red.png\n") if given == "-" else run(*command)

    assert done.returncode == 2
    assert done.stderr == (
        b"zsclip: -o a.tar: would overwrite the archive of 'a.tar#d/red.png', which this run reads; "
        b"write to another file\n"
    )
    assert (tmp_path / "a.tar").read_bytes() == before


def test_two_outputs_of_one_name_are_refused(photos: Path, model: Path, refused: Callable[..., str]) -> None:
    command = ("classify", "photos", *COLOURS, "-m", model)

    assert refused(*command, "-o", "x.html", "--report", "./x.html", overwrite=False) == (
        "zsclip: --report ./x.html: would overwrite -o x.html; write to another file\n"
    )
    assert "--report" in refused(*command, "-o", "x.html", "--report", "x.html", overwrite=True)
    assert "--contact-sheet x.png" in refused(*command, "-f", "csv", "-o", "x.png", "--contact-sheet", "x.png")


def test_the_journal_of_an_output_replaces_no_input(
    photos: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    for name in ("rows.csv.part", "rows.csv.part.json"):
        template = "a photo of a {}."
        (tmp_path / name).write_text(json.dumps({"templates": [template]}) if name.endswith("json") else template)

        said = refused("classify", "photos", *COLOURS, "--prompts", name, "-m", model, "-o", "rows.csv")

        assert said.startswith(f"zsclip: -o rows.csv: would overwrite --prompts {name}")
        (tmp_path / name).unlink()


def test_rows_appended_to_an_input_by_the_shell_are_refused(photos: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    with open(tmp_path / "labels.txt", "ab") as out:
        done = subprocess.run(
            [sys.executable, "-m", "zsclip", "classify", "photos", "--labels-file", "labels.txt", "-m", str(model)],
            stdout=out, stderr=subprocess.PIPE, cwd=tmp_path, timeout=HANGS,
        )  # fmt: skip

    assert done.returncode == 2
    assert done.stderr.startswith(b"zsclip: standard output: would overwrite --labels-file labels.txt")
    assert (tmp_path / "labels.txt").read_text() == "red\ngreen\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Labelled pictures, and a list of them."""
    folder = make_class_folders(tmp_path / "data", ("cat", "dog"), 8)
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    (tmp_path / "truth.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    return folder


@pytest.mark.parametrize(
    ("given", "flag", "target", "lost"),
    [
        ("truth.csv", "--rows", "truth.csv", "the data truth.csv"),
        ("truth.csv", "--errors", "truth.csv", "the data truth.csv"),
        ("truth.csv", "--confusion", "./truth.csv", "the data truth.csv"),
        ("truth.csv", "--confusion", "data/cat/0.png", "'data/cat/0.png' of the data"),
        ("data", "--confusion", "data/cat/0.png", "'data/cat/0.png' of the data"),
        ("data", "--report", "words.html", "--prompts words.html"),
        ("data", "--rows", "words.html.csv", "--labels-file words.html.csv"),
    ],
)
def test_what_eval_writes_replaces_nothing_that_it_reads(
    given: str, flag: str, target: str, lost: str, data: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "words.html").write_text("a photo of a {}.\n")
    (tmp_path / "words.html.csv").write_text("label\ncat\ndog\n")
    others = ("--prompts", "words.html", "--labels-file", "words.html.csv")

    said = refused("eval", given, "-m", model, flag, target, *(others if "words" in target else ()))

    assert f"zsclip: {flag} {target}: would overwrite {lost}" in said


def test_eval_writes_two_results_into_two_files(data: Path, model: Path, refused: Callable[..., str]) -> None:
    said = refused("eval", "data", "-m", model, "--rows", "x.csv", "--confusion", "x.csv", overwrite=False)

    assert said == "zsclip: --confusion x.csv: would overwrite --rows x.csv; write to another file\n"


def test_a_calibration_replaces_nothing_that_it_is_learnt_from(
    data: Path, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")

    for target in ("truth.csv", "labels.txt", "data/dog/1.png", "model/open_clip_config.json"):
        said = refused("calibrate", "truth.csv", "--labels-file", "labels.txt", "-m", model, "-o", target)

        assert f"-o {target}: would overwrite " in said


def test_training_does_not_replace_the_model_that_it_starts_from(
    data: Path, model: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    before = contents(model)
    (tmp_path / "same").symlink_to("model")
    for out in ("model", "same"):
        done = run("train", "data", "--init", model, "--out", out, "--epochs", "1", "--batch-size", "2")

        assert done.returncode == 2
        assert b"would overwrite a file of --init" in done.stderr
    assert contents(model) == before


def test_an_existing_file_that_is_not_an_input_is_replaced_when_asked(
    photos: Path, model: Path, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    (tmp_path / "rows.csv").write_text("old")

    done = run("classify", "photos", *COLOURS, "-m", model, "-o", "rows.csv", "--overwrite", "-q")

    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "rows.csv").read_text().startswith("file_name,")


def test_all_files_of_a_folder_do_not_include_those_that_are_written_there(
    photos: Path, model: Path, run: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    done = run("classify", "photos", *COLOURS, "-m", model, "--all-files", "-o", "photos/rows.csv", "-q")

    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir(photos)) == ["blue.png", "green.png", "red.png", "rows.csv"]
    again = run("classify", "photos", *COLOURS, "-m", model, "--all-files", "-o", "photos/rows.csv", "--resume")
    assert (again.returncode, again.stderr) == (0, b"zsclip: photos/rows.csv: already complete: 3 images\n")
    assert (
        b"would overwrite the image 'photos/rows.csv'"
        in run(
            "classify", "photos", *COLOURS, "-m", model, "--all-files", "-o", "photos/rows.csv", "--overwrite"
        ).stderr
    )
