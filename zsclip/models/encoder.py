"""What turns pixels and prompts into embeddings, whatever library runs the model."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from zsclip.models.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Encoder(Protocol):
    """A model that has been found: pixels and prompts in, rows of length 1 out. It is loaded when it must encode."""

    @property
    def spec(self) -> ModelSpec:
        """The model that was found."""
        ...

    @property
    def device(self) -> str:
        """The kind of device: cpu, cuda or mps."""
        ...

    @property
    def precision(self) -> str:
        """The precision of the image tower: fp32, bf16, fp16 or int8."""
        ...

    @property
    def runtime(self) -> str:
        """The library that runs the model: torch or onnx."""
        ...

    @property
    def logit_scale(self) -> float:
        """The multiplier of the cosines."""
        ...

    @property
    def logit_bias(self) -> float | None:
        """The bias added before the sigmoid; None for a model trained with a softmax."""
        ...

    @property
    def embed_dim(self) -> int:
        """D, the width of the embedding space."""
        ...

    @property
    def batch_size(self) -> int:
        """The default batch size."""
        ...

    @property
    def in_flight(self) -> int:
        """The number of batches in flight while the next is prepared."""
        ...

    @property
    def text_recipe(self) -> str:
        """Fingerprint of everything that a prompt's embedding depends on besides the prompt."""
        ...

    def image_recipe(self, fast_jpeg: bool) -> str:
        """Fingerprint of everything that a picture's embedding depends on besides the picture."""
        ...

    @property
    def is_as_remembered(self) -> bool:
        """Whether the loaded model has the settings that were remembered, and that are in its recipes."""
        ...

    def load(self) -> None:
        """Load the model now instead of at the first batch."""
        ...

    def begin_images(self, pixels: "Sequence[np.ndarray]") -> "Callable[[], NDArray[np.float32]]":
        """Start encoding B of (3, H, W) uint8; return a function that waits for (B, D) float32, rows of length 1."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> "NDArray[np.float32]":
        """Encode N prompts into (N, D) float32, rows of length 1."""
        ...

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens, start and end marks included."""
        ...
