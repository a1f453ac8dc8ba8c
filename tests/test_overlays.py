"""`zsclip classify --where`: an overlay beside each row, drawn as `zsclip where` draws it."""

import json
import resource
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
from clips import make_clip
from PIL import Image

from zsclip.answers.answers import Answers
from zsclip.answers.classifier import Classifier, build_classifier
from zsclip.answers.classify import answer
from zsclip.answers.scores import Rule, softmax_scores
from zsclip.answers.where import where_answered
from zsclip.cli.options import Messages
from zsclip.cli.overlays import Beside
from zsclip.cli.speed import Speed
from zsclip.engine.where import Look, looking
from zsclip.models.embed import Embedded
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.patches import Patches, encode_patches
from zsclip.models.torch_encoder import ClipModel
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.fit import Area
from zsclip.words.labels import Label
from zsclip.words.prompts import read_templates
from zsclip.words.words import expand

Run = Callable[..., subprocess.CompletedProcess[bytes]]
DEMO = Path(skimage.__file__).parent / "data"
LABELS = ("-l", "red,green,blue")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def look_alike(folder: Path, other: Path) -> bool:
    """Whether two folders have the same overlays. In another batch, a map differs in its last digits."""
    assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}
    for path in folder.iterdir():
        with Image.open(path) as one, Image.open(other / path.name) as two:
            assert one.size == two.size
            worst = np.abs(np.asarray(one).astype(int) - np.asarray(two)).max()
            assert worst <= 2, (path.name, worst)
    return True


