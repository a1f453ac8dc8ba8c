"""`zsclip doctor`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import command
from zsclip.cli.options import Json, Messages, Network, set_environment
from zsclip.engine.options import model_name
from zsclip.errors import ModelError, ZsclipError, first_line

if TYPE_CHECKING:
    from zsclip.cli.progress import Progress
    from zsclip.measure.installation import Check

_COMPARED = ("chelsea.jpg", "astronaut.jpg", "camera.jpg")  # wide, square and grey


@command()
def doctor(
    result: Json,
    messages: Messages,
    model: Annotated[
        str | None,
        typer.Option(
            "-m", "--model", metavar="MODEL", envvar="ZSCLIP_MODEL", help="Check this model, by default tiny.",
            rich_help_panel="Model",
        ),
    ] = None,
) -> int:  # fmt: skip
    """Check the installation, the cache and a model.

    What is missing comes with the line that installs it. The model is compared with open_clip: its pixels, tokens and
    embeddings of three photographs and some sentences must be the same. Nothing is fetched. What is kept is read, and
    deleted where it is damaged, as `zsclip cache verify` does.

    The exit code is 1 if something is wrong, 3 if it is the model; what is only missing is optional.

    Examples:

        zsclip doctor
        zsclip doctor -m base
        zsclip doctor --json
    """
    import json
    from dataclasses import asdict

    from zsclip.cli.progress import Progress

    set_environment(Network(offline=True), messages)
    found: list[Check] = []
    with Progress(messages.show_progress) as progress:
        for check in _checks(model_name(model or "") or "tiny", progress):
            progress.stop()
            found.append(check)
            if not result.as_json:
                fix = f"; {check.fix}" if check.fix else ""
                typer.echo(f"{check.state:<8} {check.about:<10} {check.detail}{fix}")
    wrong = [check.about for check in found if check.state == "wrong"]
    if result.as_json:
        typer.echo(json.dumps({"healthy": not wrong, "checks": [asdict(check) for check in found]}))
    return ModelError.exit_code if "model" in wrong else int(bool(wrong))


def _checks(model: str, progress: "Progress") -> "Iterator[Check]":
    from importlib.metadata import PackageNotFoundError, requires

    from zsclip.cli.demo import FOLDER
    from zsclip.measure.installation import Check, check_decoders, check_device, check_packages

    progress.step("looking at packages")
    try:
        needed = requires("zsclip") or []
    except PackageNotFoundError:  # run from a checkout
        needed = []
    yield from check_packages(needed)
    yield check_decoders()
    progress.step("loading torch")
    yield check_device()
    progress.step("reading the cache")
    yield _check_cache()
    progress.step(f"comparing {model} with open_clip")
    try:
        from zsclip.measure.model_check import check_model

        yield from check_model(model, [str(FOLDER / name) for name in _COMPARED])
    except ModelError as e:
        yield Check("model", "wrong", str(e))
    except (ImportError, OSError) as e:  # OSError: a shared library is missing
        yield Check("model", "wrong", f"{model} cannot be compared with open_clip: {first_line(e)}")


def _check_cache() -> "Check":
    from zsclip.cli.manage import verify_cache
    from zsclip.kept.cache import cache_dir
    from zsclip.measure.installation import Check

    try:
        found, damaged = verify_cache()
    except ZsclipError as e:
        return Check("cache", "wrong", str(e), "set ZSCLIP_CACHE_DIR to a folder that you can write to")
    return Check("cache", "wrong" if damaged else "ok", f"{cache_dir()}: {found}")
