"""`zsclip eval`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.learn import example_files, examples_among, learn_beside, note_known, read_teachers
from zsclip.cli.options import (
    Data,
    Json,
    Labels,
    Messages,
    Model,
    Prompts,
    Report,
    check_ending,
    model_files,
    set_environment,
)
from zsclip.cli.progress import total_of
from zsclip.cli.question import Deciding, about_page
from zsclip.cli.run import (
    SLOW_PIECE,
    Looked,
    build_answering,
    build_for_all,
    drain,
    embedding,
    measuring,
    note_captions,
    note_if_few,
    read_data,
    report_run,
)
from zsclip.cli.speed import Speed, Store
from zsclip.engine.options import Scoring
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.answers.scores import Rule
    from zsclip.engine.question import Question, Teachers
    from zsclip.measure.evaluate import Scorecard
    from zsclip.measure.labelled import Labelled
    from zsclip.measure.metrics import Judged
    from zsclip.out.output import FileId
    from zsclip.pictures.pictures import Pictures
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet

_WORST_LABELS = 20


@group("Output")
class Findings(Report, Json):
    """Which results of the evaluation are written, and where."""

    all_labels: Annotated[
        bool,
        typer.Option("--all-labels", help=f"Show all labels, not only the {_WORST_LABELS} with the lowest recall."),
    ] = False
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows",
            metavar="FILE",
            help="Write every answer beside the true label: a .jsonl, .csv, .tsv or .parquet file.",
        ),
    ] = None
    confusion: Annotated[
        str | None,
        typer.Option(
            "--confusion", metavar="FILE", help="Write which labels are confused with which: a .png or .csv file."
        ),
    ] = None

    errors: Annotated[
        str | None,
        typer.Option(
            "--errors",
            metavar="FILE",
            help="Write the wrong answers, the most confident first: a .csv, .tsv or .jsonl file. Correct its column "
            "truth where the data are wrong; `zsclip learn FILE --add-to HEAD` reads it.",
        ),
    ] = None

    def __post_init__(self) -> None:
        from zsclip.out.output import format_of

        super().__post_init__()
        check_ending("--errors", self.errors, ".csv", ".tsv", ".jsonl")
        check_ending("--confusion", self.confusion, ".png", ".csv")
        sink_name = None if self.rows is None else format_of(self.rows, False)
        if sink_name == "html":
            raise InputError(f"--rows: {self.rows!r} is a page; use --report for that")
        if sink_name == "parquet":
            from zsclip.out.parquet import check_pyarrow

            check_pyarrow(f"--rows {self.rows}")

    @property
    def files(self) -> tuple[str | None, ...]:
        """Every file that may be written."""
        return self.rows, self.report, self.confusion, self.errors

    def check(self, reads: Iterable[tuple[str, str]]) -> "dict[FileId, str]":
        """Check that every file can be written, and is not one that is read, before anything slow begins.

        Returns:
            A description of each file that would be replaced, by its id.
        """
        from zsclip.out.output import check_inputs, check_output, check_outputs_differ

        flags = zip(("--rows", "--report", "--confusion", "--errors"), self.files, strict=True)
        places = check_outputs_differ([("standard output", None), *((flag, file) for flag, file in flags if file)])
        check_inputs(reads, places)
        for file in filter(None, self.files):
            check_output(file, overwrite=self.overwrite)
        return places

    def write_rows(
        self,
        batches: "Iterator[Answers]",
        pictures: "Pictures",
        speed: Speed,
        about: Mapping[str, str],
        wrong: "list[Answers]",
        *,
        first: bool,
    ) -> None:
        """Consume all batches, and write rows and the page if they were asked for.

        Args:
            about: what the page says about the run. wrong: takes the wrong answers if --errors asks for them.
            first: whether rows have the answer of the first of two passes.
        """
        from zsclip.measure.evaluate import wrong_among
        from zsclip.out.output import open_output

        if self.errors is not None:
            batches = wrong_among(batches, wrong)
        with ExitStack() as files:
            out = self.rows and files.enter_context(open_output(self.rows, overwrite=self.overwrite))
            if self.report is not None:
                from zsclip.out.report import with_report

                page = files.enter_context(open_output(self.report, overwrite=self.overwrite))
                batches = with_report(
                    batches, page, os.path.dirname(self.report),
                    about=about, threads=speed.cpus, max_pixels=speed.max_pixels, pictures=pictures,
                )  # fmt: skip
            if self.rows and out:
                _write_with_truth(batches, self.rows, out, first)
            else:
                drain(batches)

    def write_errors(self, wrong: "Sequence[Answers]", *, first: bool) -> None:
        """Write the wrong answers if they were asked for; first: as in `write_rows`."""
        if self.errors is None:
            return
        from zsclip.measure.evaluate import most_confident_first
        from zsclip.out.output import open_output

        with open_output(self.errors, overwrite=self.overwrite) as out:
            _write_with_truth([most_confident_first(wrong)], self.errors, out, first)

    def write_confusion(self, scorecard: "Scorecard", names: Sequence[str], messages: Messages) -> None:
        """Write the confusion matrix if it was asked for."""
        if self.confusion is None:
            return
        from zsclip.measure.confusion import write_csv, write_png
        from zsclip.out.output import open_output

        with open_output(self.confusion, overwrite=self.overwrite) as out:
            if self.confusion.lower().endswith(".png"):
                write_png(scorecard.confusion, names, out.buffer)
                note_captions(messages)
            else:
                write_csv(scorecard.confusion, names, out)

    def print(self, scorecard: "Scorecard", about: dict[str, Any]) -> None:
        """Print the metrics, then the figures of each label."""
        import json
        from dataclasses import asdict

        from zsclip.measure.evaluate import report_lines

        if self.as_json:
            figures = {name: each and asdict(each) for name, each in scorecard.figures.items()}
            labels = [asdict(each) for each in scorecard.labels]
            found = {"images": scorecard.pictures, **about, "metrics": figures, "labels": labels}
            typer.echo(json.dumps(found, ensure_ascii=False))
            return
        typer.echo("\n".join(report_lines(scorecard, None if self.all_labels else _WORST_LABELS)))


def _write_with_truth(batches: "Iterable[Answers]", file: str, out: TextIO, first: bool) -> None:
    """Write answers beside the true labels, in the format that the extension of the file names."""
    from zsclip.out.output import format_of
    from zsclip.out.parquet import Layout, write_parquet
    from zsclip.out.sinks import SINKS, write_csv, write_tsv

    sinks = SINKS | {
        "csv": partial(write_csv, truth=True, first=first),
        "tsv": partial(write_tsv, truth=True, first=first),
        "parquet": partial(write_parquet, layout=Layout(truth=True, first=first)),
    }
    sinks[format_of(file, False)](batches, out)


@command(
    common=(
        "data", "labels", "prompts", "model", "threshold", "multi_label", "rows", "report", "confusion", "as_json",
    )
)  # fmt: skip
def evaluate(
    data: Data,
    labels: Labels,
    prompts: Prompts,
    scores: Deciding,
    model: Model,
    speed: Speed,
    store: Store,
    findings: Findings,
    messages: Messages,
) -> int:
    """Measure how good the answers are on labelled images.

    By default, the data's labels are used. If images may be unknown, as with --threshold, --none-of-these or
    --calibration, `answered` is the share of images with an answer, and `precision` the share of the answers that are
    right; the other metrics go by the best label, whether or not it is the answer. With --multi-label, every label
    assigned other than the one true label counts as wrong, and `recall` is the share of images that were given their
    true label.

    Examples:

        zsclip eval labelled/ --confusion mistakes.png
        zsclip eval labelled/ --model tiny --report mistakes.html --errors wrong.csv
        zsclip eval test.csv --calibration labels.calib.json --json
    """
    from zsclip.answers.classify import classify
    from zsclip.engine.question import rule_of
    from zsclip.out.output import check_inputs

    set_environment(model, messages)
    given, sentences = labels.read_given(alone=scores.one_is_enough), prompts.read_given()
    teachers = read_teachers(scores, messages, model)
    name = model.name(teachers.model)
    places = findings.check(chain(labels.reads(), prompts.reads(), scores.reads(), data.reads(), model_files(name)))
    with measuring(speed, store, messages) as session:
        labelled = read_data(data, session, places, offline=model.offline)
        question, truths = question_of(labelled, given, sentences, scores, teachers)
        check_inputs(example_files(question), places)
        encoder = speed.encoder(name, model.offline)
        rule = rule_of(question, encoder)
        if question.examples is not None:
            question = learn_beside(question, encoder, name, session)
        about = about_page(question, encoder, rule)
        looked, known = Looked(store), list[int]()
        for_all = build_for_all(question, [labelled.pictures], encoder, session, looked)
        with embedding([labelled.pictures], encoder, session, looked) as embedded:
            matrix = for_all or build_answering(question, encoder, session)
            session.progress.images(session.tally, total_of([labelled.pictures], session.tally))
            most = SLOW_PIECE if findings.report else None
            batches = classify(examples_among(embedded, question.head, known), matrix, with_top_five(rule))
            answers = session.tally.count(batches, session.signals, most)
            wrong: list[Answers] = []
            write = partial(
                findings.write_rows, pictures=labelled.pictures, speed=speed, about=about, wrong=wrong,
                first=scores.transductive,
            )  # fmt: skip
            may_be_unknown = bool(rule.independent or rule.threshold or rule.thresholds or question.words.distractors)
            scorecard = scorecard_of(answers, truths, matrix.labels, write, may_be_unknown, rule.independent)
    failed = session.tally.errors.total()
    findings.print(scorecard, {"failed": failed} | shown_settings(question, encoder.spec.name, rule))
    findings.write_confusion(scorecard, matrix.labels, messages)
    findings.write_errors(wrong, first=scores.transductive)
    if rule.independent:
        messages.note(
            "--multi-label: each image has one true label here, so any other label it was given counts as wrong"
        )
    note_known(sum(known), messages)
    note_if_few(scorecard.pictures, messages)
    return report_run(session, findings.files)


def question_of(
    labelled: "Labelled",
    given: "list[Label] | None",
    sentences: "PromptSet | None",
    scores: Scoring,
    teachers: "Teachers",
) -> "tuple[Question, list[str]]":
    """Give what is asked (by default about the data's words), and each picture's true label."""
    from zsclip.engine.question import read_question
    from zsclip.measure.evaluate import found_labels, truths_of

    if given is None and not teachers.brings_labels:
        given = found_labels(labelled.vocabulary, alone=scores.one_is_enough, meanings=labelled.meanings)
    question = read_question(given, sentences, scores, teachers)
    return question, truths_of(labelled.words, question.words.labels, labelled.meanings)


def with_top_five(rule: "Rule") -> "Rule":
    """Ask for the candidates that top-5 needs; where every label is scored by itself, all are given anyway."""
    from zsclip.measure.evaluate import BEST

    return rule if rule.independent else replace(rule, k=BEST)


def shown_settings(question: "Question", model: str, rule: "Rule") -> dict[str, Any]:
    """Give the settings that the JSON object shows."""
    from zsclip.measure.calibration import finite

    scores, threshold = question.scores, None if rule.threshold is None else finite(rule.threshold)
    words = question.words
    return {
        "model": model, "prompts": words.sentences.name, "threshold": threshold,
        "multi_label": rule.independent, "calibration": scores.calibration, "distractors": len(words.distractors),
        "expect": scores.expect, "transductive": scores.transductive, "head": scores.head,
        "examples": 0 if question.head is None else len(question.head.truth),
    }  # fmt: skip


def scorecard_of(
    answers: "Iterable[Answers]",
    truths: Sequence[str],
    labels: Sequence[str],
    write: "Callable[[Iterator[Answers]], None]",
    may_be_unknown: bool,
    several: bool,
) -> "Scorecard":
    """Judge all answers, write those that were asked for, and compute the metrics.

    Args:
        write: consumes the answers, which have their true labels then. several: whether a picture may have several.
    """
    import numpy as np

    from zsclip.measure.evaluate import evaluate, judge

    judged: list[Judged] = []
    counts = np.zeros((len(labels), len(labels) + 1), np.int64) if may_be_unknown else None
    write(judge(answers, truths, labels, judged, counts))
    return evaluate(judged, labels, counts, several=several)
