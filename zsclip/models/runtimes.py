"""The other ways in which a model could run on the CPU, for `zsclip bench`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zsclip.errors import ModelError
from zsclip.models.encoder import Encoder
from zsclip.models.graphs import find_graphs, find_int8_graph, missing_to_export
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.models.lean_imports import lean_open_clip
from zsclip.models.onnx_encoder import OnnxEncoder
from zsclip.models.spec import ModelSpec


@contextmanager
def other_runtimes(encoder: Encoder) -> Iterator[list[Encoder]]:
    """Give encoders of pictures that run a model in the other library, and in int8 if that was exported.

    A graph that is not in the cache is exported for the block alone. On other devices than the CPU there is only torch.
    """
    if encoder.device != "cpu" or missing_to_export():
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="zsclip-bench-") as folder:
        every: list[Encoder] = [LazyTorchEncoder(encoder.spec, "cpu"), *_in_onnx(encoder.spec, Path(folder))]
        yield [each for each in every if named(each) != named(encoder)]


def named(encoder: Encoder) -> str:
    """Name the library and the precision of an encoder's image tower."""
    return f"{encoder.runtime} in {encoder.precision}"


def _in_onnx(spec: ModelSpec, folder: Path) -> list[Encoder]:
    graphs = find_graphs(spec)
    if graphs is None:
        with lean_open_clip():
            from zsclip.models.onnx_export import export_image_graph
        try:
            return [OnnxEncoder(spec, export_image_graph(spec, folder))]
        except ModelError:  # it cannot be exported
            return []
    in_int8 = find_int8_graph(spec)
    return [OnnxEncoder(spec, graphs), *([OnnxEncoder(spec, graphs, in_int8)] if in_int8 else [])]
