"""The options of a run whose rows go to a folder, and that several processes may share."""

from typing import Annotated, Literal

import typer

from zsclip.cli.groups import group
from zsclip.errors import InputError

Engine = Literal["local", "ray"]

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

    engine: Annotated[
        Engine,
        typer.Option(
            "--engine",
            metavar="local|ray",
            help="Let this process write the parts of FOLDER/, or all GPUs and processors of a Ray cluster: that of "
            "RAY_ADDRESS, else this machine.",
            rich_help_panel="Speed",
        ),
    ] = "local"
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", metavar="N", min=1, help="With --engine ray, use N GPUs instead of all.", rich_help_panel="Speed"
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what would run, and how long it would take.", rich_help_panel="Other"),
    ] = False

    def check_sharing(self, folder: str | None) -> None:
        """Refuse a folder for parts that cannot be one; without a folder, options that only mean something for it."""
        given = {"--shard-size": self.shard_size is not None, "--engine ray": self.engine == "ray"}
        for flag in (flag for flag, is_given in given.items() if is_given and folder is None):
            raise InputError(f"{flag}: only a folder has several parts; add -o FOLDER/")
        if self.gpus is not None and self.engine != "ray":
            raise InputError("--gpus: a single process has one GPU, see --device; add --engine ray to use several")
        if self.engine == "ray":
            from zsclip.engine.ray import check_ray

            check_ray()
        if folder is not None:
            from zsclip.out.output import check_folder, check_local

            check_local("-o", folder)
            check_folder(folder)
