"""What commands do alike: look up, decode and encode pictures, make the text matrix, and report how a run went."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zsclip.cli.terminal import Tally, is_terminal, listed, prompts_bar, say

if TYPE_CHECKING:
    from zsclip.answers.classifier import Classifier
    from zsclip.kept.store import EmbeddingStore
    from zsclip.models.embed import Embedded
    from zsclip.models.encoder import Encoder
    from zsclip.pictures.pictures import Pictures
    from zsclip.pixels.limits import Decoding
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet


@contextmanager
def opened_store(encoder: "Encoder", decoding: "Decoding", no_store: bool) -> "Iterator[EmbeddingStore | None]":
    """Open the store for a run, or give None where it is not to be used; close it at the end."""
    if no_store:
        yield None
        return
    from zsclip.kept.store import EmbeddingStore

    recipe = encoder.image_recipe(decoding.fast_jpeg)
    store = EmbeddingStore(recipe, encoder.spec.name, encoder.embed_dim, max_pixels=decoding.max_pixels)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def embedding(
    pictures: "Iterable[Pictures]",
    encoder: "Encoder",
    decoding: "Decoding",
    no_store: bool,
    batch_size: int | None,
    threads: int,
) -> "Iterator[tuple[Iterator[Embedded], EmbeddingStore | None]]":
    """Begin to look up and decode, load the model beside that if the first picture is not known, and give batches."""
    from zsclip.models.embed import Pixels, embed_images, look_ahead

    preprocess = encoder.spec.preprocess
    with (
        opened_store(encoder, decoding, no_store) as store,
        look_ahead(pictures, preprocess, decoding, store, batch_size=batch_size, threads=threads) as ahead,
    ):
        if store is None or isinstance(ahead.begins_with(), Pixels | None):
            encoder.load()  # takes a second or two, while pictures are decoded
        yield embed_images(ahead.batches(batch_size or encoder.batch_size), encoder, store), store


def build_text_matrix(
    words: "list[Label]",
    sentences: "PromptSet",
    clip: "Encoder",
    multi_label: bool,
    quiet: bool,
    distractors: Mapping[str, Sequence[str]] | None = None,
) -> "Classifier":
    """Make the text matrix, and tell what was cut or may not be understood."""
    from zsclip.answers.classifier import build_classifier
    from zsclip.words.labels import Label, in_other_scripts
    from zsclip.words.prompts import expand

    neutral = expand([Label("something")], sentences)[0] if multi_label and clip.logit_bias is None else ()
    with prompts_bar(shows_progress(quiet)) as progress:
        classifier = build_classifier(
            [word.name for word in words],
            expand(words, sentences),
            clip,
            neutral_prompts=neutral,
            distractors=distractors,
            progress=progress,
        )
    if quiet:
        return classifier
    if classifier.cut:
        limit = clip.spec.tokenizer.context_length
        say(f"zsclip: prompts longer than the model's {limit} tokens were cut: {listed(classifier.cut)}; shorten them")
    unread = [] if clip.spec.reads_any_script else in_other_scripts(classifier.labels)
    if unread:
        say(f"zsclip: {clip.spec.name} was trained on English: {listed(unread)}; --model multilingual reads more")
    return classifier


def row_settings(
    words: "list[Label]", sentences: "PromptSet", encoder: "Encoder", model: str, compiled: bool
) -> dict[str, object]:
    """Give the settings that rows depend on, in words for the message that says what changed."""
    from importlib.metadata import version

    spec = encoder.spec
    of_model = (spec.image_recipe("cpu", "fp32", False, False), spec.text_recipe("cpu"))
    return {
        "labels": digested([word.name for word in words], [[word.name, word.synonyms, word.prompts] for word in words]),
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
    """Give a setting that is shown as one thing and compared by all that it is about."""
    from zsclip.kept.cache import fingerprint

    return {"is": shown, "digest": fingerprint(*about)[:16]}


def made_with(words: "list[Label]", sentences: "PromptSet", encoder: "Encoder") -> dict[str, str]:
    """What a calibration holds for, on whatever device."""
    from dataclasses import asdict

    from zsclip.kept.cache import fingerprint
    from zsclip.words.labels import Label
    from zsclip.words.prompts import expand

    spec = encoder.spec
    words = sorted(words, key=lambda word: word.name)
    names = [word.name for word in words]
    return {
        "model": f"{spec.name}, {fingerprint(spec.recipe, asdict(spec.preprocess))[:8]}",
        "label list": f"{len(names)} labels, {fingerprint(names)[:8]}",
        "prompts": fingerprint(expand([*words, Label("something")], sentences))[:8],
    }


def report_run(tally: Tally, store: "EmbeddingStore | None", quiet: bool, pages: Sequence[str | None] = ()) -> int:
    """Write the summary of a run to stderr, and give its exit code."""
    if not quiet:
        sizes = [f"{page}: {os.path.getsize(page) / 1e6:.1f} MB" for page in pages if page is not None]
        for line in (*tally.summary(), *store_lines(store), *sizes):
            say(line)
    return tally.exit_code


def store_lines(store: "EmbeddingStore | None") -> list[str]:
    """Say how many embeddings were kept, where, and how to keep none."""
    from zsclip.kept.cache import cache_dir
    from zsclip.kept.storefile import MAX_BYTES, size_on_disk

    if store is None or not (store.read or store.kept):
        return []
    size = f"{size_on_disk() / 1e6:.1f} MB of at most {MAX_BYTES / 1e6:,.0f} in {cache_dir()}"
    return [f"embeddings: {store.read:,} read, {store.kept:,} kept; {size}; --no-store keeps none"]


def notes(quiet: bool) -> Callable[[str], None]:
    """Give a function that writes a note to stderr, unless the run is quiet."""
    return (lambda message: None) if quiet else (lambda message: say(f"zsclip: {message}"))


def note_if_few(pictures: int, quiet: bool) -> None:
    """Warn that few pictures measure little."""
    from zsclip.measure.metrics import FEW

    if pictures < FEW and not quiet:
        say(f"zsclip: {pictures} pictures are few: what is measured on them may be far off; give {FEW} or more")


def shows_progress(quiet: bool) -> bool:
    """Tell whether progress is to be shown: only a person at a terminal sees it."""
    return not quiet and is_terminal(sys.stderr)


def drain(batches: Iterable[object], out: object = None) -> None:
    """Run batches through to their end, and write nothing."""
    deque(batches, maxlen=0)
