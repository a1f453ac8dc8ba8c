"""A model in torch that is loaded only when something must be encoded: stored embeddings need no torch."""

import glob
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsclip.kept.cache import keep, remember
from zsclip.models.lean_imports import lean_open_clip
from zsclip.models.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zsclip.models.torch_encoder import ClipModel

_GPUS = ("nvidia", "nvhost", "nvgpu", "nvmap", "kfd", "dxg")  # devices of NVIDIA, also embedded, of AMD, and in WSL


class LazyTorchEncoder:
    """An `Encoder` in torch; the model is loaded at the first call.

    Args:
        spec: the model that was found.
        device, precision, compiled: as for `load_model`; the meaning of "auto" is remembered.

    Raises:
        ModelError: raised when the model is loaded; see `load_model`.
    """

    runtime = "torch"

    def __init__(
        self, spec: ModelSpec, device: str = "auto", precision: str = "auto", *, compiled: bool = False
    ) -> None:
        self.spec = spec
        self._wanted = (device, precision, compiled)

    @cached_property
    def model(self) -> "ClipModel":
        """The model itself; importing torch and open_clip takes seconds."""
        with lean_open_clip():
            from zsclip.models.torch_encoder import load_model

        device, precision, compiled = self._wanted
        model = load_model(self.spec, device, precision, compiled=compiled)
        known = vars(self).get("_settings")
        if known is not None and known != _settings_of(model):  # devices have changed; right for the next run
            keep("settings", self._parts, _settings_of(model))
        return model

    @property
    def is_loaded(self) -> bool:
        """Whether this run has loaded the model."""
        return "model" in vars(self)

    def load(self) -> None:
        """Load the model now instead of at the first batch."""
        _ = self.model

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The settings that are known without loading, if the model was loaded on this machine before."""

        settings: dict[str, Any] = remember("settings", self._parts, lambda: _settings_of(self.model))
        return settings

    @property
    def _parts(self) -> list[Any]:
        from importlib.metadata import version  # takes 10 ms to import

        about = [self.spec.recipe, asdict(self.spec.preprocess), self._wanted]
        return ["settings-v2", *about, version("torch"), _machine()]

    @property
    def logit_scale(self) -> float:
        """The multiplier of the cosines."""
        return float(self._settings["logit_scale"])

    @property
    def logit_bias(self) -> float | None:
        """The bias added before the sigmoid; None for a model trained with a softmax."""
        bias: float | None = self._settings["logit_bias"]
        return bias

    @property
    def batch_size(self) -> int:
        """The default batch size."""
        if self.is_loaded:  # when it was remembered, other programs may have filled the device's memory
            return self.model.batch_size
        return int(self._settings["batch_size"])

    @property
    def embed_dim(self) -> int:
        """D, the width of the embedding space."""
        return self.spec.embed_dim

    @property
    def device(self) -> str:
        """The kind of device: cpu, cuda or mps."""
        return str(self._settings["device"]).partition(":")[0]

    @property
    def precision(self) -> str:
        """The precision of the image tower: fp32, bf16 or fp16."""
        return str(self._settings["precision"])

    @property
    def text_recipe(self) -> str:
        """Fingerprint of everything that a prompt's embedding depends on besides the prompt."""
        return self.spec.text_recipe(self._settings["device"])

    def image_recipe(self, fast_jpeg: bool) -> str:
        """Fingerprint of everything that a picture's embedding depends on besides the picture."""
        return self.spec.image_recipe(self._settings["device"], self._settings["precision"], self._wanted[2], fast_jpeg)

    @property
    def is_as_remembered(self) -> bool:
        """Whether the loaded model has the remembered settings; a device may have been added or removed."""
        return _settings_of(self.model) | {"batch_size": None} == self._settings | {"batch_size": None}

    @property
    def in_flight(self) -> int:
        """The number of batches in flight while the next is prepared."""
        return int(self._settings["in_flight"])

    def begin_images(self, pixels: "Sequence[np.ndarray]") -> "Callable[[], NDArray[np.float32]]":
        """Start encoding B of (3, H, W) uint8; return a function that waits for (B, D) float32, rows of length 1."""
        finish = self.model.begin_images(pixels)
        return lambda: finish().numpy()

    def encode_text(self, prompts: Sequence[str]) -> "NDArray[np.float32]":
        """Encode N prompts into (N, D) float32, rows of length 1."""
        vectors: NDArray[np.float32] = self.model.encode_text(prompts).numpy()
        return vectors

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens, start and end marks included."""
        return self.model.token_counts(prompts)


def _settings_of(model: "ClipModel") -> dict[str, Any]:
    return {
        "device": model.device,
        "precision": model.precision,
        "batch_size": model.batch_size,
        "in_flight": model.in_flight,
        "logit_scale": model.logit_scale,
        "logit_bias": model.logit_bias,
    }


def has_no_gpu() -> bool:
    """Whether this machine certainly has no GPU; torch itself takes seconds to find out."""
    try:
        return sys.platform == "linux" and not any(name.startswith(_GPUS) for name in os.listdir("/dev"))
    except OSError:
        return False


def _machine() -> list[Any]:
    """What "auto" depends on: the processor and devices that can be seen without torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    devices = sorted(glob.glob("/dev/nvidia[0-9]*"))
    return [platform.system(), platform.machine(), flags, devices, os.environ.get("CUDA_VISIBLE_DEVICES")]
