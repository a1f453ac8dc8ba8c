"""`zsclip compare`."""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, product
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.learn import encode_examples, examples_in, note_known, note_learnt
from zsclip.cli.options import (
    EXAMPLE,
    EXAMPLES,
    EXPECT,
    HEAD,
    LABELS_FILE,
    MODEL,
    PROMPTS,
    TEMPLATE,
    TRANSDUCTIVE,
    Data,
    Json,
    Messages,
    Network,
    model_files,
    set_environment,
)
from zsclip.cli.progress import total_of
from zsclip.cli.question import expect_files
from zsclip.cli.run import Session, build_text_matrix, embedding, measuring, read_data, report_run, words_and_truths
from zsclip.cli.speed import Speed, Store
from zsclip.engine.options import Scoring, model_name, variable
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.classifier import Classifier
    from zsclip.answers.heads import Head
    from zsclip.engine.question import Question
    from zsclip.measure.compare import TemplateGain
    from zsclip.measure.examples import Examples
    from zsclip.measure.labelled import Labelled
    from zsclip.measure.learnt import Learnt
    from zsclip.measure.metrics import Judged
    from zsclip.models.embed import Embedded
    from zsclip.models.encoder import Encoder
    from zsclip.pictures.pictures import Pictures
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet
    from zsclip.words.words import Words

_MODELS = copy(MODEL)
_MODELS.envvar = None  # Typer would split the variable at spaces, as the option may be repeated
_MODELS.help = "Compare this model, by default ZSCLIP_MODEL's, else base; `zsclip models list` shows the models."


