"""Exported graphs: the embeddings of torch without torch, and nothing that is damaged is believed."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HANGS
from demo import LABELS
from PIL import Image
from tiny_models import CONFIGS
from torch import nn

from zsclip.answers.classifier import build_classifier
from zsclip.answers.scores import cosines
from zsclip.engine.options import Computing, Scoring
from zsclip.engine.question import Question
from zsclip.engine.settings import settings_of
from zsclip.errors import InputError, ModelError
from zsclip.kept.cache import cache_dir
from zsclip.models import find, graphs, lazy_torch, onnx_export
from zsclip.models.encoder import Encoder
from zsclip.models.find import TINY_DIR, find_model
from zsclip.models.graphs import FOLDER, About, Graphs, find_graphs
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.onnx_encoder import OnnxEncoder
from zsclip.models.onnx_export import export_graphs
from zsclip.out.changes import changes
from zsclip.pictures.identity import GRAIN_NS
from zsclip.words.labels import Label
from zsclip.words.prompts import read_templates
from zsclip.words.words import expand

PROMPTS = [
    *(f"a {kind} of the {label}." for kind in ("photo", "sketch", "very small picture") for label in LABELS.split(",")),
    *("", "cat", "une piña", "a photo of a " + "very " * 100 + "old cat", "cat"),
]
ANYTHING = About(key="", files={}, logit_scale=1.0, logit_bias=None, packed=True, end=None, own_tokens=True)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a function: a model's name -> a cache with its graphs, exported once a session; not to be written to."""
    root = tmp_path_factory.mktemp("exported")

    def cache(name: str) -> Path:
        folder = root / Path(name).name
        if not folder.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ZSCLIP_CACHE_DIR", str(folder))
                export_graphs(find_model(name))
        return folder

    return cache


@pytest.fixture
def ready(exported: Callable[[str], Path], tiny_model: Callable[[str], Path]) -> str:
    """The name of a model whose graphs are in this test's own cache."""
    name = str(tiny_model("plain"))
    shutil.copytree(exported(name), cache_dir(), dirs_exist_ok=True)
    return name


def in_onnx(cache: Path, name: str) -> OnnxEncoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSCLIP_CACHE_DIR", str(cache))
        found = find_graphs(find_model(name))
    assert found is not None
    return OnnxEncoder(find_model(name), found)


def pixels_for(encoder: Encoder, count: int) -> list[np.ndarray]:
    random = np.random.default_rng(count)
    return list(random.integers(0, 256, (count, 3, *encoder.spec.preprocess.size), dtype=np.uint8))


# Each rotary table is a long part of the graph, which takes a minute.
@pytest.mark.parametrize("kind", [*filter("rotary".__ne__, CONFIGS), pytest.param("rotary", marks=pytest.mark.slow)])
def test_embeddings_are_those_of_torch(
    kind: str, tiny_model: Callable[[str], Path], exported: Callable[[str], Path]
) -> None:
    name = str(tiny_model(kind))
    twin = LazyTorchEncoder(find_model(name), "cpu", "fp32")

    encoder = in_onnx(exported(name), name)

    for count in (1, 2, 5, 32, 7):  # the last ones are encoded in parallel
        pixels = pixels_for(encoder, count)
        images, expected = encoder.begin_images(pixels)(), twin.begin_images(pixels)()
        assert images.dtype == np.float32
        assert np.abs(images - expected).max() <= 1e-5
        assert np.abs(np.linalg.norm(images, axis=1) - 1).max() <= 1e-6
    for prompts in (PROMPTS, PROMPTS[:1], PROMPTS[-2:], PROMPTS[:5]):
        assert np.abs(encoder.encode_text(prompts) - twin.encode_text(prompts)).max() <= 1e-5
    assert "_parallel_session" in vars(encoder)
    assert "_image_session" not in vars(encoder)
    assert encoder.token_counts(PROMPTS) == twin.token_counts(PROMPTS)
    for about in ("logit_scale", "logit_bias", "embed_dim", "batch_size", "device", "precision"):
        assert getattr(encoder, about) == getattr(twin, about)