def rows_of(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def two_names(tmp_path: Path) -> Path:
    """An archive with two pictures of the same name, one black and one white."""
    folder = tmp_path / "two"
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for name, colour in (("x", "black"), ("y", "white")):
            (folder / name).mkdir(parents=True)
            Image.new("RGB", (200, 150), colour).save(folder / name / "a.png")
            tar.add(folder / name / "a.png", f"{name}/a.png")
    return tmp_path / "two.tar"


def is_white(overlay: Path) -> bool:
    """Whether an overlay shows the white picture, by its left edge, which the model does not see."""
    with Image.open(overlay) as sheet:
        return sheet.getpixel((20, 80)) == (255, 255, 255)


@pytest.mark.parametrize("k", [(), ("-k", "2")])
def test_overlays_are_those_of_where_and_rows_those_without(
    k: tuple[str, ...], run: Run, photos: Path, model: str, tmp_path: Path
) -> None:
    (photos / "bad.png").write_bytes(b"bad")
    command = (photos, *LABELS, "-m", model)

    plain = run("classify", *command, *k, "--no-store")
    done = run("classify", *command, *k, "--where", "seen", "--no-store")
    again = run("classify", *command, *k, "--where", "again/below")  # kept now
    stored = run("classify", *command, *k, "--where", "stored", "-q")
    expected = run("where", *command, *(k or ("-k", "1")), "-o", "expected")

    assert done.stdout == plain.stdout
    assert done.returncode == plain.returncode == expected.returncode == 1
    seen = files_in(tmp_path / "seen")
    assert list(seen) == ["blue.where.png", "green.where.png", "red.where.png"]
    for other in ("expected", "again/below", "stored"):
        assert look_alike(tmp_path / "seen", tmp_path / other)
    assert (again.stdout, stored.stdout, stored.stderr) == (plain.stdout, plain.stdout, b"")
    (wrote,) = [line for line in done.stderr.decode().splitlines() if line.startswith("wrote")]
    assert all(f"seen/{name} (" in wrote for name in seen)


def test_tiny_answers_in_onnx_runtime_and_shows_where_in_torch(run: Run, tmp_path: Path) -> None:
    labels = ("-l", "cat,cup of coffee", "-m", "tiny", "-q")

    done = run("classify", DEMO / "chelsea.png", DEMO / "coffee.png", *labels, "--where", "seen")
    run("where", DEMO / "chelsea.png", DEMO / "coffee.png", *labels, "-k", "1", "-o", "expected")

    assert [row["label"] for row in rows_of(done)] == ["cat", "cup of coffee"]
    assert look_alike(tmp_path / "seen", tmp_path / "expected")
    assert len(files_in(tmp_path / "seen")) == 2


@pytest.mark.parametrize("more", [(), ("--report", "page.html"), ("--contact-sheet", "sheet.png")])
def test_only_images_with_an_answer_get_an_overlay(
    more: tuple[str, ...], run: Run, photos: Path, model: str, tmp_path: Path
) -> None:
    command = ("classify", photos, *LABELS, "-m", model, *more, "--overwrite")
    scores = {str(row["file_name"]): row["score"] for row in rows_of(run(*command))}
    low, *_, high = sorted(scores.values())  # type: ignore[type-var]
    known = {Path(name).stem + ".where.png" for name, score in scores.items() if score == high}

    some = run(*command, "--threshold", f"{high - 1e-6:.9f}", "--where", "some")
    none = run(*command, "--threshold", "1", "--where", "none")
    only = run(*command, "--only", str(rows_of(run(*command))[0]["label"]), "--where", "only")

    assert low < high
    assert {row["label"] is None for row in rows_of(some)} == {True, False}
    assert set(files_in(tmp_path / "some")) == known
    for name in known:
        with Image.open(tmp_path / "some" / name) as overlay:
            assert overlay.width == 6 + 160 + 6  # a single panel, though a page shows more candidates
    assert not (tmp_path / "none").exists()
    assert b"no overlays in none, as no row has an answer" in none.stderr
    names = {Path(str(row["file_name"])).stem + ".where.png" for row in rows_of(only)}
    assert set(files_in(tmp_path / "only")) == names


def test_with_multi_label_every_label_that_applies_is_shown(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    red = photos / "red.png"
    command = ("classify", red, *LABELS, "-m", model, "--multi-label", "-q")
    scores = [each["score"] for each in rows_of(run(*command, "--threshold", "0"))[0]["predictions"]]  # type: ignore[attr-defined]

    for count, threshold in ((3, 0), (2, scores[1]), (1, scores[0]), (0, 1)):
        run(
            *command,
            "--threshold",
            f"{threshold:.7f}" if count in (0, 3) else str(threshold - 1e-6),
            "--where",
            f"{count}",
        )
    run(*command, "--threshold", "0", "-k", "2", "--where", "best")

    panel = (160 + 6, 120 + 22 + 6)  # small pictures are enlarged, see the tests of `where`
    for folder, columns, rows in (("3", 2, 2), ("2", 2, 1), ("1", 1, 1), ("best", 2, 1)):
        with Image.open(tmp_path / folder / "red.where.png") as overlay:
            assert overlay.size == (6 + columns * panel[0], 6 + rows * panel[1]), folder
    assert not (tmp_path / "0").exists()


@pytest.mark.parametrize("of", ["archive", "list", "paths", "video"])
def test_members_frames_and_images_from_stdin(of: str, two_names: Path, run: Run, model: str, tmp_path: Path) -> None:
    """The second picture of a name is the second file, and it shows the second picture."""
    (tmp_path / "list.csv").write_text("file_name\ntwo/x/a.png\ntwo.tar#y/a.png\n")
    make_clip(tmp_path / "two.mp4", [0, 63], rate=1, size=(200, 152))  # black, then white
    given, stdin = {
        "archive": ("two.tar", b""), "list": ("list.csv", b""), "paths": ("-", b"two/x/a.png\ntwo/y/a.png\n"),
        "video": ("two.mp4", b""),
    }[of]  # fmt: skip

    done = run("classify", given, *LABELS, "-m", model, "--where", "seen", "-q", input=stdin)
    expected = run("where", given, *LABELS, "-m", model, "-k", "1", "-o", "expected", "-q", input=stdin)

    assert (done.returncode, done.stderr, expected.returncode) == (0, b"", 0)
    first, second = sorted(files_in(tmp_path / "seen"), key=lambda name: "-2" in name or "1.000" in name)
    assert (first, second) in {
        ("a.where.png", "a-2.where.png"), ("two.mp4#t=0.000.where.png", "two.mp4#t=1.000.where.png"),
    }  # fmt: skip
    assert look_alike(tmp_path / "seen", tmp_path / "expected")
    assert [is_white(tmp_path / "seen" / name) for name in (first, second)] == [False, True]


def test_one_image_from_stdin(run: Run, photos: Path, model: str, tmp_path: Path) -> None:
    done = run("classify", "-", *LABELS, "-m", model, "--where", "seen", input=(photos / "red.png").read_bytes())

    assert done.returncode == 0
    assert list(files_in(tmp_path / "seen")) == ["stdin.where.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--where", ""], 2, "--where: the name is empty"),
        (["--where", "a.png"], 2, "--where a.png: give a folder"),
        (["--where", "file"], 4, "file: is a file, not a folder"),
        (["--where", "s3://bucket/x"], 2, "only local files can be written"),
        (["--where", "seen", "-o", "out/"], 2, "--where: needs the whole run; write to a file instead of out/"),
        (["--where", "seen", "-o", "out/", "--engine", "ray"], 2, "--where: needs the whole run"),
        (["--where", "seen", "--segments", "-f", "csv"], 2, "--segments: --where needs a row for every frame"),
        (["--where", "seen", "--suggest", "2"], 2, "--suggest: asks for labels"),
        (["--where", "seen", "--only", "unknown"], 2, "--only unknown: images without an answer"),
        (["--where", "full"], 2, "full/red.where.png: already exists; add --overwrite to replace it"),
        (["photos/x.where.png", "photos/x.jpg", "--where", "photos", "--overwrite"], 2, "would overwrite the image"),
        (["--where", "seen", "--contact-sheet", "seen/red.where.png"], 2, "would overwrite"),
    ],
)
def test_a_mistake_is_one_line_before_the_model_is_looked_for(
    arguments: list[str], code: int, said: str, run: Run, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for folder in ("full", "seen"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "red.where.png").write_bytes(b"mine")
    Image.new("RGB", (9, 9)).save(photos / "x.where.png")
    Image.new("RGB", (9, 9)).save(photos / "x.jpg")

    done = run("classify", "photos/red.png", *arguments, *LABELS, "-m", "no-such-model", "-q")

    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (code, b"", 1)
    assert said in done.stderr.decode()
    assert files_in(tmp_path / "full") == {"red.where.png": b"mine"}
    assert not list((tmp_path / "seen").iterdir())


def test_a_model_that_cannot_ends_the_run(run: Run, photos: Path, tiny_model: Callable[[str], Path]) -> None:
    done = run("classify", photos, *LABELS, "-m", tiny_model("coca"), "--where", "seen", "-o", "rows.jsonl")

    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
    assert b"its image tower does not show where it looks; use tiny or base\n" in done.stderr
    assert not list(photos.parent.glob("rows*"))
    assert not (photos.parent / "seen").exists()


def test_overlays_in_the_folder_of_the_images_are_not_classified(run: Run, photos: Path, model: str) -> None:
    command = ("classify", "photos", *LABELS, "-m", model, "--where", "photos")
    first, second = run(*command), run(*command, "--overwrite")

    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert len(list(photos.iterdir())) == 6


def test_a_run_that_goes_on_draws_what_is_missing_and_leaves_the_rest(run: Run, model: str, tmp_path: Path) -> None:
    """The disk is full at the overlay of an image in the second of the pieces in which a run writes."""
    folder, random = tmp_path / "many", np.random.default_rng(0)
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (20, 20), tuple(random.integers(0, 256, 3).tolist())).save(folder / f"{number:02}.png")
    noise = Image.fromarray(random.integers(0, 256, (500, 500, 3), dtype=np.uint8))
    noise.save(folder / "36.png")
    command = ("classify", folder, *LABELS, "-m", model, "--batch-size", "8", "-o", "rows.jsonl")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        failed = run(*command, "--no-store", "--where", "seen")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    seen = tmp_path / "seen"
    before = {path.name: path.stat().st_ino for path in seen.iterdir()}
    written = (tmp_path / "rows.jsonl.part").read_bytes().count(b"\n")
    (seen / "39.where.png").write_bytes(b"of somebody else")

    other = run(*command, "--resume")
    done = run(*command, "--resume", "--where", "seen")
    complete = run(*command, "--resume", "--where", "seen")
    run(*command[:-1], "expected.jsonl", "--where", "expected")

    assert failed.returncode == 4
    assert 0 < written < len(before) == 36  # some were drawn, but have no row yet
    assert (other.returncode, other.stderr.decode().count("where: seen -> none")) == (2, 1)
    assert (done.returncode, complete.returncode) == (0, 0)
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()
    assert {name: (seen / name).stat().st_ino for name in before} == before
    assert (seen / "39.where.png").read_bytes() == b"of somebody else"
    for folder in (seen, tmp_path / "expected"):
        (folder / "39.where.png").unlink()
    assert look_alike(seen, tmp_path / "expected")


