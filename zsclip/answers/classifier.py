"""Words -> text matrix, built once, kept on disk label by label."""

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from zsclip.answers.scores import Matrix
from zsclip.errors import InputError
from zsclip.kept.cache import fingerprint, read_rows, write_rows
from zsclip.words.doubts import doubts
from zsclip.words.labels import in_other_scripts
from zsclip.words.textfiles import listed
from zsclip.words.words import Words

if TYPE_CHECKING:
    from zsclip.models.encoder import Encoder

_SHOWN = 60  # characters of a label or prompt in a message
_PROMPTS_A_ROUND = 2048  # encoded, then kept: a killed build continues after the last round


@dataclass(frozen=True)
class Classifier:
    """Labels and their directions in the embedding space.

    class_embeddings: (C + K, D) float32, rows of length 1; row i belongs to labels[i]. The last K are distractors:
    words that only compete; where one of them is best, no label is the answer.
    neutral_embedding: (1, D) likewise; what each label, scored by itself, is compared with; None if not needed.
    cut: prompts that were longer than the model's context.
    groups: C names, the group that each label is reported as; None reports labels.
    distractors: the names of the last K rows.
    weights, biases: (C, D) and (C,) float32, what decides instead of cosines, learnt from examples; else None.
    is_corrected: whether biases also correct for the shares of labels.
    first: what answered in the first pass, if this is for a second one; None otherwise.
    """

    labels: tuple[str, ...]
    class_embeddings: Matrix
    neutral_embedding: Matrix | None
    logit_scale: float
    logit_bias: float | None
    cut: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    distractors: tuple[str, ...] = ()
    weights: Matrix | None = None
    biases: Matrix | None = None
    is_corrected: bool = False
    first: "Classifier | None" = None

    @property
    def is_learnt(self) -> bool:
        """Whether examples were learnt from."""
        return self.weights is not None


def check_words(words: Words, encoder: "Encoder") -> None:
    """Refuse two labels that the model reads as the same text, as they always score the same; no weights are loaded.

    Raises:
        InputError: there are two.
    """
    for first, name, why in same_texts(words, encoder):
        raise InputError(
            f"labels: {shortened(first)!r} and {shortened(name)!r} are the same text to {encoder.spec.name}{why}; "
            "remove one of the two, or make it a synonym of the other"
        )


