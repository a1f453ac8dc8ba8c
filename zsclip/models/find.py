"""What `--model` means: find a configuration and a file of weights, without loading anything.

No torch; open_clip is imported only for its table of tags, once per installed version.
"""

import difflib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from zsclip.errors import ModelError
from zsclip.kept.cache import remember
from zsclip.models.config import CONFIG_FILE, read_config, read_json
from zsclip.models.hub import HubFiles, cached_file, fetch, find_file
from zsclip.models.spec import TOKENIZER_FILES, ModelSpec, build_spec

ALIASES = {
    "base": "ViT-B-32-256,datacomp_s34b_b86k",
    "large": "ViT-L-14,datacomp_xl_s13b_b90k",
    "multilingual": "ViT-B-16-SigLIP2-256,webli",
}

TINY_DIR = Path(__file__).parents[1] / "data" / "tiny"  # the bundled model
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
_SIGLIP = r"(siglip2?)-(base|large|so400m|giant-opt)-patch(\d+)-(\d+)(-multilingual|-i18n)?"
_TOWERS = {"base": "b", "large": "l", "so400m": "so400m", "giant-opt": "gopt"}
_HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def find_model(name: str, *, offline: bool = False, with_weights: bool = True) -> ModelSpec:
    """Find the model that `--model` names; fetch what is not on this machine from the hub.

    Args:
        name: `tiny`, an alias, `ARCH,TAG`, `hf-hub:ORG/REPO`, `local-dir:PATH` or a folder.
        offline: never touch the network.
        with_weights: False finds only the configuration, for callers that need only a tokenizer.

    Raises:
        ModelError: there is no such model, or it is not available here; one line says why.
    """
    full = ALIASES.get(name, name)
    if full == "tiny":
        return _find_local("tiny", TINY_DIR, offline, with_weights)
    if full.startswith("local-dir:"):
        return _find_local(name, Path(full.removeprefix("local-dir:")), offline, with_weights)
    if full.startswith("hf-hub:"):
        return _find_on_hub(name, full.removeprefix("hf-hub:"), offline, with_weights)
    if os.path.exists(os.path.join(full, CONFIG_FILE)):
        return _find_local(name, Path(full), offline, with_weights)
    if "," in full:
        return _find_tagged(name, *_split_tag(full), offline, with_weights)
    ours = None if full in _architectures() else _ours(full)
    if ours is not None:
        raise ModelError(f"{name!r} is called {ours!r} here; use that name")
    if full.replace("/", "-") in _architectures():
        raise ModelError(f"no model {name!r}; an architecture needs a tag; `zsclip models list` shows the tags")
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", full):
        raise ModelError(f"no model or folder {name!r}; an open_clip model on the hub is written 'hf-hub:{full}'")
    if os.path.isdir(full):
        raise ModelError(f"{name}: this folder has no {CONFIG_FILE}; name a folder with it and the weights")
    plain, _, size = full.partition("@")
    if size and (ours := _ours(plain)) is not None:
        raise ModelError(f"no model {name!r}; did you mean {ours!r}? `zsclip models list` shows all models")
    near = _near(full, ["tiny", *ALIASES, *_architectures()])
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ModelError(f"no model {name!r}; {hint}`zsclip models list` shows all models")


def open_clips_name(name: str) -> tuple[str, str | None]:
    """Give what open_clip calls the model of a name that `find_model` knows: its `model_name` and `pretrained`."""
    full = ALIASES.get(name, name)
    if full == "tiny":
        return f"local-dir:{TINY_DIR}", None
    if full.startswith(("local-dir:", "hf-hub:")):
        return full, None
    if os.path.exists(os.path.join(full, CONFIG_FILE)):
        return f"local-dir:{full}", None
    return _split_tag(full)


def files_of(name: str) -> Iterator[str]:
    """Yield the files of a model that are on this machine, the weights and every other file in their folder."""
    try:
        weights = find_model(name, offline=True).weights
    except ModelError:
        return
    with os.scandir(os.path.dirname(weights or "") or ".") as entries:
        yield from (entry.path for entry in entries if entry.is_file())


def tokenizer_folder(spec: ModelSpec) -> str:
    """Give the folder of a model's tokenizer files, fetched from the hub if necessary and allowed.

    Raises:
        ModelError: they are not available.
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
        ModelError: there is no such architecture.
    """
    path = _architectures().get(name)
    if path is not None:
        return build_spec(name, {"model_cfg": json.loads(path.read_text(encoding="utf-8"))}, None, offline=False)
    if not os.path.isfile(name):
        raise ModelError(f"--arch {name!r}: no such file, and open_clip has no architecture of that name")
    return build_spec(name, read_config(name, Path(name)), None, offline=False)


def text_config_folder(spec: ModelSpec) -> str:
    """Give the folder with the configuration of a Hugging Face text tower, fetched if necessary and allowed.

    Raises:
        ModelError: it is not available, or has sizes that no model has.
    """
    name = spec.architecture["text_cfg"]["hf_model_name"]
    if os.path.isdir(name):
        config = os.path.join(name, "config.json")
    else:
        config = find_file(spec.name, HubFiles(name, ("config.json",)), spec.offline)
    read_json(spec.name, Path(config))  # transformers would build whatever it says
    return os.path.dirname(config)


