"""The command line: parse, call, report. The only file that speaks to a person, and the only one that exits."""

import errno
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsclip.errors import InputError, ZsclipError
from zsclip.terminal import Tally, images_bar, is_terminal, listed, prompts_bar, say, training_report

if TYPE_CHECKING:
    from zsclip.classifier import Classifier
    from zsclip.decode import Decoding
    from zsclip.embed import Embedded
    from zsclip.encoder import Encoder
    from zsclip.labels import Label
    from zsclip.prompts import PromptSet
    from zsclip.results import Prediction, Skipped
    from zsclip.store import EmbeddingStore

app = typer.Typer(
    help="Zero-shot image classification from the shell: words in, the right word for every picture out.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: rich would cost a third of the start
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
prompts_app = typer.Typer(help="The sentences that labels become.", no_args_is_help=True)
models_app = typer.Typer(help="The models that --model takes.", no_args_is_help=True)
cache_app = typer.Typer(help="What is kept on disk.", no_args_is_help=True)
app.add_typer(prompts_app, name="prompts")
app.add_typer(models_app, name="models")
app.add_typer(cache_app, name="cache")

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
OnlyOption = Annotated[list[str], typer.Option("--only", metavar="LABEL", help="Keep rows so answered; may repeat.")]
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
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace FILE.part of an earlier run.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with FILE.part of an earlier run.")]
RetryErrorsOption = Annotated[
    bool, typer.Option("--retry-errors", help="Like --resume, and try its failed images again.")
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
_NONE: list[str] = []
_MAX_PIXELS = 178_956_970  # decode.DEFAULT_MAX_PIXELS, which --help must not import


@app.callback(invoke_without_command=True)
def _start(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"zsclip {version_of('zsclip')}")
        raise typer.Exit()


@app.command()
def classify(
    inputs: InputsArgument,
    labels: LabelsOption = None,
    label: LabelOption = _NONE,
    labels_file: LabelsFileOption = _NONE,
    prompts: PromptsOption = "photo",
    template: TemplateOption = _NONE,
    model: ModelOption = "base",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile: CompileOption = False,
    batch_size: BatchSizeOption = "auto",
    threads: ThreadsOption = None,
    top_k: TopKOption = None,
    threshold: ThresholdOption = None,
    multi_label: MultiLabelOption = False,
    by: Annotated[
        Literal["label", "group"],
        typer.Option("--by", help="Answer with labels, or with their groups of a labels file."),
    ] = "label",
    none_of_these: Annotated[bool, typer.Option("--none-of-these", help="As --distractors common.")] = False,
    distractors: DistractorsOption = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", metavar="FILE", help="What `zsclip calibrate` has learnt.")
    ] = None,
    only: OnlyOption = _NONE,
    format: FormatOption = None,
    output: OutputOption = None,
    report: ReportOption = None,
    contact_sheet: ContactSheetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    retry_errors: RetryErrorsOption = False,
    exclude: ExcludeOption = _NONE,
    limit: LimitOption = None,
    null: NullOption = False,
    print0: Print0Option = False,
    max_pixels: MaxPixelsOption = _MAX_PIXELS,
    fast_jpeg: FastJpegOption = False,
    no_store: NoStoreOption = False,
    quiet: QuietOption = False,
) -> int:
    """Give every picture the label that fits it best.

    Example:

        zsclip classify photos/ --labels "cat,dog,bird"
    """
    from dataclasses import asdict, replace

    from zsclip.images import find_images
    from zsclip.journal import Journal
    from zsclip.labels import COMMON, read_distractors, read_labels
    from zsclip.output import check_output, format_of, is_replaceable, open_output
    from zsclip.prompts import expand
    from zsclip.sinks import SINKS, write_csv, write_paths, write_tsv

    _set_environment(offline, quiet)
    output = None if output == "-" else output
    note = _note(quiet)
    words = read_labels(labels, label, labels_file, alone=multi_label)
    sentences = _sentences(template, prompts)
    sink_name = format or format_of(output, is_terminal(sys.stdout))
    names = [word.group or word.name if by == "group" else word.name for word in words]
    _check_options(device, only, names, print0 and sink_name != "paths")
    if multi_label and (none_of_these or distractors is not None or calibration is not None):
        raise InputError("--multi-label: judges each label for itself, so nothing competes; leave out one of the two")
    if calibration is not None and (none_of_these or distractors is not None):
        raise InputError("--calibration: was made with distractors or without; give them to `zsclip calibrate`")
    if by == "group" and not any(word.group for word in words):
        raise InputError("--by group: no label has a group; write `group: NAME` for some in a --labels-file")
    if by == "group" and len(set(names)) == 1 and not multi_label:
        raise InputError(f"--by group: all labels are in group {names[0]!r}, which has no other to be compared with")
    if none_of_these and distractors is not None:
        raise InputError("--none-of-these: is --distractors common; leave out one of the two")
    distractors = distractors or (COMMON if none_of_these else None)
    competing = expand(read_distractors(words, distractors), sentences) if distractors is not None else []
    learnt = None
    if calibration is not None:
        from zsclip.calibrate import check_made_with, read_calibration

        learnt = read_calibration(calibration)
    size = _batch_size(batch_size)
    paths = find_images(inputs, exclude=exclude, limit=limit, null=null, note=note)
    sink = partial(write_paths, print0=print0) if sink_name == "paths" else SINKS.get(sink_name, _drain)
    check_output(output, overwrite=overwrite or resume or retry_errors)
    _check_picture_files(report, contact_sheet, overwrite=overwrite)
    if (resume or retry_errors) and (report or contact_sheet or sink_name == "html"):
        raise InputError("--resume: a page or a sheet shows a whole run; leave it out, what was encoded is kept anyway")
    if (resume or retry_errors) and (overwrite or output is None or not is_replaceable(output)):
        raise InputError("--resume: goes on with the rows of an earlier run; give the file with -o, and no --overwrite")
    from zsclip.batches import available_cpus
    from zsclip.cache import fingerprint
    from zsclip.decode import Decoding
    from zsclip.encoder import Encoder
    from zsclip.score import Rule
    from zsclip.weights import find_model

    encoder = Encoder(find_model(model, offline=offline), device, precision, compiled=compile)
    rule = Rule(top_k, threshold, multi_label)
    if learnt is not None and calibration is not None:
        check_made_with(learnt, calibration, _made_with(words, sentences, encoder))
        if by == "group" and learnt.thresholds and threshold is None:
            raise InputError(f"{calibration}: has thresholds of labels, not of groups; calibrate without --per-label")
        competing = [list(prompts) for prompts in learnt.distractors]
        rule = replace(rule, temperature=learnt.temperature)
        if threshold is None:
            rule = replace(rule, threshold=learnt.threshold, thresholds=learnt.thresholds)
    flags = {
        "format": sink_name, "batch size": size, "top k": top_k, "threshold": threshold, "multi label": multi_label,
        "only": only, "print0": print0, "fast jpeg": fast_jpeg, "max pixels": max_pixels,
        "groups": fingerprint(names)[:8] if by == "group" else None,
        "calibration": None if learnt is None else fingerprint(asdict(learnt))[:8],
        "distractors": fingerprint(competing)[:8] if competing else None,
    }  # fmt: skip
    if sink_name == "table":
        flags["width"] = get_terminal_size((100, 24)).columns
    own_page = output if sink_name == "html" and output is not None and is_replaceable(output) else None
    journal = None
    point = None
    if output is not None and is_replaceable(output):
        journal = Journal(output, _settings(words, sentences, encoder) | flags)
        point = journal.go_on(paths, retry_errors=retry_errors) if resume or retry_errors else None
    if point is not None and point.pictures and sink_name in ("csv", "tsv"):
        sink = partial(write_csv if sink_name == "csv" else write_tsv, header=False)
    tally = Tally(point.pictures, point.failed) if point else Tally()
    decoding, cpus = Decoding(max_pixels, fast_jpeg), threads or available_cpus()
    with _embedding(paths, encoder, decoding, no_store, size, cpus) as (embedded, store):
        from zsclip.classify import classify

        classifier = _build(words, sentences, encoder, multi_label, quiet, competing)
        if by == "group":
            classifier = replace(classifier, groups=tuple(names))
        with (
            journal or nullcontext(),
            open_output(output, overwrite=overwrite, go_on_at=point.size if point else None) as out,
            nullcontext() if report is None else open_output(report, overwrite=overwrite) as page,
            nullcontext() if contact_sheet is None else open_output(contact_sheet, overwrite=overwrite) as sheet,
            images_bar(tally, _shows_progress(quiet) and not (output is None and is_terminal(sys.stdout))),
        ):
            rows = tally.count(classify(embedded, classifier, rule))
            if journal is not None:
                journal.begin()
                rows = journal.noted(rows, out)
            rows = _only(rows, only)
            for target, stream in ((own_page, out if sink_name == "html" else None), (report, page)):
                if stream is not None:
                    from zsclip.report import with_report

                    folder = os.path.dirname(target or "")
                    rows = with_report(rows, stream, folder, threads=cpus, max_pixels=max_pixels)
            if sheet is not None:
                from zsclip.contactsheet import with_contact_sheet

                rows = with_contact_sheet(rows, sheet.buffer, threads=cpus, max_pixels=max_pixels)
            sink(rows, out)
    return _told(tally, store, quiet, [report, own_page])


@app.command("eval")
def evaluate(
    data: DataArgument,
    labels: LabelsOption = None,
    label: LabelOption = _NONE,
    labels_file: LabelsFileOption = _NONE,
    prompts: PromptsOption = "photo",
    template: TemplateOption = _NONE,
    model: ModelOption = "base",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile: CompileOption = False,
    batch_size: BatchSizeOption = "auto",
    threads: ThreadsOption = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="FILE", help="Write every answer with its truth: .jsonl, .csv, .tsv."),
    ] = None,
    report: ReportOption = None,
    confusion: Annotated[
        str | None, typer.Option("--confusion", metavar="FILE", help="Write what was taken for what: .png or .csv.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = _MAX_PIXELS,
    fast_jpeg: FastJpegOption = False,
    no_store: NoStoreOption = False,
    quiet: QuietOption = False,
) -> int:
    """Measure how good the answers are on pictures whose labels are known.

    Without labels, those of the data are taken.

    Example:

        zsclip eval pictures/ --confusion mistakes.png
    """
    import json
    from dataclasses import asdict

    from zsclip.labelled import read_labelled
    from zsclip.output import check_output, format_of, open_output

    _set_environment(offline, quiet)
    _check_device(device)
    size = _batch_size(batch_size)
    sentences = _sentences(template, prompts)
    given = _given_labels(labels, label, labels_file)
    if confusion is not None and not confusion.lower().endswith((".png", ".csv")):
        raise InputError(f"--confusion: {confusion!r} ends neither in .png nor in .csv; let it")
    for file in filter(None, (rows, confusion)):
        check_output(file, overwrite=overwrite)
    _check_picture_files(report, None, overwrite=overwrite)
    if rows is not None and format_of(rows, False) == "html":
        raise InputError(f"--rows: {rows!r} is a page; use --report for that")
    pictures = read_labelled(data, note=_note(quiet))
    from zsclip.batches import available_cpus
    from zsclip.decode import Decoding
    from zsclip.encoder import Encoder
    from zsclip.evaluate import BEST, found_labels, judge, report_lines, truths_of
    from zsclip.evaluate import evaluate as sum_up
    from zsclip.metrics import Judged
    from zsclip.score import Rule
    from zsclip.sinks import SINKS, write_csv, write_tsv
    from zsclip.weights import find_model

    words = given or found_labels(pictures.words)
    names = [word.name for word in words]
    truths = truths_of(pictures.words, words)
    encoder = Encoder(find_model(model, offline=offline), device, precision, compiled=compile)
    decoding, cpus = Decoding(max_pixels, fast_jpeg), threads or available_cpus()
    tally, judged = Tally(), list[Judged]()
    with _embedding(pictures.paths, encoder, decoding, no_store, size, cpus, pictures.read) as (embedded, store):
        from zsclip.classify import classify

        classifier = _build(words, sentences, encoder, False, quiet)
        with images_bar(tally, _shows_progress(quiet)):
            answers = judge(tally.count(classify(embedded, classifier, Rule(BEST))), truths, names, judged)
            sinks = SINKS | {"csv": partial(write_csv, truth=True), "tsv": partial(write_tsv, truth=True)}
            with (
                nullcontext() if rows is None else open_output(rows, overwrite=overwrite) as out,
                nullcontext() if report is None else open_output(report, overwrite=overwrite) as page,
            ):
                if report is not None and page is not None:
                    from zsclip.report import with_report

                    answers = with_report(
                        answers, page, os.path.dirname(report), threads=cpus, max_pixels=max_pixels, read=pictures.read
                    )
                if rows is None or out is None:
                    _drain(answers)
                else:
                    sinks[format_of(rows, False)](answers, out)
    evaluation = sum_up(judged, names)
    if as_json:
        typer.echo(json.dumps({
            "pictures": evaluation.pictures, "failed": tally.errors.total(), "model": encoder.spec.name,
            "prompts": sentences.name, "metrics": {name: asdict(each) for name, each in evaluation.figures.items()},
            "labels": [asdict(each) for each in evaluation.labels],
        }, ensure_ascii=False))  # fmt: skip
    else:
        typer.echo("\n".join(report_lines(evaluation)))
    if confusion is not None:
        from zsclip.confusion import write_csv as write_table
        from zsclip.confusion import write_png

        with open_output(confusion, overwrite=overwrite) as out:
            if confusion.lower().endswith(".png"):
                write_png(evaluation.confusion, names, out.buffer)
            else:
                write_table(evaluation.confusion, names, out)
    _note_if_few(evaluation.pictures, quiet)
    return _told(tally, store, quiet, [report])


@app.command("compare")
def compare_variants(
    data: DataArgument,
    prompts: Annotated[
        list[str], typer.Option("--prompts", metavar="NAME|FILE", help="Prompt set; may repeat. [default: photo]")
    ] = _NONE,
    template: Annotated[
        list[str], typer.Option("--template", metavar="TEXT", help="Template with a {}, by itself; may repeat.")
    ] = _NONE,
    labels_file: Annotated[
        list[str], typer.Option("--labels-file", metavar="FILE|NAME", help="Labels; may repeat.")
    ] = _NONE,
    model: Annotated[
        list[str],
        typer.Option("--model", metavar="MODEL", help="See `zsclip models list`; may repeat. [default: base]"),
    ] = _NONE,
    templates: Annotated[
        bool, typer.Option("--templates", help="Tell which templates of one prompt set help, and which hurt.")
    ] = False,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = _MAX_PIXELS,
    fast_jpeg: FastJpegOption = False,
    no_store: NoStoreOption = False,
    quiet: QuietOption = False,
) -> int:
    """Measure prompts, models or label files side by side on pictures whose labels are known.

    All that is given is combined; the first combination is what the others are held against.

    Example:

        zsclip compare pictures/ --prompts photo --prompts general
    """
    import json
    from dataclasses import asdict
    from itertools import product

    from zsclip.labelled import read_labelled
    from zsclip.labels import read_labels
    from zsclip.prompts import read_prompts, read_templates

    _set_environment(offline, quiet)
    _check_device(device)
    size = _batch_size(batch_size)
    models = list(dict.fromkeys(model)) or [os.environ.get("ZSCLIP_MODEL") or "base"]
    sets = {name: read_prompts(name) for name in prompts} | {text: read_templates([text]) for text in template}
    sets = sets or {"photo": read_prompts("photo")}
    files: dict[str, list[Label] | None] = {file: read_labels(files=[file]) for file in labels_file}
    files = files or {"": None}
    count = len(models) * len(files) * len(sets)
    if templates and count > 1:
        raise InputError("--templates: tells of one prompt set, model and label file; give no more")
    for sentences in sets.values() if templates else ():
        if len(sentences.templates) < 2:
            raise InputError(f"--templates: {sentences.name!r} has one template; give --prompts with more")
    if not templates and count == 1:
        raise InputError("compare: nothing to compare; give --prompts, --template, --model or --labels-file twice")
    pictures = read_labelled(data, note=_note(quiet))
    from zsclip.batches import available_cpus
    from zsclip.compare import compare, comparison_lines, judged_by, template_gains, template_lines
    from zsclip.decode import Decoding
    from zsclip.encoder import Encoder
    from zsclip.evaluate import found_labels, truths_of
    from zsclip.weights import find_model

    labels = {file: words or found_labels(pictures.words) for file, words in files.items()}
    truths = {file: truths_of(pictures.words, words) for file, words in labels.items()}
    encoders = [Encoder(find_model(one, offline=offline), device, precision) for one in models]
    decoding, cpus = Decoding(max_pixels, fast_jpeg), threads or available_cpus()
    variants, gains, unread = [], [], set()
    for encoder in encoders:
        tally = Tally()
        with (
            _embedding(pictures.paths, encoder, decoding, no_store, size, cpus, pictures.read) as (embedded, store),
            images_bar(tally, _shows_progress(quiet)),
        ):
            batches = list(tally.count_encoded(embedded))
        unread.add(tuple(row.path for batch in batches for row in batch.rows if not isinstance(row, str)))
        if len(unread) > 1:
            raise InputError(
                "data: not the same pictures could be read for all models; run again, with fewer --threads"
            )
        for (file, words), (name, sentences) in product(labels.items(), sets.items()):
            judged = partial(judged_by, batches, truths[file])
            if templates:
                gains = template_gains(words, sentences, encoder, judged)
                continue
            several = ((name, sets), (file, files), (encoder.spec.name, models))
            parts = [part for part, all_of_them in several if len(all_of_them) > 1]
            variants.append((", ".join(parts), judged(_build(words, sentences, encoder, False, quiet))))
    compared = compare(variants) if variants else []
    if as_json:
        found = [asdict(each) for each in compared] + [asdict(each) for each in gains]
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        typer.echo("\n".join(comparison_lines(compared) if compared else template_lines(gains)))
    return _told(tally, store, quiet)


@app.command()
def calibrate(
    data: DataArgument,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Write here what `classify --calibration` reads.")
    ] = "labels.calib.json",
    labels: LabelsOption = None,
    label: LabelOption = _NONE,
    labels_file: LabelsFileOption = _NONE,
    prompts: PromptsOption = "photo",
    template: TemplateOption = _NONE,
    target_precision: Annotated[
        float | None,
        typer.Option("--target-precision", metavar="P", min=0, max=1, help="Share of answers to be right."),
    ] = None,
    target_share: Annotated[
        float | None,
        typer.Option("--target-share", metavar="P", min=0, max=1, help="Share of pictures to be answered."),
    ] = None,
    per_label: Annotated[bool, typer.Option("--per-label", help="A threshold for each label by itself.")] = False,
    distractors: DistractorsOption = None,
    model: ModelOption = "base",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = "auto",
    threads: ThreadsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = _MAX_PIXELS,
    fast_jpeg: FastJpegOption = False,
    no_store: NoStoreOption = False,
    quiet: QuietOption = False,
) -> int:
    """Learn from labelled pictures what scores mean, and a threshold that keeps its word.

    Example:

        zsclip calibrate pictures/ --target-precision 0.95 -o labels.calib.json
    """
    import json
    from dataclasses import asdict, replace

    from zsclip.labelled import read_labelled
    from zsclip.labels import read_distractors
    from zsclip.output import check_output, open_output
    from zsclip.prompts import expand

    _set_environment(offline, quiet)
    _check_device(device)
    size = _batch_size(batch_size)
    sentences = _sentences(template, prompts)
    given = _given_labels(labels, label, labels_file)
    if per_label and target_precision is None and target_share is None:
        raise InputError("--per-label: says of which labels a threshold is; add --target-precision or --target-share")
    if target_precision is not None and target_share is not None:
        raise InputError("--target-share: there is a --target-precision already; one threshold serves one of them")
    if output == "-":
        raise InputError("-o: a calibration is read from a file; name one, as labels.calib.json")
    check_output(output, overwrite=overwrite)
    pictures = read_labelled(data, note=_note(quiet))
    from zsclip.batches import available_cpus
    from zsclip.calibrate import Wish, cosines_of, promise, promise_lines, to_json
    from zsclip.calibrate import calibrate as learn
    from zsclip.decode import Decoding
    from zsclip.encoder import Encoder
    from zsclip.evaluate import found_labels, truths_of
    from zsclip.weights import find_model

    words = given or found_labels(pictures.words)
    truths = truths_of(pictures.words, words)
    competing = expand(read_distractors(words, distractors), sentences) if distractors is not None else []
    encoder = Encoder(find_model(model, offline=offline), device, precision)
    decoding, cpus, tally = Decoding(max_pixels, fast_jpeg), threads or available_cpus(), Tally()
    with _embedding(pictures.paths, encoder, decoding, no_store, size, cpus, pictures.read) as (embedded, store):
        classifier = _build(words, sentences, encoder, False, quiet, competing)
        with images_bar(tally, _shows_progress(quiet)):
            similar, truth = cosines_of(tally.count_encoded(embedded), truths, classifier)
    _note_if_few(len(truth), quiet)
    wish = Wish(target_precision, target_share, per_label)
    learning = (similar, truth, classifier.labels, encoder.logit_scale, wish)
    calibration = replace(
        learn(*learning, _made_with(words, sentences, encoder)), distractors=tuple(map(tuple, competing))
    )
    promised = promise(*learning)
    text = to_json(calibration)
    with open_output(output, overwrite=overwrite) as out:
        out.write(text + "\n")
    if as_json:
        typer.echo(json.dumps({"calibration": json.loads(text), "promise": asdict(promised)}))
    else:
        typer.echo("\n".join(promise_lines(calibration, promised)))
    return _told(tally, store, quiet)


