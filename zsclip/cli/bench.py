"""`zsclip bench`."""

from itertools import islice
from typing import Annotated

import typer

from zsclip.cli.groups import command
from zsclip.cli.options import Inputs, Json, Messages, Model, set_environment
from zsclip.cli.progress import Progress
from zsclip.cli.speed import Speed
from zsclip.errors import InputError

_MOST_IMAGES = 1000


@command(common=("inputs", "model", "device", "precision", "compile", "batch_size", "threads", "seconds"))
def bench(
    inputs: Inputs,
    model: Model,
    speed: Speed,
    result: Json,
    messages: Messages,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", metavar="S", min=0.01, help="Spend S seconds on each stage.", rich_help_panel="Speed"
        ),
    ] = 2.0,
) -> None:
    """Time every stage of a run, and say which one holds it back.

    Examples:

        zsclip bench photos/ --model base
        zsclip bench photos/ --model tiny --seconds 5
        zsclip bench photos/ --precision fp32 --json
    """
    import json
    from dataclasses import asdict

    set_environment(model, messages)
    with Progress(messages.show_progress) as progress:
        progress.step("looking for images")
        found = inputs.find(messages, offline=model.offline)
        paths = list(islice(found, _MOST_IMAGES))
        if not paths:
            from zsclip.pixels.search_summary import why_no_images

            raise InputError(f"bench: {why_no_images(found.passed_over)}")
        encoder = speed.encoder(model.name(), model.offline)
        progress.step(f"loading {encoder.spec.name}")
        from zsclip.measure.bench import bench, report_lines
        from zsclip.pictures.pictures import pictures_named

        encoder.load()
        progress.step("timing each stage")
        size = speed.size or encoder.batch_size
        some, decoding = pictures_named(paths), speed.decoding
        report = bench(some, encoder, threads=speed.cpus, seconds=seconds, decoding=decoding, batch_size=size)
    typer.echo(json.dumps(asdict(report)) if result.as_json else "\n".join(report_lines(report)))
