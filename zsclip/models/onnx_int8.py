"""The graph of an image tower with its matrix products in int8, or an error; it is kept in the cache."""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.errors import ModelError, first_line
from zsclip.models.graphs import IMAGE, Graphs, keep_graphs
from zsclip.models.onnx_encoder import OnnxEncoder
from zsclip.models.onnx_export import optimised
from zsclip.models.spec import ModelSpec

_AGREEMENT = 0.99  # the least share of answers that int8 must not change
_PICTURES = 200
_DISCS = 80  # in a picture
_RADII = 0.03, 0.5  # of the discs, as shares of the shorter side


def export_int8(spec: ModelSpec, graphs: Graphs, prompts: Sequence[str]) -> Graphs:
    """Round the weights of an image tower to int8, compare its answers with those in fp32, and keep it in the cache.

    Args:
        graphs: the model's graphs in fp32.
        prompts: one for each label that generated pictures are classified among.

    Raises:
        ModelError: the tower is mostly convolutions, or int8 changes too many answers.
        ZsclipError: the cache cannot be written.
    """

    def export(folder: Path) -> dict[str, Any]:
        try:
            is_worth_it = _write_rounded(graphs.folder / IMAGE, folder / IMAGE)
        except Exception as e:  # onnx and ONNX Runtime raise anything
            raise ModelError(f"{spec.name}: cannot be exported in int8: {first_line(e)}; use fp32") from e
        if not is_worth_it:
            raise ModelError(f"{spec.name}: int8 is for vision transformers, not for convolutions; use fp32")
        exact, rounded = OnnxEncoder(spec, graphs), OnnxEncoder(spec, graphs, Graphs(folder, graphs.about))
        pictures = dead_leaves(_PICTURES, spec.preprocess.size)
        classes = exact.encode_text(prompts)  # (C, D)
        agreement = _agreement(_encoded(exact, pictures), _encoded(rounded, pictures), classes)
        if agreement < _AGREEMENT:
            raise ModelError(
                f"{spec.name}: int8 keeps {agreement:.1%} of the answers to {_PICTURES} generated images, less than "
                f"{_AGREEMENT:.0%}; use fp32"
            )
        about = asdict(graphs.about) | {"agreement": agreement}
        return {name: value for name, value in about.items() if name not in ("key", "files")}

    return keep_graphs(spec, export, in_int8=True)


def dead_leaves(count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw pictures of discs that cover each other, like leaves on the ground. (B, 3, H, W)

    Their edges, sizes and colours have the statistics of photographs, which makes them better test images than noise.

    Source: Lee, Mumford and Huang 2001, the "dead leaves" model with radii of density r**-3.
    """
    random = np.random.default_rng(0)
    height, width = size
    down, across = np.ogrid[:height, :width]
    smallest, largest = (share * min(size) for share in _RADII)
    pictures = np.empty((count, 3, height, width), np.uint8)
    for picture in pictures:
        canvas = np.empty((3, height, width), np.float32)
        canvas[:] = random.integers(0, 256, (3, 1, 1))
        part = random.random(_DISCS)  # of the radii's distribution, which is inverted below
        radii = (part / largest**2 + (1 - part) / smallest**2) ** -0.5
        centres, colours = random.random((_DISCS, 2)) * size, random.integers(0, 256, (_DISCS, 3, 1))
        for radius, (y, x), colour in zip(radii, centres, colours, strict=True):
            canvas[:, (down - y) ** 2 + (across - x) ** 2 < radius**2] = colour
        picture[:] = np.clip(canvas + random.normal(0, 12, (height, width)), 0, 255)
    return pictures


def _encoded(encoder: OnnxEncoder, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Encode pictures batch by batch, which takes less memory. (B, 3, H, W) -> (B, D)"""
    size = encoder.batch_size
    batches = [list(pictures[start : start + size]) for start in range(0, len(pictures), size)]
    return np.concatenate([encoder.begin_images(batch)() for batch in batches])


def _agreement(exact: NDArray[np.float32], rounded: NDArray[np.float32], classes: NDArray[np.float32]) -> float:
    """Give the share of pictures that have the same best label both times. (B, D), (B, D), (C, D) -> 0 to 1"""
    first, second = ((vectors @ classes.T).argmax(axis=1) for vectors in (exact, rounded))  # (B,)
    return float((first == second).mean())


def _write_rounded(path: Path, rounded: Path) -> bool:
    """Write a graph with the weights of its matrix products in int8; return whether convolutions are the smaller part.

    Those stay in fp32: in int8, with static scales for each channel, the bundled model changed 7% of its answers to 200
    photographs, and 85.5% were right instead of 88.5%.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    kinds = Counter(node.op_type for node in model.graph.node)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        raw = Path(folder) / path.name
        # Unsigned, as signed weights overflow on processors that add pairs of products in 16 bits.
        quantize_dynamic(
            model, raw, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QUInt8,
            use_external_data_format=True,
        )  # fmt: skip
        optimised(raw, rounded)
    return kinds["MatMul"] > kinds["Conv"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime from logging advice on quantisation."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
