"""The help screens: what they show, that they fit, and that every option is defined once."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from typer.core import TyperArgument, TyperGroup
from typer.main import get_command

from zsclip.cli.main import app, main

FLAG = re.compile(r"(?<![\w-])--?[a-zA-Z0][\w-]*")


def commands() -> dict[str, Any]:
    """Every command as Typer builds it, by what is typed; "" is `zsclip` itself."""
    root = get_command(app)
    found: dict[str, Any] = {"": root}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        found[name] = command
        if isinstance(command, TyperGroup):
            found |= {f"{name} {each}": below for each, below in command.commands.items()}
    return found


COMMANDS = commands()
OPTIONS = [(name, param) for name, command in COMMANDS.items() for param in command.params]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give a function: arguments -> what is printed, at a width of N columns."""

    def text(*arguments: str, columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main([*arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_a_screen_with_examples(name: str, shown: Callable[..., str]) -> None:
    lines = shown(*name.split(), "-h").splitlines()

    assert lines[0].startswith(f"Usage: zsclip {name}".rstrip())
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    if not isinstance(COMMANDS[name], TyperGroup) or not name:
        assert any(line.startswith(f"  zsclip {name}".rstrip()) for line in lines[lines.index("Examples:") :])


@pytest.mark.parametrize("name", ["classify", "eval", "compare", "calibrate", "train", "bench"])
def test_the_short_help_of_long_commands_has_three_examples(name: str, shown: Callable[..., str]) -> None:
    text = shown(name, "-h")

    assert len(re.findall(rf"^  zsclip {name} ", text, re.MULTILINE)) == 3
    assert re.search(rf"^`zsclip {name} --help` explains \d+ more options\.$", text, re.MULTILINE)


@pytest.mark.parametrize("columns", [60, 80, 140])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_full_help_has_every_flag_and_is_as_wide_as_the_terminal(
    name: str, columns: int, shown: Callable[..., str]
) -> None:
    text = shown(*name.split(), "--help", columns=columns)

    before_examples = text.partition("Examples:")[0].splitlines()
    assert max(map(len, before_examples)) <= columns
    if name == "classify":
        assert max(map(len, before_examples)) > columns - 20
    flags = {flag for param in COMMANDS[name].params for flag in (*param.opts, *param.secondary_opts) if "-" in flag}
    assert flags | {"--help", "-h"} <= set(FLAG.findall(text))


@pytest.mark.parametrize("name", COMMANDS)
def test_no_type_of_python_leaks_into_help(name: str, shown: Callable[..., str]) -> None:
    for flag in ("-h", "--help"):
        text = shown(*name.split(), flag)

        assert not re.search(r"<\w*\[|\blist\[|\bstr\b|\bTEXT\.\.\.|\bINTEGER\b|\bFLOAT\b|<class", text)


@pytest.mark.parametrize(("name", "param"), OPTIONS, ids=[f"{name}:{param.name}" for name, param in OPTIONS])
def test_every_option_has_a_help_text_a_heading_and_a_metavar(name: str, param: Any) -> None:
    assert param.help
    assert param.help.endswith((".", "file.", "imagenet."))
    assert param.help[0].isupper() or param.help.startswith("--")
    if not isinstance(param, TyperArgument) and "completion" not in (param.name or ""):
        assert isinstance(param.rich_help_panel, str)
        assert param.is_flag or param.metavar


def groups() -> Iterator[type[Any]]:
    for command in COMMANDS.values():
        for group in getattr(command.callback, "groups", ()):
            yield from (kind for kind in group.__mro__ if kind.__module__.startswith("zsclip.cli"))


def test_each_flag_of_the_groups_is_defined_once() -> None:
    """Two that share a flag share its definition: `compare` repeats some. Some mean others by a few words."""
    defined: dict[str, set[tuple[Any, ...]]] = {}
    for group in set(groups()):
        hints = get_type_hints(group, include_extras=True)
        for name in inspect.get_annotations(group):
            if get_origin(hints[name]) is not Annotated:  # a field that a group inherits, and no option of it
                continue
            _, option = get_args(hints[name])
            flags = (option.default, *(option.param_decls or ()))  # where Typer puts the names of an annotated option
            for flag in filter(lambda flag: isinstance(flag, str), flags):
                defined.setdefault(flag, set()).add((flags, option.metavar, option.help))

    several = {flag for flag, definitions in defined.items() if len(definitions) > 1}
    assert several == {
        "--batch-size", "--precision", "-m", "--model", "-o", "--output", "--prompts", "-n", "--limit", "--threshold",
        "--dry-run", "-f", "--format",
    }  # fmt: skip


def test_no_letter_means_two_things() -> None:
    letters = {}
    for _, param in OPTIONS:
        for flag in param.opts:
            if re.fullmatch(r"-\w", flag):
                letters.setdefault(flag, set()).add(max(param.opts, key=len))

    assert {flag: names for flag, names in letters.items() if len(names) > 1} == {}
    assert letters.keys() >= {"-l", "-m", "-f", "-k", "-n", "-o", "-0", "-j", "-q", "-h", "-V"}


def test_every_field_of_a_group_is_an_option() -> None:
    for group in set(groups()):
        hints = get_type_hints(group, include_extras=True)
        assert all(get_origin(hints[each.name]) is not None for each in fields(group)), group


def test_without_arguments_the_short_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["models"]):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("Usage: zsclip")


def test_the_version_has_a_letter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.startswith("zsclip ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["clasify"], "no such command 'clasify'; did you mean 'classify'? 'zsclip --help' shows all commands"),
        (["cache", "nope"], "no such command 'nope'; try 'zsclip cache --help'"),
        (
            ["classify", "x.jpg", "--lables", "a"],
            "no such option: --lables; did you mean --label, --labels or --labels-file? "
            "'zsclip classify --help' shows all options",
        ),
        (
            ["classify", "x.jpg", "--thresh", "1"],
            "no such option: --thresh; did you mean --threshold? 'zsclip classify --help' shows all options",
        ),
        (["classify", "x.jpg", "-z"], "no such option: -z; try 'zsclip classify --help'"),
        (["classify", "x.jpg", "-l"], "option '-l' requires an argument; try 'zsclip classify --help'"),
        (["cache", "gc", "--max-size"], "option '--max-size' requires an argument; try 'zsclip cache gc --help'"),
        (["eval", "a", "b"], "unexpected argument: b; try 'zsclip eval --help'"),
        (
            ["classify", "x.jpg", "-k", "x"],
            "invalid value for '-k' / '--top-k': it must be a whole number; try 'zsclip classify --help'",
        ),
        (
            ["classify", "x.jpg", "-k", "0"],
            "invalid value for '-k' / '--top-k': it must be at least 1; try 'zsclip classify --help'",
        ),
        (
            ["classify", "x.jpg", "--threshold", "2"],
            "invalid value for '--threshold': it must be between 0 and 1, such as 0.95; try 'zsclip classify --help'",
        ),
        (
            ["bench", "x.jpg", "--seconds", "soon"],
            "invalid value for '--seconds': it must be a number; try 'zsclip bench --help'",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_its_command(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    assert capsys.readouterr().err == f"zsclip: {said}\n"


def test_gc_of_an_empty_cache_frees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["cache", "gc", "--max-size", "0"]) == 0
        assert capsys.readouterr().out == "0.0 MB freed, 0.0 MB of image embeddings left\n"
