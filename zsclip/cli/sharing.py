"""The options of a run whose rows go to a folder, and that several processes may share."""

from typing import Annotated

import typer

from zsclip.cli.groups import group
from zsclip.errors import InputError

SHARD_SIZE = 10_000


@group("Output")
class Sharing:
    """How a run is cut into shards, and what works on them."""

    shard_size: Annotated[
        int | None,
        typer.Option(
            "--shard-size",
            metavar="N",
            min=1,
            help=f"With -o FOLDER/, put the rows of N files into one part, by default {SHARD_SIZE:,}; those of an "
            "archive or a list are always one part. Several processes may share such a run.",
        ),
    ] = None

    def check_sharing(self, *, has_folder: bool) -> None:
        """Refuse options that only mean something for a folder of parts."""
        if not has_folder and self.shard_size is not None:
            raise InputError("--shard-size: only a folder has several parts; add -o FOLDER/")
