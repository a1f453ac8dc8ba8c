"""A CLIP model on a device: pixels and prompts in, embeddings out. Only it, `text` and `towers` import open_clip.

Each tower reads only its own weights, and the text tower is built when it is first needed: with a cached text matrix
it is never built or read.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from zsclip.errors import ModelError, first_line
from zsclip.kept.cache import remember
from zsclip.models.find import tokenizer_folder
from zsclip.models.spec import ModelSpec
from zsclip.models.text import encode_tokens, first_output
from zsclip.models.towers import load_tower, no_remote_code, read_scales

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_GPU_BATCH, _PROBE = 256, 8
_BF16_COSINE = 0.999  # the lowest cosine to fp32 that is accepted
# Smaller pictures gain little, and a 64-pixel tower changed 1% to 2% of the answers on four test sets.
_BF16_SIDE = 128


class ClipModel:
    """A model on a device: pixels and prompts in, rows of length 1 out.

    Attributes:
        spec: the model that was found.
        device: "cpu", "cuda", "cuda:1" or "mps".
        tower: the image tower.
        precision: of the image tower; the text tower is always fp32, as it runs once and half precision drifts.
        compiled: whether the image tower is compiled at its first batch; smaller batches are then padded, as
            every new shape would be compiled again.
    """

    def __init__(
        self, spec: ModelSpec, device: str = "cpu", precision: str = "fp32", *, compiled: bool = False
    ) -> None:
        self.spec = spec
        self.device = device
        self.precision = precision
        self.compiled = compiled
        self._rows = 0  # rows of the batches that a compiled tower sees
        self._most = sys.maxsize  # the largest batch that the device has had memory for
        try:
            with tuned_for(device):
                self.tower = load_tower(spec, "visual").to(device, DTYPES[precision])
        except RuntimeError as e:
            if not _is_out_of_memory(e):
                raise
            raise ModelError(f"{device}: not enough memory for the weights; use a smaller model or --device cpu") from e
        self._image_tower = torch.compile(self.tower, dynamic=False) if compiled else self.tower

    @property
    def text_recipe(self) -> str:
        """Fingerprint of everything that a prompt's embedding depends on besides the prompt."""
        return self.spec.text_recipe(self.device)

    @property
    def embed_dim(self) -> int:
        """D, the width of the embedding space."""
        return self.spec.embed_dim

    @property
    def in_flight(self) -> int:
        """The number of batches in flight while the next is prepared: a GPU works in parallel, a CPU does not."""
        return int(self.device.startswith("cuda"))

    @cached_property
    def batch_size(self) -> int:
        """The default batch size; smaller if the GPU has little free memory."""
        if not self.device.startswith("cuda"):
            return 32 if self.device == "cpu" else _GPU_BATCH
        try:
            room = torch.cuda.mem_get_info(self.device)[0] // (2 * self._bytes_a_picture())
        except RuntimeError as e:
            if not _is_out_of_memory(e):
                raise
            room = 1  # the error comes when a picture is encoded
        return max(1, min(_GPU_BATCH, 1 << room.bit_length() >> 1))

    @cached_property
    def logit_scale(self) -> float:
        """The multiplier of the cosines, already exponentiated: open_clip stores its logarithm."""
        return float(self._scales["logit_scale"].float().exp())

    @cached_property
    def logit_bias(self) -> float | None:
        """The bias added before the sigmoid; None for a model trained with a softmax."""
        if self.spec.architecture.get("init_logit_bias") is None:
            return None
        return float(self._scales["logit_bias"]) if "logit_bias" in self._scales else 0.0

    @cached_property
    def tokenizer(self) -> SimpleTokenizer | HFTokenizer:
        """open_clip's own tokenizer for this model."""
        return load_tokenizer(self.spec)

    def encode_images(self, pixels: Sequence[np.ndarray] | np.ndarray) -> Tensor:
        """Encode pictures.

        Args:
            pixels: B of (3, H, W) uint8, in the size of the model's preprocessing.

        Returns:
            (B, D) float32, rows of length 1, on the CPU.

        Raises:
            ModelError: the device has no memory for a single picture, the model produced NaN, infinity or
                only zeros, or the tower cannot be compiled.
        """
        return self.begin_images(pixels)()

    @torch.no_grad()
    def begin_images(self, pixels: Sequence[np.ndarray] | np.ndarray) -> Callable[[], Tensor]:
        """Start encoding pictures, and return a function that waits for the embeddings; see `encode_images`."""
        if (most := self._most) < len(pixels):
            parts = [self.begin_images(pixels[start : start + most]) for start in range(0, len(pixels), most)]
            return lambda: torch.cat([finish() for finish in parts])
        try:
            with tuned_for(self.device):
                return partial(self._finish, *self._begin(pixels))
        except RuntimeError as e:
            if type(e).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise ModelError(
                    f"{self.spec.name}: cannot be compiled here: {first_line(e)}; leave out --compile"
                ) from e
            if not _is_out_of_memory(e):
                raise
            if len(pixels) <= 1:
                raise ModelError(
                    f"{self.device}: not enough memory for one image; use a smaller model or --device cpu"
                ) from e
        # Outside the except block, as a live traceback keeps the tensors that did not fit.
        self._rows = 0
        self._most = len(pixels) // 2
        return self.begin_images(pixels)

    def _begin(self, pixels: Sequence[np.ndarray] | np.ndarray) -> tuple[Tensor, Tensor, "torch.cuda.Event | None"]:
        """Give the pixels, their embeddings, and the event that marks these as ready."""
        on_cuda = self.device.startswith("cuda")
        # Pinned memory comes from torch's cache, which reuses it when its copies are done.
        stacked = torch.empty((len(pixels), *pixels[0].shape), dtype=torch.uint8, pin_memory=on_cuda)
        torch.stack([torch.from_numpy(each) for each in pixels], out=stacked)  # numpy's takes the GIL for each
        if not on_cuda:
            return stacked, self._encode_images(stacked.to(self.device)).cpu(), None
        main = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):  # in parallel with the batch in the tower
            there = stacked.to(self.device, non_blocking=True)
        main.wait_stream(self._copies)
        there.record_stream(main)
        embeddings = self._encode_images(there)
        result = torch.empty(embeddings.shape, pin_memory=True).copy_(embeddings, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # waiting by spinning would take a core from the decoders
        done.record(main)
        return stacked, result, done

    def _finish(self, pixels: Tensor, embeddings: Tensor, done: "torch.cuda.Event | None") -> Tensor:
        if done is not None:
            done.synchronize()
        with tuned_for(self.device):
            finite = embeddings.isfinite().all(dim=1)  # (B,)
        if self.precision == "fp16" and not finite.all():  # some value exceeded 65504; bf16 has the range of fp32
            embeddings[~finite] = self._in_bf16.encode_images(pixels[~finite].numpy())
            return embeddings
        if not finite.all():
            cure = "the weights are damaged" if self.precision == "fp32" else "use --precision fp32"
            raise ModelError(f"{self.spec.name}: the model produced NaN or infinity in {self.precision}; {cure}")
        if not embeddings.any():  # all labels would have the same score
            raise ModelError(f"{self.spec.name}: the image tower produced only zeros; the weights are damaged")
        return embeddings

    def _encode_images(self, pixels: Tensor) -> Tensor:
        x = self.normalised(pixels)
        if self.compiled:
            self._rows = max(self._rows, len(x))
            x = torch.cat([x, x.new_zeros(self._rows - len(x), *x.shape[1:])])
        features = first_output(self._image_tower(x))[: len(pixels)]
        return F.normalize(features.float(), dim=-1)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Give (B, 3, H, W) uint8 pixels as the tower takes them."""
        return ((pixels.float() / 255 - self._mean) / self._std).to(DTYPES[self.precision])

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts.

        Returns:
            (N, D) float32, rows of length 1, on the CPU; row i is prompts[i].

        Raises:
            ModelError: the text tower cannot be read, or produced NaN, infinity or only zeros.
        """
        ids = self.tokenizer(list(prompts))  # (N, context_length)
        with tuned_for(self.device):
            embeddings = F.normalize(encode_tokens(self._text_tower, ids, self.device).float(), dim=-1)
            if not embeddings.isfinite().all():
                raise ModelError(f"{self.spec.name}: the text tower produced NaN or infinity; the weights are damaged")
            if not embeddings.any(dim=1).all():  # such a label would have the score of any picture
                raise ModelError(f"{self.spec.name}: the text tower produced only zeros; the weights are damaged")
        return embeddings

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens, start and end marks included; tokens beyond the context's length will be cut."""
        return count_tokens(self.tokenizer, prompts)

    @torch.no_grad()
    def _bytes_a_picture(self) -> int:
        """Measure the memory that the tower needs for one picture besides its weights."""
        pixels = torch.zeros((_PROBE, 3, *self.spec.preprocess.size), dtype=torch.uint8, device=self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        with tuned_for(self.device):
            self.tower(self.normalised(pixels))
        return max(1, (torch.cuda.max_memory_allocated(self.device) - before) // _PROBE)

    @cached_property
    def _copies(self) -> "torch.cuda.Stream":
        return torch.cuda.Stream(self.device)

    @cached_property
    def _in_bf16(self) -> "ClipModel":
        return ClipModel(self.spec, self.device, "bf16")

    @cached_property  # a new copy to the device would wait for the current batch
    def _mean(self) -> Tensor:
        return torch.tensor(self.spec.preprocess.mean, device=self.device).view(3, 1, 1)

    @cached_property
    def _std(self) -> Tensor:
        return torch.tensor(self.spec.preprocess.std, device=self.device).view(3, 1, 1)

    @cached_property
    def _scales(self) -> dict[str, Tensor]:
        return read_scales(self.spec)

    @cached_property
    def _text_tower(self) -> nn.Module:
        return load_tower(self.spec, "text").to(self.device)


@contextmanager
def tuned_for(device: str) -> Iterator[None]:
    """Tune torch for a GPU while the block runs; both settings belong to the whole process."""
    if not device.startswith("cuda"):
        yield
        return
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    # With a GPU, torch computes little on the CPU, and its threads, which spin while they wait, took half of
    # 16 cores from the decoders. Setting and restoring the number takes a microsecond.
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # with it, fp32 convolutions keep three digits
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32


def load_model(spec: ModelSpec, device: str = "auto", precision: str = "auto", *, compiled: bool = False) -> ClipModel:
    """Put a model on a device and read its image tower; the text tower is read when it is first used.

    Args:
        device: "auto" takes CUDA, then MPS, then the CPU.
        precision: of the image tower; "auto" is fp16 on CUDA, bf16 on a CPU that supports it and gives nearly what
            fp32 gives (not for tiny pictures), else fp32.
        compiled: see `ClipModel`.

    Raises:
        ModelError: there is no such device, or the weights cannot be loaded.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(device)
    if precision == "auto":
        precision = chosen_precision(spec, device, multiplies_bf16=has_bf16(device))
    return ClipModel(spec, device, precision, compiled=compiled)


def chosen_precision(spec: ModelSpec, device: str, *, multiplies_bf16: bool, min_side: int = _BF16_SIDE) -> str:
    """Choose the precision that "auto" means for an image tower on a device; see `load_model`.

    Args:
        multiplies_bf16: whether the device multiplies bfloat16 in hardware.
        min_side: the smallest side of pictures for which bfloat16 is tried.
    """
    if device.startswith("cuda"):
        return "fp16"
    may_be_bf16 = device == "cpu" and multiplies_bf16 and min(spec.preprocess.size) >= min_side
    return "bf16" if may_be_bf16 and _bf16_agrees(spec) else "fp32"


def _bf16_agrees(spec: ModelSpec) -> bool:
    """Test with eight pictures whether bfloat16 agrees with float32 on this CPU, and remember the result."""

    def compare() -> bool:
        random = np.random.default_rng(0)
        height, width = spec.preprocess.size
        coarse = random.integers(0, 256, (8, 3, 4, 4), dtype=np.uint8)  # large shapes, with some noise added below
        shapes = coarse.repeat(-(-height // 4), axis=2)[:, :, :height].repeat(-(-width // 4), axis=3)[..., :width]
        pixels = np.clip(shapes + random.normal(0, 16, shapes.shape), 0, 255).astype(np.uint8)  # (8, 3, H, W)
        expected = ClipModel(spec, "cpu", "fp32").encode_images(pixels)
        try:
            cosines = (ClipModel(spec, "cpu", "bf16").encode_images(pixels) * expected).sum(dim=1)
        except ModelError:  # bfloat16 overflowed
            return False
        return bool(cosines.min() >= _BF16_COSINE)

    parts = [spec.recipe, asdict(spec.preprocess), torch.__version__, _bf16_instructions()]
    return bool(remember("bf16", ["bf16-v1", *parts], compare))


def check_device(device: str) -> None:
    """Check that a device ("cpu", "cuda", "cuda:1" or "mps") exists.

    Raises:
        ModelError: it does not.
    """
    kind, _, number = device.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if int(number or 0) >= there[kind]:
        raise ModelError(f"--device {device}: torch finds no such device here; use --device cpu")


def has_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 in hardware; emulated, a training step takes ten times as long.

    For a CPU, only Linux reports this, in its flags: AVX512-BF16 and AMX on x86, BF16 on ARM. For MPS it is not known.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool(_bf16_instructions())


def _bf16_instructions() -> list[str]:
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []
    return sorted({"avx512_bf16", "amx_bf16", "bf16"}.intersection(words))


def load_tokenizer(spec: ModelSpec) -> SimpleTokenizer | HFTokenizer:
    """Build open_clip's tokenizer for a model.

    Raises:
        ModelError: it needs transformers, or its files are not available.
    """
    about = spec.tokenizer
    try:
        if about.name is None:
            tokenizer = SimpleTokenizer(context_length=about.context_length, **about.arguments)
        else:
            with no_remote_code(spec.name):
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
    except Exception as e:  # open_clip and transformers raise anything on a bad configuration
        raise ModelError(f"{spec.name}: cannot load its tokenizer {about.name or 'CLIP'!r}: {first_line(e)}") from e


def count_tokens(tokenizer: SimpleTokenizer | HFTokenizer, prompts: Sequence[str]) -> list[int]:
    """Count each prompt's tokens before any are cut, start and end marks included."""
    if isinstance(tokenizer, SimpleTokenizer):
        return [len(tokenizer.encode(prompt)) + 2 for prompt in prompts]
    cleaned = [tokenizer.clean_fn(prompt) for prompt in prompts]
    marks = 3 if tokenizer.tokenizer_mode == "clips" else 0  # start, end and class, which this mode adds itself
    ids = tokenizer.tokenizer(cleaned, add_special_tokens=not marks, verbose=False)["input_ids"]
    return [len(row) + marks for row in ids]


def _is_out_of_memory(e: RuntimeError) -> bool:
    if isinstance(e, torch.OutOfMemoryError):
        return True
    # The message of the CPU, and of cuBLAS at the first product.
    messages = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")
    return any(text in str(e) for text in messages)
