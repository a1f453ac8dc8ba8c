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
_LABELS = "cat,dog,bird"  # of the run whose start is timed


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
    start: Annotated[
        bool,
        typer.Option(
            "--start",
            help="Instead, list what a run with one image loads until its first answer, and how long each takes.",
            rich_help_panel="Speed",
        ),
    ] = False,
) -> None:
    """Time every stage of a run, and say which one holds it back.

    On the CPU, the model is also timed in the other runtime: torch, or ONNX Runtime if zsclip[onnx] is installed, for
    which a model that was not exported yet is exported for the moment.

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
        if start:
            from zsclip.measure.start import start_lines, time_start

            progress.step("starting a few times")
            found_start = time_start(_with_one_image(paths[0], model, speed))
            report, lines = asdict(found_start), start_lines(found_start)
        else:
            from zsclip.measure.bench import bench, report_lines
            from zsclip.models.runtimes import other_runtimes
            from zsclip.pictures.pictures import pictures_named

            encoder = speed.encoder(model.name(), model.offline)
            progress.step(f"loading {encoder.spec.name}")
            encoder.load()
            size = speed.size or encoder.batch_size
            some, decoding = pictures_named(paths), speed.decoding
            with other_runtimes(encoder) as others:
                progress.step("timing each stage")
                timed = bench(
                    some, encoder, others, threads=speed.cpus, seconds=seconds, decoding=decoding, batch_size=size
                )
            report, lines = asdict(timed), report_lines(timed)
    typer.echo(json.dumps(report) if result.as_json else "\n".join(lines))


def _with_one_image(image: str, model: Model, speed: Speed) -> list[str]:
    """Give the command whose start is timed; the image is encoded each time."""
    computing = [f"--device={speed.device}", f"--runtime={speed.runtime}", f"--precision={speed.precision}"]
    offline = ["--offline"] * model.offline
    return [
        *("classify", f"--labels={_LABELS}", f"--model={model.name()}", *computing, *offline),
        *("--format=jsonl", "--no-store", "--", image),
    ]
