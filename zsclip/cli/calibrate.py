"""`zsclip calibrate`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.evaluate import question_of
from zsclip.cli.groups import command, group
from zsclip.cli.learn import examples_among, note_known
from zsclip.cli.options import (
    HEAD,
    Data,
    Distractors,
    Json,
    Labels,
    Messages,
    Model,
    Overwrite,
    Prompts,
    model_files,
    set_environment,
)
from zsclip.cli.progress import total_of
from zsclip.cli.run import (
    Session,
    build_answering,
    embedding,
    measuring,
    note_if_few,
    read_data,
    report_run,
)
from zsclip.cli.speed import Speed, Store
from zsclip.engine.options import Scoring
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.classifier import Classifier
    from zsclip.measure.calibrate import Learnt
    from zsclip.measure.calibration import Calibration
    from zsclip.models.embed import Embedded
    from zsclip.out.output import FileId


@group("Scores")
class TargetOptions:
    """The target that the threshold must reach."""

    target_precision: Annotated[
        float | None,
        typer.Option(
            "--target-precision",
            metavar="P",
            min=0,
            max=1,
            help="Find the lowest threshold that guarantees, with 95% certainty, that this share of the answers is "
            "right.",
        ),
    ] = None
    target_share: Annotated[
        float | None,
        typer.Option(
            "--target-share",
            metavar="P",
            min=0,
            max=1,
            help="Find a threshold at which this share of the images gets an answer.",
        ),
    ] = None
    per_label: Annotated[
        bool, typer.Option("--per-label", help="Find a threshold for each label instead of one for all.")
    ] = False

    def __post_init__(self) -> None:
        if self.per_label and self.target_precision is None and self.target_share is None:
            raise InputError("--per-label: needs a target; add --target-precision or --target-share")
        if self.target_precision is not None and self.target_share is not None:
            raise InputError("--target-share: one threshold cannot reach two targets; leave out --target-precision")


@group("Labels")
class OfHead:
    """What was learnt from examples."""

    head: Annotated[str | None, HEAD] = None

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that the run reads."""
        if self.head is not None:
            yield f"--head {self.head}", self.head


@group("Output")
class CalibrationFile(Overwrite, Json):
    """Where the calibration goes."""

    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="FILE", help="Write to FILE, for `zsclip classify --calibration FILE`."),
    ] = "labels.calib.json"

    def __post_init__(self) -> None:
        if self.output == "-":
            raise InputError("-o: a calibration must be a file; give its name, such as labels.calib.json")

    def check(self, reads: Iterable[tuple[str, str]]) -> "dict[FileId, str]":
        """Check that the file can be written, and is not one that is read, before anything slow begins.

        Returns:
            A description of each file that would be replaced, by its id.
        """
        from zsclip.out.output import check_only_output

        return check_only_output(self.output, reads, overwrite=self.overwrite)

    def write(self, learnt: "Learnt", made: "Calibration") -> None:
        """Write the calibration, and print what to expect of it."""
        from zsclip.measure.calibration import to_json
        from zsclip.out.output import open_output

        with open_output(self.output, overwrite=self.overwrite) as out:
            out.write(to_json(made) + "\n")
        self.print(learnt, made)

    def print(self, learnt: "Learnt", made: "Calibration | None") -> None:
        """Print what was learnt, and what it guarantees."""
        import json

        from zsclip.measure.calibrate import as_json, learnt_lines
        from zsclip.measure.calibration import to_json

        if self.as_json:
            calibration = None if made is None else json.loads(to_json(made))
            typer.echo(json.dumps({"calibration": calibration, "learnt": as_json(learnt)}, ensure_ascii=False))
        else:
            typer.echo("\n".join(learnt_lines(learnt)))


@command(common=("data", "labels", "model", "target_precision", "target_share", "per_label", "distractors", "output"))
def calibrate(
    data: Data,
    labels: Labels,
    prompts: Prompts,
    distractors: Distractors,
    learnt_before: OfHead,
    target: TargetOptions,
    model: Model,
    speed: Speed,
    store: Store,
    file: CalibrationFile,
    messages: Messages,
) -> int:
    """Find out how far scores can be trusted, and which threshold to use.

    Both are learnt from labelled images, by default with the labels of the data. For each threshold, the table
    shows the share of images with an answer, the share of those answers that are right, and the lowest share to expect
    on new images, with 95% certainty. If there is too little data to guarantee the target, nothing is written. The file
    also holds the labels, the prompts and the model, so `zsclip classify INPUT --calibration FILE` needs nothing else.

    Examples:

        zsclip calibrate labelled/ --target-precision 0.95 -o labels.calib.json
        zsclip calibrate labelled/ --target-share 0.8 --per-label
        zsclip calibrate labelled/ --model tiny --distractors common
    """
    from zsclip.engine.question import made_with, read_teachers, rule_of

    set_environment(model, messages)
    given, sentences = labels.read_given(alone=distractors.distractors is not None), prompts.read_given()
    scores = Scoring(distractors=distractors.distractors, head=learnt_before.head)
    teachers = read_teachers(scores)
    name = model.name(teachers.model)
    own = (labels, prompts, distractors, learnt_before, data)
    places = file.check(chain(*(each.reads() for each in own), model_files(name)))
    with measuring(speed, store, messages) as session:
        labelled = read_data(data, session, places, offline=model.offline)
        question, truths = question_of(labelled, given, sentences, scores, teachers)
        words = question.words
        encoder = speed.encoder(name, model.offline)
        rule_of(question, encoder)  # checks that they fit
        known: list[int] = []
        with embedding([labelled.pictures], encoder, session) as embedded:
            matrix = build_answering(question, encoder, session)
            session.progress.images(session.tally, total_of([labelled.pictures], session.tally))
            learnt = learn(examples_among(embedded, question.head, known), truths, matrix, target, session)
    try:
        made = learnt.calibration(made_with(words, encoder, question.head))
    except InputError:
        file.print(learnt, None)
        raise
    made = replace(made, words=words.labels, sentences=words.sentences, distractors=words.distractors)
    file.write(learnt, replace(made, model=name))
    note_known(sum(known), messages)
    return report_run(session, (file.output,))


def learn(
    embedded: "Iterator[Embedded]",
    truths: Sequence[str],
    classifier: "Classifier",
    options: TargetOptions,
    session: Session,
) -> "Learnt":
    """Learn what scores mean from pictures whose labels are known."""
    from zsclip.measure.calibrate import Target, cosines_of, learn

    similar, truth = cosines_of(session.tally.count_encoded(embedded), list(truths), classifier)
    note_if_few(len(truth), session.messages)
    target = Target(options.target_precision, options.target_share, options.per_label)
    return learn(similar, truth, classifier.labels, classifier.logit_scale, target)
