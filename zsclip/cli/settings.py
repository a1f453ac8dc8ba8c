"""The settings that rows and calibrations depend on, in words and digests, for the message that says what changed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsclip.models.encoder import Encoder
    from zsclip.words.words import Words


def row_settings(words: "Words", encoder: "Encoder", model: str, compiled: bool) -> dict[str, object]:
    """Give the settings that the answers of a run depend on."""
    from importlib.metadata import version

    spec, sentences = encoder.spec, words.sentences
    of_model = (spec.image_recipe("cpu", "fp32", False, False), spec.text_recipe("cpu"))
    ours = {} if encoder.runtime == "torch" else {"runtime": encoder.runtime}  # torch came first, without a name
    return ours | {
        "labels": digested(list(words.names), [[label.name, label.synonyms, label.prompts] for label in words.labels]),
        "prompts": digested(
            list(sentences.templates) if sentences.source == "--template" else sentences.name,
            [sentences.templates, dict(sentences.prompts)],
        ),
        "model": digested(model, of_model),
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
    from zsclip.kept.cache import fingerprint

    return {"is": shown, "digest": fingerprint(*about)[:16]}
