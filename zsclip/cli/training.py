"""`zsclip train`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.options import Messages, Network, set_environment
from zsclip.cli.run import interruptible
from zsclip.cli.speed import Device
from zsclip.cli.terminal import duration, say
from zsclip.engine.options import Precision

if TYPE_CHECKING:
    from zsclip.training.log import EncodingProgress, Event, StepDone

_EVERY = 30  # seconds between lines when stderr is not a terminal


@group("Start")
class StartModel:
    """The model that training starts from."""

    arch: Annotated[
        str | None,
        typer.Option("--arch", metavar="FILE|NAME", help="Begin with an untrained model of this architecture."),
    ] = None
    init: Annotated[str | None, typer.Option("--init", metavar="MODEL", help="Begin with this trained model.")] = None
    lock_image: Annotated[
        bool, typer.Option("--lock-image", help="Leave the image tower as it is; every image is encoded only once.")
    ] = False
    lock_text: Annotated[bool, typer.Option("--lock-text", help="Leave the text tower as it is.")] = False

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that training reads."""
        from zsclip.models.find import files_of

        if self.arch is not None:
            yield f"--arch {self.arch}", self.arch
        if self.init is not None:
            yield from ((f"a file of --init {self.init}", file) for file in files_of(self.init))


@group("Schedule")
class Schedule:
    """How long training takes, the batch size and the learning rate."""

    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Go through the data N times.")] = 10
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=2, help="Train on batches of N image-caption pairs.")
    ] = 256
    accumulate: Annotated[
        int,
        typer.Option("--accumulate", metavar="N", min=1, help="Encode a batch in N parts, which takes less memory."),
    ] = 1
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", metavar="X", help="The highest learning rate; by default 1e-3, and 1e-5 with --init."
        ),
    ] = None
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", metavar="X", help="Weight decay of all weight matrices.")
    ] = 0.1
    warmup: Annotated[
        float,
        typer.Option("--warmup", metavar="SHARE", help="Raise the learning rate over the first SHARE of the steps."),
    ] = 0.05
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision", metavar="NAME", help="Train in fp32, bf16 or fp16; auto takes bf16 where the device has it."
        ),
    ] = "auto"
    average: Annotated[
        float,
        typer.Option(
            "--average",
            metavar="SHARE",
            help="Save a running average of the weights that keeps this share of its old value at each step.",
        ),
    ] = 0.0
    start_size: Annotated[
        int,
        typer.Option(
            "--start-size",
            metavar="PIXELS",
            min=0,
            help="Begin with images of this size, and enlarge them gradually; with 0, begin with the full size.",
        ),
    ] = 0
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, help="Seed the random numbers; the same seed gives the same model."),
    ] = 0


@group("Captions")
class Captions:
    """The captions of the pictures."""

    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            metavar="NAME|FILE",
            help="Put labels into the sentences of this set; `zsclip prompts list` shows the sets.",
        ),
    ] = "general"
    synonyms: Annotated[
        float, typer.Option("--synonyms", metavar="SHARE", help="Use a synonym in this share of the captions.")
    ] = 0.2
    broader: Annotated[
        float, typer.Option("--broader", metavar="SHARE", help="Use a broader word in this share of the captions.")
    ] = 0.2
    broader_are_true: Annotated[
        bool,
        typer.Option(
            "--broader-are-true",
            help="Do not count a broader word as wrong for other images in the batch that it describes.",
        ),
    ] = False
    other_data_weight: Annotated[
        float,
        typer.Option(
            "--other-data-weight",
            metavar="WEIGHT",
            help="Count a wrong caption this much if its label does not occur in the image's own data set; below 1, "
            "the model learns less from recognising the data set.",
        ),
    ] = 1.0
    against_all_labels: Annotated[
        bool,
        typer.Option(
            "--against-all-labels", help="Compare every image with all labels, not only with those of its batch."
        ),
    ] = False

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that training reads."""
        yield f"--prompts {self.prompts}", self.prompts


@group("Images")
class Augmentation:
    """How pictures are augmented."""

    crop_scale: Annotated[
        float,
        typer.Option("--crop-scale", metavar="SHARE", help="Crop images to no less than this share of their area."),
    ] = 0.35
    colour: Annotated[
        float,
        typer.Option("--colour", metavar="STRENGTH", help="Change brightness, contrast and tint by up to this much."),
    ] = 0.2
    blur: Annotated[float, typer.Option("--blur", metavar="SHARE", help="Blur this share of the images.")] = 0.0
    sharpen: Annotated[float, typer.Option("--sharpen", metavar="SHARE", help="Sharpen this share of the images.")] = (
        0.0
    )
    chroma: Annotated[
        float,
        typer.Option("--chroma", metavar="SHARE", help="Blur or sharpen the colours of this share of the images."),
    ] = 0.0
    saturation: Annotated[
        float,
        typer.Option(
            "--saturation", metavar="SHARE", help="Make the colours of this share of the images paler or stronger."
        ),
    ] = 0.0


@group("Output")
class Trained:
    """Where the model goes, and how it is measured."""

    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Write the model, and checkpoints to resume from, to DIR.")
    ]
    save_precision: Annotated[
        Literal["fp16", "fp32"], typer.Option("--save-precision", metavar="NAME", help="Save weights as fp16 or fp32.")
    ] = "fp16"
    holdout: Annotated[
        int | None,
        typer.Option(
            "--holdout",
            metavar="N",
            min=0,
            help="Hold out every Nth pair to measure accuracy, or none with 0; by default at least 100 pairs, but "
            "at most a fifth.",
        ),
    ] = None
    log_dir: Annotated[
        Path | None, typer.Option("--log-dir", metavar="DIR", help="Write figures for TensorBoard to DIR.")
    ] = None


@group("Input")
class Pairs:
    """Pictures with captions."""

    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help="Captioned images: Parquet files, folders with one folder for each label, or a .csv or .tsv file "
            "with the columns path and caption.",
        ),
    ]

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that training reads."""
        yield from ((f"the data {file}", file) for file in self.data)


