"""What pictures are compared with: labels and what competes with them, each with the sentences it becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from unicodedata import normalize

from zsclip.kept.cache import fingerprint
from zsclip.words.labels import Label, read_distractors
from zsclip.words.prompts import PromptSet
from zsclip.words.textfiles import PLACEHOLDERS, comparable

_NEUTRAL = Label("something")


@dataclass(frozen=True)
class Words:
    """What pictures are compared with.

    labels, prompts: C labels, and the prompts of each. sentences: the set that the labels were put into.
    neutral: the prompts of the neutral word that each label is compared with when labels are scored by themselves.
    groups: C names, the group that each label is reported as; None reports labels.
    distractors: the prompts of words that only compete, by name.
    """

    labels: tuple[Label, ...]
    prompts: tuple[tuple[str, ...], ...]
    sentences: PromptSet
    neutral: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    distractors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(label.name for label in self.labels)

    @property
    def answers(self) -> tuple[str, ...]:
        """What each label is reported as: itself or its group."""
        return self.groups or self.names

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all prompts of the labels, in whatever order the labels are."""
        by_name = sorted(zip(map(comparable, self.names), self.prompts, strict=True))
        return fingerprint([*(prompts for _, prompts in by_name), self.neutral])


def expand(labels: Sequence[Label], sentences: PromptSet) -> Words:
    """Put labels into sentences.

    A label's own prompts are used if there are any, else the set's prompts for it, else the templates; each name of
    the label is put into all of them. A sentence that is repeated for the same label is left out, so that it counts
    once in the label's mean. Sentences are in Unicode's composed form, as some tokenizers cut up the other one.
    """
    *prompts, neutral = (_prompts_of(label, sentences) for label in (*labels, _NEUTRAL))
    return Words(tuple(labels), tuple(prompts), sentences, neutral)


def with_distractors(words: Words, file: str | None) -> Words:
    """Let the words of a file compete, or the common ones; None adds none."""
    if file is None:
        return words
    others = expand(read_distractors(words.labels, file), words.sentences)
    return replace(words, distractors=dict(zip(others.names, others.prompts, strict=True)))


def fill_template(template: str, name: str) -> str:
    """Put a label into a template; one without a placeholder stays as it is."""
    for placeholder in PLACEHOLDERS:
        if placeholder in template:
            return template.replace(placeholder, name)  # not str.format, as a label may contain braces
    return template


def _prompts_of(label: Label, sentences: PromptSet) -> tuple[str, ...]:
    templates = label.prompts or sentences.templates_for(label.name)
    names = (label.name, *label.synonyms)
    filled = (fill_template(template, name) for name in names for template in templates)
    return tuple(dict.fromkeys(normalize("NFC", prompt) for prompt in filled))
