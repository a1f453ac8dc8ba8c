"""`zsclip demo`, as its first user runs it, and the photographs that come with it."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from zsclip.cli.demo import FOLDER
from zsclip.cli.main import main

Run = Callable[..., subprocess.CompletedProcess[bytes]]
ANSWERS = {
    "astronaut.jpg": "person",
    "camera.jpg": "camera",
    "chelsea.jpg": "cat",
    "coffee.jpg": "cup of coffee",
    "rocket.jpg": "rocket",
}


def answers_in(table: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.]+) +[01]\.\d{3} \S+ +([\w ]+)$", table, re.MULTILINE))


def test_it_recognises_the_photographs_without_a_network_and_from_any_folder(run_alone: Run, tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"  # where nothing answers

    done = run_alone("demo", HTTPS_PROXY=proxy, HTTP_PROXY=proxy, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hub"))

    assert done.returncode == 0
    assert done.stderr == b""
    assert answers_in(done.stdout.decode()) == ANSWERS
    assert not (tmp_path / "hub").exists()


def test_the_commands_that_it_shows_give_what_it_shows(run_alone: Run) -> None:
    shown = run_alone("demo").stdout.decode()
    folder, command = re.findall(r"^\$ (.+)$", shown, re.MULTILINE)
    rows, _, hints = shown.partition(command)[2].partition("\nNext, try:\n")

    zsclip = f"{shlex.quote(sys.executable)} -m zsclip"
    line = f"{folder} && {command.replace('zsclip', zsclip, 1)}"
    # With env: readline, which pytest imports, sets COLUMNS where Python does not see it.
    typed = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, env=os.environ)

    assert typed.stdout == rows.lstrip("\n")
    assert len(hints.splitlines()) >= 4
    assert "zsclip doctor" in hints


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="finds loaded libraries in /proc")
def test_it_loads_no_torch_where_onnx_runtime_is_there(run_alone: Run) -> None:
    pytest.importorskip("onnxruntime")
    code = (
        "import sys; from zsclip.cli.main import main; code = main(['demo']);"
        "assert not {'torch', 'open_clip'} & sys.modules.keys(); sys.exit(code)"
    )

    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=os.environ)


def test_a_relative_cache_is_not_put_beside_the_photographs(run_alone: Run, tmp_path: Path) -> None:
    before = set(FOLDER.iterdir())

    assert run_alone("demo", ZSCLIP_CACHE_DIR="kept").returncode == 0

    assert set(FOLDER.iterdir()) == before
    assert (tmp_path / "kept").is_dir()


def test_it_leaves_the_working_directory_as_it_was(empty_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    assert Path.cwd() == empty_folder
    assert answers_in(capfd.readouterr().out) == ANSWERS


def test_the_photographs_are_small_and_each_has_an_author_and_terms() -> None:
    photos = {path.name: path for path in FOLDER.glob("*.jpg")}
    credits = (FOLDER / "README.md").read_text(encoding="utf-8")

    assert photos.keys() == ANSWERS.keys()
    assert sum(path.stat().st_size for path in photos.values()) <= 100_000
    for path in photos.values():
        with Image.open(path) as photo:
            assert 256 <= max(photo.size) <= 320
            assert "icc_profile" not in photo.info  # open_clip, which doctor compares with, would ignore it
    rows = re.findall(r"^\| `(\S+)` \| .+ \| .+ \| (public domain|CC0 1\.0) \|$", credits, re.MULTILINE)
    assert {name for name, _ in rows} == photos.keys()
