"""What `zsclip models` shows: facts about every published checkpoint, and the settings of one model."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size
from typing import TextIO

from zsclip.models.find import ALIASES, find_model, hub_files_of_tag, tags
from zsclip.models.hub import cached_file
from zsclip.models.spec import ModelSpec

_BYTES_A_PARAMETER = 4  # most weights are published in float32; some in half of that
_FACTS_FILE = Path(__file__).parents[1] / "data" / "models.csv"  # from open_clip's docs/openclip_results.csv


@dataclass(frozen=True)
class PublishedModel:
    """A line of the list of models.

    name: what `--model` takes. parameters_m: in millions. gflops: 10^9 operations for an image and a text.
    imagenet_top1: zero-shot accuracy in [0, 1]. The three are None where nothing was published.
    size_on_disk: bytes of the weights, if they are on this machine.
    """

    name: str
    alias: str | None
    parameters_m: float | None
    gflops: float | None
    imagenet_top1: float | None
    size_on_disk: int | None

    @property
    def is_here(self) -> bool:
        """Whether the weights are on this machine."""
        return self.size_on_disk is not None

    @property
    def size(self) -> float | None:
        """Bytes of the weights on this machine, or an estimate of the download, in float32."""
        if self.size_on_disk is not None or self.parameters_m is None:
            return self.size_on_disk
        return self.parameters_m * 1e6 * _BYTES_A_PARAMETER


def published_models() -> Iterator[PublishedModel]:
    """List all models by name: the bundled model and the aliases first, then the rest by architecture."""
    weights = find_model("tiny").weights
    yield PublishedModel("tiny", None, 13.3, 0.8, None, None if weights is None else os.path.getsize(weights))
    table = tags()
    names = [f"{architecture},{tag}" for architecture, of_architecture in table.items() for tag in of_architecture]
    aliases = {name: alias for alias, name in ALIASES.items()}
    facts = _read_facts()
    for name in sorted(names, key=lambda name: name not in aliases):
        architecture, tag = name.split(",")
        # The table also lists some weights under the plain architecture; their facts are under quick-GELU's name.
        known = facts.get(name) or facts.get(f"{architecture}-quickgelu,{tag}") or (None, None, None)
        parameters_m, gflops, imagenet_top1 = known
        here = cached_file(hub_files_of_tag(table[architecture][tag]))
        size = None if here is None else os.path.getsize(here)
        yield PublishedModel(name, aliases.get(name), parameters_m, gflops, imagenet_top1, size)


def matching(models: Iterable[PublishedModel], words: Sequence[str]) -> Iterator[PublishedModel]:
    """Keep the models whose name or alias contains every word, in any case."""
    for model in models:
        name = f"{model.name} {model.alias or ''}".lower()
        if all(word.lower() in name for word in words):
            yield model


def write_models(models: Iterable[PublishedModel], out: TextIO) -> None:
    """Write the list: an aligned table on a terminal, else tab-separated values."""
    if out.isatty():
        out.writelines(line + "\n" for line in _table(list(models), get_terminal_size((80, 24)).columns))
    else:
        header = ("model", "alias", "parameters (M)", "download (MB)", "GFLOPs", "ImageNet top-1", "on disk")
        rows = (
            (model.name, model.alias or "", *_figures(model, parameters="{:.0f}", size="{:.0f}", unit=1e-6))
            for model in models
        )
        out.writelines("\t".join(row) + "\n" for row in (header, *rows))
    out.flush()


def _table(models: Sequence[PublishedModel], width: int) -> list[str]:
    """Lay out the list in columns; the least important ones are left out if they do not fit."""
    header = ("model", "params", "download", "GFLOPs", "top-1", "on disk")
    rows = [header] + [
        (
            f"{model.name} ({model.alias})" if model.alias else model.name,
            *_figures(model, parameters="{:.0f} M", size="{:.2f} GB", unit=1e-9),
        )
        for model in models
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown = list(range(len(header)))
    for least in ("GFLOPs", "params"):
        if sum(widths[place] + 2 for place in shown) - 2 > width:
            shown.remove(header.index(least))
    return [
        "  ".join(row[i].rjust(widths[i]) if 0 < i < len(row) - 1 else row[i].ljust(widths[i]) for i in shown).rstrip()
        for row in rows
    ]


def _figures(model: PublishedModel, *, parameters: str, size: str, unit: float) -> tuple[str, ...]:
    """Give parameters, download, GFLOPs, top-1 and "yes" for a model that is here, each empty where it is not known."""
    return (
        _or_empty(model.parameters_m, parameters),
        ("" if model.is_here else "~") + size.format(model.size * unit) if model.size else "",
        _or_empty(model.gflops, "{:.1f}"),
        _or_empty(model.imagenet_top1, "{:.1%}"),
        "yes" if model.is_here else "",
    )


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


_RESIZING = {
    "shortest": "shorter side scaled, centre-cropped",
    "longest": "longer side scaled, padded",
    "squash": "both sides scaled",
}


def describe(spec: ModelSpec) -> dict[str, str]:
    """Describe a model, one fact per line."""
    preprocess, tokenizer = spec.preprocess, spec.tokenizer
    name = ALIASES.get(spec.name, spec.name)
    return {
        "name": name,
        "image": "{1} x {0} px ".format(*preprocess.size)
        + f"({_RESIZING[preprocess.resize_mode]}; {preprocess.interpolation})",
        "mean": ", ".join(f"{value:g}" for value in preprocess.mean),
        "deviation": ", ".join(f"{value:g}" for value in preprocess.std),
        "embedding": f"{spec.architecture['embed_dim']} dimensions",
        "activation": "quick-GELU" if spec.architecture.get("quick_gelu") else "GELU",
        "trained with": "softmax" if spec.architecture.get("init_logit_bias") is None else "sigmoid",
        "context": f"{tokenizer.context_length} tokens (tokenizer: {tokenizer.name or 'CLIP'})",
        "languages": "many" if spec.reads_any_script else "English",
        "weights": spec.weights or f"not on this machine; run `zsclip models fetch {name}` to download them",
        "digest": spec.digest or "unknown",
    }


def _read_facts() -> dict[str, tuple[float, float, float]]:
    with _FACTS_FILE.open(encoding="utf-8", newline="") as file:
        return {
            f"{row['architecture']},{row['tag']}": (
                float(row["parameters_m"]),
                float(row["gflops"]),
                float(row["imagenet_top1"]),
            )
            for row in csv.DictReader(file)
        }
