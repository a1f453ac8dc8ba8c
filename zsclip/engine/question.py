"""What is asked of every picture: labels and sentences, what competes with them, and the rule. No picture is read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from zsclip.answers.scores import Rule
from zsclip.engine.options import Scoring
from zsclip.errors import InputError
from zsclip.kept.cache import fingerprint
from zsclip.measure.calibrate import Calibration, check_made_with, read_calibration
from zsclip.models.encoder import Encoder
from zsclip.words.labels import COMMON, Label
from zsclip.words.prompts import PromptSet
from zsclip.words.words import Words, expand, with_distractors


@dataclass(frozen=True)
class Question:
    """What is asked of every picture.

    learnt: the calibration, where there is one.
    """

    words: Words
    learnt: Calibration | None
    scores: Scoring


def read_question(labels: Sequence[Label], sentences: PromptSet, scores: Scoring) -> Question:
    """Check groups, and read distractors and the calibration; no model is needed for that."""
    words = expand(labels, sentences)
    if scores.by == "group":
        words = replace(words, groups=_groups(labels, scores))
    if scores.calibration is not None:
        learnt = read_calibration(scores.calibration)
        return Question(replace(words, distractors=learnt.distractors), learnt, scores)
    distractors = scores.distractors or (COMMON if scores.none_of_these else None)
    return Question(with_distractors(words, distractors), None, scores)


def rule_of(question: Question, encoder: Encoder) -> Rule:
    """Give the rule by which scores become answers, with what a calibration of this model and these labels learnt."""
    scores, learnt = question.scores, question.learnt
    rule = Rule(scores.top_k, scores.threshold, scores.multi_label)
    if learnt is None:
        return rule
    file = scores.calibration or ""
    check_made_with(learnt, file, made_with(question.words, encoder))
    if question.words.groups and learnt.thresholds and scores.threshold is None:
        raise InputError(f"{file}: has thresholds of labels, not of groups; calibrate without --per-label")
    rule = replace(rule, temperature=learnt.temperature)
    if scores.threshold is None:
        rule = replace(rule, threshold=learnt.threshold, thresholds=learnt.thresholds)
    return rule


def made_with(words: Words, encoder: Encoder) -> dict[str, str]:
    """What a calibration holds for, on whatever device."""
    spec, names = encoder.spec, sorted(words.names)
    return {
        "model": f"{spec.name}, {fingerprint(spec.recipe, asdict(spec.preprocess))[:8]}",
        "label list": f"{len(names)} labels, {fingerprint(names)[:8]}",
        "prompts": words.fingerprint[:8],
    }


def _groups(labels: Sequence[Label], scores: Scoring) -> tuple[str, ...]:
    if not any(label.group for label in labels):
        raise InputError("--by group: no label has a group; write `group: NAME` for some in a --labels-file")
    groups = tuple(label.group or label.name for label in labels)
    if len(set(groups)) == 1 and not scores.multi_label:
        raise InputError(f"--by group: all labels are in group {groups[0]!r}, which has no other to be compared with")
    return groups
