"""`zsclip eval`, `compare` and `calibrate`."""

import os
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.options import (
    NONE,
    BatchSizeOption,
    CompileOption,
    DataArgument,
    DeviceOption,
    DistractorsOption,
    FastJpegOption,
    JsonOption,
    LabelOption,
    LabelsFileOption,
    LabelsOption,
    MaxPixelsOption,
    ModelOption,
    NoStoreOption,
    OfflineOption,
    OverwriteOption,
    PrecisionOption,
    PromptsOption,
    QuietOption,
    ReportOption,
    TemplateOption,
    ThreadsOption,
    check_device,
    check_picture_files,
    given_labels,
    read_batch_size,
    read_sentences,
    rivals_of,
    set_environment,
)
from zsclip.cli.run import (
    build_text_matrix,
    drain,
    embedding,
    made_with,
    note_if_few,
    notes,
    report_run,
    shows_progress,
)
from zsclip.cli.terminal import Tally, images_bar
from zsclip.errors import InputError
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from zsclip.words.labels import Label


def evaluate(
    data: DataArgument,
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
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
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

    from zsclip.measure.labelled import read_labelled
    from zsclip.out.output import check_output, format_of, open_output

    set_environment(offline, quiet)
    check_device(device)
    size = read_batch_size(batch_size)
    sentences = read_sentences(template, prompts)
    given = given_labels(labels, label, labels_file)
    if confusion is not None and not confusion.lower().endswith((".png", ".csv")):
        raise InputError(f"--confusion: {confusion!r} ends neither in .png nor in .csv; let it")
    for file in filter(None, (rows, confusion)):
        check_output(file, overwrite=overwrite)
    check_picture_files(report, None, overwrite=overwrite)
    if rows is not None and format_of(rows, False) == "html":
        raise InputError(f"--rows: {rows!r} is a page; use --report for that")
    data_set = read_labelled(data, note=notes(quiet))
    from zsclip.answers.scores import Rule
    from zsclip.measure.evaluate import BEST, found_labels, judge, report_lines, truths_of
    from zsclip.measure.evaluate import evaluate as sum_up
    from zsclip.measure.metrics import Judged
    from zsclip.models.encoder import Encoder
    from zsclip.models.find import find_model
    from zsclip.out.sinks import SINKS, write_csv, write_tsv
    from zsclip.pixels.limits import Decoding
    from zsclip.pixels.processors import available_cpus

    words = given or found_labels(data_set.words)
    names = [word.name for word in words]
    truths = truths_of(data_set.words, words)
    encoder = Encoder(find_model(model, offline=offline), device, precision, compiled=compile)
    decoding, cpus = Decoding(max_pixels, fast_jpeg), threads or available_cpus()
    tally, judged = Tally(), list[Judged]()
    with embedding([data_set.pictures], encoder, decoding, no_store, size, cpus) as (embedded, store):
        from zsclip.answers.classify import classify

        classifier = build_text_matrix(words, sentences, encoder, False, quiet)
        with images_bar(tally, shows_progress(quiet)):
            answers = judge(tally.count(classify(embedded, classifier, Rule(BEST))), truths, names, judged)
            sinks = SINKS | {"csv": partial(write_csv, truth=True), "tsv": partial(write_tsv, truth=True)}
            with (
                nullcontext() if rows is None else open_output(rows, overwrite=overwrite) as out,
                nullcontext() if report is None else open_output(report, overwrite=overwrite) as page,
            ):
                if report is not None and page is not None:
                    from zsclip.out.report import with_report

                    answers = with_report(
                        answers,
                        page,
                        os.path.dirname(report),
                        threads=cpus,
                        max_pixels=max_pixels,
                        pictures=data_set.pictures,
                    )
                if rows is None or out is None:
                    drain(answers)
                else:
                    sinks[format_of(rows, False)](answers, out)
    scorecard = sum_up(judged, names)
    if as_json:
        typer.echo(json.dumps({
            "pictures": scorecard.pictures, "failed": tally.errors.total(), "model": encoder.spec.name,
            "prompts": sentences.name, "metrics": {name: asdict(each) for name, each in scorecard.figures.items()},
            "labels": [asdict(each) for each in scorecard.labels],
        }, ensure_ascii=False))  # fmt: skip
    else:
        typer.echo("\n".join(report_lines(scorecard)))
    if confusion is not None:
        from zsclip.measure.confusion import write_csv as write_table
        from zsclip.measure.confusion import write_png

        with open_output(confusion, overwrite=overwrite) as out:
            if confusion.lower().endswith(".png"):
                write_png(scorecard.confusion, names, out.buffer)
            else:
                write_table(scorecard.confusion, names, out)
    note_if_few(scorecard.pictures, quiet)
    return report_run(tally, store, quiet, [report])


def compare_variants(
    data: DataArgument,
    prompts: Annotated[
        list[str], typer.Option("--prompts", metavar="NAME|FILE", help="Prompt set; may repeat. [default: photo]")
    ] = NONE,
    template: Annotated[
        list[str], typer.Option("--template", metavar="TEXT", help="Template with a {}, by itself; may repeat.")
    ] = NONE,
    labels_file: Annotated[
        list[str], typer.Option("--labels-file", metavar="FILE|NAME", help="Labels; may repeat.")
    ] = NONE,
    model: Annotated[
        list[str],
        typer.Option("--model", metavar="MODEL", help="See `zsclip models list`; may repeat. [default: base]"),
    ] = NONE,
    templates: Annotated[
        bool, typer.Option("--templates", help="Tell which templates of one prompt set help, and which hurt.")
    ] = False,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
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

    from zsclip.measure.labelled import read_labelled
    from zsclip.words.labels import read_labels
    from zsclip.words.prompts import read_prompts, read_templates

    set_environment(offline, quiet)
    check_device(device)
    size = read_batch_size(batch_size)
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
    data_set = read_labelled(data, note=notes(quiet))
    from zsclip.measure.compare import compare, comparison_lines, judged_by, template_gains, template_lines
    from zsclip.measure.evaluate import found_labels, truths_of
    from zsclip.models.encoder import Encoder
    from zsclip.models.find import find_model
    from zsclip.pixels.limits import Decoding
    from zsclip.pixels.processors import available_cpus

    labels = {file: words or found_labels(data_set.words) for file, words in files.items()}
    truths = {file: truths_of(data_set.words, words) for file, words in labels.items()}
    encoders = [Encoder(find_model(one, offline=offline), device, precision) for one in models]
    decoding, cpus = Decoding(max_pixels, fast_jpeg), threads or available_cpus()
    variants, gains, unread = [], [], set()
    for encoder in encoders:
        tally = Tally()
        with (
            embedding([data_set.pictures], encoder, decoding, no_store, size, cpus) as (embedded, store),
            images_bar(tally, shows_progress(quiet)),
        ):
            batches = list(tally.count_encoded(embedded))
        unread.add(tuple(each.path for batch in batches for each in batch.skipped.values()))
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
            variants.append((", ".join(parts), judged(build_text_matrix(words, sentences, encoder, False, quiet))))
    compared = compare(variants) if variants else []
    if as_json:
        found = [asdict(each) for each in compared] + [asdict(each) for each in gains]
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        typer.echo("\n".join(comparison_lines(compared) if compared else template_lines(gains)))
    return report_run(tally, store, quiet)


def calibrate(
    data: DataArgument,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Write here what `classify --calibration` reads.")
    ] = "labels.calib.json",
    labels: LabelsOption = None,
    label: LabelOption = NONE,
    labels_file: LabelsFileOption = NONE,
    prompts: PromptsOption = "photo",
    template: TemplateOption = NONE,
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
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
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

    from zsclip.measure.labelled import read_labelled
    from zsclip.out.output import check_output, open_output

    set_environment(offline, quiet)
    check_device(device)
    size = read_batch_size(batch_size)
    sentences = read_sentences(template, prompts)
    given = given_labels(labels, label, labels_file)
    if per_label and target_precision is None and target_share is None:
        raise InputError("--per-label: says of which labels a threshold is; add --target-precision or --target-share")
    if target_precision is not None and target_share is not None:
        raise InputError("--target-share: there is a --target-precision already; one threshold serves one of them")
    if output == "-":
        raise InputError("-o: a calibration is read from a file; name one, as labels.calib.json")
    check_output(output, overwrite=overwrite)
    data_set = read_labelled(data, note=notes(quiet))
    from zsclip.measure.calibrate import Wish, cosines_of, promise, promise_lines, to_json
    from zsclip.measure.calibrate import calibrate as learn
    from zsclip.measure.evaluate import found_labels, truths_of
    from zsclip.models.encoder import Encoder
    from zsclip.models.find import find_model
    from zsclip.pixels.limits import Decoding
    from zsclip.pixels.processors import available_cpus

    words = given or found_labels(data_set.words)
    truths = truths_of(data_set.words, words)
    competing = rivals_of(words, distractors, sentences)
    encoder = Encoder(find_model(model, offline=offline), device, precision)
    decoding, cpus, tally = Decoding(max_pixels, fast_jpeg), threads or available_cpus(), Tally()
    with embedding([data_set.pictures], encoder, decoding, no_store, size, cpus) as (embedded, store):
        classifier = build_text_matrix(words, sentences, encoder, False, quiet, competing)
        with images_bar(tally, shows_progress(quiet)):
            similar, truth = cosines_of(tally.count_encoded(embedded), truths, classifier)
    note_if_few(len(truth), quiet)
    wish = Wish(target_precision, target_share, per_label)
    learning = (similar, truth, classifier.labels, encoder.logit_scale, wish)
    calibration = replace(learn(*learning, made_with(words, sentences, encoder)), distractors=competing)
    promised = promise(*learning)
    text = to_json(calibration)
    with open_output(output, overwrite=overwrite) as out:
        out.write(text + "\n")
    if as_json:
        typer.echo(json.dumps({"calibration": json.loads(text), "promise": asdict(promised)}))
    else:
        typer.echo("\n".join(promise_lines(calibration, promised)))
    return report_run(tally, store, quiet)
