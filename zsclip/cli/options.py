"""Every option that several commands share, defined once. Groups of options check their own values."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsclip.cli.groups import group
from zsclip.cli.terminal import is_terminal, say
from zsclip.engine.options import model_name
from zsclip.errors import InputError, either

if TYPE_CHECKING:
    from zsclip.out.output import FileId
    from zsclip.pictures.pictures import Paths
    from zsclip.pictures.remote import Network as Net
    from zsclip.pictures.sampling import Sampling
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet

    Note = Callable[[str], None]
    Places = Mapping[FileId, str] | None
    Sampled = Sampling | None

Format = Literal["table", "jsonl", "csv", "tsv", "paths", "parquet", "html"]

ALL_FILES = typer.Option("--all-files", help="Try every file of a folder, whatever its extension.")

FORMAT = typer.Option(
    "-f",
    "--format",
    metavar="FORMAT",
    help="Write table, jsonl, csv, tsv, paths, parquet or html; by default, the extension of FILE decides, "
    "else table on a terminal, or jsonl.",
)
TOP_K = typer.Option("-k", "--top-k", metavar="K", min=1, help="Give the K best labels of every image.")
PRINT0 = typer.Option("--print0", help="With --format paths, end every path in NUL, as `xargs -0` reads them.")

# Flags that `compare` takes more than once.
LABELS_FILE = typer.Option(
    "--labels-file",
    metavar="FILE|NAME",
    help="Read labels from a .txt, .csv, .yaml or .json file, or use a built-in list: imagenet.",
)
PROMPTS = typer.Option(
    "--prompts",
    metavar="NAME|FILE",
    help="Put labels into the sentences of this set, by default photo; `zsclip prompts list` shows the sets.",
)
TEMPLATE = typer.Option(
    "--template", metavar="TEXT", help="Replace {} in this sentence with each label; use no prompt set."
)
MODEL = typer.Option(
    "-m",
    "--model",
    metavar="MODEL",
    envvar="ZSCLIP_MODEL",
    help="Use this model, by default base; `zsclip models list` shows the models.",
    rich_help_panel="Model",
)
HEAD = typer.Option(
    "--head",
    metavar="FILE",
    help="Answer with what `zsclip learn` made of words and examples: its labels, prompts and model.",
    rich_help_panel="Labels",
)
EXAMPLES = typer.Option(
    "--examples",
    metavar="DATA",
    help="Learn from these labelled images, too: a folder with one folder for each label, or other data that "
    "`zsclip learn` takes.",
    rich_help_panel="Labels",
)
EXAMPLE = typer.Option(
    "--example", metavar="LABEL=IMAGE", help="Learn from this image of a label, too.", rich_help_panel="Labels"
)
EXPECT = typer.Option(
    "--expect",
    metavar="balanced|few|FILE",
    help="Correct the answers for how often labels occur: all equally, only few of them, or with the shares in FILE, a "
    ".yaml, .json or .csv file.",
    rich_help_panel="Scores",
)
TRANSDUCTIVE = typer.Option(
    "--transductive",
    help="Classify all images a second time, so that they inform each other; the first answers stay in the rows.",
    rich_help_panel="Scores",
)
LIMIT = typer.Option("-n", "--limit", metavar="N", min=1, help="Take at most N images.", rich_help_panel="Input")


@group("Input")
class Inputs:
    """Which pictures a run covers."""

    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Images, folders, quoted globs, URLs, archives (.tar, .zip), .parquet files, lists (.csv, .jsonl), "
            "videos, or - to read paths, or one image, from stdin.",
        ),
    ]
    exclude: Annotated[
        list[str], typer.Option("--exclude", metavar="GLOB", help="Leave out files and folders that match.")
    ] = field(default_factory=list)
    limit: Annotated[int | None, LIMIT] = None
    null: Annotated[
        bool, typer.Option("-0", "--null", help="Paths on stdin end in NUL, as `find -print0` writes them.")
    ] = False
    all_files: Annotated[bool, ALL_FILES] = False
    column: Annotated[
        str | None,
        typer.Option("--column", metavar="NAME", help="Take images from this column of Parquet files and lists."),
    ] = None

    def find(
        self, messages: "Messages", places: "Places" = None, own: Sequence[str] = (), *, sampling: "Sampled" = None,
        offline: bool,
    ) -> "Paths":  # fmt: skip
        """Check every input, then yield the path of each picture as it is found.

        Args:
            places: of files that the run replaces, by id; a picture that is one of them, from
                stdin or by a symbolic link, ends the run.
            own: files that an earlier run or this one writes, which must not be read as pictures.
        """
        from zsclip.engine.run import network_of
        from zsclip.out.output import refuse_replaced
        from zsclip.pictures.pictures import Paths

        found = self._found(self.inputs, own, messages.note, sampling, network_of(offline=offline))
        return Paths(refuse_replaced(found.rest(), places), found.passed_over, found.close) if places else found

    def reads(self, written: Sequence[str], *, own: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each input that must be checked before the run starts; see `find`.

        Args:
            written: files that the run writes. Folders, which may be huge, are walked only if one of these may be found
                there.
        """
        from zsclip.pictures.roots import may_find, roots_of
        from zsclip.pictures.stdin import STDIN, paths_in_file

        if STDIN in self.inputs:
            yield "what comes through stdin", "/dev/fd/0"
            yield from _pictures(paths_in_file(0, null=self.null))
        roots = roots_of([each for each in self.inputs if each != STDIN])
        if self.limit is None and not may_find(roots, written, all_files=self.all_files):
            roots = [root for root in roots if not os.path.isdir(root)]
        yield from _pictures(self._found(roots, own, lambda message: None, None))

    def _found(
        self, inputs: list[str], own: Sequence[str], note: "Note", sampling: "Sampled", network: "Net | None" = None
    ) -> "Paths":
        from zsclip.pictures.files import find_images

        enter = network is not None
        limit = None if self.limit is None else self.limit + (0 if enter else len(inputs))
        return find_images(
            inputs, exclude=self.exclude, limit=limit, null=self.null, all_files=self.all_files, note=note,
            own=[os.path.realpath(file) for file in own], column=self.column, enter=enter, sampling=sampling,
            network=network,
        )  # fmt: skip


