"""The overlays of a run: where labels are seen in each image, in a file of its own. For `where`, and beside rows."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import group
from zsclip.cli.options import Messages
from zsclip.cli.run import Session, note_captions, report_run
from zsclip.cli.speed import Speed
from zsclip.cli.terminal import say
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.answers.classifier import Classifier
    from zsclip.cli.question import Scores
    from zsclip.cli.rows import Output
    from zsclip.engine.where import Look
    from zsclip.models.encoder import Encoder
    from zsclip.models.lazy_torch import LazyTorchEncoder
    from zsclip.out.output import FileId
    from zsclip.pictures.pictures import Paths

_NAMED = 4  # files in the summary; more are counted


@group("Output")
class Shown:
    """Whether rows come with pictures of where their answers are seen."""

    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="FOLDER",
            help="Also show where in each image its answer is seen: write NAME.where.png to FOLDER, as `zsclip where` "
            "does.",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.where is not None:
            check_name("--where", self.where)

    @property
    def settings(self) -> dict[str, object]:
        """What a run that is continued must have in common with the earlier one."""
        return {} if self.where is None else {"where": self.where}

    def check(self, output: "Output", scores: "Scores", wanted: set[str | None]) -> None:
        """Refuse what does not go with overlays.

        Args:
            wanted: the answers that get rows, see `wanted_answers`.
        """
        reasons = (
            (output.folder is not None, f"--where: needs the whole run; write to a file instead of {output.folder}"),
            (output.segments, "--segments: --where needs a row for every frame; leave one of the two out"),
            (scores.suggest is not None, "--suggest: asks for labels, and --where shows answers; leave one out"),
            (wanted == {None}, "--only unknown: images without an answer have nothing to show; leave out --where"),
        )
        for is_so, reason in reasons if self.where is not None else ():
            if is_so:
                raise InputError(reason)

    def plan(self, found: "Paths", named: Sequence[str], reads: Iterable[tuple[str, str]], output: "Output") -> "Plan":
        """Find all images, and the file for each; without --where, leave the images to be found as the run goes on."""
        if self.where is None:
            return Plan(found)
        may_exist = output.overwrite or output.has_earlier
        return plan(found, named, reads, ("--where", self.where), output.targets, may_exist=may_exist)


@dataclass(frozen=True)
class Plan:
    """The images of a run, and the file in a folder for each by its name; no files if there are no overlays."""

    paths: "Paths"
    files: Sequence[str] | None = None
    names: Sequence[str] = ()
    folder: str = ""

    def as_before(self, again: Iterable[tuple[str, range]]) -> "Plan":
        """Leave the files of an earlier run to the images that it gave them to.

        Args:
            again: what failed then, see `Journal`.
        """
        from zsclip.out.beside import names_as_before

        since = [(name, places) for name, places in again if name]
        if self.files is None or not since:
            return self
        return replace(self, files=names_as_before(self.names, self.folder, since))


def check_name(flag: str, folder: str) -> None:
    """Refuse a name that cannot be meant for a folder."""
    if not folder:
        raise InputError(f"{flag}: the name is empty; give a folder")
    if folder.lower().endswith(".png"):
        raise InputError(f"{flag} {folder}: give a folder; every image gets a NAME.where.png in it")


def plan(
    found: "Paths",
    named: Sequence[str],
    reads: Iterable[tuple[str, str]],
    to: tuple[str, str],
    others: Sequence[tuple[str, str | None]],
    *,
    may_exist: bool,
) -> Plan:
    """Find all images, and check that the file for each can be written, and is not one that is read.

    Args:
        named: what the user gave. reads: what else is read, and the path of each. to: a flag, and its folder. others:
            flag and file of everything else that is written. may_exist: whether files may be there already.
    """
    from zsclip.out.beside import overlay_names, without_own
    from zsclip.out.output import check_folder, check_inputs, check_output, check_outputs_differ
    from zsclip.pictures.pictures import Member, Paths, pictures_named

    flag, folder = to
    check_folder(folder)
    all_names, holders = [], []
    for name in found:
        all_names.append(name)
        holders.append(found.holder)
    own = without_own(all_names, named, folder)
    names = [all_names[place] for place in own]
    files = overlay_names(names, folder)
    places: dict[FileId, str] = check_outputs_differ([*others, *((flag, file) for file in files)])
    check_inputs(chain(reads, ((f"the image {name!r}", name) for name in names)), places)
    if os.path.isdir(folder):
        for file in files:
            check_output(file, overwrite=may_exist)
    # Files apart from members: only among themselves are they checked before they are opened.
    groups = []
    for (_, holder), some in groupby(own, key=lambda place: (isinstance(all_names[place], Member), holders[place])):
        groups.append(replace(pictures_named([all_names[place] for place in some]), holder=holder))
    return Plan(Paths(groups, found.passed_over, found.close), files, names, folder)


def write_overlay(look: "Look", file: str, *, with_boxes: bool = False, overwrite: bool) -> None:
    """Write the overlay of an image, or nothing: half of one is of no use to anybody."""
    from zsclip.out.heatmap import heatmap
    from zsclip.out.output import make_folder, open_output, part_of

    drawn = io.BytesIO()
    heatmap(look.view, look.where, with_boxes=with_boxes).save(drawn, "PNG")
    make_folder(os.path.dirname(file) or ".")
    with open_output(file, overwrite=overwrite) as png:
        try:
            png.buffer.write(drawn.getbuffer())
            png.flush()
        except BaseException:
            with suppress(OSError):
                os.unlink(part_of(file))
            raise


def report_overlays(
    session: Session,
    folder: str,
    written: Sequence[str],
    files: Iterable[str | None] = (),
    *,
    is_resumed: bool = False,
) -> int:
    """Write the summary of a run to stderr, and give its exit code.

    Args:
        written: the overlays. files: what else was written. is_resumed: whether an earlier run may have written some.
    """
    code = report_run(session, [*files, *(written if len(written) <= _NAMED else ())])
    if not session.messages.quiet and session.tally.images and not len(written) and not is_resumed:
        say(f"no overlays in {folder}, as no row has an answer")
    elif not session.messages.quiet and len(written) > _NAMED:
        say(f"wrote {len(written):,} files to {folder}")
    note_captions(session.messages)
    return code


@dataclass(frozen=True)
class Beside:
    """The overlays beside the rows of a run.

    files: for the image at each place. wanted: the answers that get rows; empty means all. candidates: the most to
    show; None for all. is_resumed: whether an earlier run may have written some of them. written: in this run.
    """

    files: Sequence[str]
    encoder: "Encoder"
    speed: Speed
    messages: Messages
    wanted: set[str | None]
    candidates: int | None
    overwrite: bool
    is_resumed: bool
    written: list[str] = field(default_factory=list)

    def drawn(
        self, batches: "Iterable[Answers]", classifier: "Classifier", places: Iterable[int]
    ) -> "Iterator[Answers]":
        """Draw the overlays of every batch, and pass it on.

        Args:
            places: of the images in the order of the batches.
        """
        places = iter(places)
        for batch in batches:
            files = [self.files[place] for place in islice(places, len(batch))]
            self._draw(batch, files, classifier)
            yield batch

    def _draw(self, batch: "Answers", files: Sequence[str], classifier: "Classifier") -> None:
        import numpy as np

        from zsclip.answers.answers import is_wanted
        from zsclip.engine.where import looking
        from zsclip.pictures.pictures import pictures_named
        from zsclip.pixels.skipped import Skipped

        has_answer = batch.answered >= 0 if batch.applies is None else batch.is_candidate().any(axis=1)
        shown = np.flatnonzero(has_answer & is_wanted(batch, self.wanted))
        if self.is_resumed:  # what is there already was drawn just before the earlier run ended
            shown = shown[[not os.path.lexists(files[place]) for place in shown.tolist()]]
        if not len(shown):
            return
        some = batch.take(shown)
        some = some if self.candidates is None else some.with_best(self.candidates)
        pictures = [pictures_named(some.names)]
        with looking(pictures, self._in_fp32, classifier, self.speed, answers=some) as looks:
            for place, look in zip(shown.tolist(), looks, strict=True):
                if isinstance(look, Skipped):  # it was there when it was classified, or its embedding was
                    self.messages.note(f"no overlay of {look.file_name!r}: {look.error}: {look.message}")
                    continue
                write_overlay(look, files[place], overwrite=self.overwrite or self.is_resumed)
                self.written.append(files[place])

    @cached_property
    def _in_fp32(self) -> "LazyTorchEncoder":
        """Give the model as it shows its cells; that of the rows, if it can."""
        from zsclip.models.lazy_torch import LazyTorchEncoder

        if isinstance(self.encoder, LazyTorchEncoder) and self.encoder.precision == "fp32":
            return self.encoder
        return LazyTorchEncoder(self.encoder.spec, self.speed.device, "fp32")
