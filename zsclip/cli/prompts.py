"""`zsclip prompts`."""

from dataclasses import field
from typing import Annotated

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.help import Command, command_group
from zsclip.cli.options import Labels, Messages, Model, Prompts, Templates, set_environment
from zsclip.cli.terminal import counted

prompts_app = command_group("prompts", "Show the sentences for labels; check labels, suggest words.")


@prompts_app.command("list", cls=Command)
@command()
def prompts_list() -> None:
    """List the prompt sets.

    Examples:

        zsclip prompts list
    """
    from zsclip.words.prompts import prompt_set_names, read_prompts

    for name in prompt_set_names():
        prompts = read_prompts(name)
        typer.echo(f"{name:<18} {len(prompts.templates):>3}  {prompts.about}")


@prompts_app.command("show", cls=Command)
@command()
def prompts_show(
    labels: Labels,
    templates: Templates,
    model: Model,
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A prompt set.")] = "photo",
) -> None:
    """Show the sentences of a prompt set, or those made from labels, with their token counts.

    Examples:

        zsclip prompts show general
        zsclip prompts show photo --labels "cat,dog"
        zsclip prompts show --template "a sketch of a {}" --labels-file pets.txt
    """
    set_environment(model, Messages())
    prompts = templates.read_or(name)
    given = labels.read_given(alone=True)
    if given is None:
        for line in prompts.templates:
            typer.echo(line)
        return
    from zsclip.models.find import find_model
    from zsclip.models.tokens import load_tokens
    from zsclip.words.words import expand

    words = expand(given, prompts)
    spec = find_model(model.name(), offline=model.offline, with_weights=False)
    tokens, context_length = load_tokens(spec), spec.tokenizer.context_length
    for name, sentences in zip(words.names, words.prompts, strict=True):
        for sentence, count in zip(sentences, tokens.counts(sentences), strict=True):
            cut = f"  cut at {context_length}" if count > context_length else ""
            typer.echo(f"{name}\t{count}\t{sentence}{cut}")


@prompts_app.command("lint", cls=Command)
@command()
def prompts_lint(labels: Labels, prompts: Prompts, model: Model, messages: Messages) -> int:
    """Check labels and their prompts for what may cost right answers; print a line for each finding.

    It finds labels that are the same text to the model, nearly the same ("couch" and "sofa"), part of one another
    ("dog" and "hot dog"), or written in letters that the model does not know; synonyms that two labels share; labels
    for what is not in an image ("no dog", "other"); and prompts that are longer than the model reads.

    The exit code is 1 if anything was found. Labels that are given twice are an error, as everywhere.

    Examples:

        zsclip prompts lint -l "couch,sofa,dog,hot dog" -m tiny
        zsclip prompts lint --labels-file pets.txt --prompts general
    """
    from zsclip.cli.progress import Progress
    from zsclip.engine.options import Computing
    from zsclip.words.words import expand

    set_environment(model, messages)
    words = expand(labels.read(alone=True), prompts.read())
    encoder = Computing().encoder(model.name(), model.offline)
    from zsclip.answers.lint import lint

    found = 0
    with Progress(messages.show_progress) as progress:
        for finding in lint(words, encoder, progress=progress.prompts):
            progress.stop()
            typer.echo(str(finding))
            found += 1
    checked = counted(len(words.names), "label")
    messages.note(f"{checked} checked, {counted(found, 'finding') if found else 'nothing found'}")
    return int(found > 0)


@group("Labels")
class Added:
    """Which words are added to labels."""

    add: Annotated[
        list[str],
        typer.Option(
            "--add",
            metavar="synonyms|broader|gloss",
            help="Add synonyms, the default, or what each label is a kind of, or its definition.",
        ),
    ] = field(default_factory=list)


@prompts_app.command("suggest", cls=Command)
@command()
def prompts_suggest(labels: Labels, added: Added) -> None:
    """Print a label file with more words for each label, from WordNet.

    Of the meanings of a word, the likeliest in a picture is taken, and the others are in comments: read them, as
    `crane` may be a bird or a machine. More words often hurt; `zsclip compare` says whether these help. This needs
    `pip install 'zsclip[wordnet]'`.

    Examples:

        zsclip prompts suggest --labels "sofa,taxi" > words.yaml
        zsclip prompts suggest --labels-file pets.txt --add gloss > words.yaml
        zsclip compare labelled/ --labels-file pets.txt --labels-file words.yaml
    """
    from zsclip.words.suggest import kinds_of, suggested_lines
    from zsclip.words.wordnet import WordNet

    given, kinds = labels.read(alone=True), kinds_of(added.add)
    for line in suggested_lines(given, WordNet(), kinds):
        typer.echo(line)
