import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from columns import encoded
from conftest import make_class_folders, words_of

from zsclip.answers.classifier import Classifier, build_classifier
from zsclip.cli.main import main
from zsclip.errors import InputError
from zsclip.measure.compare import (
    Compared,
    TemplateGain,
    compare,
    comparison_lines,
    judged_by,
    template_gains,
    template_lines,
)
from zsclip.measure.metrics import Figure, Judged, gain, top1
from zsclip.pixels.skipped import Skipped
from zsclip.words.labels import Label
from zsclip.words.prompts import read_templates
from zsclip.words.words import expand

Run = Callable[..., CompletedProcess[bytes]]


def judged_as(right: "np.ndarray") -> Judged:
    """Pictures of two labels, answered right or wrong as given."""
    truth = np.arange(len(right)) % 2
    return Judged(truth, np.where(right, truth, 1 - truth), np.ones(len(right), bool), np.full(len(right), 0.5))


def test_a_gain_is_the_difference_and_its_interval_that_of_a_plain_paired_bootstrap():
    random = np.random.default_rng(0)
    first = random.random(300) < 0.6
    better = first | (random.random(300) < 0.1)

    found = gain(judged_as(better), judged_as(first), resamples=2000)

    assert found.value == pytest.approx(better.mean() - first.mean())
    again = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        places = [again.integers(300) for _ in range(300)]
        drawn.append(sum(int(better[i]) - int(first[i]) for i in places) / 300)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found.low == pytest.approx(2 * found.value - high, abs=0.005)
    assert found.high == pytest.approx(2 * found.value - low, abs=0.005)


def test_a_small_gain_on_the_same_pictures_is_reported_where_the_two_intervals_overlap():
    random = np.random.default_rng(0)
    first = random.random(1000) < 0.5
    better = first.copy()
    better[np.flatnonzero(~first)[:20]] = True

    one, other = compare([("one", judged_as(first)), ("other", judged_as(better))], resamples=300)

    assert one.gain is None
    assert other.gain is not None
    assert 0 < other.gain.low < 0.02 < other.gain.high
    assert one.figures["top-1"].high > other.figures["top-1"].low


def test_no_gain_is_reported_by_chance_too_often():
    random = np.random.default_rng(0)
    wrongly = 0
    for seed in range(100):
        one, other = (judged_as(random.random(400) < 0.6) for _ in range(2))
        found = gain(one, other, resamples=300, seed=seed)
        wrongly += not found.low <= 0 <= found.high

    assert 1 <= wrongly <= 12


def test_a_gain_is_at_most_1():
    found = gain(judged_as(np.array([True] * 4 + [False])), judged_as(np.zeros(5, bool)), resamples=100)

    assert found.high == 1


def test_unreadable_pictures_are_not_compared(colour_model):
    classifier = build_classifier(words_of({"red": ["red"], "blue": ["blue"]}), colour_model)

    with pytest.raises(InputError, match="none of the images could be read"):
        judged_by([encoded([Skipped("a", "missing", "")], np.empty((0, 3), np.float32))], ["red"], classifier)


def test_tables_say_better_worse_or_unclear():
    figures = {"top-1": Figure(0.5, 0.4, 0.6)}
    table = comparison_lines(
        [
            Compared("photo", figures, None),
            Compared("plain", figures, Figure(0.031, 0.01, 0.05)),
            Compared("long", figures, Figure(-0.03, -0.05, -0.01)),
            Compared("same", figures, Figure(0.005, -0.01, 0.02)),
        ]
    )

    assert [line.split() for line in table[1:5]] == [[name, "50.0%"] for name in ("photo", "plain", "long", "same")]
    assert table[5:7] == ["", "top-1 compared with photo, in percentage points"]
    assert [line.split() for line in table[7:]] == [
        ["plain", "+3.1", "(+1.0", "to", "+5.0)", "better"],
        ["long", "-3.0", "(-5.0", "to", "-1.0)", "worse"],
        ["same", "+0.5", "(-1.0", "to", "+2.0)", "unclear"],
    ]
    lines = template_lines(
        [TemplateGain("a {}", 0.4, Figure(-0.02, -0.03, -0.01)), TemplateGain("the {}", 0.5, Figure(0.02, 0.01, 0.03))]
    )
    assert [line.split() for line in lines[1:]] == [
        ["50.0%", "+2.0", "(+1.0", "to", "+3.0)", "helps", "the", "{}"],
        ["40.0%", "-2.0", "(-3.0", "to", "-1.0)", "hurts", "a", "{}"],
    ]


