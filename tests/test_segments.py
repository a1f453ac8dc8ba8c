"""Neighbouring frames with one answer are one row; the twin groups the rows of all frames."""

import csv
import io
import json
import subprocess
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from clips import make_clip
from conftest import COLOURS, ColourModel, preprocess_for, words_of
from PIL import Image

from zsclip.answers.answers import Answers
from zsclip.answers.classifier import build_classifier
from zsclip.answers.classify import classify
from zsclip.answers.scores import Rule
from zsclip.models.embed import embed_images, look_ahead
from zsclip.out.segments import Segment, segments, write_segments
from zsclip.pictures import identity
from zsclip.pictures.clips import Frame
from zsclip.pictures.files import find_images
from zsclip.pictures.sampling import Sampling
from zsclip.pixels.limits import Decoding
from zsclip.pixels.skipped import Skipped

Run = Callable[..., subprocess.CompletedProcess[bytes]]
PIXELS = {name: np.full((48, 64, 3), colour, np.uint8) for name, colour in COLOURS.items()}


def film(path: Path, scenes: str, **made: Any) -> Path:
    """A clip with a frame of a colour for each letter, 25 a second."""
    names = {name[0]: name for name in COLOURS}
    return make_clip(path, len(scenes), pictures=[PIXELS[names[each]] for each in scenes], **made)


def answers_of(
    *inputs: Path, limit: int | None = None, batch_size: int = 4, sampling: Sampling | None = None
) -> Iterator[Answers]:
    """The answers for every frame, by a model that knows colours."""
    model = ColourModel()
    classifier = build_classifier(words_of({name: [name] for name in COLOURS}), model)  # type: ignore[arg-type]
    found = find_images([*map(str, inputs)], sampling=sampling or Sampling(1), limit=limit).rest()
    with look_ahead(found, preprocess_for(8), Decoding(), None, batch_size=batch_size, threads=2) as ahead:
        batches = embed_images(ahead.batches(batch_size), model, None)  # type: ignore[arg-type]
        yield from classify(batches, classifier, Rule(k=1))


def found(answers: Iterator[Answers]) -> list[Segment]:
    return [each for some in segments(answers) for each in some]