def test_retried_errors_get_their_overlays(run: Run, two_names: Path, model: str, tmp_path: Path) -> None:
    second = tmp_path / "two" / "y" / "a.png"
    good = second.read_bytes()
    second.write_bytes(b"bad")
    command = ("classify", "two", *LABELS, "-m", model, "-o", "rows.jsonl", "--where", "seen")

    first = run(*command)
    assert (first.returncode, list(files_in(tmp_path / "seen"))) == (1, ["a.where.png"])
    before = (tmp_path / "seen" / "a.where.png").stat().st_ino
    still = run(*command, "--retry-errors")
    assert (still.returncode, b"no overlays" in still.stderr) == (1, False)  # the other row has its own
    second.write_bytes(good)
    again = run(*command, "--retry-errors")

    assert again.returncode == 0
    assert sorted(files_in(tmp_path / "seen")) == ["a-2.where.png", "a.where.png"]
    assert (tmp_path / "seen" / "a.where.png").stat().st_ino == before
    assert is_white(tmp_path / "seen" / "a-2.where.png")


def test_a_retried_archive_gets_an_overlay_for_each_image_in_it(
    run: Run, two_names: Path, model: str, tmp_path: Path
) -> None:
    good = two_names.read_bytes()
    two_names.write_bytes(b"bad")
    Image.new("RGB", (200, 150), "white").save(tmp_path / "z.png")
    command = ("classify", "z.png", "two.tar", *LABELS, "-m", model, "-o", "rows.jsonl", "--where", "seen")

    first = run(*command)
    assert (first.returncode, list(files_in(tmp_path / "seen"))) == (1, ["z.where.png"])
    two_names.write_bytes(good)
    again = run(*command, "--retry-errors")
    run("classify", "z.png", "two.tar", *LABELS, "-m", model, "-o", "all.jsonl", "--where", "all")

    assert again.returncode == 0, again.stderr
    assert (tmp_path / "rows.jsonl").read_bytes() == (tmp_path / "all.jsonl").read_bytes()
    assert look_alike(tmp_path / "seen", tmp_path / "all")
    assert len(files_in(tmp_path / "seen")) == 3


