"""Towers in torch -> ONNX graphs that give the same embeddings, or an error; the graphs are kept in the cache."""

import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zsclip.errors import ModelError, first_line
from zsclip.models.graph_weights import without_weights
from zsclip.models.graphs import ABOUT, IMAGE, TEXT, About, Graphs, describe, graphs_key, keep_graphs, missing_to_export
from zsclip.models.last_block import last_block
from zsclip.models.onnx_encoder import OnnxEncoder
from zsclip.models.packs import ARRAYS, in_batches
from zsclip.models.spec import ModelSpec
from zsclip.models.text import encode_packs, first_output, sees_no_padding
from zsclip.models.tokens import OpenClipTokens, load_tokens
from zsclip.models.torch_encoder import ClipModel
from zsclip.models.towers import load_tower

_COSINE, _DIFFERENCE = 0.99999, 1e-4  # how close to torch every embedding must be
_BATCHES = (1, 2, 5)
_PROMPTS = (
    "a photo of a cat.",
    "cat",
    "a photo of a dog.",
    "",
    "a photo of a " + "very " * 100 + "old cat",
    "a sketch of a dog",
    "the red bird, seen from far away",
    "une pi\u00f1a & 2 \u043a\u043e\u0448\u043a\u0438 (it's <b>)",
    "C++ 3.5 mm_jack",
)
_OPSET = 17  # the first with LayerNormalization


def export_graphs(spec: ModelSpec) -> Graphs:
    """Export both towers of a model, compare them with torch in fp32, and keep them in the cache.

    Raises:
        ModelError: a library is missing, the weights cannot be loaded, or no graph gives what torch gives.
        ZsclipError: the cache cannot be written.
    """
    if missing := missing_to_export():
        raise ModelError(f"{spec.name}: exporting needs {' and '.join(missing)}: pip install 'zsclip[onnx]'")
    model = ClipModel(spec)
    return keep_graphs(spec, lambda folder: _export(model, folder, optimised))


def write_graphs_beside(spec: ModelSpec) -> None:
    """Write graphs into the folder of a model's safetensors, which read the weights from there; for a bundled model.

    Raises:
        ModelError: as `export_graphs`.
    """
    assert spec.weights is not None
    folder = Path(spec.weights).parent
    (folder / ABOUT).unlink(missing_ok=True)

    def write(raw: Path, path: Path) -> None:
        optimised(raw, raw.with_suffix(".optimised"))
        without_weights(Path(str(spec.weights)), raw.with_suffix(".optimised"), path)

    found = _export(ClipModel(spec), folder, write)
    describe(folder, graphs_key(spec), (IMAGE, TEXT), found)


def _export(model: ClipModel, folder: Path, write: Callable[[Path, Path], None]) -> dict[str, Any]:
    """Write the graphs of both towers, and give what their description says of them.

    Args:
        write: writes the final graph, from an exported one and to a path.
    """
    spec = model.spec
    text = load_tower(spec, "text")
    packed = sees_no_padding(text)
    found: dict[str, Any] = {
        "logit_scale": model.logit_scale,
        "logit_bias": model.logit_bias,
        "packed": packed,
        "end": text.eos_id if packed and text.pool_type == "eos" else None,
        "own_tokens": _tokens_agree(spec),
    }
    graphs = Graphs(folder, About(key="", files={}, **found))
    _export_image_tower(model, graphs, write)

    def encoded_prompts(encoder: OnnxEncoder, count: int) -> tuple[NDArray[np.float32], Tensor]:
        prompts = _PROMPTS[-count:] if count < max(_BATCHES) else _PROMPTS
        return encoder.encode_text(prompts), model.encode_text(prompts)

    made, prompts = (_Packs(text), _packs_of(spec)) if packed else (_Contexts(text), {"ids": _ids(spec, 2)})
    _write("text tower", made, prompts, folder / TEXT, write, partial(OnnxEncoder, spec, graphs), encoded_prompts)
    return found


def export_image_graph(spec: ModelSpec, folder: Path) -> Graphs:
    """Export the image tower alone, into a folder; nothing is kept in the cache.

    Raises:
        ModelError: the weights cannot be loaded, or no graph gives what torch gives.
    """
    model = ClipModel(spec)
    about = About("", {}, model.logit_scale, model.logit_bias, packed=False, end=None, own_tokens=False)
    graphs = Graphs(folder, about)
    _export_image_tower(model, graphs, optimised)
    return graphs


