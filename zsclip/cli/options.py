"""The options that several commands share, and how their values are read and checked."""

import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsclip.cli.terminal import is_terminal
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet

Format = Literal["table", "jsonl", "csv", "tsv", "paths", "html"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

InputsArgument = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Images, folders, quoted globs, or - for paths on stdin.")
]
DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="Class folders, a .csv or .jsonl of file_name,label, or Parquet.")
]
LabelsOption = Annotated[str | None, typer.Option("--labels", metavar="A,B,C", help="Labels, split on commas.")]
LabelOption = Annotated[list[str], typer.Option("--label", metavar="LABEL", help="One label as it is; may repeat.")]
LabelsFileOption = Annotated[
    list[str],
    typer.Option("--labels-file", metavar="FILE|NAME", help="Labels from .txt, .yaml, .json, or 'imagenet'."),
]
PromptsOption = Annotated[str, typer.Option("--prompts", metavar="NAME|FILE", help="Prompt set.")]
TemplateOption = Annotated[
    list[str], typer.Option("--template", metavar="TEXT", help="Template with a {}; may repeat, replaces --prompts.")
]
ModelOption = Annotated[
    str,
    typer.Option("--model", metavar="MODEL", envvar="ZSCLIP_MODEL", help="See `zsclip models list`."),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="As --model of classify takes it.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
DeviceOption = Annotated[
    str, typer.Option("--device", metavar="DEVICE", envvar="ZSCLIP_DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Of the image tower; auto: fp16 on CUDA, bf16 if the CPU has it.")
]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Compile the image tower: a minute at the start, for long runs on a GPU.")
]
BatchSizeOption = Annotated[str, typer.Option("--batch-size", metavar="auto|N", help="Images encoded at once.")]
ThreadsOption = Annotated[
    int | None, typer.Option("-j", "--threads", metavar="N", min=1, help="Decoding threads [default: all cores].")
]
TopKOption = Annotated[int | None, typer.Option("-k", "--top-k", metavar="K", min=1, help="Candidates an image.")]
ThresholdOption = Annotated[
    float | None, typer.Option("--threshold", metavar="P", min=0, max=1, help="A best score under P is unknown.")
]
MultiLabelOption = Annotated[bool, typer.Option("--multi-label", help="Score each label for itself: does it apply?")]
OnlyOption = Annotated[
    list[str],
    typer.Option("--only", metavar="LABEL|unknown", help="Write only rows with this answer; may repeat."),
]
FormatOption = Annotated[
    Format | None, typer.Option("--format", help="Default: by -o's ending; table on a terminal, else jsonl.")
]
OutputOption = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE", help="Write here; complete or not at all.")
]
ReportOption = Annotated[
    str | None, typer.Option("--report", metavar="FILE", help="Also write a page to look at, with thumbnails: .html.")
]
ContactSheetOption = Annotated[
    str | None, typer.Option("--contact-sheet", metavar="FILE", help="Also draw the first pictures in a grid: .png.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace files of an earlier run, finished or not.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue FILE.part of an earlier run; do nothing if FILE is complete.")
]
RetryErrorsOption = Annotated[
    bool,
    typer.Option("--retry-errors", help="Like --resume, and try failed images again, those of a finished FILE too."),
]
ExcludeOption = Annotated[list[str], typer.Option("--exclude", metavar="GLOB", help="Leave these out; may repeat.")]
LimitOption = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Stop after N images.")]
NullOption = Annotated[bool, typer.Option("-0", "--null", help="Paths on stdin end in NUL (find -print0).")]
Print0Option = Annotated[bool, typer.Option("--print0", help="With --format paths: end each in NUL (xargs -0).")]
MaxPixelsOption = Annotated[
    int, typer.Option("--max-pixels", metavar="N", min=1, help="Refuse larger images before decoding.")
]
FastJpegOption = Annotated[
    bool, typer.Option("--fast-jpeg", help="Decode large JPEGs smaller, at three times what the model needs.")
]
NoStoreOption = Annotated[bool, typer.Option("--no-store", help="Neither use nor keep embeddings of pictures.")]
DistractorsOption = Annotated[
    str | None,
    typer.Option("--distractors", metavar="FILE|common", help="Words that compete; a picture of one is unknown."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]

# Defaults of list options: typer makes a fresh copy of each for every run.
NONE: list[str] = []


def set_environment(offline: bool, quiet: bool = False) -> None:
    """Tell huggingface_hub, and whoever else asks it, what was asked of us; it reads this when it is imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if quiet or not is_terminal(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def check_device(device: str) -> None:
    """Refuse what is no name of a device; whether it is there shows when the model is loaded."""
    kind, _, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and number.isdecimal()):
        raise InputError(f"--device: {device!r} is no device; use auto, cpu, cuda, cuda:N or mps")


def read_batch_size(text: str) -> int | None:
    """Read --batch-size; None is auto, which depends on the model."""
    if text == "auto":
        return None
    if not (text.isdecimal() and int(text) > 0):
        raise InputError(f"--batch-size: {text!r} is no size; use auto or a number from 1")
    return int(text)


def read_bytes(text: str) -> int:
    """Read a size as people write it."""
    found = re.fullmatch(r"\s*(\d+(\.\d+)?)\s*([kmgt]?b?)\s*", text, re.IGNORECASE)
    if not found:
        raise InputError(f"--max-size: {text!r} is no size; write it as 500MB or 2GB")
    return int(float(found[1]) * 1000 ** " kmgt".index(found[3].lower().rstrip("b") or " "))


def read_sentences(template: Sequence[str], prompts: str) -> "PromptSet":
    """Read --template, which replaces the set, or --prompts."""
    from zsclip.words.prompts import read_prompts, read_templates

    return read_templates(template) if template else read_prompts(prompts)


def rivals_of(words: "list[Label]", distractors: str | None, sentences: "PromptSet") -> dict[str, tuple[str, ...]]:
    """Read --distractors: the prompts of the words that compete with the labels, by their names."""
    from zsclip.words.labels import read_distractors
    from zsclip.words.prompts import expand

    rivals = read_distractors(words, distractors) if distractors is not None else []
    prompts = expand(rivals, sentences)
    return {rival.name: tuple(each) for rival, each in zip(rivals, prompts, strict=True)}


def given_labels(labels: str | None, label: Sequence[str], labels_file: Sequence[str]) -> "list[Label] | None":
    """Read the labels, if any were given; else those of the data are taken."""
    from zsclip.words.labels import read_labels

    return read_labels(labels, label, labels_file) if labels is not None or label or labels_file else None


def check_picture_files(report: str | None, contact_sheet: str | None, *, overwrite: bool) -> None:
    """Refuse a page or a sheet with the wrong ending, or where it cannot be written."""
    from zsclip.out.output import check_output

    for flag, file, ending in (("--report", report, ".html"), ("--contact-sheet", contact_sheet, ".png")):
        if file is not None and not file.lower().endswith(ending):
            raise InputError(f"{flag}: {file!r} does not end in {ending}; let it")
        if file is not None:
            check_output(file, overwrite=overwrite)
