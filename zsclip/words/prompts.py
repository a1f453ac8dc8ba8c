"""Prompt sets: the sentences that labels are put into."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from zsclip.errors import InputError
from zsclip.kept.cache import remember
from zsclip.words.labels import own_prompts
from zsclip.words.textfiles import (
    Place,
    Text,
    checked,
    comparable,
    count_placeholders,
    fields,
    is_tree,
    read_lines,
    read_tree,
    text_of,
    texts,
)

_DATA = Path(__file__).parents[1] / "data" / "prompts"  # in a wheel; an editable install uses the checkout's folder
PROMPTS_DIR = _DATA if _DATA.is_dir() else Path(__file__).parents[2] / "prompts"

# Names in open_clip.zero_shot_metadata, and what each set is.
_OPEN_CLIP_SETS = {
    "openai-imagenet": ("OPENAI_IMAGENET_TEMPLATES", "the 80 templates OpenAI evaluated CLIP on ImageNet with"),
    "simple-imagenet": ("SIMPLE_IMAGENET_TEMPLATES", "the seven of those 80 that OpenAI's forward selection kept"),
}


@dataclass(frozen=True)
class PromptSet:
    """A named set of templates.

    source: where they come from; templates: sentences with one placeholder each; prompts: by label, as `comparable`
    spells it, the sentences to use instead of the templates.
    """

    name: str
    about: str
    source: str
    templates: tuple[str, ...]
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def templates_for(self, label: str) -> tuple[str, ...]:
        """Give the sentences that a label is put into."""
        return (self.prompts and self.prompts.get(comparable(label))) or self.templates


def prompt_set_names() -> list[str]:
    """Give the names of the sets that come with zsclip and open_clip."""
    return sorted([*(path.stem for path in PROMPTS_DIR.glob("*.yaml")), *_OPEN_CLIP_SETS])


def read_prompts(name_or_file: str) -> PromptSet:
    """Read a prompt set by name, or from a file: YAML or JSON like ours, or text with one template per line.

    A name takes precedence over a file of that name; `./photo` and `photo.yaml` are files.

    Raises:
        InputError: there is no such set or file, or the file is not a prompt set.
    """
    if name_or_file in _OPEN_CLIP_SETS:
        return _from_open_clip(name_or_file)
    if os.sep not in name_or_file and (packaged := PROMPTS_DIR / f"{name_or_file}.yaml").is_file():
        return _packaged(packaged)
    if not os.path.exists(name_or_file):
        names = ", ".join(prompt_set_names())
        raise InputError(
            f"--prompts: no prompt set or file {name_or_file!r}; use one of {names}, or the path of a file"
        )
    if is_tree(name_or_file):
        return _from_tree(name_or_file)
    return PromptSet(_stem(name_or_file), "", name_or_file, _templates(name_or_file, read_lines(name_or_file)))


def read_templates(templates: Sequence[str]) -> PromptSet:
    """Make a prompt set of the values of `--template`."""
    given = [Text(Place("--template"), checked(Place("--template"), template)) for template in templates]
    return PromptSet("template", "", "--template", _templates("--template", given))


def _from_open_clip(name: str) -> PromptSet:
    attribute, about = _OPEN_CLIP_SETS[name]

    def build() -> list[str]:
        from open_clip import zero_shot_metadata  # takes seconds: it imports torch

        return [template("{}") for template in getattr(zero_shot_metadata, attribute)]

    from importlib.metadata import version  # takes 10 ms to import

    templates = remember("open-clip-templates", [version("open_clip_torch"), name], build)
    return PromptSet(name, about, f"open_clip.zero_shot_metadata.{attribute}", tuple(templates))


def _packaged(path: Path) -> PromptSet:
    """Read one of our own sets, once: importing yaml takes 20 ms."""
    parts = ["prompt-set-v1", str(path), path.read_text(encoding="utf-8")]
    known = remember("prompt-sets", parts, lambda: asdict(_from_tree(str(path))))
    known["templates"] = tuple(known["templates"])
    known["prompts"] = {label: tuple(sentences) for label, sentences in known["prompts"].items()}
    return PromptSet(**known)


def _from_tree(file: str) -> PromptSet:
    found = fields(read_tree(file), ("name", "about", "source", "templates", "prompts"))
    own: dict[str, tuple[str, ...]] = {}
    if "prompts" in found:
        own = {comparable(label): own_prompts(node) for label, node in fields(found["prompts"]).items()}
    return PromptSet(
        name=text_of(found["name"]).text if "name" in found else _stem(file),
        about=text_of(found["about"]).text if "about" in found else "",
        source=text_of(found["source"]).text if "source" in found else file,
        templates=_templates(file, texts(found["templates"]) if "templates" in found else []),
        prompts=own,
    )


def _templates(source: str, given: Sequence[Text]) -> tuple[str, ...]:
    if not given:
        raise InputError(f"{source}: no template found; write at least one, such as 'a photo of a {{}}.'")
    for place, template in given:
        count = count_placeholders(template)
        if count == 0:
            raise InputError(f"{place}: template {template!r} has no placeholder; put {{}} where the label goes")
        if count > 1:
            raise InputError(f"{place}: template {template!r} has {count} placeholders; keep one")
    return tuple(template for _, template in given)


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]
