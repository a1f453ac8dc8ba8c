"""Groups of options: a dataclass holds options that belong together, and a command names the groups that it takes."""

import inspect
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from typer.models import OptionInfo, ParameterInfo

from zsclip.cli.help import SHORT_HELP

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def group(heading: str) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass of options.

    Every option is an `Annotated` type that holds its `typer.Option` or `typer.Argument`. Other fields, which a group
    inherits, keep their defaults.

    Args:
        heading: the heading of its options in `--help`; an option's own `rich_help_panel` comes first.
    """

    def made(options: type[T]) -> type[T]:
        options = dataclass(frozen=True, repr=False, eq=False)(options)  # each generated method costs 0.2 ms at start
        options.heading = heading  # type: ignore[attr-defined]
        return options

    return made


def command(*, common: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a command: Typer sees every option of its groups, and the function receives the groups.

    Args:
        common: parameters that `-h` shows, in this order; by default all of them.
    """

    def made(body: Callable[..., Any]) -> Callable[..., Any]:
        taken = {name: hint for name, hint in get_type_hints(body, include_extras=True).items() if name != "return"}
        groups: dict[str, Any] = {name: hint for name, hint in taken.items() if is_dataclass(hint)}

        def run(**values: Any) -> Any:
            values.pop("short_help", None)
            built = {
                name: options(**{each.name: values.pop(each.name) for each in _parameters_of(options)})
                for name, options in groups.items()
            }
            return body(**built, **values)

        defaults = {name: each.default for name, each in inspect.signature(body).parameters.items()}
        parameters: list[inspect.Parameter] = []
        for name, hint in taken.items():
            parameters += _parameters_of(hint) if name in groups else [_parameter(name, hint, defaults[name])]
        parameters.append(_parameter("short_help", SHORT_HELP, False))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__doc__, run.__name__, run.__module__ = body.__doc__, body.__name__, body.__module__
        run.common = tuple(common)  # type: ignore[attr-defined]
        run.groups = tuple(groups.values())  # type: ignore[attr-defined]
        return run

    return made


@cache
def _parameters_of(options: type[Any]) -> list[inspect.Parameter]:
    """Give the options of a group: its own first, then inherited ones."""
    hints = get_type_hints(options, include_extras=True)
    named = {each.name: each for each in fields(options)}
    own_first = dict.fromkeys(name for kind in options.__mro__ for name in getattr(kind, "__annotations__", {}))
    return [
        _parameter(name, _with_heading(hints[name], options.heading), _default(named[name]))
        for name in own_first
        if get_origin(hints[name]) is Annotated
    ]


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _default(option: "Field[Any]") -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return inspect.Parameter.empty if option.default is MISSING else option.default


def _with_heading(hint: Any, heading: str) -> Any:
    assert get_origin(hint) is Annotated, hint
    kind, about = get_args(hint)
    assert isinstance(about, ParameterInfo), hint
    if isinstance(about, OptionInfo) and not about.rich_help_panel:
        about = copy(about)
        about.rich_help_panel = heading
    return Annotated[kind, about]
