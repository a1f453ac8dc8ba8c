"""What is known about a model before it is loaded: its configuration and the digest of its weights."""

import hashlib
import os
import re
import string
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zsclip.errors import ModelError
from zsclip.kept.cache import fingerprint, remember
from zsclip.models.config import CONFIG_FILE
from zsclip.pictures.identity import GRAIN_NS, Look
from zsclip.pixels.fit import RULES, Preprocess

# All files that a tokenizer may have; the last one always exists, and is fetched last.
TOKENIZER_FILES = (
    "tokenizer.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "config.json",
    "tokenizer_config.json",
)
# Arguments that only change how text is cleaned. Others could name files, fetch things or run code.
_TOKENIZER_ARGUMENTS = ("clean", "strip_sep_token", "language", "additional_special_tokens")
# open_clip's own defaults (PreprocessCfg), for configurations without these values.
_DEFAULT_PREPROCESS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
_QUICKLY_READ = 500_000  # bytes: reading these takes no longer than asking the cache
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_HUB_BLOB = re.compile(r"/models--[^/]+/blobs/(?:[0-9a-f]{40}|[0-9a-f]{64})$")
_MULTILINGUAL = ("xlm", "mt5", "nllb", "i18n", "siglip2", "multilingual", "worldwide", "gemma")


@dataclass(frozen=True)
class Tokenizer:
    """How a model's text is tokenized.

    name: the hub repository in the configuration; None for CLIP's own tokenizer, which comes with open_clip.
    folder: the folder of its files, for a model in a folder; None for a model of the hub.
    arguments: those of the configuration that are on our list.
    """

    name: str | None
    folder: str | None
    context_length: int
    mode: str | None
    arguments: dict[str, Any]
    files_digest: str | None

    def cleaned(self, text: str) -> str:
        """Give a text as open_clip cleans it, and without capitals where the tokenizer ignores them."""
        cleaned = self.as_open_clip_cleans(text)
        return cleaned.lower() if "uncased" in (self.name or "") else cleaned

    def as_open_clip_cleans(self, text: str) -> str:
        """Give a text as open_clip's cleaning hands it on to the tokenizer.

        Source: open_clip/tokenizer.py, `get_clean_fn`; importing that would import torch.
        """
        if not (text.isascii() and text.isprintable() and "&" not in text):  # else both leave it as it is
            import html

            from ftfy import fix_text

            text = html.unescape(html.unescape(fix_text(text)))
        clean = self.arguments.get("clean", "lower" if self.name is None else "whitespace")
        if clean == "canonicalize":
            text = text.replace("_", " ").translate(_NO_PUNCTUATION)
        text = " ".join(text.split())
        return text if clean == "whitespace" else text.lower()


@dataclass(frozen=True)
class ModelSpec:
    """A model that has been found but not loaded.

    name: what `--model` takes to find it again.
    architecture: open_clip's `model_cfg`, with the quick-GELU its weights were trained with.
    weights: the checkpoint file, and the digest of its content; None if only the configuration was wanted.
    offline: whether fetching missing files, such as the tokenizer, is forbidden.
    """

    name: str
    architecture: dict[str, Any]
    preprocess: Preprocess
    tokenizer: Tokenizer
    weights: str | None
    digest: str | None
    offline: bool

    @property
    def embed_dim(self) -> int:
        """D, the width of the embedding space."""
        return int(self.architecture["embed_dim"])

    @property
    def recipe(self) -> str:
        """Fingerprint of weights and architecture, which an embedding depends on besides its input."""
        return fingerprint("model-v1", self.digest, self.architecture)

    def text_recipe(self, device: str, runtime: str = "torch") -> str:
        """Fingerprint of everything that a prompt's embedding depends on besides the prompt."""
        about = self.tokenizer
        return fingerprint(
            "text-v1",
            self.recipe,
            [about.name, about.context_length, about.mode, about.arguments, about.files_digest],
            ["fp32", device.partition(":")[0], *_named(runtime)],
        )

    def image_recipe(self, device: str, precision: str, compiled: bool, fast_jpeg: bool, runtime: str = "torch") -> str:
        """Fingerprint of everything that a picture's embedding depends on besides the picture."""
        kind = device.partition(":")[0]
        settings = [kind, precision, compiled, fast_jpeg, *_named(runtime)]
        return fingerprint("image-v1", RULES, self.recipe, asdict(self.preprocess), *settings)

    @property
    def reads_any_script(self) -> bool:
        """Whether the text tower was trained on more than English."""
        description = f"{self.name} {self.tokenizer.name} {self.architecture['text_cfg'].get('hf_model_name')}".lower()
        return any(mark in description for mark in _MULTILINGUAL)