def test_a_retried_archive_leaves_the_overlays_of_others_alone(
    run: Run, two_names: Path, model: str, tmp_path: Path
) -> None:
    """Its images have the names of one that was drawn before, and of the archive itself."""
    good = two_names.read_bytes()
    two_names.write_bytes(b"bad")
    (tmp_path / "z").mkdir()
    for name in ("a.png", "two.png"):
        Image.new("RGB", (200, 150), "blue").save(tmp_path / "z" / name)
    command = ("classify", "two.tar", "z", *LABELS, "-m", model, "-o", "rows.jsonl", "--where", "seen")

    first = run(*command)
    before = files_in(tmp_path / "seen")
    two_names.write_bytes(good)
    again = run(*command, "--retry-errors")
    run("classify", "two.tar", *LABELS, "-m", model, "-o", "two.jsonl", "--where", "of-two")

    assert (first.returncode, again.returncode) == (1, 0), again.stderr
    assert list(before) == ["a.where.png", "two-2.where.png"]
    after = files_in(tmp_path / "seen")
    assert {name: after.pop(name) for name in before} == before
    assert list(after) == ["a-2.where.png", "a-3.where.png"]
    for name, other in (("a-2", "a"), ("a-3", "a-2")):
        one, two = (Image.open(tmp_path / path) for path in (f"seen/{name}.where.png", f"of-two/{other}.where.png"))
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).max() <= 2


@pytest.mark.parametrize("flag", ["--resume", "--retry-errors"])
def test_a_run_with_nothing_to_continue_takes_no_overlays_of_others_for_its_own(
    run: Run, photos: Path, model: str, tmp_path: Path, flag: str
) -> None:
    run("classify", photos, "-l", "red,dog", "-m", model, "-o", "old.jsonl", "--where", "seen")
    before = files_in(tmp_path / "seen")

    done = run("classify", photos, *LABELS, "-m", model, "-o", "new.jsonl", "--where", "seen", flag)

    assert done.returncode == 2
    assert b"where.png: already exists; add --overwrite to replace it" in done.stderr
    assert files_in(tmp_path / "seen") == before
    assert not list(tmp_path.glob("new*"))


