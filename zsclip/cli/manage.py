"""`zsclip prompts`, `models`, `cache` and `bench`: what there is, what is kept, and what holds a run back."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from zsclip.cli.options import (
    NONE,
    BatchSizeOption,
    CompileOption,
    DeviceOption,
    FastJpegOption,
    InputsArgument,
    JsonOption,
    LabelOption,
    LabelsFileOption,
    LabelsOption,
    MaxPixelsOption,
    ModelArgument,
    ModelOption,
    OfflineOption,
    PrecisionOption,
    TemplateOption,
    ThreadsOption,
    check_device,
    read_batch_size,
    read_bytes,
    read_sentences,
    set_environment,
)
from zsclip.cli.terminal import say
from zsclip.errors import InputError, ZsclipError
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

prompts_app = typer.Typer(help="The sentences that labels become.", no_args_is_help=True)
models_app = typer.Typer(help="The models that --model takes.", no_args_is_help=True)
cache_app = typer.Typer(help="What is kept on disk.", no_args_is_help=True)


@prompts_app.command("list")
def prompts_list() -> None:
    """List the prompt sets.

    Example:

        zsclip prompts list
    """
    from zsclip.words.prompts import prompt_set_names, read_prompts

    for name in prompt_set_names():
        prompts = read_prompts(name)
        typer.echo(f"{name:<18} {len(prompts.templates):>3}  {prompts.about}")


@prompts_app.command("show")
def prompts_show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A prompt set.")] = "photo",
    labels: LabelsOption = None,
    label: LabelOption = NONE,
    labels_file: LabelsFileOption = NONE,
    template: TemplateOption = NONE,
    model: ModelOption = "base",
    offline: OfflineOption = False,
) -> None:
    """Show the sentences that labels become, with their token counts.

    Example:

        zsclip prompts show photo --labels "cat,dog"
    """
    from zsclip.words.labels import read_labels
    from zsclip.words.prompts import expand

    set_environment(offline)
    prompts = read_sentences(template, name)
    if labels is None and not label and not labels_file:
        for line in prompts.templates:
            typer.echo(line)
        return
    words = read_labels(labels, label, labels_file, alone=True)
    from zsclip.models.find import find_model
    from zsclip.models.torch_encoder import count_tokens, load_tokenizer

    spec = find_model(model, offline=offline, with_weights=False)
    tokenizer, context_length = load_tokenizer(spec), spec.tokenizer.context_length
    for word, sentences in zip(words, expand(words, prompts), strict=True):
        for sentence, count in zip(sentences, count_tokens(tokenizer, sentences), strict=True):
            cut = f"  cut at {context_length}" if count > context_length else ""
            typer.echo(f"{word.name}\t{count}\t{sentence}{cut}")


@models_app.command("list")
def models_list() -> None:
    """List the models that can be had by name, and which are on this machine.

    Example:

        zsclip models list
    """
    from zsclip.models.catalogue import published_models, write_models

    write_models(published_models(), sys.stdout)


@models_app.command("info")
def models_info(model: ModelArgument, offline: OfflineOption = False) -> None:
    """Tell what a model is: size, preprocessing, context, and where its weights are.

    Example:

        zsclip models info base
    """
    from zsclip.errors import ModelError
    from zsclip.models.catalogue import describe
    from zsclip.models.find import find_model

    set_environment(offline)
    try:
        spec = find_model(model, offline=True)
    except ModelError:  # its weights are not here; its configuration may be, or can be fetched
        spec = find_model(model, offline=offline, with_weights=False)
    for name, value in describe(spec).items():
        typer.echo(f"{name:<14} {value}".rstrip())


@models_app.command("fetch")
def models_fetch(model: ModelArgument) -> None:
    """Bring a model's weights, configuration and tokenizer to this machine.

    Example:

        zsclip models fetch base
    """
    from zsclip.models.find import files_to_fetch, find_model
    from zsclip.models.hub import fetch

    fetch(model, files_to_fetch(model), say)
    typer.echo(find_model(model).weights)


@cache_app.command("info")
def cache_info() -> None:
    """Tell where the cache is, how large, and what it holds.

    Example:

        zsclip cache info
    """
    from zsclip.kept import cache
    from zsclip.kept import storefile as store

    typer.echo(f"{cache.cache_dir()}: {(cache.size_on_disk() + store.size_on_disk()) / 1e6:.1f} MB")
    for kind, (count, size) in cache.count_rows().items():
        typer.echo(f"{kind:<20} {count:>9,} rows {size / 1e6:>9.1f} MB")
    pictures = store.counts()
    if pictures:
        typer.echo(f"{'embeddings':<20} {sum(pictures.values()):>9,} rows {store.size_on_disk() / 1e6:>9.1f} MB")
    for model, count in pictures.items():
        typer.echo(f"  {count:,} pictures by {model}")


@cache_app.command("clear")
def cache_clear() -> None:
    """Empty the cache; it fills again as it is needed.

    Example:

        zsclip cache clear
    """
    from zsclip.kept import cache
    from zsclip.kept import storefile as store

    try:
        typer.echo(f"{cache.cache_dir()}: {(cache.clear() + store.clear()) / 1e6:.1f} MB freed")
    except OSError as e:
        raise ZsclipError(f"{e.filename}: {(e.strerror or str(e)).lower()}; delete it by hand") from e


@cache_app.command("gc")
def cache_gc(
    max_size: Annotated[str, typer.Option("--max-size", metavar="SIZE", help="As 500MB or 2GB.")],
) -> None:
    """Forget the pictures that were not used for longest, until the embeddings take no more than that.

    Example:

        zsclip cache gc --max-size 1GB
    """
    from zsclip.kept import storefile as store

    size = read_bytes(max_size)
    with _store_errors():
        typer.echo(f"{store.collect(size) / 1e6:.1f} MB freed, {store.size_on_disk() / 1e6:.1f} MB left")


@cache_app.command("verify")
def cache_verify() -> int:
    """Read every embedding that is kept, and forget the damaged ones: exit code 1 if there were any.

    Example:

        zsclip cache verify
    """
    from zsclip.kept import storefile as store

    with _store_errors():
        count, damaged = store.verify()
    typer.echo(f"{count:,} embeddings, {damaged:,} damaged" + (" and forgotten" if damaged else ""))
    return int(damaged > 0)


def bench(
    inputs: InputsArgument,
    model: ModelOption = "base",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile: CompileOption = False,
    batch_size: BatchSizeOption = "auto",
    threads: ThreadsOption = None,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
    fast_jpeg: FastJpegOption = False,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=0.01, help="To spend on each stage.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Time each stage with this model and these pictures, and tell which one holds a run back.

    Example:

        zsclip bench photos/ --model base
    """
    import json
    from dataclasses import asdict
    from itertools import islice

    from zsclip.models.find import find_model
    from zsclip.pictures.files import find_images
    from zsclip.pictures.pictures import Pictures

    set_environment(offline)
    check_device(device)
    size = read_batch_size(batch_size)
    paths = list(islice(find_images(inputs, note=lambda message: say(f"zsclip: {message}")), 1000))
    if not paths:
        raise InputError("bench: no images there; give some to try the model with")
    spec = find_model(model, offline=offline)
    from zsclip.measure.bench import bench, report_lines
    from zsclip.models.encoder import Encoder
    from zsclip.pixels.limits import Decoding
    from zsclip.pixels.processors import available_cpus

    encoder = Encoder(spec, device, precision, compiled=compile)
    encoder.load()
    report = bench(
        Pictures(paths), encoder, threads=threads or available_cpus(), seconds=seconds,
        decoding=Decoding(max_pixels, fast_jpeg), batch_size=size or encoder.batch_size,
    )  # fmt: skip
    typer.echo(json.dumps(asdict(report)) if as_json else "\n".join(report_lines(report)))


@contextmanager
def _store_errors() -> Iterator[None]:
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as e:
        raise ZsclipError(f"embeddings: {e}; `zsclip cache clear` begins afresh") from e
