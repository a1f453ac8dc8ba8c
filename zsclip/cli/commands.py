"""All commands by name; each is imported when it is asked for, as most runs need one."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.main import get_command

from zsclip.cli.help import Command

# Where the function of each command is, and the commands of each group; in the order of the help page.
COMMANDS = {
    "classify": "zsclip.cli.classify:classify",
    "search": "zsclip.cli.search:search",
    "similar": "zsclip.cli.similar:similar",
    "where": "zsclip.cli.where:where",
    "learn": "zsclip.cli.learn:learn",
    "eval": "zsclip.cli.evaluate:evaluate",
    "compare": "zsclip.cli.compare:compare",
    "calibrate": "zsclip.cli.calibrate:calibrate",
    "apply": "zsclip.cli.apply:apply",
    "review": "zsclip.cli.review:review",
    "train": "zsclip.cli.training:train",
    "bench": "zsclip.cli.bench:bench",
    "doctor": "zsclip.cli.doctor:doctor",
    "demo": "zsclip.cli.demo:demo",
}
GROUPS = {
    "prompts": "zsclip.cli.prompts:prompts_app",
    "models": "zsclip.cli.manage:models_app",
    "cache": "zsclip.cli.manage:cache_app",
}


class Commands(Mapping[str, Any]):
    """The commands and groups as Typer builds them."""

    def __init__(self) -> None:
        self._places = COMMANDS | GROUPS
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            module, _, attribute = self._places[name].partition(":")
            self._built[name] = _build(name, getattr(import_module(module), attribute))
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _build(name: str, found: Any) -> Any:
    if isinstance(found, typer.Typer):
        return get_command(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, cls=Command)(found)
    return get_command(alone)
