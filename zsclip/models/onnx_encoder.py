"""An encoder that runs exported graphs in ONNX Runtime on the CPU; it never imports torch."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zsclip.errors import ModelError, first_line
from zsclip.kept.cache import fingerprint
from zsclip.models.graphs import IMAGE, TEXT, Graphs
from zsclip.models.packs import ARRAYS, TOKENS_A_BATCH, in_batches
from zsclip.models.spec import ModelSpec
from zsclip.pixels.processors import available_cpus

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from onnxruntime import InferenceSession

    from zsclip.models.tokens import Tokens

RUNTIME = "onnx"
_BATCH = 32
_AT_ONCE = 4  # pictures in a call on one thread: with 16, `tiny` takes as long, and five times the memory
_FEW = 32  # pictures of a run that is over before another form of the graph would pay


class OnnxEncoder:
    """An `Encoder` in ONNX Runtime on the CPU; a graph is loaded when it is first used.

    Args:
        spec: the model that was found.
        graphs: its graphs in fp32.
        in_int8: its image graph in int8, if pictures are to be encoded with that.
    """

    device = "cpu"
    runtime = RUNTIME
    in_flight = 0
    is_as_remembered = True

    def __init__(self, spec: ModelSpec, graphs: Graphs, in_int8: Graphs | None = None) -> None:
        self.spec = spec
        self.precision = "fp32" if in_int8 is None else "int8"
        self._graphs = graphs
        self._in_int8 = in_int8
        self._encoded = 0  # pictures

    @property
    def batch_size(self) -> int:
        """The default batch size: enough for a call on each processor."""
        return max(_BATCH, _AT_ONCE * available_cpus())

    @property
    def logit_scale(self) -> float:
        """The multiplier of the cosines."""
        return self._graphs.about.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """The bias added before the sigmoid; None for a model trained with a softmax."""
        return self._graphs.about.logit_bias

    @property
    def embed_dim(self) -> int:
        """D, the width of the embedding space."""
        return self.spec.embed_dim

    @property
    def text_recipe(self) -> str:
        """Fingerprint of everything that a prompt's embedding depends on besides the prompt."""
        return self.spec.text_recipe(self.device, RUNTIME)

    def image_recipe(self, fast_jpeg: bool) -> str:
        """Fingerprint of everything that a picture's embedding depends on besides the picture."""
        # What int8 gives depends on how the weights were rounded, which may change with the version of ONNX Runtime.
        rounded = "" if self._in_int8 is None else fingerprint(self._in_int8.about.files)
        return self.spec.image_recipe(self.device, self.precision + rounded, False, fast_jpeg, RUNTIME)

    def load(self) -> None:
        """Load the image graph now instead of at the first batch."""
        _ = self._image_session if self._in_int8 is None else self._parallel_session

    def begin_images(self, pixels: Sequence[np.ndarray]) -> Callable[[], NDArray[np.float32]]:
        """Encode B of (3, H, W) uint8; return a function that gives (B, D) float32, rows of length 1.

        Raises:
            ModelError: the model produced NaN, infinity or only zeros.
        """
        if self._in_int8 is None and self._encoded < _FEW:
            session = self._image_session
            vectors = np.concatenate([self._run_images(session, part) for part in _parts(pixels, _AT_ONCE)])
        else:
            vectors = self._encode_in_parallel(pixels)
        self._encoded += len(pixels)
        if not vectors.any():  # all labels would have the same score
            raise ModelError(f"{self.spec.name}: the image tower produced only zeros; the weights are damaged")
        return lambda: vectors

    def _encode_in_parallel(self, pixels: Sequence[np.ndarray]) -> NDArray[np.float32]:
        vars(self).pop("_image_session", None)  # its weights take memory
        # In int8, products are scaled by the largest numbers in them, which must not be those of another picture.
        size = min(_AT_ONCE, -(-len(pixels) // available_cpus())) if self._in_int8 is None else 1
        encode = partial(self._run_images, self._parallel_session)
        return np.concatenate(list(self._pool.map(encode, _parts(pixels, size))))

    def _run_images(self, session: "InferenceSession", pixels: np.ndarray) -> NDArray[np.float32]:
        return self._run(session, {"pixels": pixels}, "the model")

    @cached_property
    def _pool(self) -> "ThreadPoolExecutor":
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(available_cpus(), thread_name_prefix="zsclip-onnx")

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Encode N prompts into (N, D) float32, rows of length 1.

        Raises:
            ModelError: the tokenizer cannot be read, or the text tower produced NaN, infinity or only zeros.
        """
        ids = self.tokens(prompts)  # (N, context_length)
        vectors = np.empty((len(ids), self.embed_dim), np.float32)
        if self._graphs.about.packed:
            lengths = self._used(ids)
            for batch in in_batches([row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]):
                vectors[batch.rows] = self._run_text(dict(zip(ARRAYS, batch.arrays, strict=True)))
            return vectors
        step = max(1, TOKENS_A_BATCH // ids.shape[1])
        for start in range(0, len(ids), step):
            vectors[start : start + step] = self._run_text({"ids": ids[start : start + step]})
        return vectors

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens, start and end marks included."""
        return self.tokens.counts(prompts)

    @cached_property
    def tokens(self) -> "Tokens":
        """The model's tokenizer."""
        from zsclip.models.tokens import OpenClipTokens, load_tokens

        return load_tokens(self.spec) if self._graphs.about.own_tokens else OpenClipTokens(self.spec)

    def _used(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the leading tokens that each embedding depends on, up to the one that is pooled. (N,)"""
        end = self._graphs.about.end
        return (ids if end is None else ids == end).argmax(axis=1) + 1

    def _run_text(self, inputs: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        vectors = self._run(self._text_session, inputs, "the text tower")
        if not vectors.any(axis=1).all():  # such a label would have the score of any picture
            raise ModelError(f"{self.spec.name}: the text tower produced only zeros; the weights are damaged")
        return vectors

    def _run(self, session: "InferenceSession", inputs: dict[str, np.ndarray], which: str) -> NDArray[np.float32]:
        try:
            vectors: NDArray[np.float32] = session.run(None, inputs)[0]
        except Exception as e:  # ONNX Runtime raises classes of its own, which share no base
            raise ModelError(f"{self.spec.name}: ONNX Runtime: {first_line(e)}; use --runtime torch") from e
        if not np.isfinite(vectors).all():
            raise ModelError(f"{self.spec.name}: {which} produced NaN or infinity in fp32; the weights are damaged")
        return vectors

    @cached_property
    def _image_session(self) -> "InferenceSession":
        return self._load(self._graphs.folder / IMAGE)

    @cached_property
    def _parallel_session(self) -> "InferenceSession":
        return self._load((self._in_int8 or self._graphs).folder / IMAGE, in_parallel=True)

    @cached_property
    def _text_session(self) -> "InferenceSession":
        return self._load(self._graphs.folder / TEXT)

    def _load(self, path: Path, *, in_parallel: bool = False) -> "InferenceSession":
        try:
            return load_graph(path, in_parallel=in_parallel)
        except Exception as e:  # as above
            raise ModelError(f"{self.spec.name}: ONNX Runtime: {first_line(e)}; use --runtime torch") from e


def _parts(pixels: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    """Stack up to `size` pictures at a time; each part is (B, 3, H, W) uint8."""
    return [np.stack(pixels[start : start + size]) for start in range(0, len(pixels), size)]


def load_graph(path: Path, *, in_parallel: bool = False) -> "InferenceSession":
    """Load a graph for the CPU.

    Args:
        in_parallel: for as many runs at a time as there are processors, each on one. Else it is loaded faster, and runs
            on all processors.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if in_parallel else available_cpus()
    options.log_severity_level = 4  # errors are raised, and need not be printed
    # Threads that spin while they wait take the processors from the decoders.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # ViT-B-32 on 2 cores: with repacked weights and a run on each core, pictures take 11% less CPU time, and loading
    # 0.23 s more.
    options.add_session_config_entry("session.disable_prepacking", "0" if in_parallel else "1")
    sys.audit("zsclip.load", path)  # what `zsclip bench --start` listens to
    session = onnxruntime.InferenceSession(os.path.realpath(path), options, providers=["CPUExecutionProvider"])
    sys.audit("zsclip.load")
    return session
