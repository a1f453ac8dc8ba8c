"""Our towers against open_clip's own loading of the same files, the slow twin of everything in model.py."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, save_tokenizer
from torchvision.transforms import Normalize

from zsclip.errors import ModelError
from zsclip.kept.cache import count_rows
from zsclip.models.find import find_model
from zsclip.models.spec import ModelSpec
from zsclip.models.text import sees_no_padding
from zsclip.models.torch_encoder import (
    ClipModel,
    _bf16_agrees,
    chosen_precision,
    count_tokens,
    has_bf16,
    load_model,
    load_tokenizer,
    tuned_for,
)
from zsclip.models.towers import load_tower
from zsclip.pixels.decode import decode_image

KINDS = sorted(CONFIGS)
PROMPTS = ["a photo of a cat", "a", "the red dog of a bird sketch w1 w2 w3", "a photo of " + "w5 " * 40, "Photo: DOG!"]


def ours(folder: Path) -> ClipModel:
    return ClipModel(find_model(f"local-dir:{folder}"))


def plain(folder: Path) -> torch.nn.Module:
    return open_clip.create_model(f"local-dir:{folder}").eval()


@pytest.mark.parametrize("kind", KINDS)
def test_image_embeddings_equal_open_clips(kind: str, tiny_model: Callable[[str], Path]) -> None:
    model, reference = ours(tiny_model(kind)), plain(tiny_model(kind))
    height, width = model.spec.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, height, width), dtype=np.uint8)
    settings = reference.visual.preprocess_cfg

    with torch.no_grad():
        images = Normalize(settings["mean"], settings["std"])(torch.from_numpy(pixels) / 255)
        expected = reference.encode_image(images, normalize=True)
    result = model.encode_images(pixels)

    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_text_embeddings_equal_open_clips_in_any_length_and_order(kind: str, tiny_model: Callable[[str], Path]) -> None:
    reference, tokenizer = plain(tiny_model(kind)), open_clip.get_tokenizer(f"local-dir:{tiny_model(kind)}")

    with torch.no_grad():
        expected = reference.encode_text(tokenizer(PROMPTS), normalize=True)
    result = ours(tiny_model(kind)).encode_text(PROMPTS)

    assert (result - expected).abs().max() <= 1e-5


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
def test_a_compiled_tower_gives_the_same_and_is_compiled_once(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    spec = find_model(f"local-dir:{tiny_model('plain')}")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    eager, compiled = ClipModel(spec), ClipModel(spec, compiled=True)
    counters.clear()

    for count in (5, 2, 5, 1):
        difference = compiled.encode_images(pixels[:count]) - eager.encode_images(pixels[:count])
        assert difference.shape == (count, 32)
        assert difference.abs().max() <= 1e-5

    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("kind", ["plain", "siglip", "timm"])
def test_a_file_is_preprocessed_as_open_clip_does(kind: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """From the bytes on disk to the embedding, opaque and upright, 8 shapes."""
    model = ours(tiny_model(kind))
    reference, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tiny_model(kind)}")
    reference.eval()
    random = np.random.default_rng(1)
    for width, height in [(32, 32), (100, 60), (61, 99), (33, 500), (7, 5), (24, 24), (640, 480), (50, 49)]:
        path = tmp_path / f"{width}x{height}.png"
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        pixels = decode_image(str(path), model.spec.preprocess)
        assert isinstance(pixels, np.ndarray)

        with torch.no_grad():
            expected = reference.encode_image(transform(Image.open(path))[None], normalize=True)

        assert (model.encode_images(pixels[None]) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_logit_scale_and_bias_are_the_checkpoints(kind: str, tiny_model: Callable[[str], Path]) -> None:
    model, reference = ours(tiny_model(kind)), plain(tiny_model(kind))

    assert model.logit_scale == pytest.approx(reference.logit_scale.exp().item())
    if reference.logit_bias is None:
        assert model.logit_bias is None
    else:
        assert model.logit_bias == pytest.approx(reference.logit_bias.item())


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        ("plain", True),
        ("custom-text", True),
        ("timm", True),
        ("siglip", False),
        ("coca", False),
        ("bidirectional", False),
    ],
)
def test_the_short_context_is_used_only_where_it_is_exact(
    kind: str, exact: bool, tiny_model: Callable[[str], Path]
) -> None:
    """Cutting the padding moves nothing in a causal tower, and moves a bidirectional one: both are shown."""
    model = ours(tiny_model(kind))
    ids = model.tokenizer(PROMPTS[:1])
    used = 7 if exact else ids.shape[1] - 4
    tower = model._text_tower

    assert sees_no_padding(tower) == exact
    with torch.no_grad():
        full = tower(ids)
        if exact:
            short = torch.func.functional_call(tower, {"attn_mask": tower.attn_mask[:used, :used]}, (ids[:, :used],))
            assert (short - full).abs().max() <= 1e-5
        else:
            full = full[0] if isinstance(full, tuple) else full
            short = tower(ids[:, :used])
            short = short[0] if isinstance(short, tuple) else short
            assert (short - full).abs().max() > 1e-3


@pytest.mark.parametrize("count", [1, 2, 340, 341, 342, 1000])
def test_prompts_come_back_in_their_order_whatever_the_batches(count: int, tiny_model: Callable[[str], Path]) -> None:
    """In the plain way 341 full prompts of 24 tokens fill a batch."""
    model = ours(tiny_model("plain"))
    prompts = [f"w{i} " * (i % 30) for i in range(count)]

    together = model.encode_text(prompts)

    for i in {0, count // 2, count - 1}:
        assert (together[i] - model.encode_text([prompts[i]])[0]).abs().max() <= 1e-5


def test_each_tower_reads_only_its_own_weights(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    state = load_file(tiny_model("custom-text") / "open_clip_model.safetensors")
    for which, other in (("visual", "text"), ("text", "visual")):
        folder = shutil.copytree(tiny_model("custom-text"), tmp_path / which)
        half = {name: tensor for name, tensor in state.items() if name.startswith((which, "logit_"))}
        save_file(half, folder / "open_clip_model.safetensors")

        tower = load_tower(find_model(str(folder)), which)

        assert sum(p.numel() for p in tower.parameters()) == sum(
            tensor.numel() for name, tensor in half.items() if name.startswith(which)
        )
        with pytest.raises(ModelError, match=r"do not match.*Missing key"):
            load_tower(find_model(str(folder)), other)


@pytest.mark.parametrize("form", ["pt", "wrapped", "half"])
def test_other_forms_of_a_checkpoint_are_read(form: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("plain"), tmp_path / "model")
    state = load_file(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    if form == "pt":
        torch.save({"state_dict": state}, folder / "open_clip_pytorch_model.bin")
    elif form == "wrapped":  # as distributed training saves it
        save_file({f"module.{name}": tensor for name, tensor in state.items()}, folder / "model.safetensors")
    else:
        save_file({name: tensor.half() for name, tensor in state.items()}, folder / "model.safetensors")
    tolerance = 0.02 if form == "half" else 1e-6

    result, expected = ours(folder), ours(tiny_model("plain"))

    pixels = np.full((1, 3, 32, 32), 200, np.uint8)
    assert (result.encode_images(pixels) - expected.encode_images(pixels)).abs().max() <= tolerance
    assert (result.encode_text(["a cat"]) - expected.encode_text(["a cat"])).abs().max() <= tolerance
    assert {p.dtype for p in result._text_tower.parameters()} == {torch.float32}


def test_a_checkpoint_that_runs_code_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    folder = shutil.copytree(tiny_model("plain"), tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": Evil()}, folder / "open_clip_pytorch_model.bin")

    with pytest.raises(ModelError, match="cannot load"):
        ours(folder).encode_images(np.zeros((1, 3, 32, 32), np.uint8))
    assert not (tmp_path / "ran").exists()


def test_a_configuration_that_asks_for_remote_code_runs_nothing(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Tokenizer and text tower both point at a folder whose Python file leaves a mark when it is imported."""
    from transformers import dynamic_module_utils

    patience = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    folder = shutil.copytree(tiny_model("siglip"), tmp_path / "model")
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True, "clean": "lower"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError):
        ours(folder).encode_text(["a cat"])
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_tokenizer(folder)  # a good one: now it is the tower's turn
    with pytest.raises(ModelError):
        ours(folder).encode_text(["a cat"])
    assert not mark.exists()
    # Asked "run the custom code? [y/N]", transformers would read the answer from our stdin.
    command = [sys.executable, "-m", "zsclip", "classify", "-", "--labels", "a,b", "--model", str(folder)]
    result = subprocess.run(command, input=b"y\n" * 9, capture_output=True)
    assert result.returncode == 3
    assert patience == dynamic_module_utils.TIME_OUT_REMOTE_CODE
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "other shape"])
def test_damaged_weights_are_reported_in_one_line(
    damage: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model("plain"), tmp_path / "model")
    file = folder / "open_clip_model.safetensors"
    if damage == "other shape":
        save_file(load_file(file) | {"visual.proj": torch.zeros(3, 3)}, file)
    else:
        file.write_bytes(file.read_bytes()[: 100_000 if damage == "truncated" else 0])

    with pytest.raises(ModelError) as error:
        ours(folder).encode_images(np.zeros((1, 3, 32, 32), np.uint8))

    assert ("do not match" if damage == "other shape" else "check that it is the right file") in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_that_overflow_are_an_error_and_not_an_answer(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model("plain"), tmp_path / "model")
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    save_file(state | {"visual.ln_post.bias": torch.full_like(state["visual.ln_post.bias"], float("inf"))}, file)

    with pytest.raises(ModelError, match="damaged"):
        ours(folder).encode_images(np.zeros((1, 3, 32, 32), np.uint8))


