"""The two help pages of every command: `-h` is one screen, `--help` is everything."""

import inspect
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

_WIDEST_NAMES = 30  # columns; the text of an option with a longer name begins on the next line


def _show_short_page(context: typer.Context, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        typer.echo(short_page(context))
        raise typer.Exit()


SHORT_HELP = Annotated[
    bool,
    typer.Option(
        "-h", help="Show one screen of help and exit.", is_eager=True, callback=_show_short_page,
        rich_help_panel="Other",
    ),
]  # fmt: skip


class _Argument(TyperArgument):
    def process_value(self, ctx: Any, value: Any) -> Any:
        return _processed(self, super().process_value, ctx, value)


class _Option(TyperOption):
    def process_value(self, ctx: Any, value: Any) -> Any:
        return _processed(self, super().process_value, ctx, value)


_OURS: dict[Any, Any] = {TyperArgument: _Argument, TyperOption: _Option}


def _processed(this: Any, convert: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    """Pass on a value that has the right type: pydantic, which converts the others, takes 50 ms to import."""
    is_list = this.multiple or this.nargs == -1
    given = () if value is None and is_list else value
    kind = getattr(getattr(this, "type_descriptor", None), "annotation", None)  # another version of Typer has none
    if not _fits(given, kind, is_list) or (this.required and this.value_is_missing(given)):
        return convert(ctx, value)
    return given if this.callback is None else this.callback(ctx, this, given)


def _fits(value: Any, kind: Any, is_list: bool) -> bool:
    if is_list:
        return isinstance(value, list | tuple) and get_args(kind) == (str,) and all(type(each) is str for each in value)
    if value is None:
        return kind is not None
    return value in get_args(kind) if get_origin(kind) is Literal else type(value) is kind


class _WithOurPage:
    def get_params(self, ctx: Any) -> list[Any]:
        """Give the parameters, which Typer lets nobody make of another class."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for each in params:
            each.__class__ = _OURS.get(type(each), type(each))
        return params

    def get_help_option(self, ctx: Any) -> Any:
        """Describe `--help` beside `-h`."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        option.help = "Show all options and exit."
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the full page."""
        formatter.write(full_page(ctx))


class Command(_WithOurPage, TyperCommand):
    """A command whose `--help` is our page."""


class Group(_WithOurPage, TyperGroup):
    """A group of commands whose `--help` is our page."""


def short_page(context: Any) -> str:
    """Give the screen of `-h`: what a command does, the options people use, examples."""
    about, examples = _docstring(context.command)
    if isinstance(context.command, TyperGroup):
        lines = [*_usage(context), "", *_wrapped(about), "", *_commands(context), "", *_examples(examples)]
        lines.append(f"`{context.command_path} COMMAND -h` shows the most common options of a command.")
        return "\n".join(lines)
    callback = context.command.callback
    named = {param.name: param for param in context.command.params}
    common = [named[name] for name in getattr(callback, "common", ())]
    arguments, options = _kinds(common or [each for each in context.command.params if each.name != "short_help"])
    others = len(_kinds(context.command.params)[1]) - len(options) - 1  # without -h
    lines = [*_usage(context), "", *_wrapped(about.split("\n\n")[0]), ""]
    if arguments or options:
        lines += [*_table(arguments + options), ""]
    lines += _examples(examples)
    if others:
        lines.append(f"`{context.command_path} --help` explains {others} more options.")
    return "\n".join(lines).rstrip()


def full_page(context: Any) -> str:
    """Give the page of `--help`: everything, under headings."""
    about, examples = _docstring(context.command)
    lines = [*_usage(context), "", *_wrapped(about), ""]
    if isinstance(context.command, TyperGroup):
        lines += [*_commands(context), ""]
    arguments, options = _kinds(context.command.get_params(context))
    if arguments:
        lines += ["Arguments:", *_table(arguments), ""]
    headings = {option: _heading(option) for option in options}
    for heading in sorted(dict.fromkeys(headings.values()), key=lambda heading: heading == "Other"):
        lines += [f"{heading}:", *_table([option for option in options if headings[option] == heading]), ""]
    return "\n".join([*lines, *_examples(examples)]).rstrip() + "\n"


def _commands(context: Any) -> Iterator[str]:
    yield "Commands:"
    yield from _rows([(name, _first(each)) for name, each in context.command.commands.items()])


def _heading(option: Any) -> str:
    panel = getattr(option, "rich_help_panel", None)
    return panel if isinstance(panel, str) else "Other"


def _listed(parameters: Iterable[Any]) -> list[Any]:
    return [each for each in parameters if not getattr(each, "hidden", False)]


def _kinds(parameters: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Separate arguments from options."""
    shown = _listed(parameters)
    return [each for each in shown if isinstance(each, TyperArgument)], [
        each for each in shown if isinstance(each, TyperOption)
    ]


def _usage(context: Any) -> Iterator[str]:
    arguments, _ = _kinds(context.command.params)
    words = [context.command_path, "[OPTIONS]", *(_argument(each) for each in arguments)]
    if isinstance(context.command, TyperGroup):
        words.append("COMMAND [ARGS]...")
    yield "Usage: " + " ".join(words)


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name or "").upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _docstring(command: Any) -> tuple[str, list[str]]:
    """Separate the text of a docstring from its examples."""
    about, _, examples = inspect.cleandoc(command.help or "").partition("Examples:\n")
    return about.strip(), [line.strip() for line in examples.splitlines() if line.strip()]


def _first(command: Any) -> str:
    return " ".join(_docstring(command)[0].split("\n\n")[0].split())


def _wrapped(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ""
        yield from textwrap.wrap(" ".join(paragraph.split()), _width(), break_on_hyphens=False)


def _examples(examples: Sequence[str]) -> list[str]:
    return ["Examples:", *(f"  {example}" for example in examples), ""] if examples else []


def _table(parameters: Iterable[Any]) -> Iterator[str]:
    return _rows([(_names(each), _text(each)) for each in parameters])


def _rows(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Lay out names and texts in two columns, as wide as the terminal."""
    names = [len(name) for name, _ in rows if len(name) <= _WIDEST_NAMES]
    left = 2 + max(names, default=0) + 2
    for name, text in rows:
        lines = textwrap.wrap(text, max(20, _width() - left), break_on_hyphens=False) or [""]
        if len(name) > _WIDEST_NAMES:
            yield f"  {name}"
        else:
            yield f"  {name:<{left - 2}}{lines.pop(0)}".rstrip()
        yield from (" " * left + line for line in lines)


def _names(parameter: Any) -> str:
    if isinstance(parameter, TyperArgument):
        return _argument(parameter)
    names = sorted((*parameter.opts, *parameter.secondary_opts), key=len)
    short = f"{names.pop(0)}, " if len(names[0]) == 2 and len(names) > 1 else "" if len(names[0]) == 2 else "    "
    metavar = "" if parameter.is_flag or not parameter.metavar else f" {parameter.metavar}"
    return short + ", ".join(names) + metavar


def _text(parameter: Any) -> str:
    notes = []
    if parameter.required and isinstance(parameter, TyperOption):
        notes.append("required")
    if getattr(parameter, "multiple", False):
        notes.append("may be repeated")
    if not getattr(parameter, "is_flag", False) and parameter.default not in (None, [], ()):
        notes.append(f"default: {parameter.default}")
    if parameter.envvar:
        notes.append(f"env: {parameter.envvar}")
    return " ".join(filter(None, (parameter.help, f"[{'; '.join(notes)}]" if notes else "")))


def _width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def command_group(name: str, about: str) -> typer.Typer:
    """Make a command that has others below it."""
    group = typer.Typer(
        name=name, cls=Group, help=about, no_args_is_help=True, add_completion=False, rich_markup_mode=None
    )

    @group.callback()
    def start(short_help: SHORT_HELP = False) -> None:
        pass

    return group