def _named(runtime: str) -> list[str]:
    """Name a runtime in a fingerprint; torch came first, without a name."""
    return [] if runtime == "torch" else [runtime]


def build_spec(
    name: str,
    config: dict[str, Any],
    weights: str | Path | None,
    *,
    folder: Path | None = None,
    offline: bool,
) -> ModelSpec:
    """Read from a configuration what is needed to load and name a model.

    Args:
        config: as open_clip writes it: `model_cfg`, and perhaps `preprocess_cfg`.
        weights: the checkpoint file, or None.
        folder: where the tokenizer's files are, for a model in a folder.

    Raises:
        ModelError: it is not such a configuration, or the weights cannot be read.
    """
    model_cfg = config["model_cfg"]
    try:
        text_cfg, vision_cfg = model_cfg["text_cfg"], model_cfg["vision_cfg"]
        preprocess = _preprocess(vision_cfg, config.get("preprocess_cfg") or {})
        tokenizer = _tokenizer(text_cfg, folder)
        model_cfg["embed_dim"] = int(model_cfg["embed_dim"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
        raise ModelError(f"{name}: not a model configuration: {e!r}; compare {CONFIG_FILE} with one that works") from e
    try:
        digest = file_digest(weights) if weights is not None else None
    except OSError as e:
        raise ModelError(f"{name}: cannot read {str(weights)!r}: {e.strerror}") from e
    return ModelSpec(name, model_cfg, preprocess, tokenizer, None if weights is None else str(weights), digest, offline)


def _preprocess(vision_cfg: dict[str, Any], overlay: dict[str, Any]) -> Preprocess:
    settings = _DEFAULT_PREPROCESS | {
        key: value for key, value in overlay.items() if key in _DEFAULT_PREPROCESS and value is not None
    }
    size = vision_cfg.get("image_size", 224)  # the tower's own size beats preprocess_cfg's, as in open_clip
    height, width = map(int, size if isinstance(size, list | tuple) else (size, size))
    mean, std = (
        tuple(float(x) for x in (value if isinstance(value, list | tuple) else (value,) * 3))
        for value in (settings["mean"], settings["std"])
    )
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise ValueError("mean and std need three numbers each, and std must be above 0")
    if settings["resize_mode"] not in ("shortest", "longest", "squash") or height < 1 or width < 1:
        raise ValueError(f"no such resize_mode or size: {settings['resize_mode']!r}, {size!r}")
    if settings["interpolation"] not in ("bicubic", "bilinear", "random"):  # random is bicubic after training
        raise ValueError(f"no such interpolation: {settings['interpolation']!r}")
    return Preprocess(
        size=(height, width),
        mean=mean,
        std=std,
        interpolation="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
        resize_mode=str(settings["resize_mode"]),
        fill_color=int(settings["fill_color"]),  # type: ignore[call-overload]
    )


def _tokenizer(text_cfg: dict[str, Any], folder: Path | None) -> Tokenizer:
    name = text_cfg.get("hf_tokenizer_name") or None
    given = text_cfg.get("tokenizer_kwargs") or {}
    digests = [
        (filename, file_digest(folder / filename))
        for filename in TOKENIZER_FILES
        if name is not None and folder is not None and os.path.isfile(folder / filename)
    ]
    return Tokenizer(
        name=name,
        folder=None if name is None or folder is None else str(folder),
        context_length=int(text_cfg.get("context_length", 77)),
        mode=text_cfg.get("tokenizer_mode"),
        arguments={key: given[key] for key in _TOKENIZER_ARGUMENTS if key in given},
        files_digest=fingerprint(digests) if digests else None,
    )


def file_digest(path: str | os.PathLike[str], *, now_ns: int | None = None) -> str:
    """Give the SHA-256 of a file's content, cached by path, size, times and inode; a hub blob is named by it.

    Args:
        now_ns: the time, by default that of the clock; a file changed a moment ago may change again unnoticed.
    """
    real = os.path.realpath(path)
    if _HUB_BLOB.search(real):
        return os.path.basename(real)
    before = os.stat(real)
    if before.st_size <= _QUICKLY_READ:
        return _digest_of(real)
    look = Look.of(before)
    if max(look.mtime, look.ctime) + GRAIN_NS > (time.time_ns() if now_ns is None else now_ns):
        return _digest_of(real)
    return str(remember("digests", [real, *look], lambda: _digest_of(real)))


def _digest_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