@group("Input")
class Data:
    """Labelled pictures to measure on."""

    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Labelled images: a folder with one folder for each label, a .csv, .tsv or .jsonl file with the "
            "columns file_name and label, archives or Parquet files.",
        ),
    ]
    all_files: Annotated[bool, ALL_FILES] = False
    limit: Annotated[
        int | None,
        typer.Option("-n", "--limit", metavar="N", min=1, help="Take at most N images, spread evenly over the data."),
    ] = None

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield the list or Parquet file that was given; the pictures are not known yet."""
        yield f"the data {self.data}", self.data


@group("Labels")
class Labels:
    """The labels to choose from."""

    labels: Annotated[
        str | None, typer.Option("-l", "--labels", metavar="A,B,C", help="Use these labels, separated by commas.")
    ] = None
    label: Annotated[
        list[str], typer.Option("--label", metavar="LABEL", help="Add one label as it is, commas included.")
    ] = field(default_factory=list)
    labels_file: Annotated[list[str], LABELS_FILE] = field(default_factory=list)

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that the run reads."""
        yield from ((f"--labels-file {file}", file) for file in self.labels_file)

    def read_given(self, *, alone: bool = False) -> "list[Label] | None":
        """Read all labels; None if none were given."""
        is_any = self.labels is not None or self.label or self.labels_file
        return self.read(alone=alone) if is_any else None

    def read(self, *, alone: bool = False) -> "list[Label]":
        """Read all labels; with `alone`, one is enough."""
        from zsclip.words.labels import read_labels

        return read_labels(self.labels, self.label, self.labels_file, alone=alone)


@group("Labels")
class Templates:
    """The user's own sentences."""

    template: Annotated[list[str], TEMPLATE] = field(default_factory=list)

    def read_or(self, prompts: str) -> "PromptSet":
        """Read the templates or, without any, a set of prompts."""
        from zsclip.words.prompts import read_prompts, read_templates

        return read_templates(self.template) if self.template else read_prompts(prompts)


@group("Labels")
class Prompts(Templates):
    """The sentences that labels become."""

    prompts: Annotated[str | None, PROMPTS] = None

    def read_given(self) -> "PromptSet | None":
        """Read the templates, which replace the set, or the set; None if neither was given."""
        return self.read_or(self.prompts or "photo") if self.template or self.prompts is not None else None

    def read(self) -> "PromptSet":
        """Read the templates, which replace the set, or the set."""
        return self.read_or(self.prompts or "photo")

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that the run reads."""
        from zsclip.words.prompts import prompt_set_names

        if not self.template and self.prompts is not None and self.prompts not in prompt_set_names():
            yield f"--prompts {self.prompts}", self.prompts


@group("Labels")
class Distractors:
    """Words that compete with the labels but are never answers."""

    distractors: Annotated[
        str | None,
        typer.Option(
            "--distractors",
            metavar="FILE|common",
            help="Let these words compete with the labels; an image that fits one of them better is unknown.",
        ),
    ] = None

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that the run reads."""
        if self.distractors is not None:
            yield f"--distractors {self.distractors}", self.distractors


@group("Model")
class Network:
    """Whether the network may be used."""

    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.", rich_help_panel="Model")] = False


@group("Model")
class Model(Network):
    """Which model to use."""

    model: Annotated[str | None, MODEL] = None

    def name(self, calibrated: str | None = None) -> str:
        """Give the name of the model: the one given, else the one of a head or calibration, else the default."""
        return model_name(self.model or "") or calibrated or "base"


@group("Output")
class Overwrite:
    """Whether files may be replaced."""

    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace files of an earlier run, finished or not. In FOLDER/, write all parts again, "
            "but each only once if several processes share the run, or if it is interrupted and continued.",
        ),
    ] = False


@group("Output")
class Report(Overwrite):
    """A page with thumbnails."""

    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE", help="Also write an .html page with thumbnails.")
    ] = None

    def __post_init__(self) -> None:
        check_ending("--report", self.report, ".html")


@group("Output")
class Json:
    """Output for programs instead of people."""

    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False


@group("Other")
class Messages:
    """Notes and progress on stderr."""

    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but results and errors.")] = False

    def note(self, message: str) -> None:
        """Write a note to stderr, unless the run is quiet."""
        if not self.quiet:
            say(f"zsclip: {message}")

    @property
    def show_progress(self) -> bool:
        """Whether progress is shown: only a person at a terminal sees it."""
        return not self.quiet and is_terminal(sys.stderr)


def check_ending(flag: str, file: str | None, *endings: str) -> None:
    """Refuse a file whose name does not end in one of the endings."""
    if file is not None and not file.lower().endswith(endings):
        raise InputError(f"{flag}: cannot write {file!r}; use a name that ends in {either(endings)}")


def _pictures(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield a description and the path of each file that holds pictures with these names."""
    from zsclip.out.output import held_in

    return map(held_in, paths)


def model_files(name: str) -> Iterator[tuple[str, str]]:
    """Yield a description and the path of each file of a model that a run reads."""
    from zsclip.models.find import files_of

    yield from ((f"a file of the model {name}", file) for file in files_of(name))


def set_environment(network: Network, messages: Messages) -> None:
    """Set the environment variables that huggingface_hub reads when it is imported."""
    if network.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if not messages.show_progress:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
