"""zsclip from Python: what the command line answers, for pictures wherever they are."""

import io
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from conftest import preprocess_for
from PIL import Image

import zsclip
from zsclip import Answers, Classifier
from zsclip.answers.answers import Prediction
from zsclip.errors import InputError, ModelError
from zsclip.out.jsonl import write_jsonl
from zsclip.out.notebook import SHOWN
from zsclip.pictures.in_memory import as_ppm
from zsclip.pixels.decode import as_seen, decode_file, decode_image
from zsclip.pixels.limits import DEFAULT_DECODING
from zsclip.pixels.skipped import Skipped

COLOURS = ["red", "green", "blue"]
GROUPS = {"red": {"group": "warm"}, "green": {"group": "cold"}, "blue": {"group": "cold"}}


@pytest.fixture
def plain(tiny_model: Callable[[str], Path]) -> str:
    return f"local-dir:{tiny_model('plain')}"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A folder with five pictures of noise, one that is none, and one more in a folder below."""
    folder, random = tmp_path / "noise", np.random.default_rng(0)
    (folder / "below").mkdir(parents=True)
    for name in ("a", "b", "c", "d", "below/e"):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


def json_lines(answers: Answers) -> str:
    out = io.StringIO()
    write_jsonl([answers], out)
    return out.getvalue()


def cosines(row: Any) -> list[tuple[str, float]]:
    assert isinstance(row, Prediction), row
    return [(each.label, each.cosine) for each in row.predictions]


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        ([], {}),
        (["-k", "2", "--threshold", "0.34"], {"top_k": 2, "threshold": 0.34}),
        (["--multi-label"], {"multi_label": True}),
        (["--none-of-these"], {"none_of_these": True}),
        (["--prompts", "plain"], {"prompts": "plain"}),
        (["--template", "a {}", "--template", "no {}"], {"templates": ["a {}", "no {}"]}),
        (["--batch-size", "2", "-j", "1", "--max-pixels", "1999"], {"batch_size": 2, "threads": 1, "max_pixels": 1999}),
        (["--no-store", "--precision", "fp32"], {"store": False, "precision": "fp32"}),
        (["--by", "group"], {"by": "group"}),
    ],
)
def test_rows_are_those_of_the_command_line(
    flags: list[str], options: dict[str, Any], noise: Path, plain: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = noise.parent / "labels.json"
    labels.write_text(json.dumps(GROUPS))
    done = run("classify", "noise", "--labels-file", labels, "-m", plain, "-f", "jsonl", *flags)
    monkeypatch.chdir(noise.parent)

    answers = Classifier(GROUPS, model=plain, **options)("noise")

    assert done.returncode == 1, done.stderr
    assert json_lines(answers) == done.stdout.decode()
    assert len(answers) == 6


def test_a_file_and_the_same_picture_in_memory_have_equal_answers(noise: Path, plain: str) -> None:
    file = noise / "a.png"
    array = np.asarray(Image.open(file))
    classify = Classifier(COLOURS, model=plain, top_k=3, precision="fp32", store=False)

    answers = classify([str(file), file, Image.open(file), array, file.read_bytes(), array[:, ::-1]])

    *same, mirrored = map(cosines, answers)
    assert all(dict(each) == pytest.approx(dict(same[0]), abs=1e-5) for each in same)
    assert dict(mirrored) != pytest.approx(dict(same[0]), abs=1e-5)
    for one in (str(file), file, Image.open(file), array, file.read_bytes()):
        assert dict(cosines(classify(one))) == pytest.approx(dict(same[0]), abs=1e-5)
    assert [row.file_name for row in answers][1:4] == [str(file), "pictures[2]", "pictures[3]"]


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *[(mode, "png") for mode in ("RGB", "RGBA", "LA", "L", "1", "P", "I;16")],
        *[("P", "gif"), ("CMYK", "tiff"), ("F", "tiff"), ("YCbCr", "jpg"), ("CMYK", "jpg"), ("RGB", "webp")],
    ],
)
def test_a_pil_image_becomes_the_pixels_of_its_file(mode: str, ending: str, tmp_path: Path) -> None:
    random, file = np.random.default_rng(0), tmp_path / f"a.{ending}"
    noisy = Image.fromarray(random.integers(0, 256, (40, 50, 4), dtype=np.uint8), "RGBA")
    if mode == "I;16":
        image = Image.fromarray(random.integers(0, 65536, (40, 50), dtype=np.uint16))
    else:
        image = noisy.convert(mode) if mode in ("RGBA", "LA") else noisy.convert("RGB").convert(mode)
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(file, exif=turned, **({"transparency": 3} if mode == "P" else {}))

    with open(file, "rb") as raw, Image.open(raw) as opened:  # by its path, Pillow does not turn a mapped TIFF
        data = as_ppm(np.asarray(as_seen(opened)))

    preprocess = preprocess_for(32)
    expected = decode_image(str(file), preprocess)
    assert isinstance(expected, np.ndarray)
    assert np.array_equal(decode_file(io.BytesIO(data), preprocess, DEFAULT_DECODING), expected)


def test_a_picture_of_the_caller_stays_as_it_is(plain: str) -> None:
    image = Image.new("RGB", (1000, 700), "red")
    image.info["transparency"] = (65535, 0, 0)

    Classifier(COLOURS, model=plain)([image, image])

    assert image.info == {"transparency": (65535, 0, 0)}
    assert (image.size, image.getpixel((0, 0))) == ((1000, 700), (255, 0, 0))


def test_pictures_in_memory_are_encoded_only_once(noise: Path, plain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [np.asarray(Image.open(noise / "a.png")), (noise / "b.png").read_bytes()]
    first = Classifier(COLOURS, model=plain)(pictures)
    classify = Classifier(COLOURS, model=plain)

    again = classify([*pictures, noise / "b.png"])

    assert "model" not in vars(classify._encoder)  # it was not loaded
    assert [*map(cosines, again)][:2] == [*map(cosines, first)]
    assert again[1].best == again[2].best


def test_one_picture_has_one_record_and_many_have_answers(noise: Path, plain: str) -> None:
    classify = Classifier(COLOURS, model=plain)

    one = classify(noise / "a.png")
    answers = classify(path for path in sorted(noise.glob("*.png")))

    assert (one.label, one.score, one.error) == (one.predictions[0].label, one.predictions[0].score, None)
    assert one.label in COLOURS
    assert len(answers) == 4
    assert answers.labels == [row.label for row in answers]
    assert answers.scores.shape == (4, 1)
    assert answers[0] == one
    assert answers[-1] == [*answers][3]
    assert [*answers[1:3]] == [*answers][1:3]
    with pytest.raises(IndexError):
        answers[4]
    assert [row.file_name for row in classify(str(noise / "[ab].png"))] == [
        str(noise / name) for name in ("a.png", "b.png")
    ]
    assert len(classify([noise / "below", noise / "c.png", noise])) == 8
    assert classify([]).labels == []


def test_braces_mean_the_same_alone_and_in_a_list(noise: Path, plain: str) -> None:
    classify = Classifier(["red", "green"], model=plain)
    names = [f"{noise}/{name}.png" for name in ("a", "b", "none")]

    assert [row.file_name for row in classify([f"{noise}/{{a,b,none}}.png"])] == names
    assert list(classify([f"{noise}/{{a,b}}.png"])) == list(classify(f"{noise}/{{a,b}}.png"))


def test_a_failed_picture_is_a_record_with_its_error(noise: Path, plain: str) -> None:
    classify = Classifier(COLOURS, model=plain, threshold=0.999)

    bad = classify(noise / "bad.jpg")
    answers = classify([noise / "none.jpg", b"", noise / "a.png", noise / "bad.jpg"])

    assert isinstance(bad, Skipped)
    assert (bad.label, bad.score, bad.predictions, bad.error) == (None, None, (), "unreadable")
    assert [row.error for row in answers] == ["missing", "unreadable", None, "unreadable"]
    assert answers[2].score > 0
    assert answers.labels == [None] * 4
    for column in (answers.scores, answers.cosines, *(answers.to_pandas()[[name]] for name in ("score", "cosine"))):
        assert np.isnan(np.asarray(column, np.float64)).ravel().tolist() == [True, True, False, True]
    assert repr(answers) == "Answers(4 images, 3 failed, among red, green, blue)"
    assert repr(classify(noise / "a.png")).startswith("Prediction(file_name='")
    assert repr(classify([noise / "a.png"])) == "Answers(1 image, among red, green, blue)"


def test_records_have_the_names_of_json_lines(noise: Path, plain: str) -> None:
    answers = Classifier(COLOURS, model=plain)([noise / "a.png", noise / "bad.jpg"])

    for row, line in zip(answers, json_lines(answers).splitlines(), strict=True):
        for name, value in json.loads(line).items():
            own = getattr(row, name)
            if name == "predictions":
                assert [each.label for each in own] == [each["label"] for each in value]
            else:
                assert own == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)


def test_answers_of_many_batches_are_one(plain: str) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (20, 20, 3), dtype=np.uint8) for _ in range(7)]
    mixed: list[Any] = [*pictures[:3], b"bad", *pictures[3:], b"bad"]
    classify = Classifier(COLOURS, model=plain, batch_size=2, store=False)

    answers = classify(mixed)

    expected = [classify(each) for each in mixed]
    assert answers.labels == [row.label for row in expected]
    assert [row.error for row in answers] == [row.error for row in expected]
    assert sorted(answers.skipped) == [3, 8]


def test_few_pictures_of_an_iterator_are_held_at_once(plain: str) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Pixels(np.ndarray):
        __hash__ = object.__hash__  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:  # type: ignore[override]
            return self is other

    def pictures() -> Iterator[Any]:
        nonlocal most
        for number in range(200):
            made = np.full((20, 30, 3), number, np.uint8).view(Pixels)
            alive.add(made)
            most = max(most, len(alive))
            yield made

    answers = Classifier(COLOURS, model=plain, threads=2)(pictures())

    assert len(answers) == 200
    assert most <= 6  # 4 that wait or are read, and what the loops hold


def test_an_error_of_an_iterator_comes_out(noise: Path, plain: str) -> None:
    def pictures() -> Iterator[Path]:
        yield noise / "a.png"
        raise OSError("the camera is gone")

    with pytest.raises(OSError, match="the camera is gone"):
        Classifier(COLOURS, model=plain)(pictures())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, r"pictures: is of type int; give a path"),
        (io.BytesIO(b"two\nlines"), r"pictures: is of type BytesIO; give a path"),
        ([None], r"pictures\[0\]: is of type NoneType; give a path"),
        (np.zeros((4, 4), np.uint8), r"pictures\[0\]: an array of uint8 \(4, 4\); give \(H, W, 3\) uint8"),
        ([b"", np.zeros((4, 4, 3), np.float32)], r"pictures\[1\]: an array of float32 \(4, 4, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"give \(H, W, 3\) uint8, or a list of those"),
        ("none.jpg", "no such file or folder: 'none.jpg'"),
        ("-", "'-': paths are read from stdin on the command line only"),
    ],
)
def test_values_that_are_not_pictures_are_refused_in_one_line(given: Any, message: str, plain: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        Classifier(COLOURS, model=plain)(given)

    assert "\n" not in str(raised.value)


def test_labels_come_as_words_a_mapping_or_a_file(tmp_path: Path, photos: Path, plain: str) -> None:
    lines, tree = tmp_path / "words.txt", tmp_path / "tree.json"
    lines.write_text("red\ngreen, or so\n")
    prompts = {"red": ["a red one", "{} again"], "green, or so": ("green",)}
    tree.write_text(json.dumps(prompts))

    def answers(labels: Any) -> str:
        return json_lines(Classifier(labels, model=plain, top_k=2)(photos))

    words = answers(["red", "green, or so"])
    assert words == answers(lines) == answers(str(lines)) == answers(iter(("red", "green, or so")))
    assert answers(prompts) == answers(tree) != words


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["cat"], {}, "label 'cat' is the only one"),
        (["cat", "dog", "cat"], {}, "'cat' was already given"),
        ([], {}, "labels: none given"),
        (3, {}, "labels: 3 is not a str"),
        (["cat", 3], {}, "labels: 3 is not a str"),
        ({"cat": "meow", "dog": []}, {}, "could be a synonym or a prompt"),
        (Path("none.txt"), {}, "none.txt: no such file"),
        ("cat,dog", {}, r"give words as a list, as in labels=\['cat', 'dog'\]"),
        (["cat"], {}, "use none_of_these=True or multi_label=True"),
        (["cat", "dog", "dog  "], {}, "^labels: label 'dog' was already given"),
        (COLOURS, {"top_k": 0}, "^top_k: must be a whole number, 1 or more, not 0$"),
        (COLOURS, {"top_k": "3"}, "^top_k: .*, not '3'$"),
        (COLOURS, {"threshold": 2}, "^threshold: 2 is not a probability"),
        (COLOURS, {"threshold": float("nan")}, "^threshold: nan is not a probability"),
        (COLOURS, {"by": "colour"}, "^by: 'colour' is not"),
        (COLOURS, {"by": "group"}, "^by group: no label has a group"),
        (COLOURS, {"device": "tpu"}, "^device: 'tpu' is not a device"),
        (COLOURS, {"precision": "int4"}, "^precision: 'int4' is not a precision"),
        (COLOURS, {"precision": "int8", "runtime": "torch"}, "^precision int8: needs ONNX Runtime on the CPU"),
        (COLOURS, {"batch_size": 0}, "^batch_size: '0' is not a batch size"),
        (COLOURS, {"threads": 0}, "^threads: .*, not 0$"),
        (COLOURS, {"max_pixels": 0}, "^max_pixels: .*, not 0$"),
        (COLOURS, {"prompts": "nope"}, "^prompts: no prompt set or file 'nope'"),
        (COLOURS, {"templates": "no place"}, "^templates: template 'no place' has no placeholder"),
        (COLOURS, {"multi_label": True, "none_of_these": True}, "^multi_label=True: scores every label by itself"),
        (COLOURS, {"calibration": "none.json"}, "none.json"),
    ],
)
def test_labels_and_options_are_checked_at_once(labels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Classifier(labels, model="there is no such model", **options)


def test_a_model_that_is_not_there_is_reported_at_once() -> None:
    with pytest.raises(ModelError, match="no model 'nope'"):
        Classifier(COLOURS, model="nope")


def test_the_environment_names_the_default_model(plain: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSCLIP_MODEL", plain)
    monkeypatch.setenv("ZSCLIP_DEVICE", "tpu")

    with pytest.raises(InputError, match="tpu"):
        Classifier(COLOURS)
    assert Classifier(COLOURS, device="cpu")(photos / "red.png").label in COLOURS
    monkeypatch.setenv("ZSCLIP_MODEL", f" {plain}\t")
    monkeypatch.setenv("ZSCLIP_DEVICE", " ")
    assert Classifier(COLOURS)(photos / "red.png").label in COLOURS
    assert Classifier(COLOURS, model=f"{plain} ")(photos / "red.png").label in COLOURS


def test_doubtful_labels_and_prompts_are_warned_of_once_where_the_user_calls(plain: str, photos: Path) -> None:
    classify = Classifier(["0", "1"], model=plain)
    with pytest.warns(UserWarning, match="all labels are numbers, such as '0'") as warned:
        classify(photos / "red.png")
    classify(photos / "red.png")  # a second warning would be an error here

    assert [each.filename for each in warned] == [__file__]
    with pytest.warns(UserWarning, match="may not know '犬'; use model multilingual"):
        Classifier(["red", "犬"], model=plain)(photos)
    with pytest.warns(UserWarning, match=r"longer than the model's \d+ tokens were cut: 'a photo of a very very"):
        Classifier(["red", "very " * 100 + "blue"], model=plain)([photos / "red.png"])


def test_frames_have_the_columns_of_the_json_lines(noise: Path, plain: str) -> None:
    answers = Classifier(COLOURS, model=plain, top_k=2)(noise)
    expected = [json.loads(line) for line in json_lines(answers).splitlines()]

    table, frame = answers.to_arrow(), answers.to_pandas()

    assert table.column_names == list(frame.columns) == list(expected[0])
    for row, wanted, (_, of_frame) in zip(table.to_pylist(), expected, frame.iterrows(), strict=True):
        numbers = {name: row.pop(name) for name in ("score", "cosine", "predictions")}
        assert row == {name: wanted[name] for name in row}
        assert numbers["score"] == (wanted["score"] and pytest.approx(wanted["score"], rel=1e-5))
        assert numbers["predictions"] == [
            each | {name: pytest.approx(each[name], rel=1e-5) for name in ("score", "cosine")}
            for each in wanted["predictions"]
        ]
        assert of_frame["file_name"] == wanted["file_name"]
        assert (of_frame["label"] == wanted["label"]) or wanted["label"] is None
    assert frame["label"].isna().sum() == 1


@pytest.mark.parametrize(
    ("library", "method", "cure"),
    [("pandas", "to_pandas", "pip install pandas"), ("pyarrow", "to_arrow", r"pip install 'zsclip\[parquet\]'")],
)
def test_a_missing_library_names_its_cure(
    library: str, method: str, cure: str, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Classifier(COLOURS, model=plain)([])
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(InputError, match=cure):
        getattr(answers, method)()


def test_a_notebook_shows_a_table_of_thumbnails_and_nothing_of_a_name_is_markup(noise: Path, plain: str) -> None:
    (noise / "a.png").rename(noise / "<b>&.png")
    array = np.asarray(Image.open(noise / "b.png"))
    answers = Classifier(["<i>red", "gr&een"], model=plain)(
        [noise / "<b>&.png", array, b"bad", Image.open(noise / "c.png")]
    )

    html = answers._repr_html_()

    assert html.count("<tr>") == 5
    assert html.count('<img src="data:image/webp;base64,') == 3
    assert "&lt;b&gt;&amp;.png" in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert ("&lt;i&gt;red" in html) or ("gr&amp;een" in html)
    assert "unreadable: " in html
    assert html.endswith("</table>")
    assert answers[1:]._repr_html_().count("<img") == 2


def test_a_long_table_is_cut_and_says_so(plain: str) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)

    html = Classifier(COLOURS, model=plain)([picture] * (SHOWN + 7))._repr_html_()

    assert html.count("<img") == SHOWN
    assert html.endswith("<p>and 7 more</p>")


def test_the_package_has_a_version_and_lists_its_names() -> None:
    assert zsclip.__version__ == version("zsclip")
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = zsclip.nope


def test_the_example_runs_in_a_notebook(tmp_path: Path) -> None:
    folder = Path(skimage.__file__).parent / "data"
    cells = [
        'from zsclip import Classifier\nclassify = Classifier(["cat", "rocket", "cup of coffee"], model="tiny")',
        f'classify(r"{folder / "chelsea.png"}").label',
        f'from PIL import Image\nclassify([r"{folder / "rocket.jpg"}", Image.open(r"{folder / "coffee.png"}")])',
    ]
    made = [{"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": c} for c in cells]
    notebook = tmp_path / "example.ipynb"
    notebook.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdout", str(notebook)]
    patience = "--ExecutePreprocessor.startup_timeout=300"  # seconds; a busy machine is slow to start a kernel

    done = subprocess.run([*command, patience], capture_output=True, cwd=tmp_path, timeout=600)

    assert done.returncode == 0, done.stderr.decode()
    first, label, table = (cell["outputs"] for cell in json.loads(done.stdout)["cells"])
    assert first == []  # nothing is printed
    assert [each["data"]["text/plain"] for each in label] == [["'cat'"]]
    assert [each["output_type"] for each in table] == ["execute_result"]
    html = "".join(table[0]["data"]["text/html"])
    assert html.count("<img") == 2
    assert "<td>rocket</td>" in html
    assert "<td>cup of coffee</td>" in html
