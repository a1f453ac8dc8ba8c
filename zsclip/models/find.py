"""What `--model` means: a configuration, a file of weights and its digest, found without loading anything.

No torch, and open_clip only to ask for its table of tags, once per installed version.
"""

import difflib
import hashlib
import importlib.util
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zsclip.errors import ModelError, first_line
from zsclip.kept.cache import fingerprint, remember
from zsclip.models.hub import HubFiles, cached_file, fetch, find_file
from zsclip.pixels.decode import RULES
from zsclip.pixels.fit import Preprocess

ALIASES = {
    "base": "ViT-B-32-256,datacomp_s34b_b86k",
    "large": "ViT-L-14,datacomp_xl_s13b_b90k",
    "multilingual": "ViT-B-16-SigLIP2-256,webli",
}

CONFIG_FILE = "open_clip_config.json"
TINY_DIR = Path(__file__).parents[1] / "data" / "tiny"  # the model in the box
# The order in which open_clip itself looks for weights, in a folder and in a hub repository.
_LOCAL_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# All that a tokenizer may consist of; the last one is always there, and fetched last.
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
# Arguments that only say how text is cleaned. The rest could name files, fetch things or run code.
_TOKENIZER_ARGUMENTS = ("clean", "strip_sep_token", "language", "additional_special_tokens")
# open_clip's own defaults (PreprocessCfg), for a model whose configuration is silent.
_DEFAULT_PREPROCESS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
_HUB_BLOB = re.compile(r"/models--[^/]+/blobs/(?:[0-9a-f]{40}|[0-9a-f]{64})$")
_MULTILINGUAL = ("xlm", "mt5", "nllb", "i18n", "siglip2", "multilingual", "worldwide", "gemma")


@dataclass(frozen=True)
class Tokenizer:
    """How a model's text is cut into tokens.

    name: as the configuration says, a hub repository; None for CLIP's own, which ships inside open_clip.
    folder: where its files are, for a model in a folder; None for a model of the hub.
    arguments: the configuration's own, less all that is not on our list.
    """

    name: str | None
    folder: str | None
    context_length: int
    mode: str | None
    arguments: dict[str, Any]
    files_digest: str | None


@dataclass(frozen=True)
class ModelSpec:
    """A model that has been found but not loaded.

    name: what the user would type to get it again.
    architecture: open_clip's `model_cfg`, with the quick-GELU its weights were trained with.
    weights: the checkpoint file, and the digest of its content; None where only the configuration was asked for.
    offline: whether what is still missing, such as the tokenizer, may not be fetched.
    """

    name: str
    architecture: dict[str, Any]
    preprocess: Preprocess
    tokenizer: Tokenizer
    weights: str | None
    digest: str | None
    offline: bool

    @property
    def recipe(self) -> str:
        """Fingerprint of weights and architecture: what an embedding depends on besides its input."""
        return fingerprint("model-v1", self.digest, self.architecture)

    def text_recipe(self, device: str) -> str:
        """Fingerprint of all that a prompt's embedding depends on besides the prompt."""
        about = self.tokenizer
        return fingerprint(
            "text-v1",
            self.recipe,
            [about.name, about.context_length, about.mode, about.arguments, about.files_digest],
            ["fp32", device.partition(":")[0]],
        )

    def image_recipe(self, device: str, precision: str, compiled: bool, fast_jpeg: bool) -> str:
        """Fingerprint of all that a picture's embedding depends on besides the picture."""
        kind = device.partition(":")[0]
        return fingerprint(
            "image-v1", RULES, self.recipe, asdict(self.preprocess), kind, precision, compiled, fast_jpeg
        )

    @property
    def reads_any_script(self) -> bool:
        """Tell whether the text tower was trained on more than English."""
        told = f"{self.name} {self.tokenizer.name} {self.architecture['text_cfg'].get('hf_model_name')}".lower()
        return any(mark in told for mark in _MULTILINGUAL)


