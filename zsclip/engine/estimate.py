"""How many pictures a run has left, and a sample of them, by which its time can be estimated."""

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zsclip.engine.shards import Finding, Shard
from zsclip.pictures.passed_over import PassedOver
from zsclip.pictures.pictures import Paths, Pictures, pictures_named

_SAMPLE = 64  # pictures
_FEW = 4  # shards that are looked into


@dataclass(frozen=True)
class Left:
    """What a run has left.

    images: their number, perhaps estimated from some containers. sample: some of them, from all over the run.
    """

    images: int
    is_estimated: bool
    sample: Pictures


def left_in(found: Iterable[str]) -> Left:
    """Count pictures by finding all of them.

    Args:
        found: their names, as `Paths` gives them.
    """
    choose = random.Random(0)
    sample: list[str] = []
    count = 0
    for count, name in enumerate(found, 1):  # each picture has the same chance to be among the sample
        if len(sample) < _SAMPLE:
            sample.append(name)
        elif (place := choose.randrange(count)) < _SAMPLE:
            sample[place] = name
    return Left(count, False, pictures_named(sample))


def left_in_shards(shards: Sequence[Shard], finding: Finding) -> Left:
    """Count loose files, and estimate the pictures in containers by their size, from a few of them."""
    loose, containers = [shard for shard in shards if not shard.path], [shard for shard in shards if shard.path]
    some = _spread(containers, _FEW)
    inside = [left_in(_names(shard, finding)) for shard in some]
    size, seen = sum(map(_size, containers)), sum(map(_size, some))
    images = sum(left.images for left in inside)
    if len(some) < len(containers):
        images = round(images * size / max(seen, 1))
    listed = [left_in(_names(shard, finding)) for shard in _spread(loose, _FEW)]
    names = [name for left in (*inside, *listed) for name in left.sample.names]
    images += sum(shard.count or 0 for shard in loose)
    return Left(images, len(some) < len(containers), pictures_named(names))


def _names(shard: Shard, finding: Finding) -> Paths:
    return Paths(shard.pictures(finding, PassedOver()), PassedOver())


def _spread(shards: Sequence[Shard], most: int) -> Sequence[Shard]:
    """Take some of the shards, from all over the run."""
    return [shards[place * len(shards) // most] for place in range(most)] if len(shards) > most else shards


def _size(shard: Shard) -> int:
    try:
        return os.path.getsize(shard.path)
    except OSError:
        return 0
