"""Tokenizers without torch, token for token against open_clip's."""
# ruff: noqa: RUF001

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
from open_clip.tokenizer import SimpleTokenizer
from tiny_models import save_tokenizer

from zsclip.models.find import find_model
from zsclip.models.spec import ModelSpec, Tokenizer
from zsclip.models.tokens import ClipTokens, FileTokens, OpenClipTokens, load_tokens

ODD = [
    "",
    " ",
    "a",
    "'s",
    "it's we've I'LL don't he'd",
    "a  b\tc\nd",
    "1234 567a8",
    "C# & C++",
    "&amp;amp; &lt;b&gt; &eacute;",
    "salt &amp; pepper",
    "<start_of_text>",
    "x<end_of_text>y",
    "<START_OF_TEXT>",
    "snake_case-word/slash",
    "...!?!?",
    "$5.00",
    "Straße",
    "piña",
    "pin\u0303a",
    "ﬁne",
    "café",
    "cafÃ©",
    "“curly” ‘quotes’",
    "日本語の猫",
    "кошка",
    "قطة",
    "🐈 cat",
    "👩‍👩‍👧",
    "\ufeffmark",
    "zero\u200bwidth",
    "nul\x00l",
    "\x1b[31mred\x1b[0m",
    "del\x7f",
    "line\u2028sep",
    "ＦＵＬＬ",
    "İstanbul",
    "a photo of a " + "very " * 100 + "old cat",
    "ſ long s",
    "K kelvin",
    "½ ² Ⅳ",
    "\xa0nbsp\xa0",
    "a\x0bb\x0cc",
    "\x85next",
]


def strings() -> list[str]:
    """Odd ones, the names of ImageNet, and random ones of all scripts and of ASCII."""
    numbers = random.Random(0)
    letters = [
        chr(i) for i in (*range(1, 0x250), *range(0x2000, 0x2100), *range(0x3040, 0x3100), *range(0x1F600, 0x1F640))
    ]
    ascii_only = [chr(i) for i in range(128)] + ["&", "'", "<", " ", " "]
    mixed = ["".join(numbers.choices(letters, k=numbers.randint(1, 30))) for _ in range(2000)]
    plain = ["".join(numbers.choices(ascii_only, k=numbers.randint(1, 30))) for _ in range(2000)]
    return [*ODD, *(f"a photo of a {name}." for name in open_clip.IMAGENET_CLASSNAMES), *mixed, *plain]


@pytest.mark.parametrize("clean", ["lower", "canonicalize", "whitespace"])
@pytest.mark.parametrize("context_length", [77, 8])
def test_clips_own_tokens_are_open_clips(clean: str, context_length: int) -> None:
    prompts = strings()
    twin = SimpleTokenizer(context_length=context_length, clean=clean)

    tokens = ClipTokens.of(Tokenizer(None, None, context_length, None, {"clean": clean}, None))

    assert tokens is not None
    assert np.array_equal(tokens(prompts), twin(prompts).numpy())
    assert tokens.counts(prompts) == [len(twin.encode(prompt)) + 2 for prompt in prompts]


def test_tokens_of_a_file_are_transformers(tiny_model: Callable[[str], Path]) -> None:
    spec = find_model(str(tiny_model("siglip")))
    prompts = [*ODD, "a photo of the cat", " ".join(f"w{i}" for i in range(40)), "w1, w2; Cat"]

    tokens, twin = load_tokens(spec), OpenClipTokens(spec)

    assert isinstance(tokens, FileTokens)
    assert np.array_equal(tokens(prompts), twin(prompts))
    assert tokens.counts(prompts) == twin.counts(prompts)
    assert tokens([]).shape == (0, 16)


@pytest.mark.parametrize(
    "about",
    [
        {"name": None, "arguments": {"additional_special_tokens": ["<x>"]}},
        {"name": "tests/tokenizer", "mode": "clips"},
        {"name": "tests/tokenizer", "arguments": {"language": "en"}},
        {"name": "tests/tokenizer", "arguments": {"strip_sep_token": True}},  # it has no separator
    ],
)
def test_what_only_open_clip_knows_is_left_to_it(about: dict[str, object], spec: ModelSpec, tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    spec = replace(spec, tokenizer=replace(spec.tokenizer, folder=str(tmp_path), **about))

    tokens = ClipTokens.of(spec.tokenizer) if spec.tokenizer.name is None else FileTokens.of(spec)

    assert tokens is None


def test_counting_and_cutting_do_not_disturb_each_other(tiny_model: Callable[[str], Path]) -> None:
    tokens = load_tokens(find_model(str(tiny_model("siglip"))))
    long = "a " * 40

    first, counts, second = tokens([long]), tokens.counts([long]), tokens([long])

    assert counts == [41]
    assert first.shape == (1, 16)
    assert np.array_equal(first, second)


def test_tokens_need_no_torch() -> None:
    code = """
import sys
from zsclip.models.find import find_model
from zsclip.models.tokens import load_tokens
tokens = load_tokens(find_model("tiny"))
assert tokens(["a photo of a cat."]).shape == (1, 32)
assert not {"ftfy", "regex"} & sys.modules.keys()
assert tokens(["une piña"]).shape == (1, 32)
assert not {"torch", "open_clip", "transformers", "tokenizers"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
