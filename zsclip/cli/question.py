"""The scores of `classify` as options, and how its answers came about, in words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import group
from zsclip.cli.options import EXAMPLE, EXAMPLES, EXPECT, HEAD, TOP_K, TRANSDUCTIVE, Distractors
from zsclip.engine.options import By, Scoring
from zsclip.errors import InputError
from zsclip.out.text import UNKNOWN

if TYPE_CHECKING:
    from zsclip.answers.scores import Rule
    from zsclip.engine.question import Question
    from zsclip.models.encoder import Encoder

_LABELS_ON_A_PAGE = 30


def expect_files(given: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield a description and the path of each file among the values of --expect."""
    yield from ((f"--expect {file}", file) for file in given if file not in ("balanced", "few"))


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

    head: Annotated[str | None, HEAD] = None
    examples: Annotated[list[str], EXAMPLES] = field(default_factory=list)
    example: Annotated[list[str], EXAMPLE] = field(default_factory=list)

    expect: Annotated[str | None, EXPECT] = None

    transductive: Annotated[bool, TRANSDUCTIVE] = False

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that the run reads; the examples are not known yet."""
        yield from super().reads()
        if self.calibration is not None:
            yield f"--calibration {self.calibration}", self.calibration
        if self.head is not None:
            yield f"--head {self.head}", self.head
        if self.expect is not None:
            yield from expect_files([self.expect])


@group("Scores")
class Scores(Deciding):
    """How scores become answers."""

    top_k: Annotated[int | None, TOP_K] = None
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
    suggest: Annotated[
        int | None,
        typer.Option(
            "--suggest",
            metavar="N",
            min=1,
            help="Write only the rows of the N images whose labels would teach most: doubtful ones, each unlike the "
            "others. Fill in the column truth of a .csv or .tsv file, and `zsclip learn FILE` reads it.",
        ),
    ] = None


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
        "examples": "" if question.head is None else f"{len(question.head.truth):,}",
        "expected": "equal shares" if scores.expect == "balanced" else scores.expect or "",
        "passes": "two; all images inform each other" if scores.transductive else "",
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
