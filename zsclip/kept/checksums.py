"""Checksums that show damage to embeddings: SQLite does not check its pages. Pure arithmetic: no files."""

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

CONTENT_BYTES = 32
DIGEST_BYTES = 8


def check_sums(recipe: str, contents: Sequence[bytes], vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Compute a checksum of each vector with its content and recipe, to detect damage.

    SQLite does not check its pages, so a flipped bit would become a wrong answer. Each 8 bytes are multiplied by an
    odd number of their own: a change to one of them is always found, and to several is missed once in 2**64 times.

    Args:
        contents: m digests of contents, CONTENT_BYTES each. vectors: (m, D) float32.

    Returns:
        (m,) uint64.
    """
    rows = np.ascontiguousarray(vectors, "<f4")
    words = rows.view("<u8") if rows.shape[1] % 2 == 0 else rows.view("<u4").astype("<u8")  # (m, D / 2), or (m, D)
    names = np.frombuffer(b"".join(contents), "<u8").reshape(-1, CONTENT_BYTES // 8)  # (m, 4)
    of_recipe = np.frombuffer(hashlib.blake2b(recipe.encode(), digest_size=8).digest(), "<u8")
    factors = _odd_numbers(words.shape[1] + names.shape[1])
    width = words.shape[1]
    # For integers, einsum takes half the time of a matrix product, and needs no second matrix.
    return of_recipe + np.einsum("md,d->m", words, factors[:width]) + np.einsum("md,d->m", names, factors[width:])


def are_whole(
    recipe: str, contents: Sequence[bytes], vectors: NDArray[np.float32], digests: Sequence[bytes]
) -> NDArray[np.bool_]:
    """Whether each of m embeddings is intact; (m,) bool."""
    whole = check_sums(recipe, contents, vectors) == np.frombuffer(b"".join(digests), "<u8")
    for row in np.flatnonzero(~whole).tolist():  # kept by a version that hashed each separately, or damaged
        data = recipe.encode() + contents[row] + vectors[row].tobytes()
        whole[row] = hashlib.blake2b(data, digest_size=8).digest() == digests[row]
    return whole


@cache
def _odd_numbers(count: int) -> NDArray[np.uint64]:
    """Give this many pseudorandom odd numbers, always the same. Source: Steele et al. 2014 (SplitMix64)."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
