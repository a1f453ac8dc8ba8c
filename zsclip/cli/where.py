"""`zsclip where`."""

import sys
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.options import (
    TOP_K,
    Inputs,
    Labels,
    Messages,
    Model,
    Overwrite,
    Prompts,
    model_files,
    set_environment,
)
from zsclip.cli.overlays import check_name, plan, report_overlays, write_overlay
from zsclip.cli.progress import Progress
from zsclip.cli.run import Session, build_text_matrix, interruptible
from zsclip.cli.speed import InTorch, Store
from zsclip.cli.terminal import counted, is_terminal
from zsclip.cli.video import Video

if TYPE_CHECKING:
    from zsclip.engine.where import Look
    from zsclip.pixels.skipped import Skipped


@group("Output")
class Overlays(Overwrite):
    """What is shown of every picture, and where."""

    folder: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="FOLDER", help="Write NAME.where.png of every image to FOLDER, instead of here."
        ),
    ] = "."
    boxes: Annotated[
        bool,
        typer.Option(
            "--boxes",
            help="Also give the box around the region with at least half of a label's maximum, in pixels: a crude "
            "detector that finds one object, no finer than the grid.",
        ),
    ] = False
    top_k: Annotated[int | None, TOP_K] = None
    format: Annotated[
        Literal["table", "jsonl"] | None,
        typer.Option(
            "-f", "--format", metavar="FORMAT", help="Print table or jsonl; by default table on a terminal, else jsonl."
        ),
    ] = None

    def __post_init__(self) -> None:
        check_name("-o", self.folder)

    @property
    def is_table(self) -> bool:
        """Whether rows are for people."""
        return self.format == "table" or (self.format is None and is_terminal(sys.stdout))


@command(common=("inputs", "labels", "model", "folder", "boxes", "top_k"))
def where(
    inputs: Inputs,
    video: Video,
    labels: Labels,
    prompts: Prompts,
    overlays: Overlays,
    model: Model,
    computing: InTorch,
    messages: Messages,
) -> int:
    """Show where in an image each label is seen.

    Every image gets a picture, NAME.where.png, with the labels in colour, and a row for each label with a grid of
    numbers. With tiny, and others that average over the image, the numbers average to the cosine of the label: they say
    what each part of the image adds to the score. With ViT and ResNet, they are the cosines of the parts themselves.

    Examples:

        zsclip where a.jpg -l "cat,sofa"
        zsclip where photos/ -l "cat,sofa" --boxes -o seen/ > rows.jsonl
    """
    from zsclip.answers.classifier import check_words
    from zsclip.engine.where import looking
    from zsclip.models.lazy_torch import LazyTorchEncoder
    from zsclip.words.words import expand

    set_environment(model, messages)
    words = expand(labels.read(alone=True), prompts.read())
    name, speed = model.name(), computing.speed
    found = inputs.find(messages, sampling=video.sampling(speed.max_pixels, is_kept=True), offline=model.offline)
    read = chain(labels.reads(), prompts.reads(), model_files(name))
    to, others = ("-o", overlays.folder), [("standard output", None)]
    planned = plan(found, inputs.inputs, read, to, others, may_exist=overlays.overwrite)
    files = planned.files or ()
    with Progress(messages.show_progress) as progress:
        progress.step(f"looking for model {name}")
        encoder = speed.encoder(name, model.offline)
        assert isinstance(encoder, LazyTorchEncoder)
        check_words(words, encoder)
        session = Session(speed, Store(no_store=True), messages, progress)
        session.tally.passed_over = found.passed_over
        progress.step(f"loading {encoder.spec.name}")
        alone = len(words.names) == 1
        classifier = build_text_matrix(words, encoder, session, multi_label=alone)
        with (
            interruptible(lambda: f"{counted(session.tally.images, 'image')} done; add --overwrite to run again"),
            looking(planned.paths.rest(), encoder, classifier, speed, overlays.top_k) as looks,
        ):
            progress.images(session.tally, lambda: len(files))
            written = write(looks, files, overlays, session)
    return report_overlays(session, overlays.folder, written)


def write(looks: "Iterable[Look | Skipped]", files: Sequence[str], overlays: Overlays, session: Session) -> list[str]:
    """Write the overlay and then the rows of each image; give the files that were written."""
    from zsclip.out.grids import write_json_rows, write_table_rows
    from zsclip.out.output import open_output
    from zsclip.pixels.skipped import Skipped

    write_rows = write_table_rows if overlays.is_table else write_json_rows
    written: list[str] = []
    session.tally.started = time.monotonic()
    with open_output(None) as out:
        for look, file in zip(looks, files, strict=True):
            if overlays.is_table and is_terminal(sys.stdout):
                session.progress.stop()
            if isinstance(look, Skipped):
                session.tally.errors[look.error] += 1
                write_rows(look, None, out, with_boxes=overlays.boxes)
                continue
            write_overlay(look, file, with_boxes=overlays.boxes, overwrite=overlays.overwrite)
            written.append(file)
            session.tally.encoded += 1
            write_rows(look.where, file, out, with_boxes=overlays.boxes)
    session.progress.stop()
    return written
