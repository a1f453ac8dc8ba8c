"""One tower of a CLIP model: built and loaded as open_clip does it, and made faster without changing answers."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import (
    _build_text_tower,
    _build_vision_tower,
    resize_pos_embed,
    resize_text_pos_embed,
)
from open_clip.timm_model import TimmModel
from open_clip.transformer import (
    QuickGELU,
    ResidualAttentionBlock,
    TextTransformer,
    VisionTransformer,
)
from open_clip.utils import to_2tuple
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zsclip.errors import ModelError, first_line
from zsclip.models.find import text_config_folder
from zsclip.models.fold import fold_norms
from zsclip.models.last_block import last_block, some_tokens
from zsclip.models.lean_imports import complete
from zsclip.models.spec import ModelSpec

_SCALES = ("logit_scale", "logit_bias")
# In old checkpoints of Hugging Face towers and of OpenAI; today's towers do not have them.
_IGNORED = {
    "text.transformer.embeddings.position_ids",
    "text.input_resolution",
    "text.context_length",
    "text.vocab_size",
}


def load_tower(spec: ModelSpec, which: str) -> nn.Module:
    """Build one tower, "visual" or "text", load its weights by name, and convert it to its fast form.

    Raises:
        ModelError: it cannot be built or read, or needs transformers.
    """
    with _as_model_error(spec):
        return fast_form(_read_tower(spec, which))


def fast_form(tower: nn.Module) -> nn.Module:
    """Make a tower in evaluation mode faster; its output stays the same, up to rounding.

    QuickGELU becomes SiLU, the last block of a transformer computes only the pooled token, branches that exist only
    for training are merged (timm's `reparameterize_model`: MobileCLIP, RepVGG), batch norms become part of
    the convolution before them (ResNet, EfficientNet), and convolutions use the channels-last layout.
    """
    _end_in_one_token(tower)
    for module in tower.modules():
        if isinstance(module, nn.Sequential):
            _fold_quick_gelu(module)
    if isinstance(tower, TimmModel):
        from timm.utils import reparameterize_model

        reparameterize_model(tower, inplace=True)
    if hasattr(tower, "image_size"):
        fold_norms(tower, to_2tuple(tower.image_size))
    return tower.requires_grad_(False).to(memory_format=torch.channels_last)


def _fold_quick_gelu(mlp: nn.Sequential) -> None:
    """Use x sigmoid(1.702 x) = silu(1.702 x) / 1.702; the layers before and after multiply and divide."""
    parts = {name: part for name, part in mlp.named_children() if not isinstance(part, nn.Identity)}
    match list(parts.values()):
        case [nn.Linear() as before, QuickGELU(), nn.Linear() as after]:
            before.weight = nn.Parameter(before.weight * 1.702, requires_grad=False)  # not in place: a mapped file
            if before.bias is not None:
                before.bias = nn.Parameter(before.bias * 1.702, requires_grad=False)
            after.weight = nn.Parameter(after.weight / 1.702, requires_grad=False)
            setattr(mlp, list(parts)[1], nn.SiLU())


def _end_in_one_token(tower: nn.Module) -> None:
    """Let the last block compute only the token that is pooled, if nothing else of its output is used.

    Where a text tower pools at the end mark, the token is another one in each prompt; see `text.encode_packs`.
    """
    if not isinstance(tower, VisionTransformer | TextTransformer):
        return
    place, block = _pooled(tower), last_block(tower.transformer)
    if place is not None and block is not None:
        tower.transformer.resblocks[-1] = OneTokenBlock(block, place)


def _pooled(tower: VisionTransformer | TextTransformer) -> slice | None:
    """Give the place of the only token whose output is used; None if that depends on the input, or others are used."""
    if isinstance(tower, VisionTransformer):
        is_alone = tower.pool_type == "tok" and tower.attn_pool is None and not tower.output_tokens
        return slice(0, 1) if is_alone else None
    has_mask = tower.attn_mask is not None or tower.use_pad_mask or tower.cls_emb is not None
    places = {"first": slice(0, 1), "last": slice(-1, None)}
    return None if has_mask or tower.output_tokens else places.get(tower.pool_type)


class OneTokenBlock(nn.Module):
    """A block that computes only one of its tokens from all of them: (B, T, W) -> (B, 1, W)."""

    def __init__(self, block: ResidualAttentionBlock, place: slice) -> None:
        super().__init__()
        self.block, self.place = block, place

    def forward(self, x: Tensor, attn_mask: None = None) -> Tensor:
        return some_tokens(self.block, x, lambda tokens: tokens[:, self.place])


def new_model(spec: ModelSpec) -> nn.Module:
    """Build a model for training: `visual`, `text` and `logit_scale`, with the spec's weights or random ones.

    `logit_scale` is the parameter that open_clip stores, the logarithm of the multiplier.

    Raises:
        ModelError: it cannot be built or loaded, or is a CoCa, whose caption decoder cannot be trained here.
    """
    if "multimodal_cfg" in spec.architecture:
        raise ModelError(f"{spec.name}: CoCa's caption decoder cannot be trained; use another architecture")
    build = _build_tower if spec.weights is None else _read_tower
    with _as_model_error(spec):
        model = _Towers(build(spec, "visual"), build(spec, "text"))
        if spec.weights is None:
            scale = torch.tensor(float(spec.architecture.get("init_logit_scale", math.log(1 / 0.07))))
        else:
            scale = read_scales(spec)["logit_scale"].float().reshape(())
    model.logit_scale = nn.Parameter(scale.clone())
    return model.requires_grad_(True)


def read_scales(spec: ModelSpec) -> dict[str, Tensor]:
    """Read `logit_scale`, as its logarithm, and `logit_bias` if there is one.

    Raises:
        ModelError: they cannot be read, there is no `logit_scale`, or one of them is not a usable number.
    """
    with _as_model_error(spec):
        scales = _read_weights(spec, lambda name: name in _SCALES)
    if "logit_scale" not in scales:
        raise ModelError(f"{spec.name}: {spec.weights!r} has no logit_scale; it is not a CLIP model")
    for name, value in scales.items():
        # No more than 1e30 after .exp(), so that a product with a cosine is finite in fp32; with less than 1e-4, all
        # labels would have the same score.
        lowest, highest = (-9, 70) if name == "logit_scale" else (-100, math.inf)
        if value.numel() != 1 or not lowest < float(value) < highest:
            raise ModelError(f"{spec.name}: {name} in {spec.weights!r} is not a usable number; the weights are damaged")
    return scales


class _Towers(nn.Module):
    """The attributes of a model that open_clip's conversions look for."""

    def __init__(self, visual: nn.Module | None, text: nn.Module | None) -> None:
        super().__init__()
        if visual is not None:
            self.visual = visual
        if text is not None:
            self.text = text


def _read_tower(spec: ModelSpec, which: str) -> nn.Module:
    """Build a tower and load its weights.

    It is built on the meta device first: no memory, no random numbers. A tower that computes a table which
    no checkpoint has (rotary positions) comes back with gaps and is built again in the normal way.
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
        with device, _Unfilled() if device.type == "meta" else nullcontext():
            tower = _build_tower(spec, which)
    except Exception:
        if device.type == "meta":  # some timm models read values of tensors while they are built
            return None
        raise
    towers = _Towers(**{"visual": None, "text": None, which: tower})
    if which == "visual":
        resize_pos_embed(state, towers)
    else:
        resize_text_pos_embed(state, towers)
    towers.load_state_dict(state, strict=True, assign=True)
    if isinstance(tower, TextTransformer) and tower.attn_mask is not None:
        tower.attn_mask = tower.build_causal_mask()  # made at construction, not in checkpoints
    return None if any(tensor.is_meta for tensor in chain(tower.parameters(), tower.buffers())) else tower


class _Unfilled(TorchFunctionMode):
    """Leaves memory uninitialised instead of drawing random numbers, as weights replace all of it (strictly).

    On the meta device, random normal numbers and products with them import torch._dynamo, which takes a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(*args, **{**(kwargs or {}), "device": "cpu"})
        if func in (nn.init.normal_, Tensor.normal_, Tensor.triu_):  # in place; there are no values to change
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _build_tower(spec: ModelSpec, which: str) -> nn.Module:
    architecture = spec.architecture
    quick_gelu = bool(architecture.get("quick_gelu"))
    if which == "visual":
        vision_cfg = architecture["vision_cfg"] | {"timm_model_pretrained": False}
        if ":" in (vision_cfg.get("timm_model_name") or ""):  # timm would fetch it from there
            name = vision_cfg["timm_model_name"]
            raise ModelError(
                f"{spec.name}: its image tower is defined in {name!r}, which zsclip does not fetch; use another model"
            )
        if vision_cfg.get("timm_model_name"):
            complete("timm_model", "timm")
        tower: nn.Module = _build_vision_tower(architecture["embed_dim"], vision_cfg, quick_gelu)
    else:
        text_cfg = architecture["text_cfg"]
        if text_cfg.get("hf_model_name"):
            with no_remote_code(spec.name):
                complete("hf_model", "transformers")
                # Given a folder instead of a repository's name, transformers does not use the network.
                text_cfg = text_cfg | {"hf_model_pretrained": False, "hf_model_name": text_config_folder(spec)}
                return _build_text_tower(architecture["embed_dim"], text_cfg, quick_gelu)
        tower = _build_text_tower(architecture["embed_dim"], text_cfg, quick_gelu)
    return tower


def _read_weights(spec: ModelSpec, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read the tensors whose names (with a `text.` prefix) are wanted."""
    assert spec.weights is not None
    path = spec.weights
    if os.path.realpath(path).endswith(".safetensors") or path.endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            names = dict(_plain_names(list(file.keys())))
            if not _is_mobileclip(names):
                return {name: file.get_tensor(stored) for name, stored in names.items() if wanted(name)}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    else:
        state = _read_pickled(path)
    if _is_mobileclip(state):
        state = convert_state_dict(_Towers(_build_tower(spec, "visual"), None), state)
    return {name: state[stored] for name, stored in _plain_names(list(state)) if wanted(name)}


def _read_pickled(path: str) -> dict[str, Tensor]:
    """Read a torch checkpoint; memory-mapped if its format allows, so that only the used parts are read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # the format before torch 1.6
        state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)


def _plain_names(stored: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Map names with a `text.` prefix to the names in the file."""
    unwrapped = {name.removeprefix("module."): name for name in stored}  # distributed training wraps the model
    is_plain = "token_embedding.weight" in unwrapped  # open_clip's CLIP keeps the text tower's tensors at the top
    for name, source in unwrapped.items():
        if is_plain and not name.startswith(("visual.", *_SCALES)):
            name = "text." + name
        if name not in _IGNORED:
            yield name, source


def _is_mobileclip(names: Iterable[str]) -> bool:
    """Whether tensors have the names of Apple's own MobileCLIP files, which open_clip converts."""
    return any(name.startswith("image_encoder.model.patch_emb") for name in names)


@contextmanager
def _as_model_error(spec: ModelSpec) -> Iterator[None]:
    """Turn any failure of a model into a one-line ModelError."""
    try:
        yield
    except ModelError:
        raise
    except ImportError as e:
        raise needs_transformers(spec.name) from e
    except Exception as e:  # open_clip, timm, transformers and safetensors raise anything on bad files
        raise _cannot_load(spec, e) from e


def _cannot_load(spec: ModelSpec, e: Exception) -> ModelError:
    if spec.weights is None:
        return ModelError(f"{spec.name}: cannot be built: {first_line(e)}; compare its 'model_cfg' with one that works")
    if "state_dict" in str(e):
        which = " ".join(str(e).split())[:300]
        return ModelError(f"{spec.name}: configuration and weights {spec.weights!r} do not match: {which}")
    from_hub = "/models--" in spec.weights
    cure = "; delete the file and fetch it again" if from_hub else "; check that it is the right file, and complete"
    return ModelError(f"{spec.name}: cannot load {spec.weights!r}: {first_line(e)}{cure}")


@contextmanager
def no_remote_code(name: str) -> Iterator[None]:
    """Make transformers refuse code that comes with a model, without asking, while the block runs.

    Raises:
        ModelError: transformers is not installed.
    """
    try:
        from transformers import dynamic_module_utils
    except ImportError as e:
        raise needs_transformers(name) from e
    # For a repository with code, transformers asks y or n on the terminal and reads the answer from stdin,
    # which may hold our paths. With a time-out of 0 it raises instead.
    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds


def needs_transformers(name: str) -> ModelError:
    """Make the error that says how to get transformers."""
    return ModelError(f"{name}: its text tower needs transformers: pip install 'zsclip[hf]'")