@app.command()
def train(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA", help="Parquet shards, class folders, CSV of path,caption.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model, and the checkpoint to go on from.")],
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="FILE|NAME", help="Begin from nothing with this.")
    ] = None,
    init: Annotated[str | None, typer.Option("--init", metavar="MODEL", help="Begin from this model.")] = None,
    lock_image: Annotated[
        bool, typer.Option("--lock-image", help="Leave the image tower as it is; encode each picture once.")
    ] = False,
    lock_text: Annotated[bool, typer.Option("--lock-text", help="Leave the text tower as it is.")] = False,
    prompts: PromptsOption = "general",
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=2, help="Pairs compared at once.")] = 256,
    accumulate: Annotated[
        int, typer.Option("--accumulate", metavar="N", min=1, help="Parts of a batch in memory.")
    ] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", metavar="X", help="After warm-up. Default: 1e-3, with --init 1e-5."),
    ] = None,
    weight_decay: Annotated[float, typer.Option("--weight-decay", metavar="X", help="Of matrices only.")] = 0.1,
    warmup: Annotated[float, typer.Option("--warmup", metavar="SHARE", help="Of all steps.")] = 0.05,
    precision: Annotated[Precision, typer.Option("--precision", help="auto: bf16 if the device has it.")] = "auto",
    average: Annotated[
        float, typer.Option("--average", metavar="SHARE", help="Keep a running average of the weights, as 0.999.")
    ] = 0.0,
    start_size: Annotated[
        int, typer.Option("--start-size", metavar="PIXELS", min=0, help="Begin with pictures this small, and grow.")
    ] = 0,
    synonyms: Annotated[float, typer.Option("--synonyms", metavar="SHARE", help="Captions with a synonym.")] = 0.2,
    kinds: Annotated[float, typer.Option("--kinds", metavar="SHARE", help="Captions with a broader word.")] = 0.2,
    kinds_are_true: Annotated[
        bool, typer.Option("--kinds-are-true", help="A broader word is not held against pictures it is true of.")
    ] = False,
    across: Annotated[
        float,
        typer.Option("--across", metavar="WEIGHT", help="Of captions whose word its source does not have."),
    ] = 1.0,
    all_labels: Annotated[
        bool, typer.Option("--all-labels", help="Compare pictures with all labels, not only with those of their batch.")
    ] = False,
    crop_scale: Annotated[
        float, typer.Option("--crop-scale", metavar="SHARE", help="Least part of a picture that is kept.")
    ] = 0.35,
    colour: Annotated[
        float, typer.Option("--colour", metavar="SHARE", help="How far brightness, contrast and tint stray.")
    ] = 0.2,
    blur: Annotated[
        float, typer.Option("--blur", metavar="SHARE", help="Pictures scaled down first: sharpness tells nothing.")
    ] = 0.0,
    sharpen: Annotated[
        float, typer.Option("--sharpen", metavar="SHARE", help="Pictures made crisper, for the same reason.")
    ] = 0.0,
    chroma: Annotated[
        float, typer.Option("--chroma", metavar="SHARE", help="Pictures with softer or crisper colours.")
    ] = 0.0,
    saturation: Annotated[
        float, typer.Option("--saturation", metavar="SHARE", help="Pictures with paler or stronger colours.")
    ] = 0.0,
    holdout: Annotated[
        int | None,
        typer.Option(
            "--holdout",
            metavar="N",
            min=0,
            help="Keep every Nth pair aside to measure on; 0: none. Default: 100 pictures or more, at most a fifth.",
        ),
    ] = None,
    weights: Annotated[Literal["fp16", "fp32"], typer.Option("--weights", help="Of the saved model.")] = "fp16",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Same seed, same model.")] = 0,
    log_dir: Annotated[Path | None, typer.Option("--log-dir", metavar="DIR", help="TensorBoard scalars.")] = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a small CLIP on pictures and their names, or adapt one; killed, the same command goes on.

    Example:

        zsclip train pictures/ --init base --lock-text --out my-model
        zsclip train pictures/ --init base --lock-image --out my-model
    """
    _set_environment(offline, quiet)
    _check_device(device)
    from zsclip.train import Recipe
    from zsclip.train import train as run_training

    recipe = Recipe(
        data=tuple(data), arch=arch, init=init, lock_image=lock_image, lock_text=lock_text, epochs=epochs,
        batch_size=batch_size, accumulate=accumulate, learning_rate=learning_rate, weight_decay=weight_decay,
        warmup=warmup, precision=precision, average=average,
        start_size=start_size, prompts=prompts, synonyms=synonyms, kinds=kinds, kinds_are_true=kinds_are_true,
        across=across, all_labels=all_labels, crop_scale=crop_scale, colour=colour, blur=blur,
        sharpen=sharpen, chroma=chroma, saturation=saturation, holdout=holdout, seed=seed, weights=weights,
    )  # fmt: skip
    with training_report(quiet, _shows_progress(quiet)) as report:
        run_training(
            recipe, out, device=device, threads=threads, log_dir=log_dir, progress=report,
            note=_note(quiet),
        )  # fmt: skip
    typer.echo(out)


@app.command()
def bench(
    inputs: InputsArgument,
    model: ModelOption = "base",
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile: CompileOption = False,
    batch_size: BatchSizeOption = "auto",
    threads: ThreadsOption = None,
    max_pixels: MaxPixelsOption = _MAX_PIXELS,
    fast_jpeg: FastJpegOption = False,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", min=0.01, help="To spend on each stage.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Time each stage with this model and these pictures, and tell which one holds a run back.

    Example:

        zsclip bench photos/ --model base
    """
    import json
    from dataclasses import asdict
    from itertools import islice

    from zsclip.images import find_images
    from zsclip.weights import find_model

    _set_environment(offline)
    _check_device(device)
    size = _batch_size(batch_size)
    paths = list(islice(find_images(inputs, note=lambda message: say(f"zsclip: {message}")), 1000))
    if not paths:
        raise InputError("bench: no images there; give some to try the model with")
    spec = find_model(model, offline=offline)
    from zsclip.batches import available_cpus
    from zsclip.bench import bench, report_lines
    from zsclip.decode import Decoding
    from zsclip.encoder import Encoder

    encoder = Encoder(spec, device, precision, compiled=compile)
    encoder.load()
    report = bench(
        paths, encoder, threads=threads or available_cpus(), seconds=seconds, decoding=Decoding(max_pixels, fast_jpeg),
        batch_size=size or encoder.batch_size,
    )  # fmt: skip
    typer.echo(json.dumps(asdict(report)) if as_json else "\n".join(report_lines(report)))


