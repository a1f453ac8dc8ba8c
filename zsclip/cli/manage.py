"""`zsclip models` and `zsclip cache`."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsclip.cli.groups import command
from zsclip.cli.help import Command, command_group
from zsclip.cli.options import Messages, Network, set_environment
from zsclip.cli.terminal import counted, say, sized
from zsclip.errors import InputError, ZsclipError

if TYPE_CHECKING:
    from zsclip.models.graphs import Graphs
    from zsclip.models.spec import ModelSpec

_KINDS_OF_ROWS = {"text": "label embeddings", "finished files": "records of finished files"}

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model name, as for --model.")]


models_app = command_group("models", "Show, fetch and export models.")
cache_app = command_group("cache", "Show, check, trim or delete what is kept on disk.")


@models_app.command("list", cls=Command)
@command()
def models_list(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="List only the models whose names contain every word.")
    ] = None,
) -> None:
    """List the models that --model takes by name, how large they are, and which are on this machine.

    Download sizes are estimates, 4 bytes for each parameter, except for models on this machine, whose files are
    measured.

    Examples:

        zsclip models list
        zsclip models list vit-l
        zsclip models list siglip 256
    """
    from zsclip.models.catalogue import matching, published_models, write_models

    found = list(matching(published_models(), words or []))
    if not found:
        raise InputError(f"models list: no model matches {' '.join(words or [])!r}; try one word, such as vit-l")
    write_models(found, sys.stdout)


@models_app.command("info", cls=Command)
@command()
def models_info(model: ModelArgument, network: Network) -> None:
    """Describe a model: its image size, preprocessing and context length, and where its weights are.

    Examples:

        zsclip models info base
    """
    from zsclip.errors import ModelError
    from zsclip.models.catalogue import describe
    from zsclip.models.find import find_model

    set_environment(network, Messages())
    try:
        spec = find_model(model, offline=True)
    except ModelError:  # its weights are not here; its configuration may be, or can be fetched
        spec = find_model(model, offline=network.offline, with_weights=False)
    for name, value in describe(spec).items():
        typer.echo(f"{name:<14} {value}".rstrip())


@models_app.command("fetch", cls=Command)
@command()
def models_fetch(model: ModelArgument) -> None:
    """Download the weights, configuration and tokenizer of a model.

    Examples:

        zsclip models fetch base
    """
    from zsclip.models.find import files_to_fetch, find_model
    from zsclip.models.hub import fetch

    fetch(model, files_to_fetch(model), say)
    typer.echo(find_model(model).weights)


@models_app.command("export", cls=Command)
@command()
def models_export(
    model: ModelArgument,
    network: Network,
    precision: Annotated[
        Literal["fp32", "int8"],
        typer.Option("--precision", metavar="NAME", help="Export in fp32, or in int8 too.", rich_help_panel="Speed"),
    ] = "fp32",
) -> None:
    """Export a model to ONNX, so that it starts without torch and runs faster on the CPU.

    From then on, --runtime auto runs it in ONNX Runtime on the CPU. Its embeddings are kept apart from those of torch,
    so images that are stored are encoded once more. This needs `pip install 'zsclip[onnx]'`. `tiny` needs no export.

    With --precision int8, the image tower is also kept with weights of 8 bits, for `zsclip classify --precision int8`.
    This is for vision transformers, and refused if it changes more than 1% of the answers to generated images.

    Examples:

        zsclip models export base
        zsclip models export base --precision int8
    """
    from zsclip.models.find import find_model
    from zsclip.models.graphs import find_graphs, find_int8_graph
    from zsclip.models.lean_imports import lean_open_clip

    set_environment(network, Messages())
    spec = find_model(model, offline=network.offline)
    graphs = find_graphs(spec)
    if graphs is None:
        with lean_open_clip():
            from zsclip.models.onnx_export import export_graphs
        graphs = export_graphs(spec)
    typer.echo(f"{graphs.folder}: {sized(graphs.size)}")
    if precision == "int8":
        in_int8 = find_int8_graph(spec) or _exported_in_int8(spec, graphs)
        kept = f"{in_int8.about.agreement:.1%} of the answers to generated images are those of fp32"
        typer.echo(f"{in_int8.folder}: {sized(in_int8.size)}; {kept}")


def _exported_in_int8(spec: "ModelSpec", graphs: "Graphs") -> "Graphs":
    from zsclip.models.lean_imports import lean_open_clip
    from zsclip.words.labels import read_distractors
    from zsclip.words.prompts import read_prompts
    from zsclip.words.words import expand

    with lean_open_clip():
        from zsclip.models.onnx_int8 import export_int8
    words = expand(read_distractors([]), read_prompts("photo"))
    return export_int8(spec, graphs, [prompt for prompts in words.prompts for prompt in prompts])


@cache_app.command("info", cls=Command)
@command()
def cache_info() -> None:
    """Show where the cache is, how large it is, and what it holds.

    Examples:

        zsclip cache info
    """
    from zsclip.kept import cache
    from zsclip.kept import storefile as store
    from zsclip.models import graphs

    size = cache.size_on_disk() + store.size_on_disk() + graphs.size_on_disk()
    typer.echo(f"{cache.cache_dir()}: {size / 1e6:.1f} MB")
    rows: dict[str, tuple[int, int]] = {}
    for kind, (count, size) in cache.count_rows().items():
        name = _KINDS_OF_ROWS.get(kind, "facts about models and lists")
        rows[name] = (rows.get(name, (0, 0))[0] + count, rows.get(name, (0, 0))[1] + size)
    for name, (count, size) in sorted(rows.items()):
        typer.echo(_row(name, count, size))
    pictures = store.counts()
    if pictures:
        typer.echo(_row("image embeddings", sum(pictures.values()), store.size_on_disk()))
    if exported := graphs.size_on_disk():
        typer.echo(f"{'exported models':<29} {sized(exported):>27}")
    for model, count in pictures.items():
        typer.echo(f"  {counted(count, 'image')}, encoded by {model}")


def _row(kind: str, count: int, size: int) -> str:
    return f"{kind:<29} {count:>9,} {'row ' if count == 1 else 'rows'} {sized(size):>12}"


@cache_app.command("clear", cls=Command)
@command()
def cache_clear() -> None:
    """Delete everything that is kept; it is computed again when needed.

    Examples:

        zsclip cache clear
    """
    from zsclip.kept import cache
    from zsclip.kept import storefile as store
    from zsclip.models import graphs

    try:
        typer.echo(f"{cache.cache_dir()}: {(cache.clear() + store.clear() + graphs.clear()) / 1e6:.1f} MB freed")
    except OSError as e:
        raise ZsclipError(f"{e.filename}: {(e.strerror or str(e)).lower()}; delete it by hand") from e


@cache_app.command("gc", cls=Command)
@command()
def cache_gc(
    max_size: Annotated[
        str,
        typer.Option(
            "--max-size", metavar="SIZE", help="Keep at most this much, such as 500MB or 2GB.", rich_help_panel="Output"
        ),
    ],
) -> None:
    """Delete the least recently used embeddings of images until the rest fit the given size.

    Labels and what is known about models take little space and stay; `zsclip cache clear` deletes them too.

    Examples:

        zsclip cache gc --max-size 1GB
    """
    from zsclip.kept import storefile as store

    size = _read_bytes(max_size)
    with _cache_errors():
        freed = max(0, store.collect(size)) if store.size_on_disk() else 0
    typer.echo(f"{freed / 1e6:.1f} MB freed, {store.size_on_disk() / 1e6:.1f} MB of image embeddings left")


@cache_app.command("verify", cls=Command)
@command()
def cache_verify() -> int:
    """Check everything that is kept, and delete what is damaged; the exit code is 1 if anything was.

    Examples:

        zsclip cache verify
    """
    found, damaged = verify_cache()
    typer.echo(found)
    return int(damaged > 0)


def verify_cache() -> tuple[str, int]:
    """Read everything that is kept, and delete what is damaged; say what was found, and count what was damaged.

    Raises:
        ZsclipError: it cannot be opened or written.
    """
    from zsclip.kept import cache
    from zsclip.kept import storefile as store

    with _cache_errors():
        images, damaged_images = store.verify()
        others, damaged_others = cache.verify()
    damaged = damaged_images + damaged_others
    found = f"{counted(images, 'image embedding')} and {counted(others, 'other row')}"
    return f"{found}, {damaged:,} damaged" + (" and deleted" if damaged else ""), damaged


@contextmanager
def _cache_errors() -> Iterator[None]:
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as e:
        raise ZsclipError(f"cache: {e}; `zsclip cache clear` resets it") from e


def _read_bytes(text: str) -> int:
    """Read a size as people write it."""
    found = re.fullmatch(r"\s*(\d+(\.\d+)?)\s*([kmgt]?b?)\s*", text, re.IGNORECASE)
    if not found:
        raise InputError(f"--max-size: {text!r} is not a size; write it like 500MB or 2GB")
    return int(float(found[1]) * 1000 ** " kmgt".index(found[3].lower().rstrip("b") or " "))
