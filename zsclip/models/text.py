"""Tokens -> text embeddings, with no more context than a prompt needs; a common beginning is computed once.

Both are exact up to rounding, but only for a causal tower that pools at the end mark: there no token sees what comes
after it, neither padding nor another prompt with the same beginning.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

_TOKENS_A_BATCH = 8192  # 2 cores, ViT-B-32: more gains nothing, fewer leave the cores waiting
_TOKENS_A_PACK = 64  # 2 cores, ViT-B-32: 48 to 96 are the same, fewer are slower


def encode_tokens(tower: nn.Module, ids: Tensor, device: str) -> Tensor:
    """Run the text tower on prompts of any length.

    Args:
        ids: (N, context_length) int64, as the tokenizer gives them.
        device: of the tower.

    Returns:
        (N, D), on the CPU, not normalised.
    """
    if not sees_no_padding(tower):
        parts = ids.split(max(1, _TOKENS_A_BATCH // ids.shape[1]))
        return torch.cat([encode_ids(tower, part.to(device)).cpu() for part in parts])
    prompts = [row[:length] for row, length in zip(ids.tolist(), used_lengths(tower, ids).tolist(), strict=True)]
    batches = list(_batches(pack(prompts, _TOKENS_A_PACK)))
    packed = torch.cat([_encode_packs(tower, packs, device).cpu() for packs in batches])  # (N, D)
    features = torch.empty_like(packed)
    features[[row for packs in batches for each in packs for row in each.rows]] = packed
    return features


def encode_ids(tower: nn.Module, ids: Tensor) -> Tensor:
    """Run the text tower on (N, L) ids, where L may be shorter than the context if it sees no padding."""
    if not sees_no_padding(tower):
        return first_output(tower(ids))
    length = ids.shape[1]
    mask = {"attn_mask": tower.attn_mask[:length, :length]}  # positions are cut by the tower itself
    return first_output(torch.func.functional_call(tower, mask, (ids,)))


def used_lengths(tower: nn.Module, ids: Tensor) -> Tensor:
    """Count the leading tokens that each prompt's embedding depends on: in most towers all of them.

    Returns:
        (N,) int64.
    """
    if sees_no_padding(tower):
        ends = ids if tower.pool_type == "argmax" else (ids == tower.eos_id).int()
        return ends.argmax(dim=-1) + 1
    return torch.full((len(ids),), ids.shape[1])


def sees_no_padding(tower: nn.Module) -> TypeGuard[TextTransformer]:
    """Whether a prompt's embedding depends only on the tokens up to the one that is pooled."""
    return (
        isinstance(tower, TextTransformer)
        and tower.attn_mask is not None
        and tower.cls_emb is None
        and tower.pool_type in ("argmax", "eos")
    )


def first_output(features: Any) -> Tensor:
    """Give a tower's embeddings; some towers return their tokens as well."""
    return features[0] if isinstance(features, tuple) else features


@dataclass(frozen=True)
class Pack:
    """Prompts in one sequence: their common beginning, then the rest of each.

    rows: indices of its P prompts. ids, positions: (L,) tokens and their positions in their prompts. parts: (L,) 0 for
    the common beginning, then 1 to P. ends: (P,) the index of each prompt's last token.
    """

    rows: list[int]
    ids: list[int]
    positions: list[int]
    parts: list[int]
    ends: list[int]


def pack(prompts: Sequence[list[int]], most: int) -> list[Pack]:
    """Pack prompts that begin alike into sequences of limited length; a longer prompt gets its own."""
    packs: list[Pack] = []
    rows: list[int] = []
    begins = tokens = 0  # numbers of common tokens, and of all tokens in the sequence
    for row in sorted(range(len(prompts)), key=lambda row: prompts[row]):
        length = len(prompts[row])
        if rows:
            shared = min(begins, _common(prompts[rows[-1]], prompts[row]))
            more = length - shared + (len(rows) - 1) * (begins - shared)
            if more < length and tokens + more <= most:
                rows.append(row)
                begins, tokens = shared, tokens + more
                continue
            packs.append(_laid_out(prompts, rows, begins))
        rows, begins, tokens = [row], length, length
    return [*packs, _laid_out(prompts, rows, begins)] if rows else packs


def _common(one: list[int], other: list[int]) -> int:
    """Count the tokens that two prompts begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _laid_out(prompts: Sequence[list[int]], rows: list[int], begins: int) -> Pack:
    laid = Pack(rows, prompts[rows[0]][:begins], list(range(begins)), [0] * begins, [])
    for part, row in enumerate(rows, 1):
        rest = prompts[row][begins:]
        laid.ids.extend(rest)
        laid.positions.extend(range(begins, begins + len(rest)))
        laid.parts.extend([part] * len(rest))
        laid.ends.append(len(laid.ids) - 1)
    return laid


def _batches(packs: list[Pack]) -> Iterator[list[Pack]]:
    """Sort by length, longest first, so that a batch has prompts of similar length."""
    packs = sorted(packs, key=lambda each: -len(each.ids))
    start = 0
    while start < len(packs):
        some = packs[start : start + max(1, _TOKENS_A_BATCH // len(packs[start].ids))]
        yield some
        start += len(some)


def _encode_packs(tower: TextTransformer, packs: list[Pack], device: str) -> Tensor:
    """Do what `TextTransformer.forward` does; (N, D), all prompts of the first pack, then of the second, and so on."""
    length = len(packs[0].ids)

    def padded(lists: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([each + [filler] * (length - len(each)) for each in lists]).to(device)

    parts = padded([each.parts for each in packs], -1)  # (B, L)
    # A token sees only the tokens before it in its own prompt.
    seen = ((parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])).tril()  # (B, L, L)
    mask = torch.zeros(seen.shape, device=device).masked_fill(~seen, -torch.inf).repeat_interleave(tower.heads, dim=0)
    positions = tower.positional_embedding[padded([each.positions for each in packs], 0)]  # (B, L, width)
    x = tower.transformer(tower.token_embedding(padded([each.ids for each in packs], 0)) + positions, attn_mask=mask)
    sequences = [i for i, each in enumerate(packs) for _ in each.ends]
    x = tower.ln_final(x[sequences, [end for each in packs for end in each.ends]])  # (N, width)
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(x)
    return x if tower.text_projection is None else x @ tower.text_projection
