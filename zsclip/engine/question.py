"""What is asked of every picture: labels and sentences, what competes with them, and the rule. No picture is read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from zsclip.answers.classifier import check_words
from zsclip.answers.scores import Rule
from zsclip.engine.options import Scoring
from zsclip.errors import InputError
from zsclip.kept.cache import fingerprint
from zsclip.measure.calibration import Calibration, check_made_with, read_calibration
from zsclip.models.encoder import Encoder
from zsclip.words.labels import COMMON, Label, read_labels
from zsclip.words.prompts import PromptSet, read_prompts
from zsclip.words.textfiles import comparable
from zsclip.words.words import Words, expand, with_distractors


@dataclass(frozen=True)
class Question:
    """What is asked of every picture.

    learnt: the calibration, where there is one.
    """

    words: Words
    learnt: Calibration | None
    scores: Scoring

    @property
    def model(self) -> str | None:
        """The name of the model that the calibration was made with."""
        return None if self.learnt is None else self.learnt.model


def read_learnt(scores: Scoring) -> Calibration | None:
    """Read the calibration if one was given.

    Raises:
        InputError: it cannot be read, or is not a calibration.
    """
    return None if scores.calibration is None else read_calibration(scores.calibration)


def read_question(
    labels: Sequence[Label] | None, sentences: PromptSet | None, scores: Scoring, learnt: Calibration | None
) -> Question:
    """Check groups and read distractors; no model is needed for that.

    Args:
        labels, sentences: as they were given; None takes those of the calibration.
        learnt: as `read_learnt` gives it.

    Raises:
        InputError: there are no labels, or something does not fit.
    """
    labels = labels or (learnt.words if learnt is not None else ()) or read_labels()  # raises, as there are none
    words = expand(labels, sentences or (learnt.sentences if learnt is not None else None) or read_prompts("photo"))
    if learnt is not None:
        words = replace(words, distractors=learnt.distractors)
    else:
        words = with_distractors(words, scores.distractors or (COMMON if scores.none_of_these else None))
    if scores.by == "group":
        words = replace(words, groups=_groups(labels))
    if len(set(words.answers)) == 1 and not (scores.multi_label or words.distractors):
        what = "labels" if words.groups is None else "--by group"
        raise InputError(
            f"{what}: nothing competes with {words.answers[0]!r}; give another to compare it with, or --multi-label"
        )
    return Question(words, learnt, scores)


def rule_of(question: Question, encoder: Encoder) -> Rule:
    """Give the rule by which scores become answers, with what a calibration of this model and these labels learnt.

    Raises:
        InputError: two labels are the same text to this model, or the calibration is for others.
    """
    check_words(question.words, encoder)
    scores, learnt = question.scores, question.learnt
    rule = Rule(scores.top_k, scores.threshold, scores.multi_label)
    if learnt is None:
        return rule
    file = scores.calibration or ""
    check_made_with(learnt, file, made_with(question.words, encoder))
    if question.words.groups and learnt.thresholds and scores.threshold is None:
        raise InputError(f"{file}: has thresholds for labels, not groups; calibrate without --per-label")
    rule = replace(rule, temperature=learnt.temperature)
    if scores.threshold is None:
        learnt_for = {comparable(label): threshold for label, threshold in learnt.thresholds.items()}
        names = [name for name in question.words.names if comparable(name) in learnt_for]
        thresholds = {name: learnt_for[comparable(name)] for name in names}
        rule = replace(rule, threshold=learnt.threshold, thresholds=thresholds)
    return rule


def made_with(words: Words, encoder: Encoder) -> dict[str, str]:
    """Name the model, labels and prompts that a calibration is valid for; the device does not matter."""
    spec, names = encoder.spec, sorted(map(comparable, words.names))
    return {
        "model": f"{spec.name}, {fingerprint(spec.recipe, asdict(spec.preprocess))[:8]}",
        "label list": f"{len(names)} labels, {fingerprint(names)[:8]}",
        "prompts": words.fingerprint[:8],
    }


def _groups(labels: Sequence[Label]) -> tuple[str, ...]:
    if not any(label.group for label in labels):
        raise InputError("--by group: no label has a group; write `group: NAME` for some in a --labels-file")
    names = [label.group or label.name for label in labels]
    spelt: dict[str, str] = {}
    return tuple(spelt.setdefault(comparable(name), name) for name in names)
