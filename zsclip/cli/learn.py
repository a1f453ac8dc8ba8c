"""`zsclip learn`, and how other commands learn from examples before they begin."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.options import (
    Data,
    Json,
    Labels,
    Messages,
    Model,
    Network,
    Overwrite,
    Prompts,
    model_files,
    set_environment,
)
from zsclip.cli.progress import total_of
from zsclip.cli.run import Session, embedding, measuring, read_data, report_run
from zsclip.cli.speed import Speed, Store
from zsclip.cli.tally import Tally
from zsclip.engine.options import Scoring
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.heads import Head
    from zsclip.engine.question import Question, Teachers
    from zsclip.measure.labelled import Labelled
    from zsclip.measure.learnt import Learnt
    from zsclip.models.embed import Embedded
    from zsclip.models.encoder import Encoder
    from zsclip.out.output import FileId
    from zsclip.pictures.pictures import Pictures
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet

    Given = tuple[list[Label] | None, PromptSet | None]

_DEFAULT_FILE = "labels.head"


@group("Labels")
class Teaching:
    """How examples are learnt from."""

    method: Annotated[
        Literal["gaussian", "logistic"],
        typer.Option(
            "--method",
            metavar="gaussian|logistic",
            help="Learn with Gaussians of one shared covariance, which takes an instant and suits few examples, or "
            "with logistic regression.",
        ),
    ] = "gaussian"
    add_to: Annotated[
        str | None,
        typer.Option(
            "--add-to",
            metavar="FILE",
            help="Learn from the examples of this head, too, with its labels, prompts and model, and replace it unless "
            "-o is given. An image that it has already gets the new label.",
        ),
    ] = None

    def read_older(self) -> "Head | None":
        """Read the head that is added to."""
        from zsclip.measure.headfile import read_head

        return None if self.add_to is None else read_head(self.add_to)


@group("Output")
class HeadFile(Overwrite, Json):
    """Where the head goes."""

    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help=f"Write to FILE, by default {_DEFAULT_FILE}."),
    ] = None

    def __post_init__(self) -> None:
        if self.output == "-":
            raise InputError(f"-o: a head must be a file; give its name, such as {_DEFAULT_FILE}")


@dataclass(frozen=True)
class Target:
    """The file that a head is written to, and whether it may be replaced."""

    file: str
    overwrite: bool

    def check(self, reads: Iterable[tuple[str, str]]) -> "dict[FileId, str]":
        """Check that the file can be written, and is not one that is read, before anything slow begins.

        Returns:
            A description of each file that would be replaced, by its id.
        """
        from zsclip.out.output import check_only_output

        return check_only_output(self.file, reads, overwrite=self.overwrite)

    def write(self, head: "Head") -> None:
        """Write the head."""
        from zsclip.measure.headfile import to_bytes
        from zsclip.out.output import open_output

        with open_output(self.file, overwrite=self.overwrite) as out:
            out.buffer.write(to_bytes(head))


@command(common=("data", "labels", "model", "add_to", "output"))
def learn(
    data: Data,
    labels: Labels,
    prompts: Prompts,
    teaching: Teaching,
    model: Model,
    speed: Speed,
    store: Store,
    file: HeadFile,
    messages: Messages,
) -> int:
    """Learn from a few labelled images, for better answers.

    The result, a head, goes by words and examples together. It is judged on the examples: each is left out in turn, and
    answered by what was learnt from the others. If they do not clearly help, the head goes by words alone. Labels
    without examples, which --labels may add, keep their words. The head also holds the prompts and the model, so
    `zsclip classify INPUT --head FILE` needs nothing else.

    Examples:

        zsclip learn examples/ -o pets.head
        zsclip learn examples/ --labels "cat,dog,bird" --model tiny
        zsclip learn corrections.csv --add-to pets.head
    """
    set_environment(model, messages)
    older = teaching.read_older()
    given = labels.read_given(alone=True), prompts.read_given()
    name = model.name(None if older is None else older.model)
    target = Target(
        file.output or teaching.add_to or _DEFAULT_FILE, file.overwrite or (older is not None and file.output is None)
    )
    read = chain(labels.reads(), prompts.reads(), data.reads(), model_files(name))
    if file.output is not None and teaching.add_to is not None:
        read = chain(read, [(f"--add-to {teaching.add_to}", teaching.add_to)])
    places = target.check(read)
    with measuring(speed, store, messages) as session:
        labelled = read_data(data, session, places, offline=model.offline)
        question = _asked(labelled, given, older)
        encoder = speed.encoder(name, model.offline)
        if older is not None:
            _check_older(question, older, teaching.add_to or "", encoder)
        question, learnt = learn_now(question, encoder, name, session, method=teaching.method, older=older)
    assert question.head is not None
    target.write(question.head)
    _print(learnt, question.head, file.as_json)
    return report_run(session, (target.file,))


def _asked(labelled: "Labelled", given: "Given", older: "Head | None") -> "Question":
    """Give the question that examples are learnt for: the labels given, those of the older head, and of the data."""
    from zsclip.engine.question import Teachers, read_question
    from zsclip.measure.examples import Examples

    labels, sentences = given
    if older is not None:
        if labels or sentences:
            what = "labels" if labels else "prompts"
            raise InputError(f"--add-to: the head has its own {what}; leave out yours, or learn a new head")
        labels, sentences = list(older.words), older.sentences
    return read_question(labels, sentences, Scoring(), Teachers(examples=Examples.of(labelled)))


def _check_older(question: "Question", older: "Head", file: str, encoder: "Encoder") -> None:
    from zsclip.engine.question import made_with
    from zsclip.measure.headfile import check_model

    check_model(older, f"--add-to {file}", made_with(question.words, encoder), encoder.embed_dim)


def read_teachers(scores: Scoring, messages: Messages, network: Network) -> "Teachers":
    """Read the calibration and the head, and find the examples."""
    from zsclip.engine.question import read_teachers
    from zsclip.engine.run import network_of

    return read_teachers(scores, messages.note, network_of(offline=network.offline))


def example_files(question: "Question") -> Iterator[tuple[str, str]]:
    """Yield a description and the path of each file that examples are read from."""
    if question.examples is not None:
        yield from ((f"the example {file!r}", file) for file in question.examples.files)


def learn_now(
    question: "Question",
    encoder: "Encoder",
    name: str,
    session: Session,
    *,
    method: Literal["gaussian", "logistic"] = "gaussian",
    older: "Head | None" = None,
) -> "tuple[Question, Learnt]":
    """Encode the examples of a question and learn from them; give the question with the head that answers it."""
    from zsclip.answers.classifier import check_words
    from zsclip.engine.learning import learn_from

    assert question.examples is not None
    check_words(question.words, encoder)
    pictures = question.examples.pictures
    with embedding(pictures, encoder, session) as embedded:
        session.progress.images(session.tally, total_of(pictures, session.tally))
        batches = session.tally.count_encoded(embedded)
        return learn_from(
            question, batches, encoder, name, method=method, older=older, progress=session.progress.prompts,
            note=session.messages.note,
        )  # fmt: skip


def learn_first(
    question: "Question", name: str, model: Network, speed: Speed, store: Store, messages: Messages
) -> "Question":
    """Learn from the examples of a question before a run begins, and note how good that is."""
    with measuring(speed, store, messages) as session:
        return learn_beside(question, speed.encoder(name, model.offline), name, session)


def learn_beside(question: "Question", encoder: "Encoder", name: str, session: Session) -> "Question":
    """Learn from the examples of a question with a tally of their own, and note how good that is."""
    own = replace(session, tally=Tally())
    question, learnt = learn_now(question, encoder, name, own)
    note_learnt(learnt, own)
    _note_kept(own)
    return question


def encode_examples(pictures: "tuple[Pictures, ...]", encoder: "Encoder", session: Session) -> "list[Embedded]":
    """Encode examples, with a tally of their own, to learn from them in several ways."""
    own = replace(session, tally=Tally())
    with embedding(pictures, encoder, own) as embedded:
        own.progress.images(own.tally, total_of(pictures, own.tally))
        batches = list(own.tally.count_encoded(embedded))
    _note_kept(own)
    return batches


def _note_kept(session: Session) -> None:
    if session.tally.new_store is not None:
        session.messages.note(f"embeddings are kept in {session.tally.new_store}; --no-store turns this off")


def note_learnt(learnt: "Learnt", session: Session) -> None:
    """Note how good it is, and which examples look wrong."""
    from zsclip.measure.learnt import short_lines

    for line in short_lines(learnt):
        session.messages.note(line)


def examples_in(batches: "Iterable[Embedded]", head: "Head | None") -> int:
    """Count the images that are examples of a head."""
    found: list[int] = []
    for _ in examples_among(batches, head, found):
        pass
    return sum(found)


def examples_among(batches: "Iterable[Embedded]", head: "Head | None", found: list[int]) -> "Iterator[Embedded]":
    """Pass batches on, and append for each how many of its images are examples of the head."""
    known = set() if head is None else {vector.tobytes() for vector in head.vectors}
    for batch in batches:
        found.append(sum(vector.tobytes() in known for vector in batch.vectors) if known else 0)
        yield batch


def note_known(count: int, messages: Messages) -> None:
    """Warn that pictures to measure on were learnt from."""
    if count:
        some = "1 of these images is an example" if count == 1 else f"{count:,} of these images are examples"
        messages.note(f"{some} that was learnt from, so the figures are too good; measure on other images")


def _print(learnt: "Learnt", head: "Head", as_json: bool) -> None:
    """Print what was learnt and how good it is."""
    from zsclip.measure.learnt import learnt_lines

    if as_json:
        about: dict[str, Any] = {"model": head.model, **head.about, "look_wrong": learnt.suspects_as_json()}
        typer.echo(json.dumps(about, ensure_ascii=False))
    else:
        typer.echo("\n".join(learnt_lines(learnt)))
