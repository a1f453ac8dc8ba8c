"""`zsclip search`."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.hits import Hits
from zsclip.cli.options import Inputs, Messages, Model, model_files, set_environment
from zsclip.cli.progress import total_of
from zsclip.cli.run import Session, embedding, measuring
from zsclip.cli.speed import Speed, Store
from zsclip.cli.video import Video
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.scores import Matrix
    from zsclip.models.encoder import Encoder
    from zsclip.pictures.remote import Network

_HITS = 20  # for each query, unless --threshold or -n says otherwise


@group("Query")
class Query:
    """What is searched for."""

    queries: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", help="Sentences that describe the images; each is searched for by itself."),
    ] = None
    like: Annotated[list[str], typer.Option("--like", metavar="IMAGE", help="Search for images like this one.")] = (
        field(default_factory=list)
    )
    plus: Annotated[
        list[str], typer.Option("--plus", metavar="TEXT", help="Add this to every query, such as 'at night'.")
    ] = field(default_factory=list)
    minus: Annotated[list[str], typer.Option("--minus", metavar="TEXT", help="Take this away from every query.")] = (
        field(default_factory=list)
    )

    def __post_init__(self) -> None:
        from zsclip.pictures.listed import is_single

        if not (self.queries or self.like):
            raise InputError("search: give a sentence, or --like with an image")
        for text in self.sentences:
            if not text.strip():
                raise InputError("search: a sentence is empty; write what the images show")
        for name in self.like:
            if not (os.path.exists(name) or is_single(name)):
                raise InputError(f"--like {name}: no such file; check the path")

    @property
    def sentences(self) -> list[str]:
        """All texts: queries, then what is added, then what is taken away."""
        return [*(self.queries or ()), *self.plus, *self.minus]

    @property
    def names(self) -> list[str]:
        """How the queries are called in rows."""
        ends = "".join([*(f" + {text}" for text in self.plus), *(f" - {text}" for text in self.minus)])
        return [f"{each}{ends}" for each in (*(self.queries or ()), *self.like)]

    def reads(self) -> Iterator[tuple[str, str]]:
        """Yield a description and the path of each file that the run reads."""
        from zsclip.pictures.containers import archive_of

        yield from ((f"--like {name}", archive_of(name) or name) for name in self.like)


@group("Input")
class SearchedInputs(Inputs):
    """Which pictures are searched; as for other commands, but by an option, as the arguments are sentences."""

    inputs: Annotated[
        list[str],
        typer.Option(
            "--in",
            metavar="INPUT",
            help="Search these images: what `zsclip classify` takes, such as a folder, a quoted glob, an archive or -.",
        ),
    ]
    limit: int | None = None  # all pictures are searched; -n says how many are shown


@group("Output")
class Best(Hits):
    """How many images are shown, and where."""

    most: Annotated[
        int | None,
        typer.Option(
            "-n", "--limit", metavar="N", min=1, help=f"Give N images for each query, by default {_HITS}; with "
            "--threshold, all.",
        ),
    ] = None  # fmt: skip
    least: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="COSINE", min=-1, max=1, help="Give only images whose similarity is at least this."
        ),
    ] = None

    @property
    def number(self) -> int | None:
        """The most images for a query."""
        return _HITS if self.most is None and self.least is None else self.most


@command(common=("queries", "inputs", "like", "plus", "minus", "model", "most", "least", "format", "output", "report"))
def search(
    query: Query,
    inputs: SearchedInputs,
    video: Video,
    hits: Best,
    model: Model,
    speed: Speed,
    store: Store,
    messages: Messages,
) -> int:
    """Find the images that best fit a sentence, or look like an image.

    Every image gets the cosine of its embedding and that of the query as its score; 1 is the most. Images that were
    classified or searched before are not read again.

    Examples:

        zsclip search "a dog in the snow" --in photos/ -n 20
        zsclip search --like a.jpg --plus "at night" --in photos/ -f paths
        zsclip search "a receipt" --in photos/ --threshold 0.25 --open
    """
    from zsclip.answers.search import search
    from zsclip.engine.run import network_of
    from zsclip.pictures.listed import check_single

    set_environment(model, messages)
    name = model.name()
    network = network_of(offline=model.offline)
    check_single(query.like, network)
    sampling = video.sampling(speed.max_pixels, is_kept=not store.no_store)
    found = hits.find(inputs, chain(query.reads(), model_files(name)), messages, model, sampling)
    with measuring(speed, store, messages) as session:
        session.progress.step(f"looking for model {name}")
        encoder = speed.encoder(name, model.offline)
        session.tally.passed_over = found.passed_over
        pictures = session.progress.listed(found.rest(), inputs.inputs)
        vectors = query_vectors(query, encoder, session, network)
        with embedding(pictures, encoder, session) as batches:
            session.progress.images(session.tally, total_of(pictures, session.tally))
            counted = session.tally.count_encoded(batches)
            answers = search(counted, vectors, query.names, most=hits.number, least=hits.least)
        session.progress.stop()
        about = {"model": encoder.spec.name, "query": ", ".join(query.names)}
        page = hits.write(answers, about, speed)
    return hits.finish(session, page)


def query_vectors(query: Query, encoder: "Encoder", session: Session, network: "Network") -> "Matrix":
    """Embed all that is searched for; (Q, D) float32, rows of length 1: sentences first, then pictures.

    Args:
        network: fetches pictures on servers.

    Raises:
        InputError: a picture cannot be read, or nothing is left of a query.
    """
    import numpy as np

    from zsclip.answers.classifier import embed_sentences
    from zsclip.answers.search import combined
    from zsclip.words.textfiles import listed

    texts, cut = embed_sentences(query.sentences, encoder, progress=session.progress.prompts)
    if cut:
        limit = encoder.spec.tokenizer.context_length
        session.messages.note(f"sentences longer than the model's {limit} tokens were cut: {listed(cut, 1)}")
    count, added = len(query.queries or ()), len(query.plus)
    bases = np.concatenate([texts[:count], liked(query.like, encoder, session, network)])
    vectors = combined(bases, texts[count : count + added], texts[count + added :])
    if not vectors.any(axis=1).all():
        raise InputError("--minus: takes away all of the query; leave it out")
    return vectors


def liked(names: Sequence[str], encoder: "Encoder", session: Session, network: "Network") -> "Matrix":
    """Embed the pictures of --like; (L, D) float32, rows of length 1.

    Raises:
        InputError: one cannot be read.
    """
    import numpy as np

    from zsclip.engine.run import embedding, opened_store
    from zsclip.pictures.listed import pictures_of

    if not names:
        return np.empty((0, encoder.embed_dim), np.float32)
    speed = session.speed
    with (
        opened_store(encoder, speed, is_wanted=not session.store.no_store) as store,
        embedding([pictures_of(list(names), network)], encoder, store, speed) as batches,
    ):
        parts = list(batches)
    for failed in (each for part in parts for each in part.skipped.values()):
        raise InputError(f"--like {failed.file_name}: {failed.message}; choose another image")
    return np.concatenate([part.vectors for part in parts])
