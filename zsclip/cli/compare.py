"""`zsclip compare`."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, product
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.options import (
    LABELS_FILE,
    MODEL,
    PROMPTS,
    TEMPLATE,
    Data,
    Json,
    Messages,
    Network,
    model_files,
    set_environment,
)
from zsclip.cli.progress import total_of
from zsclip.cli.run import Session, build_text_matrix, embedding, measuring, read_data, report_run, words_and_truths
from zsclip.cli.speed import Speed, Store
from zsclip.engine.options import model_name, variable
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.measure.compare import TemplateGain
    from zsclip.measure.metrics import Judged
    from zsclip.models.embed import Embedded
    from zsclip.models.encoder import Encoder
    from zsclip.pictures.pictures import Pictures
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet

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


@dataclass(frozen=True)
class Grid:
    """The combinations that are compared.

    models: names. sets, files: prompt sets and label lists by the name the user gave; None takes the data's labels.
    """

    models: list[str]
    sets: "Mapping[str, PromptSet]"
    files: "Mapping[str, list[Label] | None]"

    def name(self, model: str, file: str, prompts: str) -> str:
        """Name a combination by the parts that differ between combinations."""
        parts = ((prompts, self.sets), (file, self.files), (model, self.models))
        return ", ".join(part for part, all_of_them in parts if len(all_of_them) > 1)


@command(common=("data", "prompts", "template", "labels_file", "model", "each_template", "as_json"))
def compare(
    data: Data, variants: Variants, network: Network, speed: Speed, store: Store, result: Json, messages: Messages
) -> int:
    """Compare prompts, models or label files on labelled images.

    All combinations of these are measured, and each is compared with the first.

    Examples:

        zsclip compare labelled/ --prompts photo --prompts general
        zsclip compare labelled/ --model tiny --model base
        zsclip compare labelled/ --prompts openai-imagenet --each-template
    """
    set_environment(network, messages)
    grid = read_grid(variants)
    from zsclip.answers.classifier import check_words
    from zsclip.out.output import check_inputs, check_outputs_differ

    places = check_outputs_differ([("standard output", None)])
    check_inputs(chain(variants.reads(), data.reads(), *map(model_files, grid.models)), places)
    from zsclip.measure.compare import judged_by, template_gains

    judged: list[tuple[str, Judged]] = []
    gains: list[TemplateGain] = []
    with measuring(speed, store, messages) as session:
        labelled = read_data(data, session, places, offline=network.offline)
        asked = [
            (file, name, *words_and_truths(labelled, given, sentences))
            for (file, given), (name, sentences) in product(grid.files.items(), grid.sets.items())
        ]
        encoders = [speed.encoder(model, network.offline) for model in grid.models]
        for encoder, (_, _, words, _) in product(encoders, asked):
            check_words(words, encoder)
        for encoder, batches in encoded_by(encoders, labelled.pictures, session):
            for file, name, words, truths in asked:
                if variants.each_template:
                    gains = template_gains(words, encoder, partial(judged_by, batches, truths))
                    continue
                matrix = build_text_matrix(words, encoder, session)
                judged.append((grid.name(encoder.spec.name, file, name), judged_by(batches, truths, matrix)))
    print_comparison(judged, gains, result)
    return report_run(session)


def read_grid(variants: Variants) -> Grid:
    """Read and check all that is compared, before any model is looked for."""
    from zsclip.words.labels import read_labels
    from zsclip.words.prompts import read_prompts, read_templates

    models = list(dict.fromkeys(map(model_name, variants.model))) or [variable("ZSCLIP_MODEL") or "base"]
    sets = {name: read_prompts(name) for name in variants.prompts}
    sets |= {text: read_templates([text]) for text in variants.template}
    sets = sets or {"photo": read_prompts("photo")}
    files: dict[str, list[Label] | None] = {file: read_labels(files=[file]) for file in variants.labels_file}
    files = files or {"": None}
    count = len(models) * len(files) * len(sets)
    if variants.each_template and count > 1:
        raise InputError("--each-template: compares the templates of one prompt set, with one model and one label file")
    for sentences in sets.values() if variants.each_template else ():
        if len(sentences.templates) < 2:
            raise InputError(f"--each-template: {sentences.name!r} has one template; give --prompts with more")
    if not variants.each_template and count == 1:
        raise InputError(
            "compare: nothing to compare; give one of --prompts, --template, --model or --labels-file at least twice"
        )
    return Grid(models, sets, files)


def encoded_by(
    encoders: "Sequence[Encoder]", pictures: "Pictures", session: Session
) -> "Iterator[tuple[Encoder, list[Embedded]]]":
    """Encode all pictures with one model after the other.

    Raises:
        InputError: some pictures could be read for only some of the models.
    """
    unread: set[tuple[str, ...]] = set()
    for encoder in encoders:
        with embedding([pictures], encoder, session) as embedded:
            session.progress.images(session.tally, total_of([pictures], session.tally))
            batches = list(session.tally.count_encoded(embedded))
        unread.add(tuple(each.file_name for batch in batches for each in batch.skipped.values()))
        if len(unread) > 1:
            raise InputError("data: some images could not be read for every model; run again with fewer --threads")
        yield encoder, batches


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
