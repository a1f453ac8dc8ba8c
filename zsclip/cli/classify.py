"""`zsclip classify`."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from zsclip.cli.options import (
    NONE,
    BatchSizeOption,
    CompileOption,
    ContactSheetOption,
    DeviceOption,
    DistractorsOption,
    ExcludeOption,
    FastJpegOption,
    FormatOption,
    InputsArgument,
    LabelOption,
    LabelsFileOption,
    LabelsOption,
    LimitOption,
    MaxPixelsOption,
    ModelOption,
    MultiLabelOption,
    NoStoreOption,
    NullOption,
    OfflineOption,
    OnlyOption,
    OutputOption,
    OverwriteOption,
    PrecisionOption,
    Print0Option,
    PromptsOption,
    QuietOption,
    ReportOption,
    ResumeOption,
    RetryErrorsOption,
    TemplateOption,
    ThreadsOption,
    ThresholdOption,
    TopKOption,
    check_device,
    check_picture_files,
    read_batch_size,
    read_sentences,
    rivals_of,
    set_environment,
)
from zsclip.cli.run import (
    build_text_matrix,
    digested,
    drain,
    embedding,
    made_with,
    notes,
    report_run,
    row_settings,
    shows_progress,
)
from zsclip.cli.terminal import Tally, images_bar, is_terminal, listed
from zsclip.errors import InputError
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

UNKNOWN = "unknown"  # what --only, tables and pages call a picture without an answer

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.answers.classifier import Classifier
    from zsclip.kept.store import EmbeddingStore
    from zsclip.pictures.pictures import Pictures


def classify(
    inputs: InputsArgument,
    labels: LabelsOption = None,
    label: LabelOption = NONE,
    labels_file: LabelsFileOption = NONE,
    prompts: PromptsOption = "photo",
    template: TemplateOption = NONE,
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
    only: OnlyOption = NONE,
    format: FormatOption = None,
    output: OutputOption = None,
    report: ReportOption = None,
    contact_sheet: ContactSheetOption = None,
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    retry_errors: RetryErrorsOption = False,
    exclude: ExcludeOption = NONE,
    limit: LimitOption = None,
    null: NullOption = False,
    print0: Print0Option = False,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
    fast_jpeg: FastJpegOption = False,
    no_store: NoStoreOption = False,
    quiet: QuietOption = False,
) -> int:
    """Give every picture the label that fits it best.

    Example:

        zsclip classify photos/ --labels "cat,dog,bird"
    """
    from dataclasses import asdict, replace

    from zsclip.out.journal import Journal
    from zsclip.out.output import check_output, format_of, is_replaceable, open_output
    from zsclip.out.sinks import SINKS, write_csv, write_paths, write_tsv
    from zsclip.pictures.files import find_images
    from zsclip.pictures.pictures import Pictures
    from zsclip.words.labels import COMMON, read_labels

    set_environment(offline, quiet)
    output = None if output == "-" else output
    note = notes(quiet)
    words = read_labels(labels, label, labels_file, alone=multi_label)
    sentences = read_sentences(template, prompts)
    sink_name = format or format_of(output, is_terminal(sys.stdout))
    names = [word.group or word.name if by == "group" else word.name for word in words]
    if print0 and sink_name != "paths":
        raise InputError("--print0: only paths can end in NUL; add --format paths")
    check_device(device)
    wanted = _wanted(only, names)
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
    competing = rivals_of(words, distractors, sentences)
    learnt = None
    if calibration is not None:
        from zsclip.measure.calibrate import check_made_with, read_calibration

        learnt = read_calibration(calibration)
    size = read_batch_size(batch_size)
    paths = find_images(inputs, exclude=exclude, limit=limit, null=null, note=note)
    paths_only = partial(write_paths, print0=print0, unknown=None in wanted)
    sink = paths_only if sink_name == "paths" else SINKS.get(sink_name, drain)
    check_output(output, overwrite=overwrite or resume or retry_errors, resumable=True)
    check_picture_files(report, contact_sheet, overwrite=overwrite)
    if (resume or retry_errors) and (report or contact_sheet or sink_name == "html"):
        raise InputError("--resume: a page or a sheet shows a whole run; leave it out, what was encoded is kept anyway")
    if (resume or retry_errors) and (overwrite or output is None or not is_replaceable(output)):
        raise InputError("--resume: goes on with the rows of an earlier run; give the file with -o, and no --overwrite")
    from zsclip.answers.scores import Rule
    from zsclip.models.encoder import Encoder
    from zsclip.models.find import find_model
    from zsclip.pixels.limits import Decoding
    from zsclip.pixels.processors import available_cpus

    encoder = Encoder(find_model(model, offline=offline), device, precision, compiled=compile)
    rule = Rule(top_k, threshold, multi_label)
    if learnt is not None and calibration is not None:
        check_made_with(learnt, calibration, made_with(words, sentences, encoder))
        if by == "group" and learnt.thresholds and threshold is None:
            raise InputError(f"{calibration}: has thresholds of labels, not of groups; calibrate without --per-label")
        competing = dict(learnt.distractors)
        rule = replace(rule, temperature=learnt.temperature)
        if threshold is None:
            rule = replace(rule, threshold=learnt.threshold, thresholds=learnt.thresholds)
    settings = row_settings(words, sentences, encoder, model, compile) | {
        "format": sink_name, "batch-size": batch_size, "top-k": top_k, "threshold": threshold,
        "multi-label": multi_label, "only": only, "print0": print0, "fast-jpeg": fast_jpeg, "max-pixels": max_pixels,
        "by": digested(by, names) if by == "group" else by,
        "calibration": None if learnt is None else digested(calibration, asdict(learnt)),
        "distractors": digested(distractors or "of the calibration", competing) if competing else None,
        "table width": get_terminal_size((100, 24)).columns if sink_name == "table" else None,
    }  # fmt: skip
    own_page = output if sink_name == "html" and output is not None and is_replaceable(output) else None
    journal = point = end = None
    if output is not None and is_replaceable(output):
        journal = Journal(output, settings, overwrite=overwrite)
        if resume or retry_errors:
            point = journal.go_on(paths)
            end = journal.finished(paths) if point is None else None
    tally = Tally()
    if earlier := point or end:
        tally = Tally(earlier.pictures - earlier.failed) if retry_errors else Tally(earlier.pictures, earlier.failed)
    if end is not None and output is not None and not (retry_errors and end.failed):
        notes(quiet)(tally.complete(output))
        return tally.exit_code
    decoding, cpus = Decoding(max_pixels, fast_jpeg), threads or available_cpus()

    @cache
    def text_matrix() -> "Classifier":
        matrix = build_text_matrix(words, sentences, encoder, multi_label, quiet, competing)
        return replace(matrix, groups=tuple(names)) if by == "group" else matrix

    @contextmanager
    def answering(pictures: "Iterable[Pictures]") -> "Iterator[tuple[Iterator[Answers], EmbeddingStore | None]]":
        with embedding(pictures, encoder, decoding, no_store, size, cpus) as (embedded, store):
            from zsclip.answers.classify import classify

            classifier = text_matrix()
            with images_bar(tally, shows_progress(quiet) and not (output is None and is_terminal(sys.stdout))):
                yield tally.count(classify(embedded, classifier, rule)), store

    def only_wanted(rows: "Iterator[Answers]") -> "Iterator[Answers]":
        return _only(rows, wanted) if only else rows

    def into(out: TextIO, rows: "Iterable[Answers]", *, header: bool) -> None:
        with_header = {"csv": write_csv, "tsv": write_tsv}.get(sink_name)
        write = sink if with_header is None else partial(with_header, header=header)
        write(rows, out)

    if end is None:
        with (
            answering(paths.rest()) as (rows, store),
            journal or nullcontext(),
            open_output(
                output, overwrite=journal.overwrite if journal else overwrite,
                go_on_at=point.size if point else None, resumable=True,
            ) as out,
            nullcontext() if report is None else open_output(report, overwrite=overwrite) as page,
            nullcontext() if contact_sheet is None else open_output(contact_sheet, overwrite=overwrite) as sheet,
        ):  # fmt: skip
            if journal is not None:
                journal.begin()
                rows = journal.noted(rows, out)
            rows = only_wanted(rows)
            for target, stream in ((own_page, out if sink_name == "html" else None), (report, page)):
                if stream is not None:
                    from zsclip.out.report import with_report

                    folder = os.path.dirname(target or "")
                    rows = with_report(rows, stream, folder, threads=cpus, max_pixels=max_pixels)
            if sheet is not None:
                from zsclip.out.contactsheet import with_contact_sheet

                rows = with_contact_sheet(rows, sheet.buffer, threads=cpus, max_pixels=max_pixels)
            into(out, rows, header=not (point and point.pictures))
            if journal is not None:
                journal.finish(out)
    if retry_errors and journal is not None and output is not None and journal.failed_paths:
        with (
            answering([Pictures(journal.failed_paths)]) as (rows, store),
            journal,
            open(output, "rb") as old,
            open_output(output, overwrite=True) as out,
        ):
            journal.begin(retries=True)
            header = journal.retries_first_row
            into(out, only_wanted(journal.retried(rows, old, out)), header=header)
            journal.finish(out)
    return report_run(tally, store, quiet, [report, own_page])


def _wanted(only: Sequence[str], names: Sequence[str]) -> set[str | None]:
    """Give the answers that --only asks for; None stands for unknown, unless there is a label of that name."""
    wanted = [label.strip() for label in only]  # as labels themselves are
    for label in wanted:
        if label not in names and label != UNKNOWN:
            labels = listed(list(dict.fromkeys(names)), 8)
            raise InputError(f"--only: {label!r} is not one of the labels; use one of {labels}, or {UNKNOWN}")
    return {None if label == UNKNOWN and label not in names else label for label in wanted}


def _only(batches: "Iterable[Answers]", wanted: set[str | None]) -> "Iterator[Answers]":
    """Keep the pictures with these answers; one that failed has none, not even unknown."""
    import numpy as np

    for batch in batches:
        places = [place for place, label in enumerate(batch.labels) if label in wanted] + [-1] * (None in wanted)
        yield batch.take(np.flatnonzero(np.isin(batch.answered, places) & batch.is_answered()))