def test_a_batch_too_large_for_the_device_is_halved_and_not_tried_again(tiny_model: Callable[[str], Path]) -> None:
    class SmallDevice(ClipModel):
        room, refused = 2, 0

        def _encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) > self.room:
                self.refused += 1
                raise torch.OutOfMemoryError
            return super()._encode_images(pixels)

    spec = find_model(f"local-dir:{tiny_model('plain')}")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)
    model = SmallDevice(spec)

    for _ in range(2):
        assert (model.encode_images(pixels) - ClipModel(spec).encode_images(pixels)).abs().max() <= 1e-5
    assert model.refused == 2  # of 7, of 3
    model.room = 0
    with pytest.raises(ModelError, match="not enough memory"):
        model.encode_images(pixels)


def test_the_cpus_way_to_say_out_of_memory_is_understood(tiny_model: Callable[[str], Path]) -> None:
    class NoMemory(ClipModel):
        def _encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.empty(2**60)  # a real refusal of the allocator

    with pytest.raises(ModelError, match="not enough memory"):
        NoMemory(find_model(str(tiny_model("plain")))).encode_images(np.zeros((2, 3, 32, 32), np.uint8))


@pytest.mark.parametrize("change", [{"tokenizer_kwargs": {"clean": "bogus"}}, {"context_length": 0},
                                    {"tokenizer_kwargs": {"strip_sep_token": True}}])  # fmt: skip
