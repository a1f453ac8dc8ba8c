"""The scores of `classify` as options, and the settings that its rows depend on."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import group
from zsclip.cli.options import Distractors
from zsclip.cli.settings import digested, row_settings
from zsclip.cli.speed import Speed
from zsclip.engine.options import By, Scoring
from zsclip.errors import InputError
from zsclip.out.text import UNKNOWN

if TYPE_CHECKING:
    from zsclip.answers.scores import Rule
    from zsclip.engine.question import Question
    from zsclip.models.encoder import Encoder

_LABELS_ON_A_PAGE = 30


@group("Scores")
class Deciding(Distractors, Scoring):
    """When a label is an answer."""

    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="P", min=0, max=1, help="Call an image unknown if its best score is below P."
        ),
    ] = None
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Score every label by itself: an image may have several, or none.")
    ] = False
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
            "--calibration",
            metavar="FILE",
            help="Use the temperature and thresholds that `zsclip calibrate` found, and by default its labels, "
            "prompts and model.",
        ),
    ] = None

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that the run reads."""
        yield from super().reads()
        if self.calibration is not None:
            yield f"--calibration {self.calibration}", self.calibration


@group("Scores")
class Scores(Deciding):
    """How scores become answers."""

    top_k: Annotated[
        int | None, typer.Option("-k", "--top-k", metavar="K", min=1, help="Give the K best labels of every image.")
    ] = None
    by: Annotated[
        By,
        typer.Option(
            "--by", metavar="label|group", help="Answer with labels, or with the groups they have in a labels file."
        ),
    ] = "label"
    only: Annotated[
        list[str],
        typer.Option(
            "--only",
            metavar="LABEL|unknown",
            help="Write only the rows with this answer; with --multi-label, the rows of all images it applies to.",
        ),
    ] = field(default_factory=list)


def settings_of(question: "Question", encoder: "Encoder", model: str, speed: Speed) -> dict[str, object]:
    """Give the settings that the answers to a question depend on, for the journal of a run."""
    words, scores, learnt = question.words, question.scores, question.learnt
    named = scores.distractors or ("of the calibration" if learnt is not None else "common")
    return row_settings(words, encoder, model, speed.compile) | {
        "batch-size": speed.batch_size, "top-k": scores.top_k, "threshold": scores.threshold,
        "multi-label": scores.multi_label, "only": scores.only, "fast-jpeg": speed.fast_jpeg,
        "max-pixels": speed.max_pixels, "by": digested(scores.by, words.groups) if words.groups else scores.by,
        "calibration": None if learnt is None else digested(scores.calibration, asdict(learnt)),
        "distractors": digested(named, words.distractors) if words.distractors else None,
    }  # fmt: skip


def about_page(question: "Question", encoder: "Encoder", rule: "Rule") -> dict[str, str]:
    """Say in words how the answers of a run came about, for the header of its page."""
    from datetime import datetime

    scores, words = question.scores, question.words
    names = list(dict.fromkeys(words.answers))
    labels = ", ".join(names[:_LABELS_ON_A_PAGE])
    labels += f" and {len(names) - _LABELS_ON_A_PAGE:,} more" if len(names) > _LABELS_ON_A_PAGE else ""
    own = words.sentences.source == "--template"
    about = {
        "model": encoder.spec.name,
        "prompts": ", ".join(words.sentences.templates) if own else words.sentences.name,
        "labels": labels,
        "scores": "each label by itself" if scores.multi_label else "",
        "threshold": _threshold_of(rule),
        "calibration": scores.calibration or "",
        "distractors": f"{len(words.distractors):,}" if words.distractors else "",
        "made": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    return {key: value for key, value in about.items() if value}


def _threshold_of(rule: "Rule") -> str:
    """Give the threshold in words; empty if there is none."""
    if rule.thresholds:
        return "one for each label"
    return f"{rule.lowest:.3g}" if rule.lowest else ""


def wanted_answers(only: Sequence[str], names: Sequence[str]) -> set[str | None]:
    """Give the answers that --only asks for; empty means all. None stands for unknown, unless a label has that name."""
    from zsclip.words.textfiles import comparable, listed

    known = {comparable(name): name for name in names}
    wanted = [known.get(comparable(label), label.strip()) for label in only]
    for label in wanted:
        if label not in names and label != UNKNOWN:
            labels = listed(list(dict.fromkeys(names)), 8)
            raise InputError(f"--only: {label!r} is not one of the labels; use one of {labels}, or {UNKNOWN}")
    return {None if label == UNKNOWN and label not in names else label for label in wanted}