@group("Labels")
class Variants:
    """What is compared: every combination of these."""

    prompts: Annotated[list[str], PROMPTS] = field(default_factory=list)
    template: Annotated[list[str], TEMPLATE] = field(default_factory=list)
    labels_file: Annotated[list[str], LABELS_FILE] = field(default_factory=list)
    model: Annotated[list[str], _MODELS] = field(default_factory=list)
    examples: Annotated[list[str], EXAMPLES] = field(default_factory=list)
    example: Annotated[list[str], EXAMPLE] = field(default_factory=list)
    head: Annotated[list[str], HEAD] = field(default_factory=list)
    expect: Annotated[list[str], EXPECT] = field(default_factory=list)
    transductive: Annotated[bool, TRANSDUCTIVE] = False
    each_template: Annotated[
        bool,
        typer.Option(
            "--each-template", help="Instead, compare the templates of one prompt set: which help, and which hurt."
        ),
    ] = False

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that the run reads."""
        yield from ((f"--labels-file {file}", file) for file in self.labels_file)
        yield from ((f"--prompts {file}", file) for file in self.prompts)
        yield from ((f"--head {file}", file) for file in self.head)
        yield from expect_files(self.expect)


@dataclass(frozen=True)
class Grid:
    """The combinations that are compared.

    models: names. sets, files: prompt sets and label lists by the name the user gave; None takes the data's labels.
    expects: each combination is also measured with these shares of labels. transductive: also in a second pass.
    examples: and after learning from these, with words and without. heads: by file, each measured by itself.
    """

    models: list[str]
    sets: "Mapping[str, PromptSet]"
    files: "Mapping[str, list[Label] | None]"
    expects: list[str]
    transductive: bool
    examples: "Examples | None"
    heads: "Mapping[str, Head]"

    @property
    def all_models(self) -> list[str]:
        """The models of the combinations, then those of the heads."""
        return list(dict.fromkeys([*self.models, *(head.model for head in self.heads.values())]))

    def name(self, model: str, file: str, prompts: str | None) -> str:
        """Name a combination by the parts that differ between combinations; without prompts, examples alone answer."""
        parts = ((prompts, self.sets), (file, self.files), (model, self.models))
        differing = [part for part, all_of_them in parts if part is not None and len(all_of_them) > 1]
        if prompts is None:
            return ", ".join([*differing, "examples alone"])
        return ", ".join(differing) or "words"


@command(common=("data", "prompts", "template", "labels_file", "model", "each_template", "as_json"))
def compare(
    data: Data, variants: Variants, network: Network, speed: Speed, store: Store, result: Json, messages: Messages
) -> int:
    """Compare words, models, heads or expected shares on labelled images.

    All combinations of prompts, models and label files are measured, each also with every --expect, with --transductive
    and, after learning from them, with --examples, which are also measured without words; then every head is. Each is
    compared with the first.

    Examples:

        zsclip compare labelled/ --prompts photo --prompts general
        zsclip compare labelled/ --model tiny --model base --examples examples/
        zsclip compare labelled/ --prompts openai-imagenet --each-template
    """
    set_environment(network, messages)
    grid = read_grid(variants, messages.note, network)
    from zsclip.out.output import check_inputs, check_outputs_differ

    places = check_outputs_differ([("standard output", None)])
    check_inputs(chain(variants.reads(), data.reads(), *map(model_files, grid.all_models)), places)
    from zsclip.measure.compare import judged_by, template_gains

    judged: list[tuple[str, Judged]] = []
    gains: list[TemplateGain] = []
    with measuring(speed, store, messages) as session:
        labelled = read_data(data, session, places, offline=network.offline)
        asked = Asked.about(labelled, grid)
        encoders = {model: speed.encoder(model, network.offline) for model in grid.all_models}
        asked.check(encoders)
        for model, batches in encoded_by(encoders, labelled.pictures, session):
            if variants.each_template:
                ((_, _, words, truths),) = asked.words
                gains = template_gains(words, encoders[model], partial(judged_by, batches, truths))
            else:
                judged += asked.judged(model, encoders[model], batches, session)
    print_comparison(judged, gains, result)
    return report_run(session)


@dataclass(frozen=True)
class Asked:
    """All that is asked about the data.

    words: of each combination the label list, the prompt set, the labels in their sentences, and each picture's true
    label. heads: of each head the file, the question it answers, and the true labels.
    """

    grid: Grid
    words: "list[tuple[str, str, Words, list[str]]]"
    heads: "list[tuple[str, Question, list[str]]]"

    @classmethod
    def about(cls, labelled: "Labelled", grid: Grid) -> "Asked":
        """Put together what is asked, and find the true labels."""
        from zsclip.engine.question import Question, Teachers, expected_shares, read_question
        from zsclip.measure.evaluate import truths_of
        from zsclip.measure.examples import with_examples
        from zsclip.words.words import expand

        heads = []
        for file, head in grid.heads.items():
            question = read_question(None, None, Scoring(head=file), Teachers(head=head))
            heads.append((file, question, truths_of(labelled.words, question.words.labels, labelled.meanings)))
        words = []
        for (file, given), (name, sentences) in product(grid.files.items(), grid.sets.items()):
            each, truths = words_and_truths(labelled, given, sentences)
            if grid.examples is not None:
                each = expand(with_examples(each.labels, grid.examples), sentences)
            for expect in grid.expects:
                expected_shares(Question(each, None, Scoring(expect=expect)))  # checks the file
            words.append((file, name, each, truths))
        return cls(grid, words, heads)

    def check(self, encoders: "Mapping[str, Encoder]") -> None:
        """Check labels and heads against the models, before any picture is encoded."""
        from zsclip.answers.classifier import check_words
        from zsclip.engine.question import rule_of

        for model, (_, _, words, _) in product(self.grid.models, self.words):
            check_words(words, encoders[model])
        for _, question, _ in self.heads:
            rule_of(question, encoders[question.model or ""])

    def judged(
        self, model: str, encoder: "Encoder", batches: "list[Embedded]", session: Session
    ) -> "Iterator[tuple[str, Judged]]":
        """Judge the answers of all variants with this model."""
        from zsclip.engine.question import classifier_of
        from zsclip.measure.compare import judged_by
        from zsclip.words.textfiles import listed

        asked = self.words if model in self.grid.models else []
        examples: list[Embedded] = []
        if asked and self.grid.examples is not None:
            examples = encode_examples(self.grid.examples.pictures, encoder, session)
        for file, name, words, truths in asked:
            named = self.grid.name(encoder.spec.name, file, name)
            for how, classifier in self._ways(words, encoder, batches, session):
                yield f"{named}{how}", judged_by(batches, truths, classifier)
            if self.grid.examples is None:
                continue
            learn = partial(self._learnt, words, examples, encoder, model, batches, session)
            classifier, learnt = learn(by_words=True)
            yield f"{named} + examples", judged_by(batches, truths, classifier)
            if name == [*self.grid.sets][-1]:  # without words, prompts make no difference
                alone = self.grid.name(encoder.spec.name, file, None)
                if without := [label for label, count in learnt.counts.items() if not count]:
                    session.messages.note(f"{alone}: not compared, as there are none of {listed(without)}")
                else:
                    yield alone, judged_by(batches, truths, learn(by_words=False)[0])
        for file, question, truths in self.heads:
            if question.model == model:
                note_known(examples_in(batches, question.head), session.messages)
                yield file, judged_by(batches, truths, classifier_of(question, encoder))

    def _ways(
        self, words: "Words", encoder: "Encoder", batches: "list[Embedded]", session: Session
    ) -> "Iterator[tuple[str, Classifier]]":
        """Yield each way to answer by words alone, and what it adds to their name; the plain one comes first."""
        from zsclip.answers.second_pass import informed
        from zsclip.answers.shares import corrected
        from zsclip.engine.question import Question, expected_shares

        matrix = build_text_matrix(words, encoder, session)
        yield "", matrix
        for expect in self.grid.expects:
            shares = expected_shares(Question(words, None, Scoring(expect=expect)))
            yield f", --expect {expect}", corrected(matrix, batches, shares)
        if self.grid.transductive:
            yield ", --transductive", informed(matrix, batches)

    def _learnt(
        self,
        words: "Words",
        examples: "list[Embedded]",
        encoder: "Encoder",
        model: str,
        batches: "list[Embedded]",
        session: Session,
        *,
        by_words: bool,
    ) -> "tuple[Classifier, Learnt]":
        """Learn from the examples, with words or without; note what is of interest about it once."""
        from zsclip.engine.learning import learn_from
        from zsclip.engine.question import Question, classifier_of

        question = Question(words, None, Scoring(), examples=self.grid.examples)
        messages, progress = session.messages, session.progress.prompts
        if not by_words:
            question, learnt = learn_from(question, examples, encoder, model, by_words=False, progress=progress)
            return classifier_of(question, encoder), learnt
        question, learnt = learn_from(question, examples, encoder, model, progress=progress, note=messages.note)
        note_learnt(learnt, session)
        note_known(examples_in(batches, question.head), messages)
        return classifier_of(question, encoder), learnt


def read_grid(variants: Variants, note: "Callable[[str], None]", network: Network) -> Grid:
    """Read and check all that is compared, before any model is looked for."""
    from zsclip.engine.run import network_of
    from zsclip.measure.examples import read_examples
    from zsclip.measure.headfile import read_head
    from zsclip.words.labels import read_labels
    from zsclip.words.prompts import read_prompts, read_templates

    heads = {file: read_head(file) for file in variants.head}
    default = next((head.model for head in heads.values()), None) or variable("ZSCLIP_MODEL") or "base"
    models = list(dict.fromkeys(map(model_name, variants.model))) or [default]
    sets = {name: read_prompts(name) for name in variants.prompts}
    sets |= {text: read_templates([text]) for text in variants.template}
    sets = sets or {"photo": read_prompts("photo")}
    files: dict[str, list[Label] | None] = {file: read_labels(files=[file]) for file in variants.labels_file}
    files = files or {"": None}
    learns = bool(variants.examples or variants.example)
    expects = list(dict.fromkeys(variants.expect))
    count = len(models) * len(files) * len(sets) + len(heads) + len(expects) + variants.transductive + learns
    if variants.each_template and count > 1:
        raise InputError("--each-template: compares the templates of one prompt set, with one model and one label file")
    for sentences in sets.values() if variants.each_template else ():
        if len(sentences.templates) < 2:
            raise InputError(f"--each-template: {sentences.name!r} has one template; give --prompts with more")
    if not variants.each_template and count == 1:
        raise InputError(
            "compare: nothing to compare; give one of --prompts, --template, --model or --labels-file at least twice, "
            "or --expect, --transductive, --examples or --head"
        )
    examples = None
    if learns:
        fetched = network_of(offline=network.offline)
        examples = read_examples(variants.examples, variants.example, note=note, network=fetched)
    return Grid(models, sets, files, expects, variants.transductive, examples, heads)


def encoded_by(
    encoders: "Mapping[str, Encoder]", pictures: "Pictures", session: Session
) -> "Iterator[tuple[str, list[Embedded]]]":
    """Encode all pictures with one model after the other, and yield its name and the batches.

    Raises:
        InputError: some pictures could be read for only some of the models.
    """
    unread: set[tuple[str, ...]] = set()
    for model, encoder in encoders.items():
        with embedding([pictures], encoder, session) as embedded:
            session.progress.images(session.tally, total_of([pictures], session.tally))
            batches = list(session.tally.count_encoded(embedded))
        unread.add(tuple(each.file_name for batch in batches for each in batch.skipped.values()))
        if len(unread) > 1:
            raise InputError("data: some images could not be read for every model; run again with fewer --threads")
        yield model, batches


def print_comparison(judged: "list[tuple[str, Judged]]", gains: "list[TemplateGain]", result: Json) -> None:
    """Print a line for every variant, or for every template."""
    import json
    from dataclasses import asdict

    from zsclip.measure.compare import compare, comparison_lines, template_lines

    compared = compare(judged) if judged else []
    if result.as_json:
        found = [asdict(each) for each in compared] + [asdict(each) for each in gains]
        typer.echo(json.dumps(found, ensure_ascii=False))
    else:
        typer.echo("\n".join(comparison_lines(compared) if compared else template_lines(gains)))
