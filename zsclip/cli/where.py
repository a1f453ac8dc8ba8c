"""`zsclip where`."""

import io
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby
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
from zsclip.cli.progress import Progress
from zsclip.cli.run import Session, build_text_matrix, interruptible, report_run
from zsclip.cli.speed import InTorch, Store
from zsclip.cli.terminal import counted, is_terminal, say
from zsclip.cli.video import Video
from zsclip.errors import InputError, OutputError

if TYPE_CHECKING:
    from zsclip.engine.where import Look
    from zsclip.out.output import FileId
    from zsclip.pictures.pictures import Paths, Pictures
    from zsclip.pixels.skipped import Skipped

_NAMED = 4  # files in the summary; more are counted


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
        if not self.folder:
            raise InputError("-o: the name is empty; give a folder")
        if self.folder.lower().endswith(".png"):
            raise InputError(f"-o {self.folder}: give a folder; every image gets a NAME.where.png in it")

    @property
    def is_table(self) -> bool:
        """Whether rows are for people."""
        return self.format == "table" or (self.format is None and is_terminal(sys.stdout))

    def plan(self, found: "Paths", named: Sequence[str], reads: Iterable[tuple[str, str]]) -> "Plan":
        """Find all images, and check that the file for each can be written, and is not one that is read.

        Args:
            named: what the user gave. reads: what else is read, and the path of each.
        """
        from zsclip.out.beside import overlay_names, without_own
        from zsclip.out.output import check_folder, check_inputs, check_output, check_outputs_differ
        from zsclip.pictures.pictures import Member, pictures_named

        check_folder(self.folder)
        names = list(found)
        names = [names[place] for place in without_own(names, named, self.folder)]
        files = overlay_names(names, self.folder)
        places: dict[FileId, str] = check_outputs_differ([("standard output", None), *(("-o", file) for file in files)])
        check_inputs(chain(reads, ((f"the image {name!r}", name) for name in names)), places)
        if os.path.isdir(self.folder):
            for file in files:
                check_output(file, overwrite=self.overwrite)
        # Files apart from members: only among themselves are they checked before they are opened.
        groups = groupby(names, key=lambda name: isinstance(name, Member))
        return Plan([pictures_named(list(some)) for _, some in groups], files)

    def make_folder(self) -> None:
        """Make the folder, unless it is there."""
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as e:
            raise OutputError(f"{self.folder}: {(e.strerror or str(e)).lower()}; choose another folder") from e


@dataclass(frozen=True)
class Plan:
    """The images of a run, and the file for each."""

    pictures: "Sequence[Pictures]"
    files: Sequence[str]


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
    plan = overlays.plan(found, inputs.inputs, chain(labels.reads(), prompts.reads(), model_files(name)))
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
            looking(plan.pictures, encoder, classifier, speed, overlays.top_k) as looks,
        ):
            progress.images(session.tally, lambda: len(plan.files))
            written = write(looks, plan.files, overlays, session)
    code = report_run(session, written if len(written) <= _NAMED else ())
    if len(written) > _NAMED and not messages.quiet:
        say(f"wrote {len(written):,} files to {overlays.folder}")
    return code


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
            overlays.make_folder()
            write_overlay(look, file, overlays)
            written.append(file)
            session.tally.encoded += 1
            write_rows(look.where, file, out, with_boxes=overlays.boxes)
    session.progress.stop()
    return written


def write_overlay(look: "Look", file: str, overlays: Overlays) -> None:
    """Write the overlay of an image, or nothing: half of one is of no use to anybody."""
    from zsclip.out.heatmap import heatmap
    from zsclip.out.output import open_output, part_of

    drawn = io.BytesIO()
    heatmap(look.view, look.where, with_boxes=overlays.boxes).save(drawn, "PNG")
    with open_output(file, overwrite=overlays.overwrite) as png:
        try:
            png.buffer.write(drawn.getbuffer())
            png.flush()
        except BaseException:
            with suppress(OSError):
                os.unlink(part_of(file))
            raise