def same_texts(words: Words, encoder: "Encoder") -> Iterator[tuple[str, str, str]]:
    """Yield pairs of labels that the model reads as the same text; no weights are loaded.

    Yields:
        the first of the labels that are alike, another, and why if it is not obvious, to append to the model's name.
    """
    tokenizer = encoder.spec.tokenizer
    alike, begin_alike = dict[str, list[int]](), dict[str, list[int]]()
    for place, (prompt, *_) in enumerate(words.prompts):
        text = prompt if prompt.isascii() else tokenizer.cleaned(prompt)  # which mends what was decoded wrongly
        letters = _letters(text)
        alike.setdefault(letters, []).append(place)
        if len(text.encode()) > tokenizer.context_length:  # a shorter text fits the context for certain
            begin_alike.setdefault(letters[: tokenizer.context_length // 2], []).append(place)
    found = set()
    for first, name in _same(words, alike.values(), tokenizer.cleaned):
        found.add(name)
        yield first, name, ""
    begin_alike = {letters: places for letters, places in begin_alike.items() if len(places) > 1}
    if begin_alike:  # seldom, and only then is the tokenizer needed
        read, cut = _tokens_of(encoder), dict[Hashable, list[int]]()
        for place in chain.from_iterable(begin_alike.values()):
            cut.setdefault(read(words.prompts[place][0]), []).append(place)
        for first, name in _same(words, cut.values(), read):
            if name not in found:
                yield first, name, f", which cuts both after {tokenizer.context_length} tokens"


def _same(words: Words, alike: Iterable[Sequence[int]], read: Callable[[str], Hashable]) -> Iterator[tuple[str, str]]:
    """Yield the labels of each group whose prompts are all the same to `read`, after the first of them."""
    for places in alike:
        known: dict[tuple[Hashable, ...], str] = {}
        for place in places if len(places) > 1 else ():
            text, name = tuple(map(read, words.prompts[place])), words.names[place]
            first = known.setdefault(text, name)
            if first is not name:
                yield first, name


def shortened(name: str) -> str:
    """Shorten a long label in a message; two that the model cuts differ near the end."""
    return name if len(name) <= _SHOWN else f"...{name[-_SHOWN:]}"


def _tokens_of(encoder: "Encoder") -> Callable[[str], Hashable]:
    """Give a function from a prompt to the tokens that the model sees of it."""
    from zsclip.models.tokens import load_tokens

    tokens = load_tokens(encoder.spec)
    return lambda prompt: tuple(tokens([prompt])[0].tolist())


def build_classifier(
    words: Words,
    model: "Encoder",
    *,
    multi_label: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Classifier:
    """Embed every word; embeddings that are in the cache are read from there.

    Args:
        words: C labels and K distractors.
        multi_label: whether labels are scored one by one, which needs the neutral word if the model has no bias.
        progress: called with the number of prompts encoded so far, and of all.
    """
    classes = [*words.prompts, *words.distractors.values()]
    neutral = [words.neutral] if multi_label and model.logit_bias is None else []
    embeddings, cut = _embed([*classes, *neutral], model, progress)  # (C + K, D), one row more with the neutral word
    return Classifier(
        labels=words.names,
        class_embeddings=embeddings[: len(classes)],
        neutral_embedding=embeddings[len(classes) :] if neutral else None,
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
        cut=tuple(cut),
        groups=words.groups,
        distractors=tuple(words.distractors),
    )


def notes(words: Words, cut: Sequence[str], encoder: "Encoder") -> Iterator[str]:
    """Yield a note about each thing in labels and prompts that may not be what the user meant.

    Args:
        cut: the prompts that are longer than the model's context.
    """
    spec = encoder.spec
    if cut:
        shown = [prompt if len(prompt) <= _SHOWN else f"{prompt[: _SHOWN - 3]}..." for prompt in cut]
        limit = spec.tokenizer.context_length
        yield f"prompts longer than the model's {limit} tokens were cut: {listed(shown, 1)}; shorten them"
    yield from doubts(words.labels)
    unread = [] if spec.reads_any_script else in_other_scripts(words.names)
    if unread:
        yield f"{spec.name} was trained on English and may not know {listed(unread)}; use --model multilingual"


def class_embeddings(prompt_embeddings: Matrix, prompts_per_class: Sequence[int]) -> Matrix:
    """Average each class's prompts into one direction.

    Args:
        prompt_embeddings: (N, D) float32, rows of length 1; all prompts of class 0, then of class 1, and so on.
        prompts_per_class: C counts that sum to N; classes may have different numbers of prompts.

    Returns:
        (C, D) float32, rows of length 1.

    Source: Radford et al. 2021, section 3.1.4 (prompt ensembling over the embedding space).
    """
    parts = np.split(prompt_embeddings, np.cumsum(prompts_per_class)[:-1])
    means = np.stack([rows.mean(axis=0) for rows in parts])
    return means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)


def embed_sentences(
    sentences: Sequence[str],
    model: "Encoder",
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Matrix, list[str]]:
    """Embed sentences as they are; embeddings that are in the cache are read from there.

    Returns:
        (N, D) float32, rows of length 1; and the sentences that were longer than the model's context.
    """
    if not sentences:
        return np.empty((0, model.embed_dim), np.float32), []
    return _embed([[sentence] for sentence in sentences], model, progress)


def _embed(
    prompts: Sequence[Sequence[str]], model: "Encoder", progress: Callable[[int, int], None]
) -> tuple[Matrix, list[str]]:
    """Give (C, D) float32 rows of length 1, and the prompts that were cut."""
    recipe = model.text_recipe
    keys = [fingerprint(recipe, list(sentences)) for sentences in prompts]
    rows = {key: value for key, value in read_rows("text", keys).items() if _is_whole(value, model.embed_dim)}
    missing = {key: sentences for key, sentences in zip(keys, prompts, strict=True) if key not in rows}
    total, done = sum(map(len, missing.values())), 0
    for some in _rounds(missing):
        progress(done, total)
        fresh = _encode(some, model)
        write_rows("text", fresh)
        rows.update(fresh)
        done += sum(map(len, some.values()))
    progress(done, total)
    width = 4 * model.embed_dim
    embeddings = np.frombuffer(b"".join(rows[key][:width] for key in keys), dtype="<f4").reshape(len(keys), -1).copy()
    cut = [
        prompt
        for key, sentences in zip(keys, prompts, strict=True)
        if any(rows[key][width:])
        for prompt, was_cut in zip(sentences, rows[key][width:], strict=True)
        if was_cut
    ]
    return embeddings, list(dict.fromkeys(cut))


def _encode(prompts: dict[str, Sequence[str]], model: "Encoder") -> dict[str, bytes]:
    """Encode labels' prompts into rows for the cache: D float32, then one byte per prompt: whether it was cut."""
    flat = [prompt for sentences in prompts.values() for prompt in sentences]
    counts = [len(sentences) for sentences in prompts.values()]
    embeddings = class_embeddings(model.encode_text(flat), counts).astype("<f4")
    cut = [count > model.spec.tokenizer.context_length for count in model.token_counts(flat)]
    rows, start = {}, 0
    for key, embedding, count in zip(prompts, embeddings, counts, strict=True):
        rows[key] = embedding.tobytes() + bytes(cut[start : start + count])
        start += count
    return rows


def _letters(text: str) -> str:
    """Leave only letters and digits, without case and accents: if they differ, so do the tokens of any tokenizer."""
    if "&" in text:
        import html

        text = html.unescape(text)
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKD", text).casefold())


def _rounds(prompts: dict[str, Sequence[str]]) -> Iterator[dict[str, Sequence[str]]]:
    some: dict[str, Sequence[str]] = {}
    for key, sentences in prompts.items():
        some[key] = sentences
        if sum(map(len, some.values())) >= _PROMPTS_A_ROUND:
            yield some
            some = {}
    if some:
        yield some


def _is_whole(row: bytes, embed_dim: int) -> bool:
    return len(row) > 4 * embed_dim
