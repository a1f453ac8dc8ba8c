"""The entry point: all commands together, and every error as one line and an exit code."""

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from zsclip.cli.apply import apply
from zsclip.cli.bench import bench
from zsclip.cli.calibrate import calibrate
from zsclip.cli.classify import classify
from zsclip.cli.compare import compare
from zsclip.cli.evaluate import evaluate
from zsclip.cli.help import SHORT_HELP, Command, Group, short_page
from zsclip.cli.manage import cache_app, models_app, prompts_app
from zsclip.cli.search import search
from zsclip.cli.signals import EXPLAINED, ending_signals, how_ended
from zsclip.cli.similar import similar
from zsclip.cli.terminal import say
from zsclip.cli.training import train
from zsclip.cli.usage import command_in, usage_line
from zsclip.engine.options import variable
from zsclip.errors import ZsclipError


class _Program(Group):
    def invoke(self, ctx: Any) -> Any:
        """Run the command; if a signal ends it, say how to go on, unless that has been said."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, SystemExit) as e:
            if (how := how_ended(e)) and EXPLAINED not in getattr(e, "__notes__", ()):
                say(f"zsclip: {how}; run the same command again")
            raise


app = typer.Typer(
    cls=_Program,
    help="""Zero-shot image classification from the shell: words in, the best-fitting word for every image out.

    Examples:

        zsclip classify photos/ --labels "cat,dog,bird"
        zsclip classify photos/ --labels "cat,dog,bird" --model tiny -o labels.csv
        zsclip eval labelled/ --model tiny
    """,
    no_args_is_help=True,
    rich_markup_mode=None,  # our own help pages: rich would cost a third of the start
    pretty_exceptions_enable=False,
)
app.command(cls=Command)(classify)
app.command(cls=Command)(search)
app.command(cls=Command)(similar)
app.command(cls=Command)(apply)
app.command("eval", cls=Command)(evaluate)
app.command(cls=Command)(compare)
app.command(cls=Command)(calibrate)
app.command(cls=Command)(train)
app.command(cls=Command)(bench)
app.add_typer(prompts_app, name="prompts")
app.add_typer(models_app, name="models")
app.add_typer(cache_app, name="cache")


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"zsclip {version('zsclip')}")
        raise typer.Exit()


@app.callback()
def _start(
    short_help: SHORT_HELP = False,
    version: Annotated[
        bool,
        typer.Option(
            "-V", "--version", help="Show the version and exit.", is_eager=True, callback=_show_version,
            rich_help_panel="Other",
        ),
    ] = False,
) -> None:  # fmt: skip
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; errors become one line on stderr.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    _silence_dependencies()
    for name, value in list(os.environ.items()):
        if name.startswith(("ZSCLIP_", "HF_", "XDG_CACHE_")) and not value.strip():
            del os.environ[name]  # the Hub's library would take a blank for a folder's name, Typer for a model's
    for name in {"ZSCLIP_MODEL", "ZSCLIP_DEVICE"} & os.environ.keys():
        os.environ[name] = variable(name)
    with ending_signals() as received:
        code = _run(arguments)
    return 128 + received[-1] if received else code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="zsclip", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except ZsclipError as e:
        say(f"zsclip: {e}")
        return e.exit_code
    except typer.TyperException as e:
        if type(e).__name__ == "NoArgsIsHelpError":
            typer.echo(short_page(e.ctx), err=True)  # type: ignore[attr-defined]  # Typer does not export its class
        else:
            say("zsclip: " + _usage_line(e, sys.argv[1:] if arguments is None else arguments))
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except OSError as e:
        if e.errno is None or e.filename is not None:
            return _internal_error(e)
        # The error of a write names no file, and outside the sinks only typer.echo writes.
        say(f"zsclip: standard output: {(e.strerror or str(e)).lower()}; redirect it elsewhere")
        return 4
    except Exception as e:
        return _internal_error(e)
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # the reader closed the pipe; to Typer that is a failure
            return 0
        return e.code if isinstance(e.code, int) else 1


def run() -> None:
    """The program `zsclip`."""
    for descriptor in range(3):  # else the next file opened takes the number of a closed one, and gets our output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = _ClosedStream()
    code = main()
    # Decoding threads may still be working on a picture and cannot be stopped, and torch is slow to shut down.
    # Everything written to stdout has been flushed by its writer.
    os._exit(code)


class _ClosedStream(io.TextIOBase):
    """Stands in for a closed standard output, to which Python would write nothing without an error."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


def _internal_error(e: Exception) -> int:
    if os.environ.get("ZSCLIP_DEBUG"):
        raise e
    cure = "please report it with the traceback that ZSCLIP_DEBUG=1 prints"
    say(f"zsclip: internal error: {type(e).__name__}: {e}; {cure}")
    return 70  # EX_SOFTWARE of sysexits.h


def _usage_line(e: Exception, arguments: Sequence[str]) -> str:
    message = e.format_message() if hasattr(e, "format_message") else str(e)
    context = getattr(e, "ctx", None)
    if context is not None:
        return usage_line(message, context.command_path)
    groups = {str(each.name) for each in app.registered_groups}
    commands = {each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands}
    return usage_line(message, command_in(arguments, groups, commands))


def _silence_dependencies() -> None:
    # Offline, open_clip and huggingface_hub would print dozens of lines before ours.
    logging.disable(logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