def find_model(name: str, *, offline: bool = False, with_weights: bool = True) -> ModelSpec:
    """Find what a `--model` argument names, fetching from the hub what is not on this machine.

    Args:
        name: `tiny`, an alias, `ARCH,TAG`, `hf-hub:ORG/REPO`, `local-dir:PATH` or a folder.
        offline: never touch the network.
        with_weights: False asks for the configuration alone, for what needs only a tokenizer.

    Raises:
        ModelError: there is no such model, or it cannot be had here; one line says why.
    """
    full = ALIASES.get(name, name)
    if full == "tiny":
        return _find_local("tiny", TINY_DIR, offline, with_weights)
    if full.startswith("local-dir:"):
        return _find_local(name, Path(full.removeprefix("local-dir:")), offline, with_weights)
    if full.startswith("hf-hub:"):
        return _find_on_hub(name, full.removeprefix("hf-hub:"), offline, with_weights)
    if os.path.isfile(os.path.join(full, CONFIG_FILE)):
        return _find_local(name, Path(full), offline, with_weights)
    if "," in full:
        return _find_tagged(name, *_split_tag(full), offline, with_weights)
    if full in _architectures():
        raise ModelError(f"no model {name!r}; an architecture needs a tag, as `zsclip models list` shows them")
    near = difflib.get_close_matches(full, [*ALIASES, *_architectures()], n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ModelError(f"no model {name!r}; {hint}`zsclip models list` shows what there is")


def tokenizer_folder(spec: ModelSpec) -> str:
    """Give the folder of a model's tokenizer files, fetched from the hub if need be and allowed.

    Raises:
        ModelError: they cannot be had.
    """
    assert spec.tokenizer.name is not None
    if spec.tokenizer.folder is not None:
        return spec.tokenizer.folder
    files = _tokenizer_files(spec.tokenizer.name)
    if cached_file(files[-1]) is None and not spec.offline:
        fetch(spec.name, files, lambda message: None)
    return os.path.dirname(find_file(spec.name, files[-1], spec.offline))


def find_architecture(name: str) -> ModelSpec:
    """Find an architecture without weights: a JSON file with a `model_cfg`, or open_clip's name of one.

    Its tokenizer may have to be fetched.

    Raises:
        ModelError: there is none of that name.
    """
    path = _architectures().get(name)
    if path is not None:
        return _spec(name, {"model_cfg": json.loads(path.read_text(encoding="utf-8"))}, None, offline=False)
    if not os.path.isfile(name):
        raise ModelError(f"--arch {name!r}: no such file, and open_clip has no architecture of that name")
    return _spec(name, _read_config(name, Path(name)), None, offline=False)


def text_config_folder(spec: ModelSpec) -> str:
    """Give the folder with the configuration of a Hugging Face text tower, fetched if need be and allowed.

    Raises:
        ModelError: it cannot be had.
    """
    name = spec.architecture["text_cfg"]["hf_model_name"]
    if os.path.isdir(name):
        return str(name)
    return os.path.dirname(find_file(spec.name, HubFiles(name, ("config.json",)), spec.offline))


def unread_labels(spec: ModelSpec, labels: Iterable[str]) -> list[str]:
    """Give the labels written in letters that the model's text tower was not trained on."""
    if spec.reads_any_script:
        return []
    return [label for label in labels if _is_foreign(label)]


def _is_foreign(label: str) -> bool:
    letters = [c for c in unicodedata.normalize("NFKC", label) if c.isalpha()]
    foreign = sum("LATIN" not in unicodedata.name(c, "") for c in letters)
    return foreign * 2 > len(letters)  # more than half: the one Greek letter of "5 µm" is no Greek label


def file_digest(path: str | os.PathLike[str]) -> str:
    """Give the SHA-256 of a file's content, remembered by path, size and times; a hub blob's is its name."""
    real = os.path.realpath(path)
    if _HUB_BLOB.search(real):
        return os.path.basename(real)
    before = os.stat(real)

    def read() -> str:
        with open(real, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    if time.time() - before.st_mtime < 2:  # it may change again within the clock's grain and look the same
        return read()
    return str(remember("digests", [real, before.st_size, before.st_mtime_ns, before.st_ino], read))


def tags() -> dict[str, dict[str, dict[str, Any]]]:
    """Give open_clip's table of published weights: architecture -> tag -> where and how preprocessed."""

    def read() -> dict[str, dict[str, Any]]:
        from open_clip.pretrained import get_pretrained_cfg, list_pretrained

        table: dict[str, dict[str, Any]] = {}
        for architecture, tag in list_pretrained():
            table.setdefault(architecture, {})[tag] = get_pretrained_cfg(architecture, tag)
        return table

    table: dict[str, dict[str, dict[str, Any]]] = remember("tags", [version("open_clip_torch")], read)
    return table


def files_to_fetch(name: str) -> list[HubFiles]:
    """List what a model needs from the hub: its weights first, then configuration, tokenizer and text configuration.

    Raises:
        ModelError: there is no such model.
    """
    spec = find_model(name, with_weights=False)
    full = ALIASES.get(name, name)
    wanted = []
    if full.startswith("hf-hub:"):
        wanted.append(HubFiles(full.removeprefix("hf-hub:"), _HUB_WEIGHTS))
    elif "," in full and not full.startswith("local-dir:"):
        architecture, tag = _split_tag(full)
        wanted.append(hub_files_of_tag(tags()[architecture][tag]))
    if spec.tokenizer.name is not None and spec.tokenizer.folder is None:
        files = _tokenizer_files(spec.tokenizer.name)
        wanted.extend(files if cached_file(files[-1]) is None else [])  # the last one here: all that exist are
    text_tower = spec.architecture["text_cfg"].get("hf_model_name")
    if text_tower is not None and not os.path.isdir(text_tower):
        wanted.append(HubFiles(text_tower, ("config.json",)))
    return wanted


def _find_local(name: str, folder: Path, offline: bool, with_weights: bool) -> ModelSpec:
    if not os.path.isdir(folder):
        raise ModelError(f"{name}: no such folder; name one that holds {CONFIG_FILE} and weights")
    config = _read_config(name, folder / CONFIG_FILE)
    if not with_weights:
        return _spec(name, config, None, folder=folder, offline=offline)
    for filename in _LOCAL_WEIGHTS:
        if os.path.isfile(folder / filename):
            return _spec(name, config, folder / filename, folder=folder, offline=offline)
    others = sorted(path for ending in ("safetensors", "bin", "pth") for path in folder.glob(f"*.{ending}"))
    if not others:
        raise ModelError(f"{name}: no weights beside {CONFIG_FILE}; put {_LOCAL_WEIGHTS[0]} into {str(folder)!r}")
    return _spec(
        name, config, min(others, key=lambda path: path.suffix != ".safetensors"), folder=folder, offline=offline
    )


def _find_on_hub(name: str, repository: str, offline: bool, with_weights: bool) -> ModelSpec:
    config = _read_config(name, Path(find_file(name, HubFiles(repository, (CONFIG_FILE,)), offline)))
    weights = find_file(name, HubFiles(repository, _HUB_WEIGHTS), offline) if with_weights else None
    return _spec(name, config, weights, offline=offline)


def _find_tagged(name: str, architecture: str, tag: str, offline: bool, with_weights: bool) -> ModelSpec:
    config_path = _architectures().get(architecture)
    if config_path is None:
        near = difflib.get_close_matches(architecture, _architectures(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`zsclip models list` shows what there is"
        raise ModelError(f"{name}: open_clip has no architecture {architecture!r}; {hint}")
    published = tags().get(architecture, {})
    about = published.get(tag)
    if about is None:
        choices = f"use one of {', '.join(published)}" if published else "no weights were published for it"
        raise ModelError(f"{name}: {architecture} has no tag {tag!r}; {choices}")
    model_cfg = json.loads(config_path.read_text(encoding="utf-8"))
    # Some tags of a plain architecture were trained with quick-GELU; open_clip only warns.
    model_cfg["quick_gelu"] = bool(model_cfg.get("quick_gelu") or about.get("quick_gelu"))
    weights = find_file(name, hub_files_of_tag(about), offline) if with_weights else None
    return _spec(name, {"model_cfg": model_cfg, "preprocess_cfg": about}, weights, offline=offline)


def _spec(
    name: str,
    config: dict[str, Any],
    weights: str | Path | None,
    *,
    folder: Path | None = None,
    offline: bool,
) -> ModelSpec:
    model_cfg = config["model_cfg"]
    try:
        text_cfg, vision_cfg = model_cfg["text_cfg"], model_cfg["vision_cfg"]
        preprocess = _preprocess(vision_cfg, config.get("preprocess_cfg") or {})
        tokenizer = _tokenizer(text_cfg, folder)
        model_cfg["embed_dim"] = int(model_cfg["embed_dim"])
    except (KeyError, TypeError, ValueError, AttributeError) as e:
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
    size = vision_cfg.get("image_size", 224)  # the tower's own size wins over preprocess_cfg's, as in open_clip
    height, width = map(int, size if isinstance(size, list | tuple) else (size, size))
    mean, std = (
        tuple(float(x) for x in (value if isinstance(value, list | tuple) else (value,) * 3))
        for value in (settings["mean"], settings["std"])
    )
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise ValueError("mean and std need three numbers, and a deviation is above 0")
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


def _tokenizer_files(repository: str) -> list[HubFiles]:
    return [HubFiles(repository, (filename,)) for filename in TOKENIZER_FILES]


def _read_config(name: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ModelError(f"{name}: no {CONFIG_FILE} in {str(path.parent)!r}; open_clip models bring one") from e
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{name}: cannot read {str(path)!r}: {first_line(e)}; fetch it again") from e
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise ModelError(f"{name}: {str(path)!r} has no 'model_cfg'; it is not an open_clip configuration")
    return config


def _architectures() -> dict[str, Path]:
    package = importlib.util.find_spec("open_clip")  # finds the folder, imports nothing
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "model_configs"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def _split_tag(full: str) -> tuple[str, str]:
    """Split `ARCH,TAG` into the two names as open_clip spells them."""
    architecture, _, tag = full.partition(",")
    return architecture.strip().replace("/", "-"), tag.strip().lower().replace("-", "_")


def hub_files_of_tag(about: dict[str, Any]) -> HubFiles:
    """Tell where the weights of a tag are, from its entry in `tags()`."""
    # "org/repo/file.bin", or "org/repo/" for the usual names; a .bin may have a .safetensors beside it.
    repository, _, filename = about["hf_hub"].rpartition("/")
    if not filename:
        return HubFiles(repository, _HUB_WEIGHTS)
    stem, ending = os.path.splitext(filename)
    safer = (stem + ".safetensors",) if ending in (".bin", ".pth") else ()
    return HubFiles(repository, (*safer, filename))
