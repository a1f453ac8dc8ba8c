"""`zsclip apply`."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.options import Messages
from zsclip.cli.progress import Progress
from zsclip.cli.run import interruptible
from zsclip.cli.tags import Tags
from zsclip.cli.terminal import counted, say
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.out.act import Outcome
    from zsclip.out.actionlog import Action, ActionLog, Entry, Key
    from zsclip.out.exiftool import ExifTool
    from zsclip.out.plan import Opens, Plan, Wish
    from zsclip.out.reader import Answered
    from zsclip.pictures.listed import Members

Planner = Callable[[Sequence["Answered"], Mapping["Key", "Entry"], "Opens", "ExifTool"], "Plan"]

_SHOWN = 20  # files that are named because nothing was done with them
_ACTIONS: "dict[str, Action]" = {"--copy-to": "copy", "--move-to": "move", "--link-to": "link"}
_DONE = {"copy": "copied", "move": "moved", "link": "linked", "tag": "written", "embed": "tagged"}
_TAKEN_BACK = {"copy": "removed", "move": "moved back", "link": "removed", "tag": "taken back", "embed": "restored"}


@group("Output")
class Actions(Tags):
    """What is done with the images of rows."""

    rows: Annotated[
        str | None,
        typer.Argument(
            metavar="ROWS",
            help="Rows that `zsclip classify` wrote: .jsonl, .csv, .tsv, .parquet, a folder of parts, or - for stdin.",
        ),
    ] = None
    copy_to: Annotated[
        str | None,
        typer.Option("--copy-to", metavar="DIR", help="Copy each image to DIR/LABEL/, or to DIR with {label}, {name}."),
    ] = None
    move_to: Annotated[
        str | None, typer.Option("--move-to", metavar="DIR", help="Move the images instead of copying them.")
    ] = None
    link_to: Annotated[
        str | None, typer.Option("--link-to", metavar="DIR", help="Make symbolic links to the images.")
    ] = None
    unknown_to: Annotated[
        str | None,
        typer.Option("--unknown-to", metavar="DIR", help="Treat images without an answer likewise; they go to DIR."),
    ] = None
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", metavar="P", min=0, max=1, help="Take answers with a lower score as no answers."),
    ] = None
    no_companions: Annotated[
        bool,
        typer.Option(
            "--no-companions",
            help="Leave behind what belongs to an image: its RAW, the film of a Live Photo, .xmp, .aae, .json.",
        ),
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be done.", rich_help_panel="Other")
    ] = False
    log: Annotated[
        str | None,
        typer.Option("--log", metavar="FILE", help="Log all that is done in FILE, by default ROWS.apply.jsonl."),
    ] = None
    undo: Annotated[
        str | None,
        typer.Option("--undo", metavar="LOG", help="Take back all that is in LOG, except for files changed since."),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        from zsclip.out.output import check_local

        check_local("--log", self.log)
        flags = [flag for flag, value in self._targets if value is not None]
        if self.undo is not None:
            others = [*flags, *["ROWS"] * (self.rows is not None), *["--dry-run"] * self.dry_run]
            if others:
                raise InputError(f"--undo: takes nothing but a log; leave out {others[0]}")
        elif self.rows is None:
            raise InputError("apply: give the file with the rows, - for stdin, or --undo LOG")
        elif len(flags) != 1:
            which = " and ".join(flags) or "none of them"
            raise InputError(f"apply: needs one of --copy-to, --move-to, --link-to and --tag; found {which}")
        elif self.tag is not None and (self.unknown_to is not None or self.no_companions):
            flag = "--no-companions" if self.unknown_to is None else "--unknown-to"
            raise InputError(f"{flag}: not with --tag, which leaves images where they are")

    @property
    def _targets(self) -> "list[tuple[str, str | None]]":
        places = [("--copy-to", self.copy_to), ("--move-to", self.move_to), ("--link-to", self.link_to)]
        return [*places, ("--tag", self.tag)]

    @property
    def log_file(self) -> str:
        """The log; for rows from stdin, in the current folder."""
        assert self.rows is not None
        return self.log or ("zsclip" if self.rows == "-" else self.rows.rstrip("/")) + ".apply.jsonl"

    def planner(self) -> "Planner":
        """Check what was given, and give a function that plans for rows what is to be done."""
        if self.tag is not None:
            from zsclip.out.tagplan import plan_tags

            tagging = self.tagging(self.min_score)
            return lambda rows, done, opens, exiftool: plan_tags(rows, tagging, exiftool)
        from zsclip.out.plan import plan

        wish = self._wish()
        return lambda rows, done, opens, exiftool: plan(rows, wish, done, opens)

    def _wish(self) -> "Wish":
        """Check the folders that were given, and give what is to be done."""
        from zsclip.out.destinations import read_destination
        from zsclip.out.plan import Wish

        flag, text = next((flag, text) for flag, text in self._targets if text is not None)
        unknown_to = self.unknown_to
        if unknown_to is not None:
            unknown_to = read_destination("--unknown-to", unknown_to, has_label=False)
        to, action = read_destination(flag, text), _ACTIONS[flag]
        return Wish(action, to, unknown_to, self.min_score, companions=not self.no_companions)


@command(
    common=(
        "rows", "copy_to", "move_to", "link_to", "tag", "unknown_to", "min_score", "dry_run", "undo",
    )
)  # fmt: skip
def apply(actions: Actions, messages: Messages) -> int:
    """Copy, move, link or tag images by their answers.

    Nothing is overwritten: a file whose name is taken gets a number, and one that is there already is left out. With
    --multi-label, an image goes to the folder of every label that applies. If a run is interrupted or killed, run the
    same command again to continue.

    Tags of earlier runs are replaced, and removed from images that have no answer now; all other tags stay. --tag
    exiftool keeps each image as it was in IMAGE_original, or IMAGE_original-2 if that exists; --undo moves it back.

    Examples:

        zsclip apply labels.csv --copy-to sorted/ --dry-run
        zsclip apply labels.csv --move-to sorted/ --min-score 0.8 --unknown-to unsure/
        zsclip apply labels.csv --tag xmp
        zsclip apply --undo labels.csv.apply.jsonl
    """
    if actions.undo is not None:
        return _undo(actions.undo, messages)
    from zsclip.out.act import Outcome, act, done_before, settle
    from zsclip.out.actionlog import open_log, read_log
    from zsclip.out.exiftool import ExifTool
    from zsclip.out.reader import read_answers

    plan, opens, outcome = actions.planner(), _opener(), Outcome()
    with Progress(messages.show_progress) as progress:
        progress.step("reading rows")
        rows = list(read_answers(actions.rows or ""))
        if actions.dry_run:
            with ExifTool() as exiftool:
                planned = plan(rows, done_before(read_log(actions.log_file)), opens, exiftool)
            _print(planned)
            return _report(actions, planned, outcome, messages, None)
        with open_log(actions.log_file, is_new=True) as log, ExifTool(log.file) as exiftool:
            settle(log, opens)
            progress.step("looking at files")
            planned = plan(rows, done_before(log), opens, exiftool)
            _show(progress, outcome, sum(map(len, planned.groups)))
            with interruptible(lambda: _hint(outcome)):
                act(planned.groups, log, opens, exiftool, outcome)
    return _report(actions, planned, outcome, messages, log)


def _undo(path: str, messages: Messages) -> int:
    from zsclip.out.act import Outcome, undo
    from zsclip.out.actionlog import open_log

    outcome = Outcome()
    with Progress(messages.show_progress) as progress, open_log(path, is_new=False) as log:
        _show(progress, outcome, sum(entry.state == "done" for entry in log.entries))
        with interruptible(lambda: _hint(outcome)):
            undo(log, _opener(), outcome)
    _say_left(outcome.left)
    if not messages.quiet:
        parts = [f"{counted(number, 'file')} {_TAKEN_BACK[action]}" for action, number in outcome.done.items()]
        say(", ".join(parts) or "nothing is left to take back")
    return int(bool(outcome.left))


def _opener() -> "Opens":
    """Give a function that opens members of archives, and frames of videos as PNG files.

    What reads those is imported only when the first is wanted.
    """
    known: list[Members] = []

    def opens(name: str) -> BinaryIO:
        from zsclip.pictures.containers import archive_of, is_clip
        from zsclip.pictures.listed import Members
        from zsclip.pictures.remote import Network
        from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

        if not known:
            known.append(Members(Network(offline=True), max_pixels=DEFAULT_MAX_PIXELS))
        if not is_clip(archive_of(name)):
            return known[0].open(name)
        from zsclip.out.thumbnails import as_png

        return as_png(known[0].open(name))

    return opens


def _show(progress: Progress, outcome: "Outcome", total: int) -> None:
    progress.shows(lambda: f"{outcome.done.total():,} of {counted(total, 'file')}")


def _hint(outcome: "Outcome") -> str:
    return f"{counted(outcome.done.total(), 'file')} done; run the same command again to continue"


def _print(planned: "Plan") -> None:
    """Print the steps of a plan, a line each."""
    from zsclip.out.text import escaped

    for step in chain.from_iterable(planned.groups):
        if step.change is None:
            typer.echo(f"{step.action} {_shown(step.source)} -> {_shown(step.target)}")
        else:
            tags = ", ".join(map(escaped, step.change.tags))
            typer.echo(f"tag {_shown(step.target)}: {tags}" if tags else f"untag {_shown(step.target)}")


def _report(actions: Actions, planned: "Plan", outcome: "Outcome", messages: Messages, log: "ActionLog | None") -> int:
    """Say on stderr what was done and what was not, and give the exit code.

    Args:
        log: None if nothing was to be done.
    """
    left = [*planned.left, *outcome.left]
    _say_left(left)
    if not planned.rows:
        say("zsclip: no rows")
    elif not messages.quiet:
        for line in _summary(actions, planned, outcome, log):
            say(line)
    return int(bool(left) or not planned.rows)


def _summary(actions: Actions, planned: "Plan", outcome: "Outcome", log: "ActionLog | None") -> Iterator[str]:
    images, files = len(planned.groups), sum(map(len, planned.groups))
    if log is None and actions.tag:
        done = [f"{counted(files, 'file')} would be {_DONE['embed' if actions.tag == 'exiftool' else 'tag']}"]
    elif log is None:
        done = [f"{counted(images, 'image')}, {counted(files, 'file')} in all, would be done"]
    else:
        done = [f"{counted(number, 'file')} {_DONE[action]}" for action, number in outcome.done.items()]
    if planned.same:
        done.append(f"{planned.same:,} {'tagged' if actions.tag else 'there'} already")
    if planned.before:
        done.append(f"{planned.before:,} done by an earlier run")
    yield ", ".join(done) or "nothing to do"
    stayed = [f"{planned.unknown:,} without an answer"] if planned.unknown else []
    stayed += [f"{planned.failed:,} that could not be read"] if planned.failed else []
    if stayed:
        yield f"{'not tagged' if actions.tag else 'left where they are'}: {' and '.join(stayed)}"
    if log is not None and log.size:
        import shlex

        yield f"log: {log.path}; `zsclip apply --undo {shlex.quote(log.path)}` takes all of it back"


def _say_left(left: "Sequence[tuple[str, str]]") -> None:
    for name, why in left[:_SHOWN]:
        say(f"left {_shown(name)}: {why}")
    if len(left) > _SHOWN:
        say(f"left {len(left) - _SHOWN:,} more")


def _shown(path: str) -> str:
    """Give a path for display, relative if it is below the current folder."""
    from zsclip.out.text import decoded, escaped

    return escaped(decoded(path.removeprefix(os.path.join(os.getcwd(), ""))))
