"""Answers about members of archives and frames of videos are reviewed, corrected and learnt from as those of files."""

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clips import make_clip
from conftest import make_class_folders
from PIL import Image
from test_heads import make_pictures, refusal
from test_train import ARCHITECTURE

from zsclip.measure.labelled import read_labelled
from zsclip.out.corrections import Corrections
from zsclip.out.reader import read_answers
from zsclip.out.review import Review
from zsclip.pictures.remote import Network
from zsclip.training.pairs import read_pairs

Run = Callable[..., CompletedProcess[bytes]]
KINDS = ("tar", "zip", "parquet", "mp4")


@pytest.fixture
def data(tmp_path: Path, model: str, run: Run) -> Path:
    """Examples in `few`, other pictures in `many`, and the head `h` learnt from the examples."""
    make_pictures(tmp_path / "few", 5, seed=0)
    make_pictures(tmp_path / "many", 6, seed=1)
    done = run("learn", "few", "-o", "h", "-m", model, "-q")
    assert done.returncode == 0, done.stderr
    return tmp_path


def packed(root: Path, kind: str) -> tuple[str, dict[str, str]]:
    """Put the pictures of `many` into `below/many.KIND`; give its name, and the true label of each by its name."""
    files = sorted((root / "many").rglob("*.png"))
    (root / "below").mkdir(exist_ok=True)
    name = f"below/many.{kind}"
    if kind == "tar":
        with tarfile.open(root / name, "w") as archive:
            for number, file in enumerate(files):
                archive.add(file, f"in/{number}.png")
        own = [f"in/{number}.png" for number in range(len(files))]
    elif kind == "zip":
        with zipfile.ZipFile(root / name, "w") as zipped:
            for number, file in enumerate(files):
                zipped.write(file, f"{number}.png")
        own = [f"{number}.png" for number in range(len(files))]
    elif kind == "parquet":
        pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), root / name)
        own = [str(number) for number in range(len(files))]
    else:
        pictures = [np.asarray(Image.open(file)) for file in files]
        make_clip(root / name, len(files), rate=1, size=(24, 24), pictures=pictures, gop=5)
        own = [f"t={number}.000" for number in range(len(files))]
    return name, {f"{name}#{each}": file.parent.name for each, file in zip(own, files, strict=True)}


