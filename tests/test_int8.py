"""Image towers in int8: near fp32, the same in any company, and refused where answers change."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zsclip.engine.options import Computing
from zsclip.errors import InputError, ModelError
from zsclip.kept.cache import cache_dir
from zsclip.models import graphs, onnx_int8
from zsclip.models.find import find_model
from zsclip.models.graphs import FOLDER, Graphs, find_graphs, find_int8_graph
from zsclip.models.onnx_encoder import OnnxEncoder
from zsclip.models.onnx_export import export_graphs
from zsclip.models.onnx_int8 import dead_leaves, export_int8

PROMPTS = [f"a photo of a {name}." for name in ("cat", "dog", "bird", "house", "red ball")]
Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def in_fp32(tiny_model: Callable[[str], Path]) -> OnnxEncoder:
    """A small vision transformer whose graphs are in this test's own cache."""
    spec = find_model(str(tiny_model("plain")))
    return OnnxEncoder(spec, export_graphs(spec))


@pytest.fixture
def _any_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep graphs that change answers, as the answers of random weights mean nothing."""
    monkeypatch.setattr(onnx_int8, "_AGREEMENT", 0.0)


def rounded(encoder: OnnxEncoder) -> OnnxEncoder:
    return OnnxEncoder(encoder.spec, encoder._graphs, export_int8(encoder.spec, encoder._graphs, PROMPTS))


@pytest.mark.usefixtures("_any_answers")
def test_embeddings_are_near_those_in_fp32(in_fp32: OnnxEncoder) -> None:
    pictures = list(dead_leaves(20, in_fp32.spec.preprocess.size))

    encoder = rounded(in_fp32)

    exact, vectors = in_fp32.begin_images(pictures)(), encoder.begin_images(pictures)()
    assert 0.99 < (exact * vectors).sum(axis=1).min() < 0.99999
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() <= 1e-6
    assert np.array_equal(encoder.encode_text(PROMPTS), in_fp32.encode_text(PROMPTS))  # words stay in fp32
    assert (encoder.precision, encoder.runtime) == ("int8", "onnx")


@pytest.mark.usefixtures("_any_answers")
def test_embeddings_do_not_depend_on_neighbours(in_fp32: OnnxEncoder) -> None:
    pictures = list(dead_leaves(6, in_fp32.spec.preprocess.size))
    pictures.append(np.full_like(pictures[0], 255))  # would set the scales of all
    encoder = rounded(in_fp32)

    together = encoder.begin_images(pictures)()

    assert np.array_equal(together, np.concatenate([encoder.begin_images([picture])() for picture in pictures]))


@pytest.mark.usefixtures("_any_answers")
def test_weights_take_a_quarter_of_the_space(in_fp32: OnnxEncoder) -> None:
    encoder = rounded(in_fp32)

    sizes = [sum((folder / name).stat().st_size for name in ("image.onnx", "image.bin")) for folder in (
        in_fp32._graphs.folder, encoder._in_int8.folder,
    )]  # fmt: skip
    assert sizes[1] < 0.6 * sizes[0]


def test_a_graph_that_changes_answers_is_refused(in_fp32: OnnxEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def agreement(exact: np.ndarray, vectors: np.ndarray, classes: np.ndarray) -> float:
        exact = exact.copy()
        exact[: len(exact) // 50] = classes[0]  # 2% of all
        vectors = exact.copy()
        vectors[: len(exact) // 50] = classes[1]
        shares.append(real(exact, vectors, classes))
        return shares[-1]

    real = onnx_int8._agreement
    monkeypatch.setattr(onnx_int8, "_agreement", agreement)

    with pytest.raises(ModelError, match=r": int8 keeps 98\.0% of the answers to 200 generated images, .* use fp32$"):
        rounded(in_fp32)

    assert shares == [0.98]
    assert find_int8_graph(in_fp32.spec) is None
    assert find_graphs(in_fp32.spec) == in_fp32._graphs
    assert len(list((cache_dir() / FOLDER).iterdir())) == 1


def test_convolutions_are_refused(tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model("resnet")))

    with pytest.raises(ModelError, match=r"int8 is for vision transformers, not for convolutions; use fp32$"):
        export_int8(spec, export_graphs(spec), PROMPTS)

    assert find_int8_graph(spec) is None


@pytest.mark.usefixtures("_any_answers")
def test_what_is_kept_depends_on_how_the_weights_were_rounded(in_fp32: OnnxEncoder) -> None:
    encoder = rounded(in_fp32)
    assert encoder._in_int8 is not None
    other = OnnxEncoder(in_fp32.spec, in_fp32._graphs, Graphs(encoder._in_int8.folder, in_fp32._graphs.about))

    recipes = {each.image_recipe(False) for each in (in_fp32, encoder, other)}

    assert len(recipes) == 3
    assert {each.text_recipe for each in (in_fp32, encoder)} == {in_fp32.text_recipe}


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"runtime": "torch"}, {"compile": True}])
def test_int8_is_for_onnx_runtime_on_the_cpu(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"^--precision int8: needs ONNX Runtime on the CPU; leave out "):
        Computing(precision="int8", **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_any_answers")
def test_the_command_exports_once_and_uses_it(
    in_fp32: OnnxEncoder, run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = in_fp32.spec.name
    command = ("classify", photos / "red.png", "-m", name, "-l", "cat,dog", "-f", "jsonl", "-q", "--precision", "int8")

    early = run(*command)
    first = run("models", "export", name, "--precision", "int8")
    monkeypatch.setattr(onnx_int8, "_AGREEMENT", 2.0)  # no export would pass
    again = run("models", "export", name, "--precision", "int8")
    done = run(*command)

    assert early.returncode == 3
    assert f"{name}: has no int8 graph in the cache; run `zsclip models export".encode() in early.stderr
    assert (first.returncode, first.stderr) == (0, b"")
    assert first.stdout == again.stdout
    assert first.stdout.count(b"\n") == 2
    assert b"% of the answers to generated images are those of fp32" in first.stdout
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1


@pytest.mark.usefixtures("_any_answers")
def test_a_damaged_graph_is_not_believed(in_fp32: OnnxEncoder) -> None:
    encoder = rounded(in_fp32)
    assert encoder._in_int8 is not None
    path = encoder._in_int8.folder / graphs.IMAGE
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ModelError, match="has no int8 graph in the cache"):
        Computing(precision="int8").encoder(in_fp32.spec.name, True)
    assert Computing(device="cpu").encoder(in_fp32.spec.name, True).runtime == "onnx"


def test_generated_pictures_are_always_the_same_and_fill_their_size() -> None:
    pictures = dead_leaves(3, (24, 32))

    assert pictures.shape == (3, 3, 24, 32)
    assert np.array_equal(pictures, dead_leaves(3, (24, 32)))
    assert len(np.unique(pictures[0])) > 20
    assert not np.array_equal(pictures[0], pictures[1])