def test_the_bundled_model_gives_the_same_labels(views: np.ndarray) -> None:
    encoder = Computing(runtime="onnx").encoder("tiny", True)
    twin = LazyTorchEncoder(find_model("tiny"), "cpu", "fp32")
    words = expand([Label(label) for label in LABELS.split(",")], read_templates(["a photo of a {}."]))

    batches = [list(views[start : start + 40 : 4]) for start in range(0, len(views), 40)]
    vectors, expected = (np.concatenate([each.begin_images(batch)() for batch in batches]) for each in (encoder, twin))
    matrix, twins = (build_classifier(words, each) for each in (encoder, twin))

    assert "_parallel_session" in vars(encoder)  # of the last batches
    assert (vectors * expected).sum(axis=1).min() >= 0.99999
    labels = cosines(vectors, matrix.class_embeddings).argmax(axis=1)
    assert np.array_equal(labels, cosines(expected, twins.class_embeddings).argmax(axis=1))
    assert len(set(labels.tolist())) >= 3


def test_torchs_newer_exporter_gives_the_same(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    spec = find_model(str(tiny_model("plain")))
    model = onnx_export.ClipModel(spec)
    tower = onnx_export._Packs(onnx_export.load_tower(spec, "text"))

    onnx_export._to_onnx(tower, onnx_export._packs_of(spec), tmp_path / "raw.onnx", dynamo=True)
    onnx_export.optimised(tmp_path / "raw.onnx", tmp_path / graphs.TEXT)

    result = OnnxEncoder(spec, Graphs(tmp_path, ANYTHING)).encode_text(PROMPTS)
    assert np.abs(result - model.encode_text(PROMPTS).numpy()).max() <= 1e-5


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled model, which takes its place."""
    folder = shutil.copytree(TINY_DIR, tmp_path / "tiny")
    for module in (graphs, find):
        monkeypatch.setattr(module, "TINY_DIR", folder)
    return folder


def test_the_bundled_graphs_read_the_bundled_weights_and_give_what_torch_gives(views: np.ndarray) -> None:
    encoder = Computing(runtime="onnx").encoder("tiny", True)
    twin = LazyTorchEncoder(find_model("tiny"), "cpu", "fp32")
    files = [TINY_DIR / name for name in (graphs.ABOUT, graphs.IMAGE, graphs.TEXT)]

    assert sum(file.stat().st_size for file in files) < 1_000_000
    assert not (cache_dir() / FOLDER).exists()
    for count in (1, 2, 5):
        pairs = [
            (encoder.begin_images(list(views[:count]))(), twin.begin_images(list(views[:count]))()),
            (encoder.encode_text(PROMPTS[-count:]), twin.encode_text(PROMPTS[-count:])),
        ]
        for ours, expected in pairs:
            assert (ours * expected).sum(axis=1).min() >= 0.99999
            assert np.abs(ours - expected).max() <= 1e-4
    assert np.abs(encoder.encode_text(PROMPTS) - twin.encode_text(PROMPTS)).max() <= 1e-4
    assert encoder.token_counts(PROMPTS) == twin.token_counts(PROMPTS)
    assert (encoder.logit_scale, encoder.logit_bias) == (twin.logit_scale, twin.logit_bias)


def test_the_bundled_graphs_are_written_by_one_function(bundled: Path) -> None:
    for name in (graphs.ABOUT, graphs.IMAGE, graphs.TEXT):
        (bundled / name).unlink()
    assert find_graphs(find_model("tiny")) is None

    onnx_export.write_graphs_beside(find_model("tiny"))

    found = find_graphs(find_model("tiny"))
    assert found is not None
    assert found.folder == bundled
    assert found.size < 1_000_000
    assert {path.name for path in bundled.iterdir()} == {path.name for path in TINY_DIR.iterdir()}


@pytest.mark.parametrize("kind", ["quick-gelu", "resnet"])  # whose weights are scaled and folded; kept in fp32
def test_graphs_without_weights_give_what_torch_gives(
    kind: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model(kind), tmp_path / "model")
    spec = find_model(str(folder))
    twin = LazyTorchEncoder(spec, "cpu", "fp32")

    onnx_export.write_graphs_beside(spec)

    found = graphs.read_graphs(folder, graphs.graphs_key(spec))
    assert found is not None
    assert found.size < 0.02 * (folder / "open_clip_model.safetensors").stat().st_size
    encoder = OnnxEncoder(spec, found)
    pixels = pixels_for(encoder, 3)
    assert np.abs(encoder.begin_images(pixels)() - twin.begin_images(pixels)()).max() <= 1e-5
    assert np.abs(encoder.encode_text(PROMPTS) - twin.encode_text(PROMPTS)).max() <= 1e-5


@pytest.mark.parametrize("name", ["graphs.json", "image.onnx", "text.onnx", "open_clip_model.safetensors"])
def test_bundled_graphs_of_other_weights_or_damaged_ones_are_not_believed(name: str, bundled: Path) -> None:
    assert find_graphs(find_model("tiny")) is not None

    flip(bundled / name)

    assert find_graphs(find_model("tiny")) is None
    assert runtime_of("tiny", device="cpu") == "torch"


def test_graphs_beside_another_model_are_not_looked_at(bundled: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundled, tmp_path / "other")

    assert find_graphs(find_model(str(other))) is None


class Twice(nn.Module):
    """Gives twice what torch is said to give."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 2 * pixels.float().mean(dim=(2, 3))


class Untraceable(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such operator")


@pytest.mark.parametrize(("tower", "told"), [(Twice(), "gives other embeddings in ONNX"), (Untraceable(), "no such")])
def test_a_graph_that_is_not_what_torch_gives_is_refused(tower: nn.Module, told: str, spec, tmp_path: Path) -> None:
    pixels = np.full((2, 3, 8, 8), 7, np.uint8)

    def encoded(encoder: OnnxEncoder, count: int) -> tuple[np.ndarray, torch.Tensor]:
        return encoder._run(encoder._image_session, {"pixels": pixels}, ""), torch.full((2, 3), 7.0)

    with pytest.raises(ModelError, match=f"^--runtime onnx: the image tower .*{told}.*; use --runtime torch$"):
        onnx_export._write(
            "image tower", tower, {"pixels": torch.from_numpy(pixels)}, tmp_path / graphs.IMAGE,
            onnx_export.optimised,
            lambda: OnnxEncoder(spec, Graphs(tmp_path, ANYTHING)), encoded,
        )  # fmt: skip


def test_a_failed_export_leaves_nothing_behind(spec) -> None:
    def fail(folder: Path) -> dict[str, object]:
        (folder / graphs.IMAGE).write_bytes(b"half")
        raise ModelError("no")

    with pytest.raises(ModelError):
        graphs.keep_graphs(spec, fail)

    assert list((cache_dir() / FOLDER).iterdir()) == []
    assert find_graphs(spec) is None


@pytest.mark.parametrize(("cosine", "is_close"), [(0.999995, True), (0.99998, False)])
def test_the_limit_of_a_graph(cosine: float, is_close: bool) -> None:
    expected = torch.zeros(2, 10000)
    expected[:, 0] = 1
    result = expected.numpy().copy()
    result[1, 0] = cosine
    result[1, 1:] = ((1 - cosine**2) / 9999) ** 0.5

    assert (onnx_export._difference((result, expected)) == "") == is_close
    result[1, 2] += 2e-4
    assert onnx_export._difference((result, expected))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["image.onnx", "image.bin", "text.onnx", "text.bin", "graphs.json"])
@pytest.mark.parametrize("damage", [flip, cut, pipe_instead, Path.unlink])
def test_damaged_graphs_are_not_believed(name: str, damage: Callable[[Path], None], ready: str) -> None:
    spec = find_model(ready)
    found = find_graphs(spec)
    assert found is not None

    damage(found.folder / name)

    assert find_graphs(spec) is None
    assert Computing(device="cpu").encoder(ready, True).runtime == "torch"


def test_damaged_graphs_are_exported_again(ready: str, run: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    found = find_graphs(find_model(ready))
    assert found is not None
    flip(found.folder / graphs.IMAGE)

    done = run("models", "export", ready)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(os.fsencode(found.folder))
    assert find_graphs(find_model(ready)) == found
    assert [path.name for path in found.folder.parent.iterdir()] == [found.folder.name]


def test_graphs_of_another_model_are_not_believed(ready: str, tiny_model: Callable[[str], Path]) -> None:
    own, other = find_model(ready), find_model(str(tiny_model("quick-gelu")))
    found = find_graphs(own)
    assert found is not None

    shutil.copytree(found.folder, found.folder.parent / graphs.graphs_key(other))

    assert find_graphs(other) is None
    preprocess = replace(own.preprocess, mean=(0.1, 0.2, 0.3))
    assert find_graphs(replace(own, preprocess=preprocess)) is None  # normalisation is in the graph


def test_two_processes_may_export_at_once(tiny_model: Callable[[str], Path]) -> None:
    name = str(tiny_model("plain"))
    command = [sys.executable, "-m", "zsclip", "models", "export", name]

    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    ends = [(*process.communicate(timeout=HANGS), process.returncode) for process in both]

    assert ends[0] == ends[1]
    assert ends[0][1:] == (b"", 0)
    found = find_graphs(find_model(name))
    assert found is not None
    assert [path.name for path in found.folder.parent.iterdir()] == [found.folder.name]
    assert OnnxEncoder(find_model(name), found).encode_text(["a cat"]).shape == (1, 32)


def test_graphs_are_always_found_by_those_who_kept_them(tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model("plain")))
    all_have_looked = threading.Barrier(4)
    about = {"logit_scale": 1.0, "logit_bias": None, "packed": True, "end": None, "own_tokens": True}

    def export(folder: Path) -> dict[str, object]:
        (folder / graphs.IMAGE).write_bytes(b"x")
        all_have_looked.wait(HANGS)
        return about

    for _ in range(20):
        with ThreadPoolExecutor(4) as pool:
            kept = [pool.submit(graphs.keep_graphs, spec, export) for _ in range(4)]
        assert len({each.result().folder for each in kept}) == 1
        shutil.rmtree(kept[0].result().folder)


def runtime_of(name: str, **options: object) -> str:
    return Computing(**options).encoder(name, True).runtime  # type: ignore[arg-type]


def test_graphs_are_used_where_they_can_be(ready: str, tiny_model: Callable[[str], Path]) -> None:
    assert runtime_of(ready, device="cpu") == "onnx"
    assert runtime_of(ready, device="cpu", precision="fp32", runtime="onnx") == "onnx"
    assert runtime_of(ready) == ("torch" if torch.cuda.is_available() else "onnx")
    assert runtime_of(ready, device="cpu", runtime="torch") == "torch"
    assert runtime_of(ready, device="cpu", precision="bf16") == "torch"
    assert runtime_of(ready, device="cpu", compile=True) == "torch"
    assert runtime_of(ready, device="cuda") == "torch"
    assert runtime_of(str(tiny_model("resnet")), device="cpu") == "torch"  # not exported


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "bf16"}, {"compile": True}])
def test_what_only_torch_can_do_is_not_asked_of_onnx(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="--runtime onnx: needs the CPU, fp32 or int8, and no --compile"):
        Computing(runtime="onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--runtime: 'tvm' is not a runtime; use auto, torch, onnx"):
        Computing(runtime="tvm")  # type: ignore[arg-type]


