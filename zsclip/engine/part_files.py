"""A run whose rows go to a folder, and the parts that are in this folder. What they hold is none of its business."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from zsclip.engine.claims import Claims
from zsclip.engine.footers import Footers
from zsclip.engine.options import Computing
from zsclip.engine.question import Question
from zsclip.engine.shards import Finding, Shard, is_loose
from zsclip.errors import InputError
from zsclip.out.output import Embeddings, FileId, as_output_error
from zsclip.pictures.urls import is_remote

_UNFINISHED = ".unfinished"  # hidden, so that readers of the folder see complete parts only


@dataclass(frozen=True)
class Run:
    """Everything that decides what a run writes. It can be sent to another process.

    wanted: the answers to write; None stands for unknown; empty means all. folder: for the parts. is_stored: whether
    embeddings are kept. name: of the processes that belong together, see `Claims`.
    """

    question: Question
    wanted: frozenset[str | None]
    model: str
    offline: bool
    computing: Computing
    is_stored: bool
    finding: Finding
    folder: str
    embeddings: Embeddings | None = None
    overwrite: bool = False
    retry_errors: bool = False
    name: str = ""


def claims_of(run: Run) -> Claims:
    """Give the claims on the shards of a run."""
    return Claims(os.path.join(run.folder, _UNFINISHED), run=run.name)


def part_of(run: Run, shard: Shard) -> str:
    """Give the path of a shard's part."""
    return os.path.join(run.folder, f"{shard.name}.parquet")


def parts_in(folder: str) -> list[str]:
    """Give the names of all parts in a folder, in order."""
    with as_output_error(folder):
        try:
            return sorted(name for name in os.listdir(folder) if name.endswith(".parquet") and name[0] != ".")
        except FileNotFoundError:
            return []


def parts_gone(run: Run, shards: Sequence[Shard]) -> list[str]:
    """Give the parts of loose files that an earlier list had and this one has not."""
    own = {f"{shard.name}.parquet" for shard in shards if is_loose(shard.name)}
    found = [name for name in parts_in(run.folder) if is_loose(shard_of(name))] if own else []
    return [os.path.join(run.folder, name) for name in found if name not in own]


def refuse_foreign(run: Run, shards: Sequence[Shard], progress: Callable[[int], None] = lambda count: None) -> Footers:
    """Check that no file that the run would replace or remove is an input of it, or none of ours.

    Args:
        progress: called with the number of parts that were looked at.

    Returns:
        What the parts say that are there already.

    Raises:
        InputError: one is.
    """
    footers = Footers()
    own = {f"{shard.name}.parquet" for shard in shards}
    names = parts_in(run.folder)
    found = [os.path.join(run.folder, name) for name in names if name in own or run.overwrite]
    if not found:
        return footers
    footers.read_ahead(found, progress)
    inputs = {_id_of(shard.path) for shard in shards if shard.path and not is_remote(shard.path)} - {None}
    for path in found:
        if _id_of(path) in inputs:
            raise InputError(f"{path}: is an input of this run, which would replace it; choose another folder")
        if os.path.basename(path) in own:
            footers.of(path)
    return footers


def shard_of(part: str) -> str:
    """Give the name of the shard whose part has this name."""
    return part.removesuffix(".parquet")


def _id_of(path: str) -> FileId | None:
    with suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino
    return None