def _export_image_tower(model: ClipModel, graphs: Graphs, write: Callable[[Path, Path], None]) -> None:
    spec = model.spec

    def encoded(encoder: OnnxEncoder, count: int) -> tuple[NDArray[np.float32], Tensor]:
        pixels = _pixels(count, spec.preprocess.size)
        return encoder.begin_images(list(pixels))(), model.encode_images(pixels)

    image = {"pixels": torch.from_numpy(_pixels(2, spec.preprocess.size))}
    tower = _Image(load_tower(spec, "visual"), spec)
    _write("image tower", tower, image, graphs.folder / IMAGE, write, partial(OnnxEncoder, spec, graphs), encoded)


def _write(
    which: str,
    tower: nn.Module,
    example: dict[str, Tensor],
    path: Path,
    write: Callable[[Path, Path], None],
    encoder: Callable[[], OnnxEncoder],
    encoded: Callable[[OnnxEncoder, int], tuple[NDArray[np.float32], Tensor]],
) -> None:
    """Export one tower and check its graph.

    Args:
        example: inputs by name; the number of each of its axes but those of a picture may change.
        write: as for `_export`.
        encoder: makes an encoder that loads the graph.
        encoded: encodes this many inputs with the graph and with torch.

    Raises:
        ModelError: it cannot be exported, or the graph gives other embeddings.
    """
    problems: list[str] = []
    for dynamo in (False, True):  # the first is ten times as fast; torch may drop it
        try:
            with tempfile.TemporaryDirectory() as folder:
                raw = Path(folder) / path.name
                _to_onnx(tower, example, raw, dynamo=dynamo)
                write(raw, path)
            found = [_difference(both) for both in map(encoded, repeat(encoder()), _BATCHES)]
        except Exception as e:  # exporters, ONNX Runtime and towers raise anything
            found = [f"cannot be exported: {first_line(e)}"]
        if not any(found):
            return
        problems += filter(None, found)
    raise ModelError(f"--runtime onnx: the {which} {problems[0]}; use --runtime torch")


def _difference(both: tuple[NDArray[np.float32], Tensor]) -> str:
    """Say how embeddings differ; empty if they are as close as they must be."""
    ours, expected = both[0], both[1].numpy()  # (B, D), rows of length 1
    cosine, difference = (ours * expected).sum(axis=1).min(), np.abs(ours - expected).max()
    if ours.shape == expected.shape and cosine >= _COSINE and difference <= _DIFFERENCE:
        return ""
    return f"gives other embeddings in ONNX (cosine {cosine:.6f}, difference {difference:.1e})"


class _Image(nn.Module):
    """(B, 3, H, W) uint8 -> (B, D), rows of length 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, tower: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.tower = tower
        _fix_padding(tower, spec.preprocess.size)
        self.register_buffer("mean", torch.tensor(spec.preprocess.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.preprocess.std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(first_output(self.tower((pixels.float() / 255 - self.mean) / self.std)), dim=-1)


@torch.no_grad()
def _fix_padding(tower: nn.Module, size: tuple[int, int]) -> None:
    """Let convolutions pad as this size of pictures needs it; timm's Conv2dSame would compute that at every call."""
    if (layers := sys.modules.get("timm.layers")) is None:  # not imported, so the tower has none of these
        return
    seen: dict[Any, set[tuple[int, int]]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda conv, given: seen.setdefault(conv, set()).add(given[0].shape[-2:]))
        for module in tower.modules()
        if type(module) is layers.Conv2dSame
    ]
    if hooks:
        tower(torch.zeros(1, 3, *size))
    for hook in hooks:
        hook.remove()
    for conv, sizes in seen.items():
        if len(sizes) == 1:
            pads = layers.padding.pad_same_arg(sizes.pop(), conv.kernel_size, conv.stride, conv.dilation)
            conv.forward = partial(_padded, conv, pads)


def _padded(conv: nn.Conv2d, pads: list[int], x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, pads), conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


