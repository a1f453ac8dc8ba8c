"""`zsclip review`."""

import os
from collections.abc import Sequence
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.browser import open_address
from zsclip.cli.groups import command, group
from zsclip.cli.options import Messages, Network
from zsclip.cli.progress import Progress
from zsclip.cli.run import interruptible
from zsclip.cli.terminal import counted, say
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.out.corrections import Corrections

_LOOKED_FOR = 100  # images, to say if this is not their folder


@group("Output")
class Reviewed:
    """The rows that are reviewed, and where corrections go."""

    rows: Annotated[
        str,
        typer.Argument(
            metavar="ROWS",
            help="Rows that `zsclip classify` wrote: .jsonl, .csv, .tsv, .parquet, a folder of parts, or - for stdin.",
        ),
    ]
    corrections: Annotated[
        str | None,
        typer.Option("--corrections", metavar="FILE", help="Save to FILE, by default ROWS.corrections.csv."),
    ] = None
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the address; open no browser.")] = False
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Listen on this port instead of any free one.")
    ] = 0

    def __post_init__(self) -> None:
        if self.corrections is not None and not self.corrections.lower().endswith(".csv"):
            raise InputError(f"--corrections: {self.corrections!r} is not a table; use a name that ends in .csv")

    @property
    def file(self) -> str:
        """The file of corrections; for rows from stdin, in the current folder."""
        return self.corrections or ("zsclip" if self.rows == "-" else self.rows.rstrip("/")) + ".corrections.csv"


@command(common=("rows", "corrections", "no_open", "port"))
def review(reviewed: Reviewed, network: Network, messages: Messages) -> int:
    """Look at answers in a browser, and correct them.

    The page is served by this machine for this machine only, and its address is a secret. Each correction is on the
    disk at once. `zsclip learn`, `eval` and `train` read the file. Ctrl-C stops the server.

    Examples:

        zsclip review labels.csv
        zsclip review rows.jsonl --corrections right.csv --no-open
    """
    from zsclip.engine.run import network_of
    from zsclip.out.corrections import Corrections
    from zsclip.out.output import check_inputs, check_output, check_outputs_differ
    from zsclip.out.reader import read_answers
    from zsclip.out.review import Review, Server
    from zsclip.pixels.processors import available_cpus

    places = check_outputs_differ([("--corrections", reviewed.file)])
    check_output(reviewed.file, overwrite=True)
    check_inputs([("the rows", reviewed.rows)], places)
    corrections = Corrections(reviewed.file)
    with Progress(messages.show_progress) as progress:
        progress.step("reading rows")
        rows = list(read_answers(reviewed.rows))
    if not rows:
        say("zsclip: no rows")
        return 1
    fetched = network_of(offline=network.offline)
    shown = Review(rows, corrections, title=reviewed.rows, threads=available_cpus(), network=fetched)
    with interruptible(lambda: _saved(corrections)), Server(shown, reviewed.port) as server:
        try:
            typer.echo(server.url)
            messages.note(f"{counted(len(rows), 'image')}; corrections go to {corrections.path}; press Ctrl-C to stop")
            if not _any_is_here([row.name for row in rows[:_LOOKED_FOR] if row.error is None]):
                messages.note("the first images are not here; run this in the folder in which they were classified")
            if not reviewed.no_open:
                Thread(target=open_address, args=(server.url_to_start(),), daemon=True).start()
            server.serve_forever()
        finally:
            corrections.close()
    return 0


def _any_is_here(names: Sequence[str]) -> bool:
    """Whether a file, or the container of one, is there; also if there are no names, or it is on a server."""
    return not names or any(
        "://" in name or any(map(os.path.lexists, (name, name.partition("#")[0]))) for name in names
    )


def _saved(corrections: "Corrections") -> str:
    number = len(corrections)
    return f"{counted(number, 'correction')} {'is' if number == 1 else 'are'} in {corrections.path}"
