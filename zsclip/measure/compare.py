"""Compare classifiers on the same labelled pictures: which is better, and whether that could be chance."""

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
from zsclip.words.words import Words, expand

if TYPE_CHECKING:
    from zsclip.models.encoder import Encoder

_SHORT_HEADS = {"balanced accuracy": "balanced", "calibration error": "calibration"}  # a line is 80 columns wide


@dataclass(frozen=True)
class Compared:
    """The results of one variant.

    figures: by metric. gain: in top-1 over the first variant; None for the first itself.
    """

    name: str
    figures: Mapping[str, Figure]
    gain: Figure | None


@dataclass(frozen=True)
class TemplateGain:
    """The effect of one template of a set.

    alone: its top-1 alone. gain: top-1 of the whole set minus that of the set without it.
    """

    template: str
    alone: float
    gain: Figure


def judged_by(embedded: Iterable[Embedded], truths: Iterable[str], classifier: Classifier) -> Judged:
    """Classify encoded pictures, and judge the answers.

    Args:
        truths: the true label of each picture, failed ones included.

    Raises:
        InputError: none of the pictures could be read.
    """
    judged: list[Judged] = []
    answers = classify(embedded, classifier, Rule(BEST))
    deque(judge(answers, truths, classifier.labels, judged), maxlen=0)
    if not any(len(part.truth) for part in judged):
        raise InputError("data: none of the images could be read; `zsclip eval --rows FILE` says why")
    return joined(judged)


def compare(variants: Sequence[tuple[str, Judged]], *, resamples: int = RESAMPLES, seed: int = 0) -> list[Compared]:
    """Compare each variant with the first, picture by picture.

    Args:
        variants: names, and the judged answers to the same pictures in the same order.
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
    words: Words, model: "Encoder", judged: Callable[[Classifier], Judged], *, resamples: int = RESAMPLES
) -> list[TemplateGain]:
    """Measure the effect of each template of a set, alone and among the others. Every prompt is encoded once.

    Args:
        judged: classifies the pictures and judges the answers.

    Raises:
        InputError: the set has only one template.
    """
    sentences = words.sentences
    if len(sentences.templates) < 2:
        raise InputError(f"--each-template: {sentences.name!r} has one template; give a set with more")
    prompts = list(dict.fromkeys(prompt for some in words.prompts for prompt in some))
    encoded = model.encode_text(prompts)  # (N, D)
    places = {prompt: place for place, prompt in enumerate(prompts)}

    def judged_with(templates: Iterable[str]) -> Judged:
        per_label = expand(words.labels, replace(sentences, templates=tuple(templates))).prompts
        rows = encoded[[places[prompt] for some in per_label for prompt in some]]
        matrix = class_embeddings(rows, [len(some) for some in per_label])
        return judged(Classifier(words.names, matrix, None, model.logit_scale, model.logit_bias, ()))

    whole = judged_with(sentences.templates)
    return [
        TemplateGain(
            template,
            top1(judged_with([template])),
            gain(whole, judged_with(one for one in sentences.templates if one != template), resamples=resamples),
        )
        for template in sentences.templates
    ]


def comparison_lines(compared: Sequence[Compared]) -> list[str]:
    """Format two tables that fit 80 columns: the metrics of each variant, and its gain over the first."""
    first, *others = compared
    heads = [_SHORT_HEADS.get(name, name) for name in first.figures]
    widths = [max(6, len(head)) for head in heads]
    room = 80 - sum(2 + width for width in widths)
    left = min(room, max(len(escaped(each.name)) for each in compared))
    lines = [" " * left + "".join(f"  {head:>{width}}" for head, width in zip(heads, widths, strict=True))]
    for each in compared:
        values = zip(each.figures.values(), widths, strict=True)
        lines += _named(each.name, left, "".join(f"  {figure.value:>{width}.1%}" for figure, width in values))
    lines += ["", f"top-1 compared with {escaped(first.name)}, in percentage points"]
    for each in others:
        lines += _named(each.name, left, f"  {_gained(each.gain)}" if each.gain else "")
    return lines


def template_lines(gains: Sequence[TemplateGain]) -> list[str]:
    """Format a line for each template, the most helpful first."""
    lines = [f"alone   {'what it adds to the set':<28}  template"]
    for each in sorted(gains, key=lambda each: -each.gain.value):
        lines.append(f"{each.alone:>6.1%}  {_gained(each.gain, 'helps', 'hurts'):<28}  {escaped(each.template)}")
    return lines


def _named(name: str, width: int, rest: str) -> list[str]:
    """Put a name before the rest of its line, or on a line of its own if it is too long."""
    name = escaped(name)
    return [f"{name:<{width}}{rest}"] if len(name) <= width else [name, " " * width + rest]


def _gained(gain: Figure, better: str = "better", worse: str = "worse") -> str:
    verdict = better if gain.low > 0 else worse if gain.high < 0 else "unclear"
    return f"{100 * gain.value:+5.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}) {verdict}"
