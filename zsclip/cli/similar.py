"""`zsclip similar`."""

from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import command, group
from zsclip.cli.hits import Hits
from zsclip.cli.options import Inputs, Messages, Model, model_files, set_environment
from zsclip.cli.progress import total_of
from zsclip.cli.run import embedding, measuring
from zsclip.cli.speed import Speed, Store
from zsclip.cli.terminal import counted
from zsclip.cli.video import Video

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.models.embed import Embedded


@group("Output")
class Groups(Hits):
    """Which images count as similar, and where they are shown."""

    least: Annotated[
        float,
        typer.Option("--threshold", metavar="COSINE", min=-1, max=1, help="Call images similar from this cosine on."),
    ] = 0.95


@command(common=("inputs", "model", "least", "format", "output", "report"))
def similar(
    inputs: Inputs,
    video: Video,
    hits: Groups,
    model: Model,
    speed: Speed,
    store: Store,
    messages: Messages,
) -> int:
    """Find images that are nearly the same, such as copies and series.

    Each group begins with its largest image, whose name is the label of all its rows. The score is the cosine to that
    image; 1 is the most. Images that were classified or searched before are not read again.

    Examples:

        zsclip similar photos/
        zsclip similar photos/ --threshold 0.98 --report similar.html
    """
    set_environment(model, messages)
    name = model.name()
    sampling = video.sampling(speed.max_pixels, is_kept=not store.no_store)
    found = hits.find(inputs, model_files(name), messages, model, sampling)
    with measuring(speed, store, messages) as session:
        session.progress.step(f"looking for model {name}")
        encoder = speed.encoder(name, model.offline)
        session.tally.passed_over = found.passed_over
        pictures = session.progress.listed(found.rest(), inputs.inputs)
        with embedding(pictures, encoder, session) as embedded:
            session.progress.images(session.tally, total_of(pictures, session.tally, inputs.limit))
            batches = list(session.tally.count_encoded(embedded))
        session.progress.step("comparing images")
        answers = similar_among(batches, hits.least, speed)
        session.progress.stop()
        page = hits.write(answers, {"model": encoder.spec.name, "threshold": f"{hits.least:.3g}"}, speed)
    if batches:
        messages.note(f"{counted(len(answers), 'group')} of similar images")
    return hits.finish(session, page)


def similar_among(batches: "list[Embedded]", least: float, speed: Speed) -> "list[Answers]":
    """Group similar pictures; the largest one comes first, of equals the earlier."""
    import numpy as np

    from zsclip.answers.similar import groups_of, similar
    from zsclip.pictures.pictures import pictures_named
    from zsclip.pixels.dimensions import pixel_counts

    if not batches:
        return []
    names = [batch.names[place] for batch in batches for place in batch.places.tolist()]
    vectors = np.concatenate([batch.vectors for batch in batches])  # (N, D)
    groups = groups_of(vectors, least)
    pictures = pictures_named(names)
    counts = pixel_counts(pictures, list(chain.from_iterable(groups)), max_pixels=speed.max_pixels)
    sizes = dict(zip(chain.from_iterable(groups), counts, strict=True))
    return similar(names, vectors, [sorted(some, key=lambda place: -sizes[place]) for some in groups])
