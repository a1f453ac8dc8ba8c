"""Tokens -> text embeddings, with no more context than a prompt needs; a common beginning is computed once.

Both are exact up to rounding, but only for a causal tower that pools at the end mark: there no token sees what comes
after it, neither padding nor another prompt with the same beginning.
"""

from typing import Any, TypeGuard

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from zsclip.models.last_block import last_block, some_tokens
from zsclip.models.packs import TOKENS_A_BATCH, in_batches


def encode_tokens(tower: nn.Module, ids: Tensor, device: str) -> Tensor:
    """Run the text tower on prompts of any length.

    Args:
        ids: (N, context_length) int64, as the tokenizer gives them.
        device: of the tower.

    Returns:
        (N, D), on the CPU, not normalised.
    """
    if not sees_no_padding(tower):
        parts = ids.split(max(1, TOKENS_A_BATCH // ids.shape[1]))
        return torch.cat([encode_ids(tower, part.to(device)).cpu() for part in parts])
    prompts = [row[:length] for row, length in zip(ids.tolist(), used_lengths(tower, ids).tolist(), strict=True)]
    batches = list(in_batches(prompts))
    packed = torch.cat(
        [encode_packs(tower, *(torch.from_numpy(one).to(device) for one in each.arrays)).cpu() for each in batches]
    )  # (N, D)
    features = torch.empty_like(packed)
    features[[row for each in batches for row in each.rows]] = packed
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


def encode_packs(
    tower: TextTransformer, ids: Tensor, positions: Tensor, parts: Tensor, ends: Tensor, picked: Tensor
) -> Tensor:
    """Do what `TextTransformer.forward` does, for a `packs.Batch` of them; (N, D), in the order of `picked`."""
    # A token sees only the tokens before it in its own prompt.
    seen = ((parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])).tril()  # (B, L, L)
    mask = torch.zeros(seen.shape, device=ids.device).masked_fill(~seen, -torch.inf)
    of_heads = mask[:, None].expand(-1, tower.heads, -1, -1).flatten(0, 1)  # (B x heads, L, L)

    def pick(tokens: Tensor) -> Tensor:
        return tokens.gather(1, ends[..., None].expand(-1, -1, tokens.shape[2]))  # (B, P, tokens.shape[2])

    x = tower.token_embedding(ids) + tower.positional_embedding[positions]  # (B, L, width)
    if (last := last_block(tower.transformer)) is None:
        x = pick(tower.transformer(x, attn_mask=of_heads))
    else:
        for block in tower.transformer.resblocks:
            if block is not last:
                x = block(x, attn_mask=of_heads)
        x = some_tokens(last, x, pick, pick(mask)[:, None])  # (B, P, width)
    x = tower.ln_final(x.flatten(0, 1)[picked])  # (N, width)
    if isinstance(tower.text_projection, nn.Linear):
        return tower.text_projection(x)
    return x if tower.text_projection is None else x @ tower.text_projection