def twin(rows: list[tuple[str, float, str, float]], end: float) -> list[tuple[float, float, str, float, int]]:
    """Group the rows of one clip: name, seconds, label and score of each frame."""
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row[2])]
    ends = [*(group[0][1] for group in groups[1:]), end]
    return [
        (group[0][1], stop, group[0][2], sum(row[3] for row in group) / len(group), len(group))
        for group, stop in zip(groups, ends, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_segments_are_those_of_the_slow_twin(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    scenes = "".join(letter * int(random.integers(1, 7)) for letter in random.choice([*"rgb"], 9))
    times = np.cumsum(random.integers(1, 900, len(scenes)))
    clip = film(tmp_path / "a.mkv", scenes, times=(times - times[0]).tolist())
    rows = [
        (row.file_name, float(row.file_name.partition("#t=")[2]), str(row.label), float(row.score or 0))
        for answers in answers_of(clip)
        for row in answers
    ]

    some = found(answers_of(clip, batch_size=int(random.integers(1, 9))))

    end = some[-1].end
    assert end is not None
    assert end > rows[-1][1]
    assert [(each.start, each.end, each.label, each.score, each.frames) for each in some] == [
        (start, stop, label, pytest.approx(score), count) for start, stop, label, score, count in twin(rows, end)
    ]
    assert {each.file_name for each in some} == {str(clip)}


def test_the_last_segment_ends_with_the_clip(tmp_path: Path) -> None:
    one, two = film(tmp_path / "a.mp4", "rrrrrggggg"), film(tmp_path / "b.mp4", "gggg")

    assert [(each.start, each.end, each.label) for each in found(answers_of(one, two))] == [
        (0.0, 0.2, "red"),
        (0.2, 0.4, "green"),
        (0.0, 0.16, "green"),
    ]


class Dict(dict[bytes, bytes]):
    """What keeps the times of frames."""

    find = dict.get
    keep = dict.__setitem__


@pytest.mark.parametrize("is_known", [False, True])
def test_with_a_limit_the_last_segment_ends_where_it_would_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    clip = film(tmp_path / "a.mp4", "rrrrrggggg")
    monkeypatch.setattr(identity, "GRAIN_NS", 0)  # else nothing is kept of a clip that is so new
    sampling = Sampling(2, kept=Dict())
    whole = found(answers_of(clip, sampling=sampling)) if is_known else found(answers_of(clip, sampling=Sampling(2)))
    assert [(each.start, each.end) for each in whole] == [(0.0, 0.24), (0.24, 0.4)]
    assert bool(sampling.kept) == is_known

    for limit in range(1, 6):
        some = found(answers_of(clip, limit=limit, sampling=sampling))

        starts = [0.0, 0.08, 0.16, 0.24, 0.32, 0.4]
        assert some[-1].end == starts[limit]
        assert [(each.start, each.end) for each in some[:-1]] == [(each.start, each.end) for each in whole][
            : len(some) - 1
        ]


def test_images_between_videos_stay_as_they_are(tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mp4", "rrr")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b.png")

    some = found(answers_of(clip, tmp_path / "b.png", clip))

    times = [(each.start, each.end) for each in some]
    assert times == [(0.0, pytest.approx(0.12)), (None, None), (0.0, pytest.approx(0.12))]
    assert [each.label for each in some] == ["red"] * 3


def test_frames_that_failed_stay_apart(tmp_path: Path) -> None:
    """Nothing is known about them, so nothing is joined across them."""
    clip = film(tmp_path / "a.mp4", "rrrrrr")
    (whole,) = (answers for answers in answers_of(clip, batch_size=6) if len(answers) == 6)
    names = whole.names
    assert all(isinstance(name, Frame) for name in names)
    failed = {2: Skipped(names[2], "timeout", "slow"), 3: Skipped(names[3], "timeout", "slow")}
    answered = whole.answered.copy()
    answered[[2, 3]] = -1

    some = found(iter([Answers(**vars(whole) | {"answered": answered, "skipped": failed})]))

    assert [(each.start, each.end, each.label, each.frames, each.failed is None) for each in some] == [
        (0.0, 0.08, "red", 2, True),
        (0.08, 0.12, None, 1, False),
        (0.12, 0.16, None, 1, False),
        (0.16, 0.24, "red", 2, True),
    ]


def test_a_clip_that_is_cut_off_has_a_row_that_says_so(tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mkv", "r" * 40 + "g" * 40)
    clip.write_bytes(clip.read_bytes()[:-100])

    *some, last = found(answers_of(clip))

    assert [each.label for each in some] == ["red", "green"]
    assert last.failed is not None
    assert (last.file_name, last.start, last.end, last.frames) == (str(clip), None, None, 0)


def test_formats(tmp_path: Path) -> None:
    clip = film(tmp_path / 'a,"1".mp4', "rrrrrggggg")
    Path(tmp_path / "none.mp4").write_bytes(b"nothing")

    def written(form: str, wanted: set[str | None] | None = None) -> str:
        out = io.StringIO()
        write_segments(answers_of(clip, tmp_path / "none.mp4"), out, form, wanted or set())
        return out.getvalue()

    lines = written("jsonl").splitlines()
    assert '"start": 0.200, "end": 0.400, "label": "green", "score": ' in lines[1]
    one, two, three = map(json.loads, lines)
    assert list(one) == ["file_name", "start", "end", "label", "score", "frames", "error", "message"]
    assert (one["file_name"], one["frames"], one["error"]) == (str(clip), 5, None)
    assert (three["label"], three["start"], three["score"], three["error"]) == (None, None, None, "unreadable")

    for form, separator in (("csv", ","), ("tsv", "\t")):
        rows = list(csv.DictReader(io.StringIO(written(form)), delimiter=separator))
        assert [row["label"] for row in rows] == ["red", "green", ""]
        assert [row["start"] for row in rows] == ["0.000", "0.200", ""]
        assert float(rows[0]["score"]) == one["score"]
        assert rows[2]["message"] == three["message"]
    assert written("table").splitlines()[1].split()[-4:] == ["0.200", "0.400", f"{two['score']:.3f}", "green"]
    assert [row["label"] for row in csv.DictReader(io.StringIO(written("csv", {"green"})))] == ["green"]


def test_only_leaves_out_segments_and_does_not_join_those_around_them(tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mp4", "rrgrr")
    out = io.StringIO()

    write_segments(answers_of(clip), out, "csv", {"red"})

    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert [(row["start"], row["end"]) for row in rows] == [("0.000", "0.080"), ("0.120", "0.200")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "paths"], b"--segments: cannot be written as paths; use --format jsonl, csv, tsv or table"),
        (["-o", "a.jsonl", "--resume"], b"--segments: --resume needs a row for every frame; leave one of the two out"),
        (["--report", "a.html"], b"--segments: --report needs a row for every frame; leave one of the two out"),
        (["--multi-label"], b"--segments: joins frames that have the same one answer; leave out --multi-label"),
        (["-k", "2"], b"--segments: joins frames that have the same one answer; leave out --top-k"),
    ],
)
def test_what_does_not_go_with_segments_is_refused(
    run: Run, tmp_path: Path, arguments: list[str], message: bytes
) -> None:
    film(tmp_path / "a.mp4", "rr")

    done = run("classify", "a.mp4", "-l", "red,blue", "-m", "tiny", "--segments", *arguments)

    assert done.returncode == 2
    assert done.stderr == b"zsclip: " + message + b"\n"


def test_the_command_writes_segments(run: Run, tmp_path: Path) -> None:
    folder = Path(skimage.__file__).parent / "data"
    cat, rocket = (
        np.asarray(Image.open(folder / name).convert("RGB").resize((224, 224)))
        for name in ("chelsea.png", "rocket.jpg")
    )
    make_clip(tmp_path / "a.mp4", 100, size=(224, 224), pictures=[cat] * 50 + [rocket] * 50)
    command = ["classify", "a.mp4", "-l", "cat,rocket", "-m", "tiny", "--segments", "-o", "a.csv"]

    assert run(*command, "--every", "5").returncode == 0

    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [(row["start"], row["end"], row["label"], row["frames"]) for row in rows] == [
        ("0.000", "2.000", "cat", "10"),
        ("2.000", "4.000", "rocket", "10"),
    ]
