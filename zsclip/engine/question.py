"""What is asked of every picture: labels and sentences, what competes with them, and the rule. No picture is read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from zsclip.answers.classifier import Classifier
from zsclip.answers.scores import Rule
from zsclip.engine.options import Scoring
from zsclip.errors import InputError
from zsclip.kept.cache import fingerprint
from zsclip.measure.calibration import Calibration, check_made_with, read_calibration
from zsclip.models.encoder import Encoder
from zsclip.words.labels import COMMON, Label, read_distractors, read_labels
from zsclip.words.prompts import PromptSet, expand, read_prompts


@dataclass(frozen=True)
class Question:
    """What is asked of every picture.

    words, sentences: the labels, and what they are put into. names: of each label, what is answered: the label or its
    group. rivals: the prompts of the words that compete, by their names. learnt: the calibration, where there is one.
    """

    words: list[Label]
    sentences: PromptSet
    names: list[str]
    rivals: Mapping[str, Sequence[str]]
    learnt: Calibration | None
    scores: Scoring

    @property
    def model(self) -> str | None:
        """The name of the model that the calibration was made with."""
        return None if self.learnt is None else self.learnt.model

    @property
    def by_group(self) -> bool:
        """Whether groups are answered instead of labels."""
        return self.scores.by == "group"

    def about_groups(self, classifier: Classifier) -> Classifier:
        """Let a text matrix answer with groups where they are asked for."""
        return replace(classifier, groups=tuple(self.names)) if self.by_group else classifier


def read_question(words: list[Label] | None, sentences: PromptSet | None, scores: Scoring) -> Question:
    """Check groups, and read distractors and the calibration; no model is needed for that.

    Args:
        words, sentences: as they were given; None takes those of the calibration.

    Raises:
        InputError: there are no labels, or something does not fit.
    """
    learnt = None if scores.calibration is None else read_calibration(scores.calibration)
    words = words or (list(learnt.words) if learnt is not None else []) or read_labels()  # raises, as there are none
    sentences = sentences or (learnt.sentences if learnt is not None else None) or read_prompts("photo")
    names = [word.group or word.name if scores.by == "group" else word.name for word in words]
    if scores.by == "group":
        _check_groups(words, names, scores)
    distractors = scores.distractors or (COMMON if scores.none_of_these else None)
    rivals = learnt.distractors if learnt is not None else rivals_of(words, distractors, sentences)
    return Question(words, sentences, names, rivals, learnt, scores)


def rule_of(question: Question, encoder: Encoder) -> Rule:
    """Give the rule by which scores become answers, with what a calibration of this model and these labels learnt."""
    scores, learnt = question.scores, question.learnt
    rule = Rule(scores.top_k, scores.threshold, scores.multi_label)
    if learnt is None:
        return rule
    file = scores.calibration or ""
    check_made_with(learnt, file, made_with(question.words, question.sentences, encoder))
    if question.by_group and learnt.thresholds and scores.threshold is None:
        raise InputError(f"{file}: has thresholds of labels, not of groups; calibrate without --per-label")
    rule = replace(rule, temperature=learnt.temperature)
    if scores.threshold is None:
        rule = replace(rule, threshold=learnt.threshold, thresholds=learnt.thresholds)
    return rule


def rivals_of(words: list[Label], distractors: str | None, sentences: PromptSet) -> dict[str, tuple[str, ...]]:
    """Read distractors: the prompts of the words that compete with the labels, by their names."""
    rivals = read_distractors(words, distractors) if distractors is not None else []
    prompts = expand(rivals, sentences)
    return {rival.name: tuple(each) for rival, each in zip(rivals, prompts, strict=True)}


def made_with(words: list[Label], sentences: PromptSet, encoder: Encoder) -> dict[str, str]:
    """What a calibration holds for, on whatever device."""
    spec = encoder.spec
    words = sorted(words, key=lambda word: word.name)
    names = [word.name for word in words]
    return {
        "model": f"{spec.name}, {fingerprint(spec.recipe, asdict(spec.preprocess))[:8]}",
        "label list": f"{len(names)} labels, {fingerprint(names)[:8]}",
        "prompts": fingerprint(expand([*words, Label("something")], sentences))[:8],
    }


def _check_groups(words: list[Label], names: Sequence[str], scores: Scoring) -> None:
    if not any(word.group for word in words):
        raise InputError("--by group: no label has a group; write `group: NAME` for some in a --labels-file")
    if len(set(names)) == 1 and not scores.multi_label:
        raise InputError(f"--by group: all labels are in group {names[0]!r}, which has no other to be compared with")