def tags() -> dict[str, dict[str, dict[str, Any]]]:
    """Give open_clip's table of published weights: architecture -> tag -> location and preprocessing."""

    def read() -> dict[str, dict[str, Any]]:
        from open_clip.pretrained import get_pretrained_cfg, list_pretrained

        table: dict[str, dict[str, Any]] = {}
        for architecture, tag in list_pretrained():
            table.setdefault(architecture, {})[tag] = get_pretrained_cfg(architecture, tag)
        return table

    installed = (_open_clip() / "version.py").read_text()  # importlib.metadata would take 10 ms
    table: dict[str, dict[str, dict[str, Any]]] = remember("tags", [installed], read)
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
        wanted.extend(files if cached_file(files[-1]) is None else [])  # fetched last: so all that exist are here
    text_tower = spec.architecture["text_cfg"].get("hf_model_name")
    if text_tower is not None and not os.path.isdir(text_tower):
        wanted.append(HubFiles(text_tower, ("config.json",)))
    return wanted


def _find_local(name: str, folder: Path, offline: bool, with_weights: bool) -> ModelSpec:
    if not os.path.isdir(folder):
        raise ModelError(f"{name}: no such folder; name a folder with {CONFIG_FILE} and weights")
    config = read_config(name, folder / CONFIG_FILE)
    if not with_weights:
        return build_spec(name, config, None, folder=folder, offline=offline)
    for filename in _LOCAL_WEIGHTS:
        if os.path.isfile(folder / filename):
            return build_spec(name, config, folder / filename, folder=folder, offline=offline)
    endings = (".safetensors", ".bin", ".pth")
    others = sorted(path for path in folder.iterdir() if path.suffix in endings and path.is_file())
    if not others:
        raise ModelError(f"{name}: no weights beside {CONFIG_FILE}; put {_LOCAL_WEIGHTS[0]} into {str(folder)!r}")
    return build_spec(
        name, config, min(others, key=lambda path: path.suffix != ".safetensors"), folder=folder, offline=offline
    )


def _find_on_hub(name: str, repository: str, offline: bool, with_weights: bool) -> ModelSpec:
    config = read_config(name, Path(find_file(name, HubFiles(repository, (CONFIG_FILE,)), offline)))
    weights = find_file(name, HubFiles(repository, _HUB_WEIGHTS), offline) if with_weights else None
    return build_spec(name, config, weights, offline=offline)


def _find_tagged(name: str, architecture: str, tag: str, offline: bool, with_weights: bool) -> ModelSpec:
    config_path = _open_clip() / "model_configs" / f"{architecture}.json"
    if not config_path.is_file():
        near = _near(architecture, _architectures())
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`zsclip models list` shows all models"
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
    return build_spec(name, {"model_cfg": model_cfg, "preprocess_cfg": about}, weights, offline=offline)


def _tokenizer_files(repository: str) -> list[HubFiles]:
    return [HubFiles(repository, (filename,)) for filename in TOKENIZER_FILES]


def _architectures() -> dict[str, Path]:
    return {path.stem: path for path in sorted((_open_clip() / "model_configs").glob("*.json"))}


def _open_clip() -> Path:
    """Find the folder of open_clip without importing it."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(package.submodule_search_locations[0])


def _ours(full: str) -> str | None:
    """Give our name for a model that is named as OpenAI, transformers or the hub do; None if it is not one of these."""
    name = full.lower().removeprefix("open_clip:").removeprefix("clip-").removesuffix("px")
    owner, _, repository = name.rpartition("/")
    repository = re.sub(r"(vit-[a-z])[a-z]*-patch", r"\1-", repository.removeprefix("clip-"))
    repository = re.sub(_SIGLIP, _as_open_clip, repository)
    owner = owner or ("openai" if "clip-vit" in full.lower() else "")
    published = {_plain(a + tag): f"{a},{tag}" for a, of_tags in tags().items() for tag in of_tags}
    spellings = map(_plain, (name, repository, f"{name}-openai", f"{repository}-{owner}"))
    return next((published[each] for each in spellings if each in published), None)


def _as_open_clip(siglip: re.Match[str]) -> str:
    """Spell a SigLIP of transformers, such as siglip-base-patch16-224, with open_clip's tag."""
    kind, tower, patch, size, languages = siglip.groups()
    return f"vit-{_TOWERS[tower]}-{patch}-{kind}{'-i18n' * bool(languages)}-{size.replace('224', '')}-webli"


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _near(name: str, known: Iterable[str]) -> list[str]:
    """Give the known names most like this one; only one if just its case differs."""
    known = list(known)
    same = [each for each in known if each.lower() == name.lower()]
    return same or difflib.get_close_matches(name, known, n=3)


def _split_tag(full: str) -> tuple[str, str]:
    """Split `ARCH,TAG` into the two names as open_clip spells them."""
    architecture, _, tag = full.partition(",")
    return architecture.strip().replace("/", "-"), tag.strip().lower().replace("-", "_")


def hub_files_of_tag(about: dict[str, Any]) -> HubFiles:
    """Give the location of a tag's weights, from its entry in `tags()`."""
    # "org/repo/file.bin", or "org/repo/" for the usual names; a .bin may have a .safetensors beside it.
    repository, _, filename = about["hf_hub"].rpartition("/")
    if not filename:
        return HubFiles(repository, _HUB_WEIGHTS)
    stem, ending = os.path.splitext(filename)
    safer = (stem + ".safetensors",) if ending in (".bin", ".pth") else ()
    return HubFiles(repository, (*safer, filename))
