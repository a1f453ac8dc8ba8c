"""Prompts packed into common sequences against open_clip's forward of one whole prompt at a time."""

import random
from collections.abc import Sequence

import pytest
import torch
from open_clip.transformer import TextTransformer

from zsclip.models.packs import pack
from zsclip.models.text import encode_tokens

START, END = 98, 99


def tower(**options: object) -> TextTransformer:
    torch.manual_seed(0)
    made = TextTransformer(24, vocab_size=100, width=32, heads=2, layers=2, output_dim=16, **options)
    return made.eval().requires_grad_(False)


def padded(prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    return torch.tensor([[*prompt, *[0] * (24 - len(prompt))] for prompt in prompts])


def prompts_of_templates(seed: int) -> list[list[int]]:
    """Some templates x some labels, of one to five tokens, shuffled, with duplicates and odd ones among them."""
    numbers = random.Random(seed)
    labels = [numbers.choices(range(20), k=numbers.randint(1, 5)) for _ in range(numbers.randint(1, 30))]
    templates = [numbers.choices(range(20, 40), k=numbers.randint(0, 12)) for _ in range(numbers.randint(1, 6))]
    prompts = [[START, *template, *label, END] for template in templates for label in labels]
    prompts += [prompts[0], [START, END], [START, *range(22), END]]
    numbers.shuffle(prompts)
    return prompts


@pytest.mark.parametrize("seed", range(20))
def test_each_prompt_can_be_read_out_of_its_pack(seed: int) -> None:
    prompts = prompts_of_templates(seed)

    packs = pack(prompts, 20)

    assert sorted(row for each in packs for row in each.rows) == list(range(len(prompts)))
    for each in packs:
        assert len(each.ids) <= 20 or len(each.rows) == 1
        for part, (row, end) in enumerate(zip(each.rows, each.ends, strict=True), 1):
            places = [i for i, of in enumerate(each.parts) if of in (0, part)]
            assert [each.ids[i] for i in places] == prompts[row]
            assert [each.positions[i] for i in places] == list(range(len(prompts[row])))
            assert places[-1] == end
    assert sum(len(each.ids) for each in packs) <= sum(map(len, prompts))


def test_a_common_prefix_is_stored_once() -> None:
    prompts = [[START, 1, 2, 3, label, END] for label in range(10, 20)]

    (together,) = pack(prompts, 64)

    assert together.ids == [START, 1, 2, 3, *(token for label in range(10, 20) for token in (label, END))]


def test_prompts_that_share_little_do_not_shorten_a_long_beginning() -> None:
    alike = [[START, *range(1, 9), label, END] for label in (10, 11, 12)]
    others = [[START, 1, 30, END], [START, 1, 31, END]]

    packs = pack([*alike, *others], 64)

    assert [sorted(each.rows) for each in packs] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool_type": "eos", "eos_id": END},
        {"proj_bias": True},
        {"proj_type": "none"},
        {"output_tokens": True},
        {"qk_norm": True},
        {"scale_heads": True, "scale_attn": True},
        {"no_causal_mask": True},
        {"embed_cls": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
@pytest.mark.parametrize("seed", range(3))
def test_packed_prompts_are_encoded_as_alone(options: dict[str, object], seed: int) -> None:
    """Also in the two towers at the end, where a token sees what comes after it, and nothing may be packed."""
    made, prompts = tower(**options), prompts_of_templates(seed)
    if options.get("embed_cls"):
        prompts = [prompt[:23] for prompt in prompts]
    expected = made(padded(prompts))
    expected = expected[0] if isinstance(expected, tuple) else expected

    result = encode_tokens(made, padded(prompts), "cpu")

    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_last_block_computes_only_the_end_of_each_prompt() -> None:
    made, tokens = tower(), []
    made.transformer.resblocks[-1].mlp.register_forward_pre_hook(
        lambda module, inputs: tokens.append(inputs[0].shape[:2].numel())
    )

    encode_tokens(made, padded([[START, 1, 2, 3, 4, label, END] for label in range(10, 60)]), "cpu")

    assert tokens == [2 * 29]  # two packs, 29 prompts and 21, the second filled up


def test_many_prompts_run_in_few_tokens() -> None:
    made, tokens = tower(), []
    made.transformer.resblocks[0].register_forward_pre_hook(
        lambda module, inputs: tokens.append(inputs[0].shape[:2].numel())
    )

    encode_tokens(made, padded([[START, 1, 2, 3, 4, label, END] for label in range(10, 60)]), "cpu")

    assert tokens == [2 * (5 + 2 * 29)]  # two packs, 29 prompts and 21, the second filled up; alone it were 350
