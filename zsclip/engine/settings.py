"""The settings that rows depend on, in words and digests, for the message that says what changed."""

from dataclasses import asdict

from zsclip.engine.options import Computing
from zsclip.engine.question import Question
from zsclip.kept.cache import fingerprint
from zsclip.models.encoder import Encoder
from zsclip.words.words import Words


def settings_of(question: Question, encoder: Encoder, model: str, computing: Computing) -> dict[str, object]:
    """Give the settings that the answers to a question depend on, for the journal of a run."""
    words, scores, learnt = question.words, question.scores, question.learnt
    named = scores.distractors or ("of the calibration" if learnt is not None else "common")
    return _of_words(words, encoder, model, computing.compile) | {
        "batch-size": computing.batch_size, "top-k": scores.top_k, "threshold": scores.threshold,
        "multi-label": scores.multi_label, "only": list(scores.only), "fast-jpeg": computing.fast_jpeg,
        "max-pixels": computing.max_pixels, "by": digested(scores.by, words.groups) if words.groups else scores.by,
        "calibration": None if learnt is None else digested(scores.calibration, asdict(learnt)),
        "distractors": digested(named, words.distractors) if words.distractors else None,
    } | _of_head(question)  # fmt: skip


def _of_head(question: Question) -> dict[str, object]:
    head, scores = question.head, question.scores
    given = scores.head or ", ".join([*scores.examples, *scores.example])
    return ({} if head is None else {"head": digested(given, head.fingerprint)}) | (
        {name: value for name in ("expect", "suggest") if (value := getattr(scores, name)) is not None}
        | ({"transductive": True} if scores.transductive else {})
    )


def _of_words(words: Words, encoder: Encoder, model: str, compiled: bool) -> dict[str, object]:
    from importlib.metadata import version  # takes 10 ms to import

    spec, sentences = encoder.spec, words.sentences
    of_model = (spec.image_recipe("cpu", "fp32", False, False), spec.text_recipe("cpu"))
    return {
        "labels": digested(list(words.names), [[label.name, label.synonyms, label.prompts] for label in words.labels]),
        "prompts": digested(
            list(sentences.templates) if sentences.source == "--template" else sentences.name,
            [sentences.templates, dict(sentences.prompts)],
        ),
        "model": digested(model, of_model),
        "runtime": encoder.runtime,
        "device": encoder.device,
        "precision": encoder.precision,
        "compile": compiled,
        "version of zsclip": version("zsclip"),
        "version of torch": version("torch"),
        "version of open_clip": version("open_clip_torch"),
        "version of Pillow": version("pillow"),
    }


def digested(shown: object, *about: object) -> dict[str, object]:
    """Give a setting with a short text to show and a digest to compare."""
    return {"is": shown, "digest": fingerprint(*about)[:16]}
