"""`zsclip demo`."""

import os
import shlex
from contextlib import chdir
from pathlib import Path

import typer

from zsclip.cli.groups import command

FOLDER = Path(__file__).parents[1] / "data" / "demo"
_LABELS = "cat,dog,cup of coffee,pizza,rocket,airplane,person,camera"
_COMMAND = ("classify", "*.jpg", "-m", "tiny", "-l", _LABELS, "-f", "table", "-k", "2", "-q")
_NEXT = {
    'zsclip classify photos/ -m tiny -l "cat,dog,bird"': "your own images and labels",
    'zsclip classify photos/ -l "cat,dog,bird"': "with a better model, which is fetched once (0.6 GB)",
    'zsclip classify photos/ -l "cat,dog,bird" -o labels.html': "a page with thumbnails",
    'zsclip search "a dog in the snow" --in photos/': "the images that fit a sentence",
    "zsclip doctor": "what works here, and what can be added",
    "zsclip -h": "all commands",
}


@command()
def demo() -> int:
    """Classify five photographs that come with zsclip.

    The model, `tiny`, comes with zsclip as well, so nothing is fetched.

    Examples:

        zsclip demo
    """
    from zsclip.cli.commands import Commands

    for name in ("ZSCLIP_CACHE_DIR", "XDG_CACHE_HOME"):
        if os.environ.get(name):  # which may be relative, and must not become a folder beside the photographs
            os.environ[name] = os.path.abspath(os.environ[name])
    typer.echo(f"$ cd {shlex.quote(str(FOLDER))}\n$ zsclip {' '.join(map(_as_typed, _COMMAND))}")
    with chdir(FOLDER):
        code = Commands()["classify"].main(list(_COMMAND[1:]), prog_name="zsclip classify", standalone_mode=False)
    widest = max(map(len, _NEXT))
    typer.echo("\nNext, try:")
    for typed, purpose in _NEXT.items():
        typer.echo(f"  {typed:<{widest}}  {purpose}")
    return int(code or 0)


def _as_typed(word: str) -> str:
    return word if word.startswith("*") else f'"{word}"' if "," in word else shlex.quote(word)
