"""The scores of `classify` as options, and the settings that its rows depend on."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import group
from zsclip.cli.options import Distractors, Model, Speed
from zsclip.cli.settings import digested, row_settings
from zsclip.cli.terminal import listed
from zsclip.engine.options import By, Scoring
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.engine.question import Question
    from zsclip.models.encoder import Encoder

UNKNOWN = "unknown"  # what --only, tables and pages call a picture without an answer


@group("Scores")
class Scores(Distractors, Scoring):
    """How scores become answers."""

    top_k: Annotated[
        int | None, typer.Option("-k", "--top-k", metavar="K", min=1, help="Give the K best labels of every image.")
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="P", min=0, max=1, help="Call an image unknown if its best score is below P."
        ),
    ] = None
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Score every label by itself: an image may have several, or none.")
    ] = False
    by: Annotated[
        By,
        typer.Option(
            "--by", metavar="label|group", help="Answer with labels, or with the groups they have in a labels file."
        ),
    ] = "label"
    none_of_these: Annotated[
        bool,
        typer.Option(
            "--none-of-these",
            help="Let common words compete, so that an image of something else is unknown; short for "
            "--distractors common.",
        ),
    ] = False
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration", metavar="FILE", help="Use the scores and thresholds found by `zsclip calibrate`."
        ),
    ] = None
    only: Annotated[
        list[str],
        typer.Option("--only", metavar="LABEL|unknown", help="Write only the rows with this answer."),
    ] = field(default_factory=list)

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield what the run reads, and the path of each."""
        yield from super().reads()
        if self.calibration is not None:
            yield f"--calibration {self.calibration}", self.calibration


def settings_of(question: "Question", encoder: "Encoder", model: Model, speed: Speed) -> dict[str, object]:
    """Give the settings that the answers to a question depend on, for the journal of a run."""
    words, scores, learnt = question.words, question.scores, question.learnt
    named = scores.distractors or ("of the calibration" if learnt is not None else "common")
    return row_settings(words, encoder, model.model, speed.compile) | {
        "batch-size": speed.batch_size, "top-k": scores.top_k, "threshold": scores.threshold,
        "multi-label": scores.multi_label, "only": scores.only, "fast-jpeg": speed.fast_jpeg,
        "max-pixels": speed.max_pixels, "by": digested(scores.by, words.groups) if words.groups else scores.by,
        "calibration": None if learnt is None else digested(scores.calibration, asdict(learnt)),
        "distractors": digested(named, words.distractors) if words.distractors else None,
    }  # fmt: skip


def wanted_answers(only: Sequence[str], names: Sequence[str]) -> set[str | None]:
    """Give the answers that --only asks for, all if there are none; None is unknown, unless a label is called so."""
    from zsclip.words.textfiles import comparable

    known = {comparable(name): name for name in names}
    wanted = [known.get(comparable(label), label.strip()) for label in only]
    for label in wanted:
        if label not in names and label != UNKNOWN:
            labels = listed(list(dict.fromkeys(names)), 8)
            raise InputError(f"--only: {label!r} is not one of the labels; use one of {labels}, or {UNKNOWN}")
    return {None if label == UNKNOWN and label not in names else label for label in wanted}
