"""`zsclip eval`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.options import (
    Data,
    Json,
    Labels,
    Messages,
    Model,
    Prompts,
    Report,
    Speed,
    Store,
    check_ending,
    set_environment,
)
from zsclip.cli.progress import total_of
from zsclip.cli.run import (
    SLOW_PIECE,
    Session,
    build_text_matrix,
    drain,
    embedding,
    measuring,
    note_if_few,
    read_data,
    report_run,
    words_and_truths,
)
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.answers.classifier import Classifier
    from zsclip.measure.evaluate import Scorecard
    from zsclip.measure.metrics import Judged
    from zsclip.models.embed import Embedded
    from zsclip.out.output import Place
    from zsclip.pictures.pictures import Pictures

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
            "--rows", metavar="FILE", help="Write every answer beside the true label: a .jsonl, .csv or .tsv file."
        ),
    ] = None
    confusion: Annotated[
        str | None,
        typer.Option(
            "--confusion", metavar="FILE", help="Write which labels are confused with which: a .png or .csv file."
        ),
    ] = None

    def __post_init__(self) -> None:
        from zsclip.out.output import format_of

        super().__post_init__()
        check_ending("--confusion", self.confusion, ".png", ".csv")
        if self.rows is not None and format_of(self.rows, False) == "html":
            raise InputError(f"--rows: {self.rows!r} is a page; use --report for that")

    @property
    def files(self) -> tuple[str | None, ...]:
        """Every file that may be written."""
        return self.rows, self.report, self.confusion

    def check(self, reads: Iterable[tuple[str, str]]) -> "dict[Place, str]":
        """Check that every file can be written, and is not one that is read, before anything slow begins.

        Returns:
            Those that are replaced, in words.
        """
        from zsclip.out.output import check_apart, check_inputs, check_output

        flags = zip(("--rows", "--report", "--confusion"), self.files, strict=True)
        places = check_apart([("standard output", None), *((flag, file) for flag, file in flags if file)])
        check_inputs(reads, places)
        for file in filter(None, self.files):
            check_output(file, overwrite=self.overwrite)
        return places

    def write_rows(self, batches: "Iterator[Answers]", pictures: "Pictures", speed: Speed) -> None:
        """Consume all batches, and write rows and the page if they were asked for."""
        from zsclip.out.output import format_of, open_output
        from zsclip.out.sinks import SINKS, write_csv, write_tsv

        sinks = SINKS | {"csv": partial(write_csv, truth=True), "tsv": partial(write_tsv, truth=True)}
        with ExitStack() as files:
            out = self.rows and files.enter_context(open_output(self.rows, overwrite=self.overwrite))
            if self.report is not None:
                from zsclip.out.report import with_report

                page = files.enter_context(open_output(self.report, overwrite=self.overwrite))
                batches = with_report(
                    batches, page, os.path.dirname(self.report),
                    threads=speed.cpus, max_pixels=speed.max_pixels, pictures=pictures,
                )  # fmt: skip
            if self.rows and out:
                sinks[format_of(self.rows, False)](batches, out)
            else:
                drain(batches)

    def write_confusion(self, scorecard: "Scorecard", names: Sequence[str]) -> None:
        """Write the confusion matrix if it was asked for."""
        if self.confusion is None:
            return
        from zsclip.measure.confusion import write_csv, write_png
        from zsclip.out.output import open_output

        with open_output(self.confusion, overwrite=self.overwrite) as out:
            if self.confusion.lower().endswith(".png"):
                write_png(scorecard.confusion, names, out.buffer)
            else:
                write_csv(scorecard.confusion, names, out)

    def print(self, scorecard: "Scorecard", about: dict[str, Any]) -> None:
        """Print the metrics, then the figures of each label."""
        import json
        from dataclasses import asdict

        from zsclip.measure.evaluate import report_lines

        if self.as_json:
            figures = {name: asdict(each) for name, each in scorecard.figures.items()}
            labels = [asdict(each) for each in scorecard.labels]
            found = {"pictures": scorecard.pictures, **about, "metrics": figures, "labels": labels}
            typer.echo(json.dumps(found, ensure_ascii=False))
            return
        typer.echo("\n".join(report_lines(scorecard, None if self.all_labels else _WORST_LABELS)))


@command(common=("data", "labels", "labels_file", "prompts", "model", "rows", "report", "confusion", "as_json"))
def evaluate(
    data: Data,
    labels: Labels,
    prompts: Prompts,
    model: Model,
    speed: Speed,
    store: Store,
    findings: Findings,
    messages: Messages,
) -> int:
    """Measure how good the answers are on labelled images.

    Without labels, those of the data are used.

    Examples:

        zsclip eval pictures/ --confusion mistakes.png
        zsclip eval pictures/ --model tiny --report mistakes.html
        zsclip eval test.csv --labels-file pets.yaml --json
    """
    from zsclip.answers.classifier import check_words

    set_environment(model, messages)
    given, sentences = labels.read_given(), prompts.read()
    places = findings.check(chain(labels.reads(), prompts.reads(), data.reads(), model.reads()))
    with measuring(speed, store, messages) as session:
        labelled = read_data(data, session, places)
        words, truths = words_and_truths(labelled, given, sentences)
        encoder = speed.encoder(model.model, model.offline)
        check_words(words, encoder)
        with embedding([labelled.pictures], encoder, session) as embedded:
            matrix = build_text_matrix(words, encoder, session)
            session.progress.images(session.tally, total_of([labelled.pictures], session.tally))
            scorecard = scorecard_of(embedded, matrix, truths, labelled.pictures, findings, session)
    about = {"failed": session.tally.errors.total(), "model": encoder.spec.name, "prompts": sentences.name}
    findings.print(scorecard, about)
    findings.write_confusion(scorecard, matrix.labels)
    note_if_few(scorecard.pictures, messages)
    return report_run(session, findings.files)


def scorecard_of(
    embedded: "Iterator[Embedded]",
    classifier: "Classifier",
    truths: Sequence[str],
    pictures: "Pictures",
    findings: Findings,
    session: Session,
) -> "Scorecard":
    """Classify all pictures, write the answers that were asked for, and compute the metrics."""
    from zsclip.answers.classify import classify
    from zsclip.answers.scores import Rule
    from zsclip.measure.evaluate import BEST, evaluate, judge

    judged: list[Judged] = []
    most = SLOW_PIECE if findings.report else None
    answers = session.tally.count(classify(embedded, classifier, Rule(BEST)), session.signals, most)
    findings.write_rows(judge(answers, truths, classifier.labels, judged), pictures, session.speed)
    return evaluate(judged, classifier.labels)
