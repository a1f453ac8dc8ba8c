"""Where a run starts: at the beginning, or where an earlier one ended; and how an interrupted one can continue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zsclip.cli.options import Messages
from zsclip.cli.tally import Tally
from zsclip.cli.terminal import counted

if TYPE_CHECKING:
    from zsclip.cli.rows import Output
    from zsclip.out.journal import Journal, Point
    from zsclip.pictures.passed_over import PassedOver
    from zsclip.pictures.pictures import Paths


@dataclass(frozen=True)
class Start:
    """Where a run starts: at the beginning, or where an earlier run ended.

    journal: the journal of the file for the rows; None if there is no such file. point: where an earlier run was cut.
    end: the end of a finished file; only its failed rows may be left to do.
    """

    journal: "Journal | None" = None
    point: "Point | None" = None
    end: "Point | None" = None

    @property
    def has_header(self) -> bool:
        """Whether the header of the file is already written."""
        return self.point is not None and self.point.pictures > 0

    def tally(self, output: "Output", passed_over: "PassedOver | None" = None) -> Tally:
        """Start the counts at what an earlier run has done.

        Args:
            passed_over: what the search for pictures leaves out.
        """
        earlier = self.point or self.end
        if earlier is None:
            return Tally(passed_over=passed_over)
        if output.retry_errors:
            return Tally(earlier.pictures - earlier.failed, passed_over=passed_over)
        return Tally(earlier.pictures, earlier.failed, passed_over)

    def is_complete(self, output: "Output") -> bool:
        """Whether nothing is left to do."""
        return self.end is not None and not (output.retry_errors and self.end.failed)


def start_of(output: "Output", settings: dict[str, object], paths: "Paths", messages: Messages) -> Start:
    """Look for an earlier run to continue, and drop the paths that already have rows."""
    if output.own_file is None:
        return Start()
    from zsclip.out.journal import Journal

    can_grow = output.sink_name != "parquet"
    journal = Journal(output.own_file, settings | output.settings, overwrite=output.overwrite, can_grow=can_grow)
    point = journal.resume(paths) if output.is_resumed else None
    if point is not None and not can_grow:
        messages.note(f"{output.own_file}: a Parquet file cannot be continued, so it is written from the beginning")
    end = journal.check_finished(paths) if output.is_resumed and point is None else None
    return Start(journal, point, end)


def resume_hint(output: "Output", start: Start, tally: Tally, is_retry: bool, only: Sequence[str]) -> str:
    """Say what an interrupted run has written, and how to continue it."""
    from zsclip.out.output import part_of

    done = (start.point.pictures if start.point else 0) + tally.written
    if output.own_file is None:
        return f"the rows of {counted(done, 'image')} were written; with -o FILE a run can be resumed"
    if is_retry:
        return f"{output.own_file} is unchanged; run the same command again"
    if output.pages or output.contact_sheet is not None or output.segments:
        return f"{counted(done, 'image')} done; run again with --overwrite; what was encoded is kept"
    if output.sink_name == "parquet":
        return f"{counted(done, 'image')} done; add --resume to start again; what was encoded is kept"
    if not done:
        return "no rows were written; run the same command again"
    rows = counted(done, "row") if output.sink_name == "jsonl" and not only else f"rows of {counted(done, 'image')}"
    return f"{rows} {'is' if rows == '1 row' else 'are'} in {part_of(output.own_file)}; add --resume to continue"
