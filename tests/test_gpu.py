"""On an accelerator what the CPU gives in fp32: `make test-gpu`, where there is one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from conftest import words_of
from PIL import Image
from test_tiny import LABELS
from test_torch_encoder import with_weights

from zsclip.answers.classifier import build_classifier
from zsclip.answers.scores import cosines
from zsclip.models.find import find_model
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.torch_encoder import ClipModel, load_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.fixture
def full_device() -> Iterator[Callable[[int], None]]:
    """Give a function that leaves N bytes of the device's memory."""
    held = []

    def fill(left: int) -> None:
        torch.cuda.empty_cache()
        held.append(torch.empty(torch.cuda.mem_get_info()[0] - left, dtype=torch.uint8, device="cuda"))

    yield fill
    held.clear()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("kind", ["plain", "quick-gelu", "siglip", "resnet", "timm"])
def test_fp32_matches_the_cpu(kind: str, tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model(kind)))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3, *spec.preprocess.size), dtype=np.uint8)
    prompts = ["a cat", "a photo of a much longer thing", "x"]
    on_cpu, on_gpu = load_model(spec, "cpu", "fp32"), load_model(spec, "cuda", "fp32")

    assert (on_cpu.encode_images(pixels) - on_gpu.encode_images(pixels)).abs().max() <= 1e-5
    assert (on_cpu.encode_text(prompts) - on_gpu.encode_text(prompts)).abs().max() <= 1e-5


def test_the_default_answers_as_the_cpu_does_in_fp32(views: np.ndarray) -> None:
    spec = find_model("tiny")
    exact, fast = load_model(spec, "cpu", "fp32"), load_model(spec)
    words = words_of({label: [f"a photo of a {label}."] for label in LABELS.split(",")})
    classes = build_classifier(words, LazyTorchEncoder(spec, "cpu", "fp32")).class_embeddings

    expected, embeddings = (model.encode_images(views).numpy() for model in (exact, fast))

    assert (fast.device, fast.precision) == ("cuda", "fp16")
    assert (expected * embeddings).sum(axis=1).min() >= 0.999
    assert (cosines(expected, classes).argmax(axis=1) != cosines(embeddings, classes).argmax(axis=1)).mean() <= 0.005


def test_asynchronous_encoding_equals_synchronous(views: np.ndarray) -> None:
    model = load_model(find_model("tiny"))
    parts = [*np.array_split(views, 8), views[:1]]
    expected = [model.encode_images(part) for part in parts]

    begun = [model.begin_images(list(part)) for part in parts]

    assert all(torch.equal(finish(), one) for finish, one in zip(begun, expected, strict=True))


def test_a_compiled_tower_answers_as_the_plain_one(views: np.ndarray) -> None:
    spec = find_model("tiny")
    plain, compiled = (load_model(spec, compiled=compiled) for compiled in (False, True))

    for part in (views[:96], views[96:192], views[192:]):
        assert (plain.encode_images(part) * compiled.encode_images(part)).sum(dim=1).min() >= 0.9999


def test_a_picture_that_overflows_in_fp16_is_encoded_in_bf16(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    spec = with_weights(tiny_model("plain"), tmp_path / "loud", visual__conv1__weight=lambda x: x * 3e4 / x.abs().max())
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    pixels[1:4] = np.array(spec.preprocess.mean).reshape(3, 1, 1) * 255  # near zero after normalisation
    model = ClipModel(spec, "cuda", "fp16")
    assert not model._encode_images(torch.from_numpy(pixels).cuda()).isfinite().all()

    assert (model.encode_images(pixels) * ClipModel(spec).encode_images(pixels)).sum(dim=1).min() >= 0.999


def test_a_batch_that_is_too_large_is_halved_and_not_tried_again(full_device: Callable[[int], None]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20_000, 3, 64, 64), dtype=np.uint8)
    model = load_model(find_model("tiny"))
    expected = torch.cat([model.encode_images(part) for part in np.array_split(pixels, 100)])
    full_device(700 * 2**20)

    first, second = model.begin_images(pixels), model.begin_images(pixels)

    assert (first() * expected).sum(dim=1).min() >= 0.9999
    assert (second() * expected).sum(dim=1).min() >= 0.9999
    assert 100 < model._most < 20_000


def test_the_batch_size_follows_from_the_free_memory(full_device: Callable[[int], None]) -> None:
    roomy, tight = (load_model(find_model("tiny")) for _ in range(2))
    assert roomy.batch_size == 256
    full_device(64 * 2**20)
    assert 1 <= tight.batch_size < 256


def test_a_run_answers_in_order_and_again_from_the_store(
    run_alone: Callable[..., CompletedProcess[bytes]],
    tmp_path: Path,
    views: np.ndarray,
) -> None:
    for i, view in enumerate(views):
        Image.fromarray(view.transpose(1, 2, 0)).save(tmp_path / f"{i:03d}.png")
    (tmp_path / "100x.png").write_bytes(b"no picture")
    command = ("classify", ".", "--labels", LABELS, "--model", "tiny", "--format", "jsonl", "--batch-size", "7")

    on_cpu, first, again = (run_alone(*command, *more) for more in (("--device", "cpu"), (), ()))
    compiled = run_alone(*command, "--compile")

    assert [each.returncode for each in (on_cpu, first, again, compiled)] == [1] * 4, [
        each.stderr for each in (on_cpu, first, again, compiled)
    ]
    rows, expected = (list(map(json.loads, each.stdout.splitlines())) for each in (first, on_cpu))
    assert [row["file_name"] for row in rows] == sorted(path.name for path in tmp_path.glob("*.png"))
    assert sum(row["label"] != other["label"] for row, other in zip(rows, expected, strict=True)) <= 1
    assert first.stdout == again.stdout
    assert len(compiled.stdout.splitlines()) == 201


def test_torch_is_as_it_was_after_pictures_and_prompts_were_encoded(views: np.ndarray) -> None:
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32

    model = load_model(find_model("tiny"), "cuda")
    model.encode_images(views[:4])
    model.encode_text(["a cat"])

    assert (torch.get_num_threads(), torch.backends.cudnn.allow_tf32) == (threads, tf32)


def test_what_was_remembered_of_the_device_is_what_is_loaded() -> None:
    spec = find_model("tiny")
    first = LazyTorchEncoder(spec)
    assert (first.batch_size, first.in_flight, first._settings["device"]) == (256, 1, "cuda")
    second = LazyTorchEncoder(spec)
    assert second._settings == first._settings
    second.load()
    assert second.is_as_remembered
