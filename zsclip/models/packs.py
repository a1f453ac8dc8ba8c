"""Prompts that begin alike, packed into common sequences. Plain lists and arrays: no model and no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOKENS_A_BATCH = 8192  # 2 cores, ViT-B-32: more gains nothing, fewer leave the cores waiting
ARRAYS = ("ids", "positions", "parts", "ends", "picked")  # of a batch, in this order
_TOKENS_A_PACK = 64  # 2 cores, ViT-B-32: 48 to 96 are the same, fewer are slower


@dataclass(frozen=True, eq=False)
class Batch:
    """Packs that go through the tower together.

    rows: (N,) indices of their prompts. arrays: int64, what `text.encode_packs` takes: ids, positions and parts, all
    (B, L), padded; ends, (B, P), the indices of each pack's last tokens, padded; and picked, (N,), which of these,
    counted through, belong to prompts.
    """

    rows: list[int]
    arrays: tuple[NDArray[np.int64], ...]


def in_batches(prompts: Sequence[list[int]]) -> Iterator[Batch]:
    """Pack prompts; the longest packs first, so that a batch has packs of similar length.

    Args:
        prompts: the tokens of each, from the start mark to the one that is pooled.
    """
    packs = sorted(pack(prompts, _TOKENS_A_PACK), key=lambda each: -len(each.ids))
    start = 0
    while start < len(packs):
        some = packs[start : start + max(1, TOKENS_A_BATCH // len(packs[start].ids))]
        yield _batch(some)
        start += len(some)


def _batch(packs: Sequence["Pack"]) -> Batch:
    most = max(len(each.ends) for each in packs)

    def padded(lists: list[list[int]], filler: int, length: int = len(packs[0].ids)) -> list[list[int]]:
        return [each + [filler] * (length - len(each)) for each in lists]

    arrays = (
        padded([each.ids for each in packs], 0),
        padded([each.positions for each in packs], 0),
        padded([each.parts for each in packs], -1),
        padded([each.ends for each in packs], 0, most),
        [i * most + place for i, each in enumerate(packs) for place in range(len(each.ends))],
    )
    rows = [row for each in packs for row in each.rows]
    return Batch(rows, tuple(np.array(one, np.int64) for one in arrays))


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
