"""Where the rows of `classify` go: the files of a run, opened together."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from zsclip.cli.groups import group
from zsclip.cli.options import FORMAT, PRINT0, Format, Report, check_ending
from zsclip.cli.run import drain
from zsclip.cli.sharing import Sharing
from zsclip.cli.start import Start
from zsclip.cli.terminal import is_terminal
from zsclip.errors import InputError, either
from zsclip.out.output import Embeddings

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.out.journal import Journal
    from zsclip.out.output import FileId

    Batches = Iterable[Answers]


@group("Output")
class Output(Sharing, Report):
    """Where rows go, and in which format."""

    format: Annotated[Format | None, FORMAT] = None
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write to FILE, which appears once it is complete, or to FOLDER/.",
        ),
    ] = None
    contact_sheet: Annotated[
        str | None,
        typer.Option("--contact-sheet", metavar="FILE", help="Also draw the first 400 images in a grid: a .png file."),
    ] = None
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue FILE.part of an earlier run; do nothing if FILE is complete."),
    ] = False
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Like --resume, but also retry the images that failed.")
    ] = False
    embeddings: Annotated[
        Embeddings | None,
        typer.Option(
            "--embeddings", metavar="float16|float32", help="Add the embeddings of the images to Parquet files."
        ),
    ] = None
    segments: Annotated[
        bool,
        typer.Option(
            "--segments",
            help="Join neighbouring frames of a video with the same answer into rows with start, end, label and score.",
        ),
    ] = False
    print0: Annotated[bool, PRINT0] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output == "":
            raise InputError("-o: the name is empty; give a file, or a folder as FOLDER/")
        check_ending("--contact-sheet", self.contact_sheet, ".png")
        sink_name = self.sink_name
        if self.print0 and sink_name != "paths":
            raise InputError("--print0: only paths can end in NUL; add --format paths")
        if self.embeddings and sink_name != "parquet":
            raise InputError("--embeddings: only Parquet files hold them; add --format parquet")
        if sink_name == "parquet":
            from zsclip.out.parquet import check_pyarrow

            check_pyarrow("--format parquet")
            if self.fills_terminal:
                raise InputError("--format parquet: not for a terminal; add -o FILE")
        if self.segments:
            self._check_segments()
        self.check_sharing(self.folder)
        if self.folder is not None:
            self._check_folder(self.folder)
        elif self.is_resumed:
            self._check_going_on(sink_name)

    def _check_going_on(self, sink_name: str) -> None:
        from zsclip.out.output import is_replaceable

        flag = "--resume" if self.resume else "--retry-errors"
        if self.report or self.contact_sheet or sink_name == "html":
            raise InputError(
                f"{flag}: a page or a sheet needs the whole run; leave out {flag}, and stored embeddings are reused"
            )
        if self.retry_errors and sink_name == "parquet":
            raise InputError(
                "--retry-errors: a Parquet file is written whole; use --overwrite, and stored embeddings are reused"
            )
        if self.file is None or not is_replaceable(self.file):
            raise InputError(f"{flag}: needs the file of the earlier run; add -o FILE")
        if self.overwrite:
            raise InputError(f"{flag}: keeps the rows that --overwrite would discard; use one of the two")

    def _check_segments(self) -> None:
        from zsclip.out.segments import FORMS

        if self.sink_name not in FORMS:
            raise InputError(f"--segments: cannot be written as {self.sink_name}; use --format {either([*FORMS])}")
        others = (("--resume", self.resume), ("--retry-errors", self.retry_errors), ("--report", self.report))
        for flag, value in (*others, ("--contact-sheet", self.contact_sheet)):
            if value:
                raise InputError(f"--segments: {flag} needs a row for every frame; leave one of the two out")

    def _check_folder(self, folder: str) -> None:
        if self.sink_name != "parquet":
            raise InputError(f"-o {folder}: a folder gets Parquet files; leave out --format, or give a file name")
        if self.report or self.contact_sheet:
            flag = "--report" if self.report else "--contact-sheet"
            raise InputError(f"{flag}: needs the whole run; write to a file instead of {folder}")

    @property
    def folder(self) -> str | None:
        """The folder for parts, if rows do not go to a single file."""
        return self.output if self.output and (self.output.endswith("/") or os.path.isdir(self.output)) else None

    @property
    def file(self) -> str | None:
        """The file for the rows; None is standard output."""
        return None if self.output == "-" else self.output

    @property
    def own_file(self) -> str | None:
        """The file for the rows if it is or will be a regular file, not a pipe or a device."""
        from zsclip.out.output import is_replaceable

        is_file = self.file is not None and self.folder is None and is_replaceable(self.file)
        return self.file if is_file else None

    @property
    def is_resumed(self) -> bool:
        """Whether this run continues an earlier one."""
        return self.resume or self.retry_errors

    @property
    def has_earlier(self) -> bool:
        """Whether there is an earlier run that this one continues."""
        from zsclip.out.output import part_of

        own = self.own_file if self.is_resumed else None
        return own is not None and (os.path.exists(own) or os.path.exists(part_of(own)))

    @property
    def sink_name(self) -> str:
        """The format of the rows."""
        from zsclip.out.output import format_of

        is_shown = is_terminal(sys.stdout)
        return self.format or ("parquet" if self.folder else format_of(self.file, is_shown, has_folder=True))

    @property
    def fills_terminal(self) -> bool:
        """Whether rows go to the terminal that shows progress."""
        return self.file is None and is_terminal(sys.stdout)

    @property
    def pages(self) -> list[str]:
        """The files of HTML pages; "" is a page on standard output."""
        own = [self.own_file or ""] if self.sink_name == "html" else []
        return own + ([self.report] if self.report is not None else [])

    @property
    def settings(self) -> dict[str, object]:
        """The settings that the bytes of the rows depend on, besides the answers."""
        width = get_terminal_size((100, 24)).columns if self.sink_name == "table" else None
        return {"format": self.sink_name, "print0": self.print0, "table width": width, "embeddings": self.embeddings}

    @property
    def targets(self) -> list[tuple[str, str | None]]:
        """The flag and file of everything that is written; None is standard output."""
        if self.folder is not None:  # its parts have names of their own
            return []
        rows = ("standard output" if self.file is None else "-o", self.file)
        pages = (("--report", self.report), ("--contact-sheet", self.contact_sheet))
        return [rows, *((flag, file) for flag, file in pages if file is not None)]

    @property
    def replaced(self) -> list[str]:
        """Every file that is written, and standard output if rows go there."""
        return [*self.written(), *["/dev/stdout"] * (self.file is None)]

    def written(self, *, by_earlier_run: bool = False) -> list[str]:
        """Give every file that is written, FILE.part and its journal too.

        Args:
            by_earlier_run: only those that are certainly of an earlier run of this command.
        """
        from zsclip.out.output import files_of

        first = 1 if by_earlier_run and not self.is_resumed else 0
        return [file for _, target in self.targets if target is not None for file in files_of(target)[first:]]

    def check(self, reads: Iterable[tuple[str, str]], *, resumable: bool) -> "dict[FileId, str]":
        """Check that every file can be written, and is not one that is read, before anything slow begins.

        Args:
            resumable: whether messages may suggest --resume.

        Returns:
            A description of each file that would be replaced, by its id.
        """
        from zsclip.out.output import check_inputs, check_output, check_outputs_differ

        places = check_outputs_differ(self.targets)
        check_inputs(reads, places)
        if self.folder is None:
            check_output(self.file, overwrite=self.overwrite or self.is_resumed, resumable=resumable)
        for file in filter(None, (self.report, self.contact_sheet)):
            check_output(file, overwrite=self.overwrite)
        return places


@dataclass(frozen=True)
class Writer:
    """The stages that rows pass through on their way to the files.

    wanted: the answers to write; None stands for unknown; empty means all. threads, max_pixels: for thumbnails.
    about: what a page says about the run. settings: what the rows depend on. width: of the embeddings. first: whether
    rows have the answer of the first of two passes. truth: whether CSV and TSV files get an empty column for the truth.
    candidates: the most in a row, as a page may have more; None for all.
    """

    output: Output
    wanted: set[str | None]
    threads: int
    max_pixels: int
    about: Mapping[str, str]
    settings: Mapping[str, object]
    width: int
    first: bool = False
    truth: bool = False
    candidates: int | None = None

    def write(self, batches: "Batches", out: TextIO, *, header: bool) -> None:
        """Write the rows that --only asks for, in the format of the run."""
        from zsclip.out.sinks import SINKS, write_csv, write_paths, write_tsv

        if self.output.segments:
            from zsclip.out.segments import write_segments

            write_segments(batches, out, self.output.sink_name, self.wanted)
            return
        sinks: dict[str, Callable[[Any, TextIO], None]] = SINKS | {
            "csv": partial(write_csv, header=header, first=self.first, truth=self.truth),
            "tsv": partial(write_tsv, header=header, first=self.first, truth=self.truth),
            "paths": partial(write_paths, print0=self.output.print0, unknown=None in self.wanted),
            "html": drain,  # the page is written as rows pass
            "parquet": self._write_parquet,
        }
        sinks[self.output.sink_name](batches, out)

    def _write_parquet(self, batches: "Batches", out: TextIO) -> None:
        from zsclip.out.parquet import Layout, write_parquet

        about = {"settings": {**self.settings, **self.output.settings}}
        layout = Layout(self.output.embeddings, self.width, about=about, first=self.first)
        write_parquet(batches, out, layout=layout)

    def write_rows(self, batches: "Batches", start: Start) -> None:
        """Write all rows to every file of the run."""
        with self._opened(start) as (out, through):
            self.write(through(batches), out, header=not start.has_header)
            if start.journal is not None:
                start.journal.record_finished(out)

    def retry(self, batches: "Batches", journal: "Journal") -> None:
        """Replace the rows of the pictures that failed in earlier runs."""
        from zsclip.answers.answers import only_wanted
        from zsclip.out.output import open_output

        file = self.output.own_file
        assert file is not None
        with journal, open(file, "rb") as old, open_output(file, overwrite=True) as out:
            journal.begin(retries=True)
            header, has_header = journal.retries_first_row, self.output.sink_name in ("csv", "tsv")
            rows = journal.retried(batches, old, out, has_header=has_header)
            self.write(only_wanted(rows, self.wanted), out, header=header)
            journal.record_finished(out)

    @contextmanager
    def _opened(self, start: Start) -> "Iterator[tuple[TextIO, Callable[[Batches], Batches]]]":
        """Open all files first, so that one that cannot be opened wastes no work."""
        from zsclip.out.output import open_output

        output, journal, overwrite = self.output, start.journal, self.output.overwrite
        with ExitStack() as files:
            if journal is not None:
                files.enter_context(journal)
                overwrite = journal.overwrite
            resume_at = start.point.size if start.point else None
            rows_to = open_output(output.file, overwrite=overwrite, resume_at=resume_at, resumable=True)
            out = files.enter_context(rows_to)
            pages = [out] if output.sink_name == "html" else []
            for target in (output.report, output.contact_sheet):
                if target is not None:
                    pages.append(files.enter_context(open_output(target, overwrite=output.overwrite)))
            if journal is not None:
                journal.begin()
            yield out, lambda batches: self._through(batches, out, pages, journal)

    def _through(self, batches: "Batches", out: TextIO, pages: list[TextIO], journal: "Journal | None") -> "Batches":
        from zsclip.answers.answers import only_wanted

        if journal is not None:
            batches = journal.noted(batches, out)
        if self.output.segments:  # whether frames are neighbours shows only among all of them
            return batches
        batches = only_wanted(batches, self.wanted)
        small: dict[str, Any] = {"threads": self.threads, "max_pixels": self.max_pixels}
        for target, page in zip(self.output.pages, pages, strict=False):
            from zsclip.out.report import with_report

            folder = os.path.dirname(target)
            batches = with_report(batches, page, folder, about=self.about, **small)
        most = self.candidates
        if self.output.pages and most is not None:
            batches = (batch.with_best(most) for batch in batches)
        if self.output.contact_sheet is not None:
            from zsclip.out.contactsheet import with_contact_sheet

            batches = with_contact_sheet(batches, pages[-1].buffer, **small)
        return batches