def test_many_overlays_are_counted_in_the_summary(run: Run, model: str, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(5):
        Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(tmp_path / "many" / f"{number}.png")

    done = run("classify", "many", *LABELS, "-m", model, "--where", "seen", "-o", "rows.csv")

    lines = done.stderr.decode().splitlines()
    assert "wrote 5 files to seen" in lines
    assert any(line.startswith("wrote rows.csv (") for line in lines)


def test_an_image_that_is_gone_when_it_is_drawn_is_named(
    photos: Path, model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    encoder = LazyTorchEncoder(find_model(model), "cpu", "fp32")
    classifier = build_classifier(expand([Label("red"), Label("blue")], read_templates(["{}"])), encoder)
    names = [str(photos / f"{name}.png") for name in ("red", "gone", "blue")]
    vectors = np.eye(3, encoder.embed_dim, dtype=np.float32)
    answers = answer(Embedded(names, np.arange(3, dtype=np.int32), vectors, {}), classifier, Rule())
    files = [str(tmp_path / "seen" / f"{number}.where.png") for number in range(5)]
    beside = Beside(files, encoder, Speed(), Messages(), set(), 1, False, False)

    with looking([Pictures(names)], encoder, classifier, Speed(), answers=answers) as looks:
        found = [look.where.file_name if isinstance(look, Look) else look.error for look in looks]
    passed = list(beside.drawn([answers], classifier, [3, 0, 4]))

    assert found == [names[0], "missing", names[2]]
    assert passed == [answers]
    assert beside.written == [files[3], files[4]] == sorted(map(str, (tmp_path / "seen").iterdir()))
    assert capfd.readouterr().err == f"zsclip: no overlay of {names[1]!r}: missing: no such file or directory\n"


@pytest.mark.parametrize("kind", ["plain", "resnet"])
def test_a_tower_runs_once_where_the_embedding_is_known(kind: str, tiny_model: Callable[[str], Path]) -> None:
    model = ClipModel(find_model(str(tiny_model(kind))))
    pixels = list(np.random.default_rng(0).integers(0, 256, (2, 3, *model.spec.preprocess.size), dtype=np.uint8))

    alone, both = encode_patches(model, pixels, with_embeddings=False), encode_patches(model, pixels)

    assert alone.embeddings is None
    assert both.embeddings is not None
    assert (alone.cells == both.cells).all()


def test_maps_of_heads_and_groups_are_about_what_decided() -> None:
    """Cell by cell: the weights and biases of a head, and the labels of a group together."""
    random = np.random.default_rng(0)
    cells = random.normal(size=(1, 2, 3, 8)).astype(np.float32)
    words, weights = random.normal(size=(2, 4, 8)).astype(np.float32)
    biases = random.normal(size=4).astype(np.float32)
    groups = ("x", "y", "x", "y")
    classifier = Classifier(("a", "b", "c", "d"), words, None, 3.0, None, (), groups, (), weights, biases)
    answers = Answers(
        ["a.jpg"], ("x", "y"), np.array([[1, 0]], np.int32), np.array([[0.7, 0.3]], np.float32),
        np.array([[0.2, 0.1]], np.float32), np.array([1], np.int32), "head",
    )  # fmt: skip

    patches = Patches(None, cells, is_exact=True)
    (got,) = where_answered(patches, [Area((9, 9), (0, 0, 9, 9))], answers, np.array([[True, True]]), classifier)
    (one,) = where_answered(patches, [Area((9, 9), (0, 0, 9, 9))], answers, np.array([[True, False]]), classifier)

    for row in range(2):
        for column in range(3):
            parts = weights @ cells[0, row, column]
            shares = softmax_scores((parts + biases)[None], 3.0)[0] * np.maximum(parts, 0)
            for place, members in enumerate(([1, 3], [0, 2])):  # y is the answer
                assert got.heats[place, row, column] == pytest.approx(shares[members].sum(), abs=1e-5)
                assert got.grids[place, row, column] == pytest.approx(parts[members].max(), abs=1e-5)
    assert (got.labels, got.scores) == (("y", "x"), pytest.approx((0.7, 0.3)))
    assert one.labels == ("y",)
    assert (one.heats == got.heats[:1]).all()


@pytest.mark.parametrize("how", [("--expect", "balanced"), ("--transductive",), ("--by", "group"), ("--examples",)])
def test_answers_of_every_kind_have_overlays(
    how: tuple[str, ...], run: Run, photos: Path, model: str, tmp_path: Path
) -> None:
    (tmp_path / "labels.yaml").write_text("red: {group: warm}\ngreen: {group: cold}\nblue: {group: cold}\n")
    if how == ("--examples",):
        for label in ("red", "blue"):
            (tmp_path / "few" / label).mkdir(parents=True)
            for number in range(2):
                photo = Image.open(photos / f"{label}.png").resize((20 + number, 30))
                photo.save(tmp_path / "few" / label / f"{number}.png")
        how = ("--examples", "few")

    done = run("classify", photos, "--labels-file", "labels.yaml", "-m", model, *how, "--where", "seen")

    assert (done.returncode, len(rows_of(done))) == (0, 3), done.stderr
    assert list(files_in(tmp_path / "seen")) == ["blue.where.png", "green.where.png", "red.where.png"]
