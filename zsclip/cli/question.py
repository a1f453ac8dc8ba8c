"""What `classify` asks of every picture: its labels and sentences, what competes with them, and the rule."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsclip.cli.groups import group
from zsclip.cli.options import Distractors, Labels, Model, Prompts, Speed
from zsclip.cli.run import Session, build_text_matrix
from zsclip.cli.settings import digested, made_with, row_settings
from zsclip.cli.terminal import listed
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.classifier import Classifier
    from zsclip.answers.scores import Rule
    from zsclip.measure.calibrate import Calibration
    from zsclip.models.encoder import Encoder
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet

UNKNOWN = "unknown"  # what --only, tables and pages call a picture without an answer


@group("Scores")
class Scores(Distractors):
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
        Literal["label", "group"],
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

    def __post_init__(self) -> None:
        competes = self.none_of_these or self.distractors is not None
        if self.multi_label and (competes or self.calibration is not None):
            raise InputError(
                "--multi-label: scores every label by itself, so nothing competes; leave out one of the two"
            )
        if self.calibration is not None and competes:
            raise InputError("--calibration: brings its own distractors, or none; give them to `zsclip calibrate`")
        if self.none_of_these and self.distractors is not None:
            raise InputError("--none-of-these: means --distractors common; leave out one of the two")


@dataclass(frozen=True)
class Question:
    """What is asked of every picture.

    words, sentences: the labels, and what they are put into. names: of each label, what is answered: the label or its
    group. rivals: the prompts of the words that compete, by their names. learnt: the calibration, where there is one.
    wanted: the answers of --only; None among them stands for unknown; empty wants all.
    """

    words: "list[Label]"
    sentences: "PromptSet"
    names: list[str]
    rivals: Mapping[str, Sequence[str]]
    learnt: "Calibration | None"
    wanted: set[str | None]
    scores: Scores

    @property
    def by_group(self) -> bool:
        """Whether groups are answered instead of labels."""
        return self.scores.by == "group"


def read_question(labels: Labels, prompts: Prompts, scores: Scores) -> Question:
    """Read and check labels, sentences, distractors, groups and the calibration; no model is needed for that."""
    from zsclip.words.labels import COMMON

    words = labels.read(alone=scores.multi_label)
    sentences = prompts.read()
    names = [word.group or word.name if scores.by == "group" else word.name for word in words]
    if scores.by == "group":
        _check_groups(words, names, scores)
    wanted = _wanted(scores.only, names)
    learnt = None
    if scores.calibration is not None:
        from zsclip.measure.calibrate import read_calibration

        learnt = read_calibration(scores.calibration)
    distractors = scores.distractors or (COMMON if scores.none_of_these else None)
    rivals = learnt.distractors if learnt is not None else rivals_of(words, distractors, sentences)
    return Question(words, sentences, names, rivals, learnt, wanted, scores)


def rule_of(question: Question, encoder: "Encoder") -> "Rule":
    """Give the rule by which scores become answers, with what a calibration of this model and these labels learnt."""
    from zsclip.answers.scores import Rule

    scores, learnt = question.scores, question.learnt
    rule = Rule(scores.top_k, scores.threshold, scores.multi_label)
    if learnt is None:
        return rule
    from zsclip.measure.calibrate import check_made_with

    file = scores.calibration or ""
    check_made_with(learnt, file, made_with(question.words, question.sentences, encoder))
    if question.by_group and learnt.thresholds and scores.threshold is None:
        raise InputError(f"{file}: has thresholds of labels, not of groups; calibrate without --per-label")
    rule = replace(rule, temperature=learnt.temperature)
    if scores.threshold is None:
        rule = replace(rule, threshold=learnt.threshold, thresholds=learnt.thresholds)
    return rule


def classifier_of(question: Question, encoder: "Encoder", session: Session) -> "Classifier":
    """Make the text matrix of a question."""
    classifier = build_text_matrix(
        question.words, question.sentences, encoder, session,
        multi_label=question.scores.multi_label, distractors=question.rivals,
    )  # fmt: skip
    return replace(classifier, groups=tuple(question.names)) if question.by_group else classifier


def settings_of(question: Question, encoder: "Encoder", model: Model, speed: Speed) -> dict[str, object]:
    """Give the settings that the answers to a question depend on, for the journal of a run."""
    scores, learnt, rivals = question.scores, question.learnt, question.rivals
    named = scores.distractors or ("of the calibration" if learnt is not None else "common")
    return row_settings(question.words, question.sentences, encoder, model.model, speed.compile) | {
        "batch-size": speed.batch_size, "top-k": scores.top_k, "threshold": scores.threshold,
        "multi-label": scores.multi_label, "only": scores.only, "fast-jpeg": speed.fast_jpeg,
        "max-pixels": speed.max_pixels, "by": digested(scores.by, question.names) if question.by_group else scores.by,
        "calibration": None if learnt is None else digested(scores.calibration, asdict(learnt)),
        "distractors": digested(named, rivals) if rivals else None,
    }  # fmt: skip


def rivals_of(words: "list[Label]", distractors: str | None, sentences: "PromptSet") -> dict[str, tuple[str, ...]]:
    """Read distractors: the prompts of the words that compete with the labels, by their names."""
    from zsclip.words.labels import read_distractors
    from zsclip.words.prompts import expand

    rivals = read_distractors(words, distractors) if distractors is not None else []
    prompts = expand(rivals, sentences)
    return {rival.name: tuple(each) for rival, each in zip(rivals, prompts, strict=True)}


def _check_groups(words: "list[Label]", names: Sequence[str], scores: Scores) -> None:
    if not any(word.group for word in words):
        raise InputError("--by group: no label has a group; write `group: NAME` for some in a --labels-file")
    if len(set(names)) == 1 and not scores.multi_label:
        raise InputError(f"--by group: all labels are in group {names[0]!r}, which has no other to be compared with")


def _wanted(only: Sequence[str], names: Sequence[str]) -> set[str | None]:
    """Give the answers that --only asks for; None stands for unknown, unless there is a label of that name."""
    wanted = [label.strip() for label in only]  # as labels themselves are
    for label in wanted:
        if label not in names and label != UNKNOWN:
            labels = listed(list(dict.fromkeys(names)), 8)
            raise InputError(f"--only: {label!r} is not one of the labels; use one of {labels}, or {UNKNOWN}")
    return {None if label == UNKNOWN and label not in names else label for label in wanted}
