"""Prompts -> tokens without torch and transformers, as open_clip's tokenizers make them."""

import gzip
import importlib.util
import math
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zsclip.errors import ModelError, first_line
from zsclip.models.config import read_json
from zsclip.models.find import tokenizer_folder
from zsclip.models.spec import ModelSpec, Tokenizer

if TYPE_CHECKING:
    import tokenizers

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"  # in open_clip's folder
_MERGES = slice(1, 49152 - 256 - 2 + 1)  # the lines of the file that CLIP uses
_CLEANINGS = ("lower", "canonicalize", "whitespace")
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_ASCII_WORDS = re.compile(rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", re.IGNORECASE)


class Tokens(Protocol):
    """A model's tokenizer."""

    def __call__(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Give (N, context_length) tokens, padded and cut."""
        ...

    def counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens before any are cut, start and end marks included."""
        ...


def load_tokens(spec: ModelSpec) -> Tokens:
    """Build a model's tokenizer; with transformers and torch only if there is no other way.

    Raises:
        ModelError: it needs transformers, or its files are not available.
    """
    tokens = ClipTokens.of(spec.tokenizer) if spec.tokenizer.name is None else FileTokens.of(spec)
    return tokens or OpenClipTokens(spec)


class ClipTokens:
    """CLIP's own tokenizer: byte pairs of lower-case words.

    Source: open_clip/tokenizer.py, `SimpleTokenizer`, which the tests compare it with; importing it imports torch.
    """

    def __init__(self, about: Tokenizer) -> None:
        self._about = about
        self._ids, self._ranks = _byte_pairs()
        self._known: dict[str, list[int]] = {mark: [self._ids[mark]] for mark in (_START, _END)}

    @classmethod
    def of(cls, about: Tokenizer) -> "ClipTokens | None":
        """Give the tokenizer; None if it has arguments that only open_clip knows, or its vocabulary is not there."""
        known = about.arguments.keys() <= {"clean"} and about.arguments.get("clean", "lower") in _CLEANINGS
        try:
            return cls(about) if known else None
        except (OSError, EOFError, ValueError, KeyError):  # another version of open_clip
            return None

    def __call__(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Give (N, context_length) tokens, padded and cut."""
        length = self._about.context_length
        ids = np.zeros((len(prompts), length), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            own = self._encode(prompt)
            if len(own) > length:
                own = [*own[: length - 1], *self._known[_END]]
            row[: len(own)] = own
        return ids

    def counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens before any are cut, start and end marks included."""
        return [len(self._encode(prompt)) for prompt in prompts]

    def _encode(self, prompt: str) -> list[int]:
        text = self._about.as_open_clip_cleans(prompt)
        ids = [*self._known[_START]]
        for word in _words(text):
            if word not in self._known:
                self._known[word] = self._merged(word)
            ids.extend(self._known[word])
        return [*ids, *self._known[_END]]

    def _merged(self, word: str) -> list[int]:
        """Merge the bytes of a word pair by pair, the most frequent pair of the training text first."""
        letters = _letters()
        parts = [letters[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda each: self._ranks.get(" ".join(each), math.inf))
            if " ".join(pair) not in self._ranks:
                break
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == pair:
                    parts[place : place + 2] = ["".join(pair)]
                place += 1
        return [self._ids[part] for part in parts]


class FileTokens:
    """A tokenizer of Hugging Face, read from its `tokenizer.json`."""

    def __init__(self, about: Tokenizer, tokenizer: "tokenizers.Tokenizer", pad: str, separator: int | None) -> None:
        self._about, self._tokenizer, self._pad, self._separator = about, tokenizer, pad, separator

    @classmethod
    def of(cls, spec: ModelSpec) -> "FileTokens | None":
        """Give the tokenizer; None without the library or the file, or if only open_clip knows how to use it."""
        about = spec.tokenizer
        if about.mode or not about.arguments.keys() <= {"clean", "strip_sep_token"}:
            return None
        if importlib.util.find_spec("tokenizers") is None:
            return None
        folder = Path(tokenizer_folder(spec))
        if not (folder / "tokenizer.json").is_file():
            return None
        import tokenizers

        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as e:  # the library raises plain Exception
            raise ModelError(f"{spec.name}: cannot load its tokenizer {about.name!r}: {first_line(e)}") from e
        marks = _marks(spec.name, folder)
        pad, separator = marks.get("pad_token"), marks.get("sep_token")
        strips = bool(about.arguments.get("strip_sep_token"))
        if pad is None or tokenizer.token_to_id(pad) is None or (strips and separator is None):
            return None
        return cls(about, tokenizer, pad, tokenizer.token_to_id(separator) if strips and separator else None)

    def __call__(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Give (N, context_length) tokens, padded and cut."""
        length = self._about.context_length
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(
            length=length, pad_id=self._tokenizer.token_to_id(self._pad), pad_token=self._pad
        )
        ids = np.array([each.ids for each in self._encoded(prompts)], np.int64).reshape(len(prompts), length)
        return ids if self._separator is None else np.where(ids == self._separator, 0, ids)

    def counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens before any are cut, start and end marks included."""
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        return [len(each.ids) for each in self._encoded(prompts)]

    def _encoded(self, prompts: Sequence[str]) -> Iterable["tokenizers.Encoding"]:
        return self._tokenizer.encode_batch([self._about.as_open_clip_cleans(prompt) for prompt in prompts])


class OpenClipTokens:
    """open_clip's own tokenizer, which imports torch."""

    def __init__(self, spec: ModelSpec) -> None:
        from zsclip.models.lean_imports import lean_open_clip

        with lean_open_clip():
            from zsclip.models.torch_encoder import load_tokenizer

        self._tokenizer = load_tokenizer(spec)

    def __call__(self, prompts: Sequence[str]) -> NDArray[np.int64]:
        """Give (N, context_length) tokens, padded and cut."""
        ids: NDArray[np.int64] = self._tokenizer(list(prompts)).numpy()
        return ids

    def counts(self, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens before any are cut, start and end marks included."""
        from zsclip.models.torch_encoder import count_tokens

        return count_tokens(self._tokenizer, prompts)


def _words(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    import regex  # knows the letters of all scripts; seldom needed

    return regex.findall(_WORDS, text, regex.IGNORECASE)


def _byte_pairs() -> tuple[dict[str, int], dict[str, int]]:
    """Read CLIP's vocabulary: the number of each token, and the rank of each pair that is merged, `one other`.

    Raises:
        ValueError: it is not a list of pairs.
    """
    package = importlib.util.find_spec("open_clip")  # finds the folder without importing it
    assert package is not None
    assert package.submodule_search_locations is not None
    with gzip.open(os.path.join(package.submodule_search_locations[0], _VOCABULARY)) as file:
        data = file.read()  # all, as the checksum is at the end
    together = b"\n".join(data.split(b"\n", _MERGES.stop)[_MERGES]).decode()
    lines = together.split("\n")  # splitting each of them at its space would take as long as all the rest
    if together.count(" ") != len(lines) or "\n " in together or " \n" in together:
        raise ValueError(_VOCABULARY)
    letters = list(_letters().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *together.replace(" ", "").split("\n")]
    tokens += [_START, _END]
    return dict(zip(tokens, range(len(tokens)), strict=True)), dict(zip(lines, range(len(lines)), strict=True))


@cache
def _letters() -> dict[int, str]:
    """Give each byte a visible character, its own where it has one; in the order of CLIP's vocabulary."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _marks(name: str, folder: Path) -> dict[str, str]:
    """Read which tokens a tokenizer pads and separates with."""
    found: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            values: Any = read_json(name, folder / file)
        except FileNotFoundError:
            continue
        for mark in ("pad_token", "sep_token"):
            value = values.get(mark) if isinstance(values, dict) else None
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                found[mark] = value
    return found
