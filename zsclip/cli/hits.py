"""Where the rows of a search go: those of the images that were found, not of all that were read."""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsclip.cli.browser import open_page
from zsclip.cli.groups import group
from zsclip.cli.options import FORMAT, PRINT0, Format, Inputs, Messages, Model, Report
from zsclip.cli.run import Session, drain, report_run
from zsclip.cli.speed import Speed
from zsclip.cli.terminal import is_terminal
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.out.output import FileId
    from zsclip.pictures.pictures import Paths
    from zsclip.pictures.sampling import Sampling


@group("Output")
class Hits(Report):
    """Where the images that were found are shown."""

    format: Annotated[Format | None, FORMAT] = None
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write to FILE.")] = None
    print0: Annotated[bool, PRINT0] = False
    opens: Annotated[
        bool,
        typer.Option("--open", help="Open the page in a browser; without --report, a page in the temporary folder."),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.print0 and self.sink_name != "paths":
            raise InputError("--print0: only paths can end in NUL; add --format paths")
        if self.sink_name == "parquet":
            from zsclip.out.parquet import check_pyarrow

            check_pyarrow("--format parquet")
            if self.file is None and is_terminal(sys.stdout):
                raise InputError("--format parquet: not for a terminal; add -o FILE")

    @property
    def file(self) -> str | None:
        """The file for the rows; None is standard output."""
        return None if self.output == "-" else self.output

    @property
    def sink_name(self) -> str:
        """The format of the rows."""
        from zsclip.out.output import format_of

        return self.format or format_of(self.file, is_terminal(sys.stdout))

    def written(self, *, by_earlier_run: bool = False) -> list[str]:
        """Give every file that is written.

        Args:
            by_earlier_run: only those that are certainly of an earlier run of this command.
        """
        from zsclip.out.output import files_of

        files = [file for file in (self.file, self.report) if file is not None]
        return [each for file in files for each in files_of(file)[1 if by_earlier_run else 0 :]]

    def find(
        self, inputs: Inputs, reads: Iterable[tuple[str, str]], messages: Messages, model: Model, sampling: "Sampling"
    ) -> "Paths":
        """Find the images of the search, once it is known that no file that is written is one that is read.

        Args:
            reads: what else is read, and the path of each.
        """
        own = self.written(by_earlier_run=True)
        written = [*self.written(), *["/dev/stdout"] * (self.file is None)]
        places = self.check(chain(reads, inputs.reads(written, own=own)))
        return inputs.find(messages, places, own, sampling=sampling, offline=model.offline)

    def check(self, reads: Iterator[tuple[str, str]]) -> "dict[FileId, str]":
        """Check that every file can be written, and is not one that is read, before anything slow begins."""
        from zsclip.out.output import check_inputs, check_output, check_outputs_differ

        rows = ("standard output" if self.file is None else "-o", self.file)
        places = check_outputs_differ([rows, *[("--report", self.report)] * (self.report is not None)])
        check_inputs(reads, places)
        for file in (self.file, self.report):
            if file is not None:
                check_output(file, overwrite=self.overwrite)
        return places

    def write(self, batches: "Sequence[Answers]", about: dict[str, str], speed: Speed) -> str | None:
        """Write the rows, and the page if one was asked for; give the file of the page."""
        from zsclip.out.output import is_replaceable, open_output
        from zsclip.out.parquet import Layout, write_parquet
        from zsclip.out.sinks import SINKS, write_paths

        sinks: dict[str, Any] = SINKS | {
            "html": drain,
            "paths": partial(write_paths, print0=self.print0),
            "parquet": partial(write_parquet, layout=Layout(about={"settings": about})),
        }
        own = self.file if self.sink_name == "html" and self.file and is_replaceable(self.file) else None
        report = self.report
        if self.opens and report is None and own is None:
            report = os.path.join(tempfile.mkdtemp(prefix="zsclip-"), "found.html")  # a folder for this user alone
        with ExitStack() as files:
            out = files.enter_context(open_output(self.file, overwrite=self.overwrite))
            pages = [(out, self.file or "")] * (self.sink_name == "html")
            if report is not None:
                pages.append((files.enter_context(open_output(report, overwrite=self.overwrite)), report))
            rows: Any = iter(batches)
            for page, file in pages:
                from zsclip.out.report import with_report

                rows = with_report(
                    rows, page, os.path.dirname(file), about=about, threads=speed.cpus, max_pixels=speed.max_pixels
                )
            sinks[self.sink_name](rows, out)
        return report or own

    def finish(self, session: Session, page: str | None) -> int:
        """Report the run, show the page if that was asked for, and give the exit code."""
        code = report_run(session, dict.fromkeys((self.file, page)))
        if self.opens and page is not None and session.tally.images:
            open_page(page)
        return code