class _Packs(nn.Module):
    """Prompts as `packs.Batch` holds them -> (N, D), rows of length 1."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        assert sees_no_padding(tower)
        for module in list(tower.modules()):
            attention = getattr(module, "attn", None)
            if module is last_block(tower.transformer):  # reads the weights itself
                continue
            if type(attention) is nn.MultiheadAttention and attention.batch_first:
                module.attn = _Attention(attention)

    def forward(self, ids: Tensor, positions: Tensor, parts: Tensor, ends: Tensor, picked: Tensor) -> Tensor:
        assert sees_no_padding(self.tower)
        return F.normalize(encode_packs(self.tower, ids, positions, parts, ends, picked), dim=-1)


class _Attention(nn.Module):
    """Self-attention as `nn.MultiheadAttention` computes it, whose trace holds for sequences of one length only."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, attn_mask: Tensor
    ) -> tuple[Tensor, None]:
        attention = self.attention
        heads = attention.num_heads
        together = F.linear(query, attention.in_proj_weight, attention.in_proj_bias)  # (B, L, 3 W)
        q, k, v = together.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, W / heads)
        mask = attn_mask.unflatten(0, (-1, heads))  # (B, heads, L, L)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return attention.out_proj(attended.transpose(1, 2).flatten(2)), None


class _Contexts(nn.Module):
    """(N, context_length) tokens -> (N, D), rows of length 1."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor) -> Tensor:
        return F.normalize(first_output(self.tower(ids)), dim=-1)


def _to_onnx(tower: nn.Module, example: dict[str, Tensor], path: Path, *, dynamo: bool) -> None:
    # The first two axes of packs may change, the first of everything else.
    axes = {
        name: {axis: f"{name}_{axis}" for axis in range(2 if "parts" in example and tensor.ndim == 2 else 1)}
        for name, tensor in example.items()
    }
    names: dict[str, Any] = {"input_names": list(example), "output_names": ["vectors"]}
    with _quiet(), torch.no_grad():
        if dynamo:
            shapes = {
                name: dict(zip(each, repeat(torch.export.Dim.DYNAMIC), strict=False)) for name, each in axes.items()
            }
            torch.onnx.export(tower.eval(), (), str(path), kwargs=example, dynamo=True, dynamic_shapes=shapes, **names)
            return
        inputs = tuple(example.values())
        axes["vectors"] = {0: "vectors_0"}
        torch.onnx.export(
            tower.eval(), inputs, str(path), dynamo=False, opset_version=_OPSET, dynamic_axes=axes, **names
        )


def optimised(raw: Path, path: Path) -> None:
    """Fold constants and batch norms, in a form that any version and processor reads, and put weights beside the graph.

    Weights in a file of their own are mapped into memory: ViT-B-32 starts in half the time.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    weights = path.with_suffix(".bin").name
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters from printing, and attention from calling a kernel that ONNX does not know."""
    level, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fast)


def _tokens_agree(spec: ModelSpec) -> bool:
    """Whether our tokenizer gives the tokens of open_clip's."""
    ours, theirs = load_tokens(spec), OpenClipTokens(spec)
    return np.array_equal(ours(_PROMPTS), theirs(_PROMPTS)) and ours.counts(_PROMPTS) == theirs.counts(_PROMPTS)


def _ids(spec: ModelSpec, count: int) -> Tensor:
    return torch.from_numpy(OpenClipTokens(spec)(_PROMPTS[:count]))


def _packs_of(spec: ModelSpec) -> dict[str, Tensor]:
    """Give packs of several prompts and lengths, by the names of the graph's inputs."""
    rows = _ids(spec, 4).tolist()
    (batch,) = in_batches([row[: 5 + i] for i, row in enumerate(rows)])
    return dict(zip(ARRAYS, map(torch.from_numpy, batch.arrays), strict=True))


def _pixels(count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Make pictures of large shapes with some noise. (B, 3, H, W)"""
    random = np.random.default_rng(count)
    height, width = size
    coarse = random.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    shapes = coarse.repeat(-(-height // 4), axis=2)[:, :, :height].repeat(-(-width // 4), axis=3)[..., :width]
    return np.clip(shapes + random.normal(0, 16, shapes.shape), 0, 255).astype(np.uint8)
