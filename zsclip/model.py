"""The two towers of a CLIP model: the only file that imports open_clip.

Each tower reads only its own weights, and the text tower is built when it is first asked for: with a cached text matrix
it is never built nor read.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.convert import convert_state_dict
from open_clip.factory import load_state_dict as read_checkpoint
from open_clip.model import (
    _build_text_tower,
    _build_vision_tower,
    resize_pos_embed,
    resize_text_pos_embed,
)
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import TextTransformer
from safetensors import safe_open
from torch import Tensor, nn

from zsclip.cache import fingerprint
from zsclip.errors import ModelError
from zsclip.hub import short
from zsclip.weights import ModelSpec, text_config_folder, tokenizer_folder

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_TEXT_TOKENS_A_BATCH = 8192  # 2 cores, ViT-B-32: more gains nothing, less leaves the cores waiting
_SCALES = ("logit_scale", "logit_bias")
# In old checkpoints of Hugging Face towers and of OpenAI; no tower has them any more.
_IGNORED = {
    "text.transformer.embeddings.position_ids",
    "text.input_resolution",
    "text.context_length",
    "text.vocab_size",
}


class ClipModel:
    """A found model on a device: pixels and prompts in, rows of length 1 out.

    Attributes:
        spec: what was found.
        device: "cpu", "cuda", "cuda:1" or "mps".
        precision: of the image tower; the text tower is always fp32, it runs once and half precision drifts.
    """

    def __init__(self, spec: ModelSpec, device: str = "cpu", precision: str = "fp32") -> None:
        self.spec = spec
        self.device = device
        self.precision = precision
        self._image_tower = self._load_tower("visual").to(device, _DTYPES[precision])

    @property
    def text_recipe(self) -> str:
        """Fingerprint of all that a prompt's embedding depends on besides the prompt."""
        tokenizer = self.spec.tokenizer
        return fingerprint(
            "text-v1",
            self.spec.recipe,
            [tokenizer.name, tokenizer.context_length, tokenizer.mode, tokenizer.arguments, tokenizer.files_digest],
            ["fp32", self.device.partition(":")[0]],
        )

    @property
    def embed_dim(self) -> int:
        """D, the width of the embedding space."""
        return int(self.spec.architecture["embed_dim"])

    @property
    def batch_size(self) -> int:
        """Images that are encoded at once where nobody says otherwise."""
        return 32 if self.device == "cpu" else 256

    @cached_property
    def logit_scale(self) -> float:
        """The multiplier of the cosines, already exponentiated: open_clip stores its logarithm."""
        return float(self._scales["logit_scale"].float().exp())

    @cached_property
    def logit_bias(self) -> float | None:
        """Added before the sigmoid; None for a model that was trained with a softmax."""
        if self.spec.architecture.get("init_logit_bias") is None:
            return None
        return float(self._scales["logit_bias"]) if "logit_bias" in self._scales else 0.0

    @cached_property
    def tokenizer(self) -> SimpleTokenizer | HFTokenizer:
        """open_clip's own tokenizer for this model."""
        return load_tokenizer(self.spec)

    @torch.no_grad()
    def encode_images(self, pixels: np.ndarray) -> Tensor:
        """Encode pictures.

        Args:
            pixels: (B, 3, H, W) uint8, in the size of the model's preprocessing.

        Returns:
            (B, D) float32, rows of length 1, on the model's device.

        Raises:
            ModelError: the device has no memory for a single picture, or the precision no room for its numbers.
        """
        try:
            embeddings = self._encode_images(torch.from_numpy(pixels).to(self.device))
        except RuntimeError as e:
            if not _is_out_of_memory(e):
                raise
            if len(pixels) <= 1:
                raise ModelError(f"{self.device}: no memory for one picture; take a smaller model or the CPU") from e
            embeddings = None  # halved below: the traceback, while it is alive, keeps the tensors that were too many
        if embeddings is None:
            return torch.cat([self.encode_images(half) for half in np.array_split(pixels, 2)])
        if not embeddings.isfinite().all():
            cure = "the weights are damaged" if self.precision == "fp32" else "use --precision fp32"
            raise ModelError(f"{self.spec.name}: {self.precision} gives numbers that are none; {cure}")
        return embeddings

    def _encode_images(self, pixels: Tensor) -> Tensor:
        x = (pixels.float() / 255 - self._mean) / self._std
        features = self._image_tower(x.to(_DTYPES[self.precision]))
        return F.normalize(first_output(features).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts, longest first, each batch cut to its longest prompt where that changes nothing.

        Returns:
            (N, D) float32, rows of length 1, on the CPU; row i is prompts[i].
        """
        embeddings = torch.empty(len(prompts), self.embed_dim)  # (N, D)
        ids = self.tokenizer(list(prompts))  # (N, context_length)
        lengths = used_lengths(self._text_tower, ids)
        order = lengths.argsort(descending=True, stable=True)
        start = 0
        while start < len(order):
            length = int(lengths[order[start]])
            rows = order[start : start + max(1, _TEXT_TOKENS_A_BATCH // length)]
            features = encode_ids(self._text_tower, ids[rows, :length].to(self.device))
            embeddings[rows] = F.normalize(features.float(), dim=-1).cpu()
            start += len(rows)
        return embeddings

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens, start and end marks included; more than the context's length will be cut."""
        return count_tokens(self.tokenizer, prompts)

    @property
    def _mean(self) -> Tensor:
        return torch.tensor(self.spec.preprocess.mean, device=self.device).view(3, 1, 1)

    @property
    def _std(self) -> Tensor:
        return torch.tensor(self.spec.preprocess.std, device=self.device).view(3, 1, 1)

    @cached_property
    def _scales(self) -> dict[str, Tensor]:
        scales = _read_weights(self.spec, lambda name: name in _SCALES)
        if "logit_scale" not in scales:
            raise ModelError(f"{self.spec.name}: {self.spec.weights!r} has no logit_scale; it is not a CLIP model")
        return scales

    @cached_property
    def _text_tower(self) -> nn.Module:
        return self._load_tower("text").to(self.device)

    def _load_tower(self, which: str) -> nn.Module:
        try:
            return _load_tower(self.spec, which)
        except ModelError:
            raise
        except ImportError as e:
            raise _needs_transformers(self.spec.name) from e
        except Exception as e:  # open_clip, timm, transformers and safetensors raise anything on bad files
            raise _cannot_load(self.spec, e) from e


def load_model(spec: ModelSpec, device: str = "auto", precision: str = "auto") -> ClipModel:
    """Put a found model on a device and read its image tower; the text tower is read when it is first used.

    Args:
        device: "auto" takes CUDA, then MPS, then the CPU.
        precision: of the image tower; "auto" is fp16 on CUDA, else fp32.

    Raises:
        ModelError: the device is not there, or the weights cannot be loaded.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(device)
    if precision == "auto":
        precision = "fp16" if device.startswith("cuda") else "fp32"
    return ClipModel(spec, device, precision)


def check_device(device: str) -> None:
    """Look whether a device, "cpu", "cuda", "cuda:1" or "mps", is there.

    Raises:
        ModelError: it is not.
    """
    kind, _, number = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if int(number or 0) >= there[kind]:
        raise ModelError(f"--device {device}: this torch finds no such device; use --device cpu")


def has_bf16(device: str) -> bool:
    """Tell whether a device multiplies bfloat16 itself; emulated, a step of training takes ten times as long.

    Of a CPU only Linux tells, by its flags: AVX512-BF16 and AMX of x86, BF16 of ARM.
    """
    if device != "cpu":
        return True
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)


def new_model(spec: ModelSpec) -> nn.Module:
    """Build a model to be trained: `visual`, `text` and `logit_scale`, from the spec's weights or else at random.

    `logit_scale` is the parameter that open_clip stores, the logarithm of the multiplier.

    Raises:
        ModelError: it cannot be built or loaded, or is a CoCa, whose caption writer is not trained here.
    """
    if "multimodal_cfg" in spec.architecture:
        raise ModelError(f"{spec.name}: CoCa's caption writer is not trained here; take another architecture")
    build = _build_tower if spec.weights is None else _load_tower
    try:
        model = _Towers(build(spec, "visual"), build(spec, "text"))
        if spec.weights is None:
            scale = torch.tensor(float(spec.architecture.get("init_logit_scale", math.log(1 / 0.07))))
        else:
            scale = _read_weights(spec, lambda name: name == "logit_scale")["logit_scale"].float().reshape(())
    except ModelError:
        raise
    except Exception as e:  # open_clip, timm, transformers and safetensors raise anything on bad files
        raise _cannot_load(spec, e) from e
    model.logit_scale = nn.Parameter(scale.clone())
    return model.requires_grad_(True)


def load_tokenizer(spec: ModelSpec) -> SimpleTokenizer | HFTokenizer:
    """Build open_clip's tokenizer for a model.

    Raises:
        ModelError: it needs transformers, or its files cannot be had.
    """
    about = spec.tokenizer
    try:
        if about.name is None:
            tokenizer = SimpleTokenizer(context_length=about.context_length, **about.arguments)
        else:
            _forbid_remote_code(spec.name)
            tokenizer = HFTokenizer(
                tokenizer_folder(spec),
                context_length=about.context_length,
                tokenizer_mode=about.mode,
                trust_remote_code=False,
                **about.arguments,
            )
        tokenizer(["a word"])
        return tokenizer
    except ModelError:
        raise
    except Exception as e:  # open_clip and transformers raise anything on a configuration they do not like
        raise ModelError(f"{spec.name}: cannot load its tokenizer {about.name or 'CLIP'!r}: {short(e)}") from e


def count_tokens(tokenizer: SimpleTokenizer | HFTokenizer, prompts: Sequence[str]) -> list[int]:
    """Count each prompt's tokens before any cut, start and end marks included."""
    if isinstance(tokenizer, SimpleTokenizer):
        return [len(tokenizer.encode(prompt)) + 2 for prompt in prompts]
    cleaned = [tokenizer.clean_fn(prompt) for prompt in prompts]
    marks = 3 if tokenizer.tokenizer_mode == "clips" else 0  # start, end and class, which that mode adds by hand
    ids = tokenizer.tokenizer(cleaned, add_special_tokens=not marks, verbose=False)["input_ids"]
    return [len(row) + marks for row in ids]


class _Towers(nn.Module):
    """The attributes that open_clip's conversions look for on a model."""

    def __init__(self, visual: nn.Module | None, text: nn.Module | None) -> None:
        super().__init__()
        if visual is not None:
            self.visual = visual
        if text is not None:
            self.text = text


def _load_tower(spec: ModelSpec, which: str) -> nn.Module:
    """Build one tower, "visual" or "text", and fill it by name.

    Built on the meta device first: no memory, no random numbers. A tower that computes a table at construction, which
    is in no checkpoint (rotary positions), comes back with holes and is built again plainly.
    """
    prefix = which + "."
    state = _read_weights(spec, lambda name: name.startswith(prefix))
    tower = _fill(spec, which, state, torch.device("meta"))
    if tower is None:
        tower = _fill(spec, which, state, torch.device("cpu"))
        assert tower is not None
    return tower.float().eval().requires_grad_(False)


def _fill(spec: ModelSpec, which: str, state: dict[str, Tensor], device: torch.device) -> nn.Module | None:
    try:
        with device:
            tower = _build_tower(spec, which)
    except Exception:
        if device.type == "meta":  # some timm models read a number out of a tensor while they are built
            return None
        raise
    towers = _Towers(**{"visual": None, "text": None, which: tower})
    if which == "visual":
        resize_pos_embed(state, towers)
    else:
        resize_text_pos_embed(state, towers)
    towers.load_state_dict(state, strict=True, assign=True)
    if isinstance(tower, TextTransformer) and tower.attn_mask is not None:
        tower.attn_mask = tower.build_causal_mask()  # made at construction, in no checkpoint
    return None if any(tensor.is_meta for tensor in chain(tower.parameters(), tower.buffers())) else tower


def _build_tower(spec: ModelSpec, which: str) -> nn.Module:
    architecture = spec.architecture
    quick_gelu = bool(architecture.get("quick_gelu"))
    if which == "visual":
        vision_cfg = architecture["vision_cfg"] | {"timm_model_pretrained": False}
        if ":" in (vision_cfg.get("timm_model_name") or ""):  # timm would fetch from there
            raise ModelError(f"{spec.name}: its image tower is defined elsewhere, {vision_cfg['timm_model_name']!r}")
        tower: nn.Module = _build_vision_tower(architecture["embed_dim"], vision_cfg, quick_gelu)
    else:
        text_cfg = architecture["text_cfg"]
        if text_cfg.get("hf_model_name"):
            _forbid_remote_code(spec.name)
            # Given a folder, and not the repository's name, transformers asks nobody for anything.
            text_cfg = text_cfg | {"hf_model_pretrained": False, "hf_model_name": text_config_folder(spec)}
        tower = _build_text_tower(architecture["embed_dim"], text_cfg, quick_gelu)
    return tower


def _read_weights(spec: ModelSpec, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read the tensors whose name, in the form with a `text.` prefix, is wanted."""
    assert spec.weights is not None
    path = spec.weights
    if os.path.realpath(path).endswith(".safetensors") or path.endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            names = dict(_plain_names(list(file.keys())))
            if not _is_foreign(names):
                return {name: file.get_tensor(stored) for name, stored in names.items() if wanted(name)}
    state = read_checkpoint(path, weights_only=True)
    if _is_foreign(state):
        state = convert_state_dict(_Towers(_build_tower(spec, "visual"), None), state)
    return {name: state[stored] for name, stored in _plain_names(list(state)) if wanted(name)}


def _plain_names(stored: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pair the name in the form with a `text.` prefix with the name in the file."""
    unwrapped = {name.removeprefix("module."): name for name in stored}  # distributed training wraps the model
    is_plain = "token_embedding.weight" in unwrapped  # open_clip's CLIP keeps the text tower's tensors at the top
    for name, source in unwrapped.items():
        if is_plain and not name.startswith(("visual.", *_SCALES)):
            name = "text." + name
        if name not in _IGNORED:
            yield name, source


def _is_foreign(names: Any) -> bool:
    return any(name.startswith("image_encoder.model.patch_emb") for name in names)  # Apple's MobileCLIP


def used_lengths(tower: nn.Module, ids: Tensor) -> Tensor:
    """Give the tokens of each prompt that its embedding depends on, from the front.

    In a causal tower that pools at the end mark, nothing after the mark is ever seen, so it can be left out: exact, and
    2-9 times faster for short prompts. Every other tower sees its padding.

    Returns:
        (N,) int64.
    """
    if _sees_no_padding(tower):
        ends = ids if tower.pool_type == "argmax" else (ids == tower.eos_id).int()
        return ends.argmax(dim=-1) + 1
    return torch.full((len(ids),), ids.shape[1])


def _sees_no_padding(tower: nn.Module) -> TypeGuard[TextTransformer]:
    """Tell whether a prompt's embedding depends only on its tokens up to the one it is pooled at."""
    return (
        isinstance(tower, TextTransformer)
        and tower.attn_mask is not None
        and tower.cls_emb is None
        and tower.pool_type in ("argmax", "eos")
    )


def encode_ids(tower: nn.Module, ids: Tensor) -> Tensor:
    """Run the text tower on (N, L) ids, where L may be shorter than the context if it sees no padding."""
    if not _sees_no_padding(tower):
        return first_output(tower(ids))
    length = ids.shape[1]
    mask = {"attn_mask": tower.attn_mask[:length, :length]}  # positions are cut by the tower itself
    return first_output(torch.func.functional_call(tower, mask, (ids,)))


def first_output(features: Any) -> Tensor:
    """Give a tower's embeddings: some give their tokens as well."""
    return features[0] if isinstance(features, tuple) else features


def _is_out_of_memory(e: RuntimeError) -> bool:
    return isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e)  # the second: the CPU's


def _cannot_load(spec: ModelSpec, e: Exception) -> ModelError:
    if spec.weights is None:
        return ModelError(f"{spec.name}: cannot be built: {short(e)}; compare its 'model_cfg' with one that works")
    if "state_dict" in str(e):
        told = " ".join(str(e).split())[:300]
        return ModelError(f"{spec.name}: configuration and weights {spec.weights!r} do not match: {told}")
    from_hub = "/models--" in spec.weights
    cure = "; delete the file and fetch it again" if from_hub else "; is it the right file, and whole?"
    return ModelError(f"{spec.name}: cannot load {spec.weights!r}: {short(e)}{cure}")


def _forbid_remote_code(name: str) -> None:
    try:
        from transformers import dynamic_module_utils
    except ImportError as e:
        raise _needs_transformers(name) from e
    # A repository that brings code makes transformers ask on the terminal, y or n, and read the answer from stdin,
    # where our paths may come from. With no time to answer it raises instead.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def _needs_transformers(name: str) -> ModelError:
    return ModelError(f"{name}: its text side needs transformers: pip install 'zsclip[hf]'")
