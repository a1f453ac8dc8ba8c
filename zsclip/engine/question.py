"""What is asked of every picture: labels and sentences, what competes with them, and the rule. No picture is read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier, build_classifier, check_words
from zsclip.answers.heads import Head
from zsclip.answers.scores import Rule
from zsclip.engine.options import Scoring
from zsclip.errors import InputError
from zsclip.kept.cache import fingerprint
from zsclip.measure.calibration import Calibration, check_made_with, read_calibration
from zsclip.measure.examples import Examples, read_examples, with_examples
from zsclip.measure.headfile import check_model, read_head
from zsclip.models.embed import Embedded
from zsclip.models.encoder import Encoder
from zsclip.pictures.remote import Network
from zsclip.words.expected import read_shares
from zsclip.words.labels import COMMON, Label, read_labels
from zsclip.words.prompts import PromptSet, read_prompts
from zsclip.words.textfiles import comparable
from zsclip.words.words import Words, expand, with_distractors


@dataclass(frozen=True)
class Question:
    """What is asked of every picture.

    learnt: the calibration, where there is one. head: what was learnt from examples, once it was.
    examples: those that must be learnt from before the question can be answered.
    """

    words: Words
    learnt: Calibration | None
    scores: Scoring
    head: Head | None = None
    examples: Examples | None = None

    @property
    def model(self) -> str | None:
        """The name of the model of the teachers."""
        return Teachers(self.learnt, self.head).model


@dataclass(frozen=True)
class Teachers:
    """What answers are learnt from besides words: a calibration, a head, or examples."""

    learnt: Calibration | None = None
    head: Head | None = None
    examples: Examples | None = None

    @property
    def model(self) -> str | None:
        """The name of the model that the head, or else the calibration, was made with."""
        made = self.head or self.learnt
        return None if made is None else made.model

    @property
    def brings_labels(self) -> bool:
        """Whether labels need not be given, as the calibration or the head has its own."""
        return self.learnt is not None or self.head is not None


def read_teachers(
    scores: Scoring, note: Callable[[str], None] = lambda message: None, network: Network | None = None
) -> Teachers:
    """Read the calibration and the head, and find the examples, as far as they were given.

    Args:
        note: called with one line about everything among the examples that is skipped.

    Raises:
        InputError: one cannot be read, or is something else.
    """
    head = None if scores.head is None else read_head(scores.head)
    examples = None
    if scores.has_examples:
        examples = read_examples(scores.examples, scores.example, note=note, network=network)
    return Teachers(read_learnt(scores), head, examples)


def read_learnt(scores: Scoring) -> Calibration | None:
    """Read the calibration if one was given.

    Raises:
        InputError: it cannot be read, or is not a calibration.
    """
    return None if scores.calibration is None else read_calibration(scores.calibration)


def read_question(
    labels: Sequence[Label] | None, sentences: PromptSet | None, scores: Scoring, teachers: Teachers
) -> Question:
    """Check groups and read distractors; no model is needed for that.

    Args:
        labels, sentences: as they were given; None takes those of the head, the calibration or the examples.
        teachers: as `read_teachers` gives it.

    Raises:
        InputError: there are no labels, or something does not fit.
    """
    learnt, head = teachers.learnt, teachers.head
    if head is not None:
        if labels or sentences:
            what = "labels" if labels else "prompts"
            raise InputError(f"--head: has its own {what}; leave out yours, or learn again with them")
        labels, sentences = head.words, head.sentences
    elif learnt is not None:
        labels, sentences = labels or learnt.words, sentences or learnt.sentences
    if teachers.examples is not None:
        labels = with_examples(labels or (), teachers.examples)
    labels = labels or read_labels()  # raises, as there are none
    words = expand(labels, sentences or read_prompts("photo"))
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
    question = Question(words, learnt, scores, head, teachers.examples)
    if scores.expect is not None:
        expected_shares(question)  # checks the file
    return question


def rule_of(question: Question, encoder: Encoder) -> Rule:
    """Give the rule by which scores become answers, with what a calibration of this model and these labels learnt.

    Raises:
        InputError: two labels are the same text to this model, or the head or the calibration is for others.
    """
    check_words(question.words, encoder)
    scores, learnt, head = question.scores, question.learnt, question.head
    made = made_with(question.words, encoder, head)
    if head is not None:
        check_model(head, f"--head {scores.head}", made, encoder.embed_dim)
    rule = Rule(scores.top_k, scores.threshold, scores.multi_label)
    if learnt is None:
        return rule
    file = scores.calibration or ""
    check_made_with(learnt, file, made)
    if question.words.groups and learnt.thresholds and scores.threshold is None:
        raise InputError(f"{file}: has thresholds for labels, not groups; calibrate without --per-label")
    rule = replace(rule, temperature=learnt.temperature)
    if scores.threshold is None:
        learnt_for = {comparable(label): threshold for label, threshold in learnt.thresholds.items()}
        names = [name for name in question.words.names if comparable(name) in learnt_for]
        thresholds = {name: learnt_for[comparable(name)] for name in names}
        rule = replace(rule, threshold=learnt.threshold, thresholds=thresholds)
    return rule


def classifier_of(
    question: Question, encoder: Encoder, progress: Callable[[int, int], None] = lambda done, total: None
) -> Classifier:
    """Give the head as a classifier, or the text matrix; see `build_classifier`."""
    assert question.examples is None
    if question.head is not None:
        return question.head.classifier(question.words.groups)
    return build_classifier(question.words, encoder, multi_label=question.scores.multi_label, progress=progress)


def answering_all(question: Question, classifier: Classifier, batches: Iterable[Embedded]) -> Classifier:
    """Give what answers with all pictures in mind, where the question asks for that.

    Args:
        classifier: what answers each by itself. batches: all pictures.

    Raises:
        InputError: the file of --expect cannot be used.
    """
    from zsclip.answers.second_pass import informed
    from zsclip.answers.shares import corrected

    if question.scores.transductive:
        return informed(classifier, batches)
    return corrected(classifier, batches, expected_shares(question))


def expected_shares(question: Question) -> NDArray[np.float64] | None:
    """Give the share of each label that is expected; None if only few of them are.

    Raises:
        InputError: the file of --expect cannot be used.
    """
    expect, names = question.scores.expect or "", question.words.names
    if expect == "few":
        return None
    shares = [1 / len(names)] * len(names) if expect == "balanced" else read_shares(expect, names)
    return np.array(shares, np.float64)


def made_with(words: Words, encoder: Encoder, head: Head | None = None) -> dict[str, str]:
    """Name the model, labels, prompts and head that a calibration is valid for; the device does not matter."""
    spec, names = encoder.spec, sorted(map(comparable, words.names))
    return {
        "model": f"{spec.name}, {fingerprint(spec.recipe, asdict(spec.preprocess))[:8]}",
        "label list": f"{len(names)} labels, {fingerprint(names)[:8]}",
        "prompts": words.fingerprint[:8],
    } | ({} if head is None else {"head": head.fingerprint[:8]})


def _groups(labels: Sequence[Label]) -> tuple[str, ...]:
    if not any(label.group for label in labels):
        raise InputError("--by group: no label has a group; write `group: NAME` for some in a --labels-file")
    names = [label.group or label.name for label in labels]
    spelt: dict[str, str] = {}
    return tuple(spelt.setdefault(comparable(name), name) for name in names)