def test_a_comparison_fits_80_columns():
    figure = Figure(0.5, 0.4, 0.6)
    metrics = ("top-1", "top-5", "balanced accuracy", "macro-F1", "calibration error")
    figures = dict.fromkeys(metrics, figure)
    names = ("photo", "a rather long name of a prompt set, labels/of/animals.yaml, ViT-B-32-256")
    table = comparison_lines(
        [
            Compared(name, figures, Figure(-0.1234, -0.2345, 0.1234) if place else None)
            for place, name in enumerate(names)
        ]
    )
    template = "a black and white photo of the {}."
    lines = template_lines([TemplateGain(template, 1.0, Figure(-0.1234, -0.2345, 0.1234))])

    assert max(map(len, [*table, *lines])) <= 80
    assert sum(names[1] in line for line in table) == 2
    assert template in lines[1]


def test_templates_are_tried_with_the_matrices_that_classify_would_use(colour_model):
    """Each against a classifier that was built for it alone; nothing is encoded twice."""
    labels = [Label("red", ("blue",)), Label("green", prompts=("blue and {}",)), Label("blue")]
    prompts = read_templates(["a {}", "red {}", "{} and green"])
    used: list[Classifier] = []

    def judged(classifier: Classifier) -> Judged:
        used.append(classifier)
        return judged_as(classifier.class_embeddings[0] > 0.5)

    gains = template_gains(expand(labels, prompts), colour_model, judged, resamples=10)
    assert len(colour_model.encoded) == len(set(colour_model.encoded))

    templates = prompts.templates
    kept = [templates]
    for one in templates:
        kept += [(one,), tuple(other for other in templates if other != one)]
    for classifier, some in zip(used, kept, strict=True):
        twin = build_classifier(expand(labels, replace(prompts, templates=some)), colour_model)
        assert classifier.labels == twin.labels
        np.testing.assert_allclose(classifier.class_embeddings, twin.class_embeddings, atol=1e-6)
    assert [each.template for each in gains] == list(templates)
    assert gains[1].alone == top1(judged(used[3]))
    with pytest.raises(InputError, match="'template' has one template"):
        template_gains(expand(labels, read_templates(["a {}"])), colour_model, judged)


def test_failed_pictures_do_not_shift_the_true_labels(colour_model):
    classifier = build_classifier(words_of({"red": ["red"], "blue": ["blue"]}), colour_model)
    embedded = [
        encoded(["a", Skipped("b", "missing", "")], np.array([[1, 0, 0]], np.float32)),
        encoded(["c"], np.array([[1, 0, 0]], np.float32)),
    ]

    judged = judged_by(embedded, ["red", "blue", "blue"], classifier)

    assert judged.truth.tolist() == [0, 1]
    assert judged.predicted.tolist() == [0, 0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_class_folders(tmp_path / "data", ("red", "green"), 6)
    (tmp_path / "names.yaml").write_text("crimson: {synonyms: [red]}\ngreen:\n")
    return tmp_path / "data"


@pytest.mark.parametrize("store", [(), ("--no-store",)])
def test_each_variant_is_measured_as_eval_measures_it(run: Run, data: Path, tiny_model, store) -> None:
    model, other = (f"local-dir:{tiny_model(kind)}" for kind in ("plain", "siglip"))
    names = ("--labels-file", "names.yaml")

    done = run(
        "compare", "data", "--json", "--model", model, "--prompts", "photo", "--template", "no {}", *names, *store
    )
    of_models = run("compare", "data", "--json", "--model", model, "--model", other, *store)

    assert done.returncode == of_models.returncode == 0, done.stderr + of_models.stderr
    found = json.loads(done.stdout) + json.loads(of_models.stdout)
    assert [each["name"] for each in found] == ["photo", "no {}", model, other]
    alone = [
        run("eval", "data", "--json", *arguments)
        for arguments in (
            ("--model", model, *names),
            ("--model", model, "--template", "no {}", *names),
            ("--model", model),
            ("--model", other),
        )
    ]
    assert [each["figures"] for each in found] == [json.loads(one.stdout)["metrics"] for one in alone]


def test_templates_are_reported_for_people(run: Run, data: Path, tiny_model) -> None:
    done = run(
        "compare", "data", "--model", f"local-dir:{tiny_model('plain')}", "--prompts", "product", "--each-template"
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 1 + 7
    assert all("{}" in line for line in lines[1:])
    assert done.stderr.decode().startswith("12 images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "compare: nothing to compare"),
        (["--prompts", "photo", "--prompts", "photo"], "compare: nothing to compare"),
        (
            ["--prompts", "photo", "--prompts", "plain", "--each-template"],
            "--each-template: compares the templates of one prompt set",
        ),
        (["--each-template"], "--each-template: 'photo' has one template; give --prompts with more"),
        (["--prompts", "photo", "--prompts", "nope"], "no prompt set or file 'nope'"),
    ],
)
def test_a_mistake_is_found_before_a_model_is_looked_for(
    arguments: list[str], message: str, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(data), "--model", "nowhere", *arguments]) == 2
    assert message in capfd.readouterr().err