def test_without_graphs_or_library_torch_is_used(
    ready: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(tiny_model("resnet"))
    with pytest.raises(
        ModelError, match=f"{other}: has no ONNX graphs in the cache; run `zsclip models export {other}`"
    ):
        runtime_of(other, runtime="onnx")

    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    assert runtime_of(ready, device="cpu") == "torch"
    with pytest.raises(ModelError, match=r"--runtime onnx: needs ONNX Runtime: pip install 'zsclip\[onnx\]'"):
        runtime_of(ready, runtime="onnx")
    with pytest.raises(ModelError, match=r"exporting needs onnxruntime: pip install 'zsclip\[onnx\]'"):
        export_graphs(find_model(ready))


def test_embeddings_of_two_runtimes_are_kept_apart(ready: str) -> None:
    ours, torchs = (Computing(device="cpu", runtime=name).encoder(ready, True) for name in ("onnx", "torch"))  # type: ignore[arg-type]
    question = Question(expand([Label("cat")], read_templates(["{}"])), None, Scoring())

    assert ours.image_recipe(False) != torchs.image_recipe(False)
    assert ours.image_recipe(True) != ours.image_recipe(False)
    assert ours.text_recipe != torchs.text_recipe
    assert torchs.image_recipe(False) == torchs.spec.image_recipe("cpu", torchs.precision, False, False)
    before, now = (settings_of(question, each, ready, Computing()) for each in (torchs, ours))
    assert "runtime: torch -> onnx" in list(changes(before, now))


def constant_graph(path: Path, *, of_nan: bool) -> None:
    """Write a graph whose vectors are all zero, or NaN."""
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["means", "means"], ["zeros"]),
        helper.make_node("Div", ["zeros", "zeros"], ["nan"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["B", 3, 32, 32])
    result = helper.make_tensor_value_info("nan" if of_nan else "zeros", TensorProto.FLOAT, ["B", 3])
    made = helper.make_graph(nodes, "constant", [pixels], [result])
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize(("of_nan", "told"), [(True, "NaN or infinity in fp32"), (False, "only zeros")])
def test_vectors_that_mean_nothing_are_refused(of_nan: bool, told: str, spec, tmp_path: Path) -> None:
    constant_graph(tmp_path / graphs.IMAGE, of_nan=of_nan)

    with pytest.raises(ModelError, match=f"produced {told}; the weights are damaged"):
        OnnxEncoder(spec, Graphs(tmp_path, ANYTHING)).begin_images([np.ones((3, 32, 32), np.uint8)])


def test_a_graph_that_cannot_be_loaded_is_one_line(spec, tmp_path: Path) -> None:
    (tmp_path / graphs.IMAGE).write_bytes(b"not a graph")

    with pytest.raises(ModelError, match=r"^[^\n]*ONNX Runtime: [^\n]*; use --runtime torch$"):
        OnnxEncoder(spec, Graphs(tmp_path, ANYTHING)).load()


def modules_of_a_run(*arguments: str) -> tuple[bytes, set[str]]:
    """Run `zsclip classify` in a process of its own; give what it printed, and what it imported."""
    code = """
import sys
from zsclip.cli.main import main
code = main(["classify", *sys.argv[1:]])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""
    command = [sys.executable, "-c", code, *arguments, "-q", "-f", "jsonl"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.decode().splitlines()
    return done.stdout, set(line.split())


@pytest.mark.parametrize("labels", ["red,green", "une piña,a new label"])
@pytest.mark.parametrize("model", ["exported", "tiny"])
def test_a_run_imports_no_torch_not_even_the_first(labels: str, model: str, ready: str, photos: Path) -> None:
    arguments = [str(photos / "red.png"), "-m", {"exported": ready}.get(model, model), "-l", labels]
    if torch.cuda.is_available():
        arguments += ["--device", "cpu"]

    rows = []
    for more in ([], ["--runtime", "onnx"], ["--no-store"]):  # new labels, then stored ones and a stored picture
        printed, modules = modules_of_a_run(*arguments, *more)
        assert not modules & {"torch", "torchvision", "open_clip", "timm", "transformers", "onnx", "tokenizers"}
        rows.append(printed)
    assert rows[0] == rows[1] == rows[2]
    assert rows[0].count(b"\n") == 1


def test_a_run_that_only_looks_up_imports_nothing_to_decode_or_encode(ready: str, photos: Path) -> None:
    arguments = (str(photos / "red.png"), "-m", ready, "-l", "red,green", "--device", "cpu")
    time.sleep(GRAIN_NS / 1e9 + 0.1)  # a file that was just written has no key
    first, computing = modules_of_a_run(*arguments)
    while time.time_ns() <= os.stat(photos / "red.png").st_ctime_ns + GRAIN_NS:  # else it may change again unnoticed
        time.sleep(0.01)
    modules_of_a_run(*arguments)  # known by its content, if it was younger in the first run

    again, modules = modules_of_a_run(*arguments)

    assert again == first
    used = {"PIL.Image", "onnxruntime", "zsclip.models.tokens"}
    assert used <= computing
    unused = {"pydantic", "yaml", "rich", "importlib.metadata", "huggingface_hub", "zsclip.cli.training"}
    assert not modules & (used | unused)


def test_rows_are_those_of_torch(
    ready: str, tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    import json

    random = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    command = [
        "classify",
        tmp_path,
        "-m",
        ready,
        "-l",
        "cat,dog,bird",
        "-k",
        "3",
        "-f",
        "jsonl",
        "-q",
        "--device",
        "cpu",
    ]

    ours, torchs = (run(*command, "--runtime", name, "--precision", "fp32") for name in ("onnx", "torch"))

    assert ours.returncode == torchs.returncode == 1
    rows, expected = ([json.loads(line) for line in each.stdout.splitlines()] for each in (ours, torchs))
    assert len(rows) == len(expected) == 6
    for row, twin in zip(rows, expected, strict=True):
        assert (row["file_name"], row["label"], row["error"]) == (twin["file_name"], twin["label"], twin["error"])
        for one, other in zip(row["predictions"] or [], twin["predictions"] or [], strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_the_cache_shows_and_clears_graphs(ready: str, run: Callable[..., subprocess.CompletedProcess[bytes]]) -> None:
    size = graphs.size_on_disk()
    assert size > 13_000_000

    told = run("cache", "info").stdout.decode()
    done = run("cache", "clear")

    assert "exported models" in told
    assert done.returncode == 0
    assert not (cache_dir() / FOLDER).exists()
    assert graphs.size_on_disk() == 0


def test_a_short_run_in_torch_suggests_an_export_once(
    tiny_model: Callable[[str], Path], photos: Path, run: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    def notes(model: str, *more: str) -> list[str]:
        done = run("classify", "photos", "-m", model, "-l", "red,green", "--device", "cpu", "--no-store", *more)
        return [line for line in done.stderr.decode().splitlines() if "models export" in line]

    model, other = str(tiny_model("plain")), str(tiny_model("siglip"))
    expected = [
        f"zsclip: run `zsclip models export {model}` once, and {model} will start several times as fast, without torch"
    ]

    assert notes(model, "--quiet") == notes(model, "--precision", "bf16") == notes(model, "--runtime", "torch") == []
    assert notes(model) == expected
    assert notes(model) == []
    assert len(notes(other)) == 1
    assert notes("tiny") == []


def test_where_nothing_can_be_kept_or_exported_no_export_is_suggested(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_model(str(tiny_model("plain")))

    monkeypatch.setenv("ZSCLIP_CACHE_DIR", "/dev/null/nowhere")
    assert not graphs.is_first_hint(spec)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert graphs.missing_to_export() == ["onnxscript"]


@pytest.mark.parametrize(
    ("names", "is_certain"), [(["null", "nvme0n1"], True), (["null", "nvidia0"], False), (["kfd"], False)]
)
def test_only_a_device_in_dev_may_be_a_gpu(names: list[str], is_certain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_torch.os, "listdir", lambda folder: names)
    monkeypatch.setattr(lazy_torch.sys, "platform", "linux")

    assert lazy_torch.has_no_gpu() == is_certain

    monkeypatch.setattr(lazy_torch.sys, "platform", "darwin")
    assert not lazy_torch.has_no_gpu()