def test_a_tokenizer_that_cannot_be_built_is_reported_in_one_line(
    change: dict[str, object], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    config = json.loads((tiny_model("plain") / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= change
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match="cannot load its tokenizer"):
        load_tokenizer(find_model(str(tmp_path), with_weights=False))


def test_a_tower_defined_elsewhere_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model("timm"), tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:some/tower"
    (folder / "open_clip_config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match=r"defined in .*; use another model"):
        ours(folder)


def test_bf16_agrees_with_fp32(tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(f"local-dir:{tiny_model('plain')}")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)

    cosines = (load_model(spec, "cpu", "bf16").encode_images(pixels) * ClipModel(spec).encode_images(pixels)).sum(dim=1)

    assert cosines.min() >= 0.999


def with_weights(folder: Path, copy: Path, **changes: Callable[[torch.Tensor], torch.Tensor]) -> ModelSpec:
    """A copy of a model with some of its weights changed."""
    shutil.copytree(folder, copy)
    state = load_file(copy / "open_clip_model.safetensors")
    state |= {name.replace("__", "."): change(state[name.replace("__", ".")]) for name, change in changes.items()}
    save_file(state, copy / "open_clip_model.safetensors")
    return find_model(str(copy))


def test_bf16_is_the_default_only_where_it_is_tried_and_agrees(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    spec = find_model(str(tiny_model("plain")))
    assert _bf16_agrees(spec)
    assert count_rows()["bf16"][0] == 1
    assert _bf16_agrees(spec)  # remembered
    assert count_rows()["bf16"][0] == 1

    # A large offset that the next layer takes away again leaves three digits of bf16's nothing to say.
    coarse = with_weights(tiny_model("plain"), tmp_path / "coarse", visual__positional_embedding=lambda x: x + 1000)
    assert not _bf16_agrees(coarse)
    assert count_rows()["bf16"][0] == 2

    chosen = partial(chosen_precision, spec, "cpu")
    assert chosen(multiplies_bf16=True) == "fp32"  # of 32 pixels: small pictures stay as they are
    assert chosen(multiplies_bf16=True, min_side=32) == "bf16"
    assert chosen_precision(coarse, "cpu", multiplies_bf16=True, min_side=32) == "fp32"
    assert chosen(multiplies_bf16=False, min_side=32) == "fp32"
    assert chosen_precision(spec, "mps", multiplies_bf16=True, min_side=32) == "fp32"
    assert chosen_precision(coarse, "cuda:1", multiplies_bf16=True, min_side=32) == "fp16"
    assert load_model(spec, "cpu", "auto").precision == "fp32"
    expected = chosen_precision(find_model("tiny"), "cpu", multiplies_bf16=has_bf16("cpu"))
    assert load_model(find_model("tiny"), "cpu", "auto").precision == expected


def test_pictures_that_overflow_in_fp16_are_encoded_in_bf16(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    spec = with_weights(tiny_model("plain"), tmp_path / "loud", visual__conv1__weight=lambda x: x * 3e4 / x.abs().max())
    mean = np.array(spec.preprocess.mean).reshape(3, 1, 1) * 255
    quiet = np.broadcast_to(mean, (3, 32, 32)).round().astype(np.uint8)  # near zero after normalisation
    loud = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    model, exact = ClipModel(spec, "cpu", "fp16"), ClipModel(spec)
    assert not model._encode_images(torch.from_numpy(loud[None])).isfinite().all()

    pixels = np.stack([quiet, loud])
    both = model.encode_images(pixels)

    assert (both * exact.encode_images(pixels)).sum(dim=1).min() >= 0.999
    assert torch.equal(both[0], model._encode_images(torch.from_numpy(pixels))[0])  # not touched
    assert torch.equal(both[1:], ClipModel(spec, "cpu", "bf16").encode_images(loud[None]))


@pytest.mark.parametrize("kind", ["plain", "siglip"])
def test_tokens_are_counted_before_the_cut(kind: str, tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(f"local-dir:{tiny_model(kind)}")
    tokenizer = load_tokenizer(spec)
    marks = 2 if kind == "plain" else 1

    assert count_tokens(tokenizer, ["a cat", "a " * 50]) == [2 + marks, 50 + marks]
    for prompt in ("a cat", "the red bird"):
        ids = tokenizer([prompt])[0]
        assert int((ids != 0).sum()) == count_tokens(tokenizer, [prompt])[0]


def test_tokens_of_the_clips_mode_are_counted_with_the_marks_it_adds(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model("siglip"), tmp_path / "model")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_mode"] = "clips"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "the", "cls_token": "of"}))
    tokenizer = load_tokenizer(find_model(str(folder)))  # 16 tokens: start, 13 words, end, and the class mark last

    fits, cut = "red " * 13, "red " * 14
    assert count_tokens(tokenizer, [fits, cut]) == [16, 17]
    assert torch.equal(tokenizer([fits]), tokenizer([cut]))
    assert not torch.equal(tokenizer([fits]), tokenizer(["red " * 12]))


def test_siglip_text_is_cleaned_as_it_was_in_training(tiny_model: Callable[[str], Path]) -> None:
    """Lower case and no punctuation: RADIO lost 12 points without."""
    tokenizer = load_tokenizer(find_model(f"local-dir:{tiny_model('siglip')}"))

    assert torch.equal(tokenizer(["A Photo, of a CAT!"]), tokenizer(["a photo of a cat"]))


def test_torch_settings_are_restored_after_a_gpu_run() -> None:
    def settings() -> tuple[int, bool]:
        return torch.get_num_threads(), torch.backends.cudnn.allow_tf32

    before = settings()
    torch.set_num_threads(3)
    try:
        with tuned_for("cpu"):
            assert settings() == (3, True)
        with tuned_for("cuda:1"), tuned_for("cuda:1"):
            assert settings() == (1, False)
        assert settings() == (3, True)
        with pytest.raises(KeyError), tuned_for("cuda"):
            raise KeyError
        assert settings() == (3, True)
    finally:
        torch.set_num_threads(before[0])


def test_a_device_that_is_not_there_is_reported_in_one_line(tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(f"local-dir:{tiny_model('plain')}")

    with pytest.raises(ModelError, match="use --device cpu"):
        load_model(spec, f"cuda:{torch.cuda.device_count()}")


def test_towers_are_built_without_random_numbers(tiny_model: Callable[[str], Path]) -> None:
    model = ours(tiny_model("plain"))
    torch.manual_seed(5)
    expected = torch.get_rng_state()

    model.encode_images(np.zeros((1, 3, 32, 32), np.uint8))
    model.encode_text(["a cat"])

    assert torch.equal(torch.get_rng_state(), expected)