@command(common=("data", "out", "init", "arch", "lock_image", "lock_text", "epochs", "batch_size", "device"))
def train(
    pairs: Pairs,
    start: StartModel,
    schedule: Schedule,
    captions: Captions,
    augmentation: Augmentation,
    trained: Trained,
    network: Network,
    device: Device,
    messages: Messages,
) -> None:
    """Train a CLIP model on captioned images, or adapt a trained one.

    If training is stopped, the same command resumes from the last checkpoint.

    Examples:

        zsclip train labelled/ --init base --lock-text --out my-model
        zsclip train labelled/ --init base --lock-image --out my-model
        zsclip train labelled/ --init base --lock-text --epochs 5 --out my-model
    """
    set_environment(network, messages)
    settings: dict[str, Any] = asdict(start) | asdict(schedule) | asdict(captions) | asdict(augmentation)
    again = f"run the same command again to resume from the last checkpoint in {trained.out}"
    with interruptible(lambda: again), training_report(messages) as report:
        from zsclip.out.output import check_inputs, check_outputs_differ
        from zsclip.training.recipe import Recipe
        from zsclip.training.train import files_in
        from zsclip.training.train import train as run_training

        places = check_outputs_differ([("--out", file) for file in files_in(trained.out)])
        check_inputs(chain(pairs.reads(), start.reads(), captions.reads()), places)
        settings |= {"holdout": trained.holdout, "save_precision": trained.save_precision}
        recipe = Recipe(data=tuple(pairs.data), **settings)
        run_training(
            recipe, trained.out, device=device.device, threads=device.threads, log_dir=trained.log_dir,
            progress=report, note=messages.note,
        )  # fmt: skip
    typer.echo(trained.out)


@contextmanager
def training_report(messages: Messages) -> Iterator[Callable[["Event"], None]]:
    """Give a callback that reports training progress: a bar on a terminal, otherwise a line every half minute."""
    if messages.quiet:
        yield lambda event: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    visible = messages.show_progress
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=10), TaskProgressColumn())
    bars = Bars(*columns, console=Console(stderr=True), transient=True, disable=not visible)
    task = bars.add_task("reading the data", total=None)
    reported_at = time.monotonic()

    def report(event: "Event") -> None:
        from zsclip.training.log import HeldOutAccuracy

        nonlocal reported_at
        if isinstance(event, HeldOutAccuracy):
            when = f"epoch {event.epoch}" if event.epoch else "epoch 0 (before training)"
            say(f"{when}: {event.top1:.1%} of {event.images:,} held-out images, {event.labels} labels")
            return
        line, done, total = training_line(event)
        bars.update(task, description=line, completed=done, total=total)
        if not visible and time.monotonic() - reported_at > _EVERY:
            say(f"{done:,} of {total:,}: {line}")
            reported_at = time.monotonic()

    with bars:
        yield report


def training_line(event: "EncodingProgress | StepDone") -> tuple[str, int, int]:
    """Give a line of at most 64 columns for a step, which leaves room for a bar; the steps done; and all steps."""
    from zsclip.training.log import EncodingProgress

    left = f"{event.images_per_second:,.0f} images/s, {duration(event.seconds_left)} left"
    if isinstance(event, EncodingProgress):
        return f"encoding images once, {left}", event.done, event.total
    line = f"epoch {event.epoch}, {event.size[0]} px, loss {event.loss:.3f}, {left}"
    return line, event.step, event.steps
