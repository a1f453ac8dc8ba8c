"""Several classifiers on the same labelled pictures: which is better, and whether that is more than chance."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zsclip.answers.classifier import Classifier, class_embeddings
from zsclip.answers.classify import classify
from zsclip.answers.scores import Rule
from zsclip.errors import InputError
from zsclip.measure.evaluate import BEST, judge
from zsclip.measure.metrics import RESAMPLES, Figure, Judged, figures, gain, joined, top1
from zsclip.models.embed import Embedded
from zsclip.out.text import escaped
from zsclip.words.labels import Label
from zsclip.words.prompts import PromptSet, expand

if TYPE_CHECKING:
    from zsclip.models.encoder import Encoder


@dataclass(frozen=True)
class Compared:
    """How one of several fares.

    figures: by name of the metric. gain: in top-1 over the first of them; None of the first itself.
    """

    name: str
    figures: Mapping[str, Figure]
    gain: Figure | None


@dataclass(frozen=True)
class TemplateGain:
    """What one template of a set does.

    alone: top-1 of it alone. gain: in top-1 of the whole set over the set without it.
    """

    template: str
    alone: float
    gain: Figure


def judged_by(embedded: Iterable[Embedded], truths: Iterable[str], classifier: Classifier) -> Judged:
    """Answer pictures that are encoded already, and judge the answers.

    Args:
        truths: the label of each picture, failed ones too.

    Raises:
        InputError: not one picture could be read.
    """
    judged: list[Judged] = []
    answers = classify(embedded, classifier, Rule(BEST))
    deque(judge(answers, truths, classifier.labels, judged), maxlen=0)
    if not any(len(part.truth) for part in judged):
        raise InputError("data: not one picture could be read; `zsclip eval --rows FILE` tells why")
    return joined(judged)


def compare(variants: Sequence[tuple[str, Judged]], *, resamples: int = RESAMPLES, seed: int = 0) -> list[Compared]:
    """Hold each against the first, picture by picture.

    Args:
        variants: names, and what was judged of the same pictures in the same order.
    """
    (_, first), *_ = variants
    return [
        Compared(
            name,
            figures(judged, resamples=resamples, seed=seed),
            None if place == 0 else gain(judged, first, resamples=resamples, seed=seed),
        )
        for place, (name, judged) in enumerate(variants)
    ]


def template_gains(
    labels: Sequence[Label],
    prompts: PromptSet,
    model: "Encoder",
    judged: Callable[[Classifier], Judged],
    *,
    resamples: int = RESAMPLES,
) -> list[TemplateGain]:
    """Tell what each template of a set does, alone and among the others. Every prompt is encoded once.

    Args:
        judged: answers and judges the pictures.

    Raises:
        InputError: the set has but one template.
    """
    if len(prompts.templates) < 2:
        raise InputError(f"--templates: {prompts.name!r} has one template; give a set with more")
    sentences = list(dict.fromkeys(sentence for some in expand(labels, prompts) for sentence in some))
    encoded = model.encode_text(sentences).numpy()  # (N, D)
    places = {sentence: place for place, sentence in enumerate(sentences)}

    def judged_with(templates: Iterable[str]) -> Judged:
        per_label = expand(labels, replace(prompts, templates=tuple(templates)))
        rows = encoded[[places[sentence] for some in per_label for sentence in some]]
        matrix = class_embeddings(rows, [len(some) for some in per_label])
        names = tuple(label.name for label in labels)
        return judged(Classifier(names, matrix, None, model.logit_scale, model.logit_bias, ()))

    whole = judged_with(prompts.templates)
    return [
        TemplateGain(
            template,
            top1(judged_with([template])),
            gain(whole, judged_with(one for one in prompts.templates if one != template), resamples=resamples),
        )
        for template in prompts.templates
    ]


def comparison_lines(compared: Sequence[Compared]) -> list[str]:
    """Give a table: a line for each, with its gain over the first."""
    width = max(len(escaped(each.name)) for each in compared)
    metrics = list(compared[0].figures)
    heads = [f"{name:>{max(9, len(name))}}" for name in metrics]
    lines = [f"{'':<{width}}  {'  '.join(heads)}   top-1 against the first"]
    for each in compared:
        cells = [f"{figure.value:>{len(head)}.1%}" for head, figure in zip(heads, each.figures.values(), strict=True)]
        lines.append(f"{escaped(each.name):<{width}}  {'  '.join(cells)}   {_gained(each.gain)}".rstrip())
    return lines


def template_lines(gains: Sequence[TemplateGain]) -> list[str]:
    """Give a line for each template, what helps most first."""
    lines = ["top-1 alone  the set gains by it"]
    for each in sorted(gains, key=lambda each: -each.gain.value):
        lines.append(f"{each.alone:>11.1%}  {_gained(each.gain, 'helps', 'hurts'):<32}  {escaped(each.template)}")
    return lines


def _gained(gain: Figure | None, better: str = "better", worse: str = "worse") -> str:
    if gain is None:
        return ""
    verdict = better if gain.low > 0 else worse if gain.high < 0 else "no telling"
    return f"{100 * gain.value:+5.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}) {verdict}"