def correct_all(rows: Path, truths: dict[str, str]) -> Path:
    """Do what a person does on the page of `zsclip review`."""
    file = Path(f"{rows}.corrections.csv")
    answers = list(read_answers(str(rows)))
    review = Review(answers, Corrections(str(file)), title="", threads=1, network=Network(offline=True))
    for number, row in enumerate(answers):
        review.correct(json.dumps({"row": number, "label": truths[row.name]}).encode())
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_corrected_is_learnt_judged_and_trained_on(
    kind: str, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    name, truths = packed(data, kind)
    (data / "out").mkdir()
    done = run("classify", name, "--head", "h", "-o", "out/rows.csv", "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    corrections = correct_all(Path("out/rows.csv"), truths)
    with open(corrections, newline="") as lines:
        assert [row["file_name"] for row in csv.DictReader(lines)] == [f"../{each}" for each in truths]

    learnt = run("learn", str(corrections), "--add-to", "h", "-o", "h2", "--json", "-q")
    judged = run("eval", str(corrections), "--head", "h2", "--rows", "judged.jsonl", "-q")
    Path("arch.json").write_text(json.dumps({"model_cfg": ARCHITECTURE}))
    trained = run(
        "train", str(corrections), "--arch", "arch.json", "--out", "own", "--epochs", "1", "--batch-size", "6",
        "--holdout", "0", "--device", "cpu", "--precision", "fp32", "-q",
    )  # fmt: skip

    assert learnt.returncode == judged.returncode == trained.returncode == 0, learnt.stderr + judged.stderr
    assert json.loads(learnt.stdout)["examples"] == dict.fromkeys(("cloud", "river", "stone"), 11)
    found = [json.loads(line) for line in Path("judged.jsonl").read_text().splitlines()]
    assert {row["file_name"].removeprefix("out/../"): row["truth"] for row in found} == truths
    assert not any(row["error"] for row in found)
    assert b"skipped" not in trained.stderr
    assert Path("own/open_clip_config.json").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_gone_costs_the_others_nothing(kind: str, run: Run, data: Path) -> None:
    """For training, too, although all of them are in one list."""
    name, truths = packed(data, kind)
    gone = {"parquet": "99", "mp4": "t=99.000"}.get(kind, "gone.png")
    rows = [f"{each},{truth}" for each, truth in truths.items()]
    rows.insert(3, f"{name}#{gone},stone")
    (data / "list.csv").write_text("\n".join(["file_name,label", *rows]))
    notes: list[str] = []

    pairs = read_pairs([str(data / "list.csv")], note=notes.append)
    encoded = [pairs._encoded(number).content for number in (*range(len(rows)), 3)]
    learnt = run("learn", "list.csv", "--add-to", "h", "-o", "h2", "--json")

    reasons = {"parquet": "the Parquet file has no such row", "mp4": "no frame at 99.000 s; the last is at 17.000 s"}
    reason = reasons.get(kind, "the archive has no such member")
    assert [each is None for each in encoded] == [number == 3 for number in range(len(rows))] + [True]
    assert notes == [f"{data}/{name}#{gone}: image skipped: {reason}"]
    assert learnt.returncode == 1
    assert json.loads(learnt.stdout)["examples"] == dict.fromkeys(("cloud", "river", "stone"), 11)
    assert f"{name}#{gone}".encode() in learnt.stderr
    assert reason.encode() in learnt.stderr


def test_rows_of_several_containers_in_any_order(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a person corrects them. Each container is searched once."""
    monkeypatch.chdir(data)
    opened: list[str] = []
    real = Network.open
    monkeypatch.setattr(Network, "open", lambda self, path: opened.append(path) or real(self, path))
    names = [packed(data, kind) for kind in KINDS]
    opened.clear()
    rows = [
        f"{name},{truth}" for some in zip(*(each.items() for _, each in names), strict=True) for name, truth in some
    ]
    Path("list.csv").write_text("\n".join(["file_name,label", *rows]))

    labelled = read_labelled("list.csv")

    for place, word in enumerate(labelled.words):
        with labelled.pictures.open(place) as file, Image.open(file) as image:
            assert ("stone", "river", "cloud")[int(np.asarray(image.convert("RGB")).mean(axis=(0, 1)).argmax())] == word
    assert sorted(set(opened)) == sorted(opened)
    assert list(labelled.files) == ["list.csv", *(name for name, _ in names)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_is_a_picture_to_search_for_and_to_learn_from(kind: str, run: Run, data: Path, model: str) -> None:
    name, truths = packed(data, kind)
    one = list(truths)[4]

    found = run("search", "--like", one, "--in", name, "-m", model, "-f", "jsonl", "-n", "1", "-q")
    examples = [f"{truth}={each}" for each, truth in truths.items()]
    given = [each for one in examples for each in ("--example", one)]
    rows = [f"{each},{truth}" for each, truth in truths.items()]
    (data / "list.csv").write_text("\n".join(["file_name,label", *rows]))
    answers = [
        run("classify", "few", *way, "-m", model, "-f", "jsonl", "-q") for way in (given, ["--examples", "list.csv"])
    ]

    assert found.returncode == 0, found.stderr
    (row,) = map(json.loads, found.stdout.splitlines())
    assert (row["file_name"], row["label"]) == (one, one)
    assert row["score"] == pytest.approx(1, abs=1e-3)
    assert [done.returncode for done in answers] == [0, 0], answers[0].stderr
    assert scores_of(answers[0]) == pytest.approx(scores_of(answers[1]), abs=1e-5)


def scores_of(done: CompletedProcess[bytes]) -> list[float]:
    return [json.loads(line)["score"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ("search", "--like", "a.zip#gone.png", "--in", "few"),
            "--like a.zip#gone.png: the archive has no such member",
        ),
        (("search", "--like", "a.mp4#t=9", "--in", "few"), "--like a.mp4#t=9: no frame at 9 s; the last is at 2.000 s"),
        (("search", "--like", "b.zip#gone.png", "--in", "few"), "--like b.zip#gone.png: no such file; check the path"),
        (("search", "--like", "ftp://x/y", "--in", "few"), "'ftp://x/y': this kind of URL is not read"),
        (
            ("classify", "few", "--example", "cat=b.zip#x.png"),
            "--example 'cat=b.zip#x.png': no such file: 'b.zip#x.png'",
        ),
        (("classify", "few", "--example", "cat=ftp://x/y"), "'ftp://x/y': this kind of URL is not read"),
        (("classify", "few", "--example", "cat=https://x/y", "--offline"), "'https://x/y': a URL, which --offline"),
    ],
)
def test_what_is_not_there_is_one_line(
    arguments: tuple[str, ...], why: str, run: Run, tmp_path: Path, model: str
) -> None:
    pytest.importorskip("aiohttp")
    make_class_folders(tmp_path / "few", ("a", "b"), 1)
    make_clip(tmp_path / "a.mp4", 3, rate=1)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("a.png", b"")

    assert why in refusal(run(*arguments, "-m", model))


def test_a_picture_on_a_server_is_one_to_search_for_and_to_learn_from(run: Run, data: Path, model: str) -> None:
    pytest.importorskip("aiohttp")
    from servers import serving

    with serving(data) as server:
        found = run(
            "search",
            "--like",
            f"{server.url}/many/stone/3.png",
            "--in",
            "many",
            "-m",
            model,
            "-f",
            "paths",
            "-n1",
            "-q",
        )
        urls = [f"{label}={server.url}/few/{label}/0.png" for label in ("stone", "river")]
        far = run("classify", "many", "--example", urls[0], "--example", urls[1], "-m", model, "-f", "jsonl", "-q")
    near = ["--example", "stone=few/stone/0.png", "--example", "river=few/river/0.png"]

    assert found.stdout == b"many/stone/3.png\n"
    assert far.returncode == 0, far.stderr
    assert scores_of(far) == pytest.approx(scores_of(run("classify", "many", *near, "-m", model, "-f", "jsonl", "-q")))


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_of_a_review_shows_them_whole(
    kind: str, run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    name, truths = packed(data, kind)
    run("classify", name, "--head", "h", "-o", "rows.jsonl", "-q")
    answers = list(read_answers("rows.jsonl"))
    review: Any = Review(answers, Corrections("c.csv"), title="", threads=2, network=Network(offline=True))

    for number in (7, 3, 11):
        media, body = review.picture(number)
        data_of = body if isinstance(body, bytes) else body.read()
        shown = np.asarray(Image.open(io.BytesIO(data_of)).convert("RGB")).mean(axis=(0, 1))
        assert media == ("image/jpeg" if kind == "mp4" else "image/png")
        assert ("stone", "river", "cloud")[int(shown.argmax())] == list(truths.values())[number]
        assert review.thumbnail(number)[0] == "image/webp"
