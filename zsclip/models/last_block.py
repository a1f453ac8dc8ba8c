"""The last block of a transformer, computed only for the tokens whose output is used."""

from collections.abc import Callable

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn


def last_block(transformer: nn.Module) -> ResidualAttentionBlock | None:
    """Give the last block of a transformer; None if `some_tokens` cannot do what it does."""
    if not (isinstance(transformer, Transformer) and transformer.batch_first):
        return None
    *_, last = transformer.resblocks
    is_plain = type(last) is ResidualAttentionBlock and type(last.attn) is nn.MultiheadAttention
    return last if is_plain else None


def some_tokens(
    block: ResidualAttentionBlock, x: Tensor, pick: Callable[[Tensor], Tensor], mask: Tensor | None = None
) -> Tensor:
    """Compute some tokens of a block from all of them.

    Args:
        x: (B, T, W).
        pick: gives the P wanted ones of each row, (B, T, W) -> (B, P, W).
        mask: (B, 1, P, T), added to the attention of the wanted ones.

    Returns:
        (B, P, W).
    """
    attn = block.attn
    normed = block.ln_1(x)
    # With queries that differ from keys, nn.MultiheadAttention would copy the weights for each row.
    to_q, to_kv = attn.in_proj_weight.split([attn.embed_dim, 2 * attn.embed_dim])
    q_bias, kv_bias = attn.in_proj_bias.split([attn.embed_dim, 2 * attn.embed_dim])
    q = F.linear(pick(normed), to_q, q_bias).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)  # (B, H, P, W / H)
    k, v = F.linear(normed, to_kv, kv_bias).unflatten(2, (2, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)  # (B, P, W)
    x = pick(x) + block.ls_1(attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))