@prompts_app.command("list")
def prompts_list() -> None:
    """List the prompt sets.

    Example:

        zsclip prompts list
    """
    from zsclip.prompts import prompt_set_names, read_prompts

    for name in prompt_set_names():
        prompts = read_prompts(name)
        typer.echo(f"{name:<18} {len(prompts.templates):>3}  {prompts.about}")


@prompts_app.command("show")
def prompts_show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A prompt set.")] = "photo",
    labels: LabelsOption = None,
    label: LabelOption = _NONE,
    labels_file: LabelsFileOption = _NONE,
    template: TemplateOption = _NONE,
    model: ModelOption = "base",
    offline: OfflineOption = False,
) -> None:
    """Show the sentences that labels become, with their token counts.

    Example:

        zsclip prompts show photo --labels "cat,dog"
    """
    from zsclip.labels import read_labels
    from zsclip.prompts import expand

    _set_environment(offline)
    prompts = _sentences(template, name)
    if labels is None and not label and not labels_file:
        for line in prompts.templates:
            typer.echo(line)
        return
    words = read_labels(labels, label, labels_file, alone=True)
    from zsclip.model import count_tokens, load_tokenizer
    from zsclip.weights import find_model

    spec = find_model(model, offline=offline, with_weights=False)
    tokenizer, context_length = load_tokenizer(spec), spec.tokenizer.context_length
    for word, sentences in zip(words, expand(words, prompts), strict=True):
        for sentence, count in zip(sentences, count_tokens(tokenizer, sentences), strict=True):
            cut = f"  cut at {context_length}" if count > context_length else ""
            typer.echo(f"{word.name}\t{count}\t{sentence}{cut}")


@models_app.command("list")
def models_list() -> None:
    """List the models that can be had by name, and which are on this machine.

    Example:

        zsclip models list
    """
    from zsclip.catalogue import published_models, write_models

    write_models(published_models(), sys.stdout)


@models_app.command("info")
def models_info(model: ModelArgument, offline: OfflineOption = False) -> None:
    """Tell what a model is: size, preprocessing, context, and where its weights are.

    Example:

        zsclip models info base
    """
    from zsclip.catalogue import describe
    from zsclip.errors import ModelError
    from zsclip.weights import find_model

    _set_environment(offline)
    try:
        spec = find_model(model, offline=True)
    except ModelError:  # its weights are not here; its configuration may be, or can be fetched
        spec = find_model(model, offline=offline, with_weights=False)
    for name, value in describe(spec).items():
        typer.echo(f"{name:<14} {value}".rstrip())


@models_app.command("fetch")
def models_fetch(model: ModelArgument) -> None:
    """Bring a model's weights, configuration and tokenizer to this machine.

    Example:

        zsclip models fetch base
    """
    from zsclip.hub import fetch
    from zsclip.weights import files_to_fetch, find_model

    fetch(model, files_to_fetch(model), say)
    typer.echo(find_model(model).weights)


@cache_app.command("info")
def cache_info() -> None:
    """Tell where the cache is, how large, and what it holds.

    Example:

        zsclip cache info
    """
    from zsclip import cache, store

    typer.echo(f"{cache.cache_dir()}: {(cache.size_on_disk() + store.size_on_disk()) / 1e6:.1f} MB")
    for kind, (count, size) in cache.count_rows().items():
        typer.echo(f"{kind:<20} {count:>9,} rows {size / 1e6:>9.1f} MB")
    pictures = store.counts()
    if pictures:
        typer.echo(f"{'embeddings':<20} {sum(pictures.values()):>9,} rows {store.size_on_disk() / 1e6:>9.1f} MB")
    for model, count in pictures.items():
        typer.echo(f"  {count:,} pictures by {model}")


@cache_app.command("clear")
def cache_clear() -> None:
    """Empty the cache; it fills again as it is needed.

    Example:

        zsclip cache clear
    """
    from zsclip import cache, store

    try:
        typer.echo(f"{cache.cache_dir()}: {(cache.clear() + store.clear()) / 1e6:.1f} MB freed")
    except OSError as e:
        raise ZsclipError(f"{e.filename}: {(e.strerror or str(e)).lower()}; delete it by hand") from e


@cache_app.command("gc")
def cache_gc(
    max_size: Annotated[str, typer.Option("--max-size", metavar="SIZE", help="As 500MB or 2GB.")],
) -> None:
    """Forget the pictures that were not used for longest, until the embeddings take no more than that.

    Example:

        zsclip cache gc --max-size 1GB
    """
    from zsclip import store

    size = _bytes(max_size)
    with _told_of_the_store():
        typer.echo(f"{store.collect(size) / 1e6:.1f} MB freed, {store.size_on_disk() / 1e6:.1f} MB left")


@cache_app.command("verify")
def cache_verify() -> int:
    """Read every embedding that is kept, and forget the damaged ones: exit code 1 if there were any.

    Example:

        zsclip cache verify
    """
    from zsclip import store

    with _told_of_the_store():
        count, damaged = store.verify()
    typer.echo(f"{count:,} embeddings, {damaged:,} damaged" + (" and forgotten" if damaged else ""))
    return int(damaged > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; errors become one line on stderr.

    Args:
        arguments: without the program's name; None takes the process's own.
    """
    _silence_dependencies()
    with suppress(ValueError):  # not in the main thread: someone else's program, whose signals are not ours
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish
                signal.signal(number, _terminate)
    try:
        code = app(args=arguments, prog_name="zsclip", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except ZsclipError as e:
        say(f"zsclip: {e}")
        return e.exit_code
    except typer.TyperException as e:
        if type(e).__name__ == "NoArgsIsHelpError":
            typer.echo(e.ctx.get_help(), err=True)  # type: ignore[attr-defined]  # Typer does not export its class
        else:
            say("zsclip: " + _usage_line(e))
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except OSError as e:
        if e.errno is None or e.filename is not None:
            return _internal_error(e)
        # A write carries no name, and outside the sinks only typer.echo writes.
        say(f"zsclip: standard output: {(e.strerror or str(e)).lower()}; choose a place that can be written")
        return 4
    except Exception as e:
        return _internal_error(e)
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # the reader has seen enough; Typer would call it a failure
            return 0
        return e.code if isinstance(e.code, int) else 1


def run() -> None:
    """The program `zsclip`."""
    for descriptor in range(3):  # a closed one would be given to the next file that is opened, and written into
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = _ClosedStream()
    code = main()
    # Decoding threads may still be inside a picture and cannot be stopped, and torch takes a while to say goodbye.
    # Whoever writes to stdout has flushed it.
    os._exit(code)


class _ClosedStream(io.TextIOBase):
    """In the place of a standard output that is closed: Python would drop what is written there, without a word."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


def _internal_error(e: Exception) -> int:
    if os.environ.get("ZSCLIP_DEBUG"):
        raise e
    say(f"zsclip: internal error: {type(e).__name__}: {e}; please report it with what ZSCLIP_DEBUG=1 adds")
    return 70  # EX_SOFTWARE of sysexits.h


@contextmanager
def _store(encoder: "Encoder", decoding: "Decoding", no_store: bool) -> "Iterator[EmbeddingStore | None]":
    if no_store:
        yield None
        return
    from zsclip.store import EmbeddingStore

    recipe = encoder.image_recipe(decoding.fast_jpeg)
    store = EmbeddingStore(recipe, encoder.spec.name, encoder.embed_dim, max_pixels=decoding.max_pixels)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _embedding(
    paths: Iterable[str],
    encoder: "Encoder",
    decoding: "Decoding",
    no_store: bool,
    batch_size: int | None,
    threads: int,
    read: Callable[[str], bytes] | None = None,
) -> "Iterator[tuple[Iterator[Embedded], EmbeddingStore | None]]":
    """Begin to look up and decode, load the model beside that if the first picture is not known, and give batches."""
    from zsclip.embed import Pixels, embed_images, look_ahead

    preprocess = encoder.spec.preprocess
    with (
        _store(encoder, decoding, no_store) as store,
        look_ahead(paths, preprocess, decoding, store, batch_size=batch_size, threads=threads, read=read) as ahead,
    ):
        if store is None or isinstance(ahead.begins_with(), Pixels | None):
            encoder.load()  # takes a second or two, while pictures are decoded
        yield embed_images(ahead.batches(batch_size or encoder.batch_size), encoder, store), store


def _made_with(words: "list[Label]", sentences: "PromptSet", encoder: "Encoder") -> dict[str, str]:
    """What a calibration holds for, on whatever device."""
    from dataclasses import asdict

    from zsclip.cache import fingerprint

    spec = encoder.spec
    settings = _settings(sorted(words, key=lambda word: word.name), sentences, encoder)
    model = f"{spec.name}, {fingerprint(spec.recipe, asdict(spec.preprocess))[:8]}"
    return {"model": model, **{key: str(settings[key]) for key in ("label list", "prompts")}}


def _settings(words: "list[Label]", sentences: "PromptSet", encoder: "Encoder") -> dict[str, object]:
    """What rows depend on, as a person may be told that it is not what it was."""
    from importlib.metadata import version

    from zsclip.cache import fingerprint
    from zsclip.labels import Label
    from zsclip.prompts import expand

    names = [word.name for word in words]
    neutral = Label("something")  # that --multi-label may compare with
    return {
        "label list": f"{len(names)} labels, {fingerprint(names)[:8]}",
        "prompts": fingerprint([list(prompts) for prompts in expand([*words, neutral], sentences)])[:8],
        "model": f"{encoder.spec.name}, {fingerprint(encoder.image_recipe(fast_jpeg=False), encoder.text_recipe)[:8]}",
        "version of zsclip": version("zsclip"),
        "version of torch": version("torch"),
        "version of open_clip": version("open_clip_torch"),
        "version of Pillow": version("pillow"),
    }


def _store_lines(store: "EmbeddingStore | None") -> list[str]:
    """Tell what was kept, where, and how not to."""
    from zsclip.cache import cache_dir
    from zsclip.store import MAX_BYTES, size_on_disk

    if store is None or not (store.read or store.kept):
        return []
    size = f"{size_on_disk() / 1e6:.1f} MB of at most {MAX_BYTES / 1e6:,.0f} in {cache_dir()}"
    return [f"embeddings: {store.read:,} read, {store.kept:,} kept; {size}; --no-store keeps none"]


def _check_picture_files(report: str | None, contact_sheet: str | None, *, overwrite: bool) -> None:
    from zsclip.output import check_output

    for flag, file, ending in (("--report", report, ".html"), ("--contact-sheet", contact_sheet, ".png")):
        if file is not None and not file.lower().endswith(ending):
            raise InputError(f"{flag}: {file!r} does not end in {ending}; let it")
        if file is not None:
            check_output(file, overwrite=overwrite)


def _note_if_few(pictures: int, quiet: bool) -> None:
    from zsclip.metrics import FEW

    if pictures < FEW and not quiet:
        say(f"zsclip: {pictures} pictures are few: what is measured on them may be far off; give {FEW} or more")


def _told(tally: Tally, store: "EmbeddingStore | None", quiet: bool, pages: Sequence[str | None] = ()) -> int:
    """Tell how a run went, and give its exit code."""
    if not quiet:
        sizes = [f"{page}: {os.path.getsize(page) / 1e6:.1f} MB" for page in pages if page is not None]
        for line in (*tally.summary(), *_store_lines(store), *sizes):
            say(line)
    return tally.exit_code


def _sentences(template: Sequence[str], prompts: str) -> "PromptSet":
    """Read --template, which replaces the set, or --prompts."""
    from zsclip.prompts import read_prompts, read_templates

    return read_templates(template) if template else read_prompts(prompts)


def _given_labels(labels: str | None, label: Sequence[str], labels_file: Sequence[str]) -> "list[Label] | None":
    """Read the labels, if any were given; else those of the data are taken."""
    from zsclip.labels import read_labels

    return read_labels(labels, label, labels_file) if labels is not None or label or labels_file else None


def _build(
    words: "list[Label]",
    sentences: "PromptSet",
    clip: "Encoder",
    multi_label: bool,
    quiet: bool,
    distractors: Sequence[Sequence[str]] = (),
) -> "Classifier":
    """Make the text matrix, and tell what was cut or may not be understood."""
    from zsclip.classifier import build_classifier
    from zsclip.labels import Label
    from zsclip.prompts import expand
    from zsclip.weights import unread_labels

    neutral = expand([Label("something")], sentences)[0] if multi_label and clip.logit_bias is None else ()
    with prompts_bar(_shows_progress(quiet)) as progress:
        classifier = build_classifier(
            [word.name for word in words],
            expand(words, sentences),
            clip,
            neutral_prompts=neutral,
            distractor_prompts=distractors,
            progress=progress,
        )
    if quiet:
        return classifier
    if classifier.cut:
        limit = clip.spec.tokenizer.context_length
        say(f"zsclip: prompts longer than the model's {limit} tokens were cut: {listed(classifier.cut)}; shorten them")
    unread = unread_labels(clip.spec, classifier.labels)
    if unread:
        say(f"zsclip: {clip.spec.name} was trained on English: {listed(unread)}; --model multilingual reads more")
    return classifier


def _note(quiet: bool) -> Callable[[str], None]:
    return (lambda message: None) if quiet else (lambda message: say(f"zsclip: {message}"))


def _drain(batches: Iterable[object], out: object = None) -> None:
    deque(batches, maxlen=0)


def _shows_progress(quiet: bool) -> bool:
    return not quiet and is_terminal(sys.stderr)


def _only(
    batches: "Iterable[list[Prediction | Skipped]]", labels: Sequence[str]
) -> "Iterator[list[Prediction | Skipped]]":
    """Keep the rows whose answer is one of the labels; without labels, all rows."""
    wanted = {label.strip() for label in labels}  # as labels themselves are
    for batch in batches:
        yield [row for row in batch if getattr(row, "label", None) in wanted] if labels else batch


def _check_options(device: str, only: Sequence[str], names: Sequence[str], stray_print0: bool) -> None:
    """Check what Typer cannot, before anything slow."""
    if stray_print0:
        raise InputError("--print0: only paths can end in NUL; add --format paths")
    _check_device(device)
    for label in only:
        if label.strip() not in names:
            raise InputError(
                f"--only: {label!r} is not one of the labels; use one of {listed(list(dict.fromkeys(names)), 8)}"
            )


def _set_environment(offline: bool, quiet: bool = False) -> None:
    """Tell huggingface_hub, and whoever else asks it, what was asked of us; it reads this when it is imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if quiet or not is_terminal(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _batch_size(text: str) -> int | None:
    """Read --batch-size; None is auto, which depends on the model."""
    if text == "auto":
        return None
    if not (text.isdecimal() and int(text) > 0):
        raise InputError(f"--batch-size: {text!r} is no size; use auto or a number from 1")
    return int(text)


def _bytes(text: str) -> int:
    """Read a size as people write it."""
    found = re.fullmatch(r"\s*(\d+(\.\d+)?)\s*([kmgt]?b?)\s*", text, re.IGNORECASE)
    if not found:
        raise InputError(f"--max-size: {text!r} is no size; write it as 500MB or 2GB")
    return int(float(found[1]) * 1000 ** " kmgt".index(found[3].lower().rstrip("b") or " "))


@contextmanager
def _told_of_the_store() -> Iterator[None]:
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as e:
        raise ZsclipError(f"embeddings: {e}; `zsclip cache clear` begins afresh") from e


def _check_device(device: str) -> None:
    kind, _, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and number.isdecimal()):
        raise InputError(f"--device: {device!r} is no device; use auto, cpu, cuda, cuda:N or mps")


def _usage_line(e: Exception) -> str:
    message = (e.format_message() if hasattr(e, "format_message") else str(e)).replace("Value error, ", "")
    context = getattr(e, "ctx", None)
    command = context.command_path if context is not None else "zsclip"
    return f"{' '.join(message.split()).rstrip('.')}; try '{command} --help'"


def _terminate(signal_number: int, frame: object) -> None:
    sys.exit(128 + signal_number)


def _silence_dependencies() -> None:
    # Offline, open_clip and huggingface_hub printed dozens of lines before our one.
    logging.disable(logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
