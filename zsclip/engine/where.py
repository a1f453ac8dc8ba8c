"""Pictures -> where in them labels are seen, with what is needed to draw it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from zsclip.answers.answers import Answers
from zsclip.answers.classifier import Classifier
from zsclip.answers.where import Where, where, where_answered
from zsclip.engine.options import Computing
from zsclip.models.lazy_torch import LazyTorchEncoder
from zsclip.pictures.pictures import Pictures
from zsclip.pixels.ahead import Ahead
from zsclip.pixels.reasons import given_up
from zsclip.pixels.skipped import Skipped
from zsclip.pixels.view import View, read_view

_TOGETHER = 8  # pictures in a batch; each is held with the picture for a person


@dataclass(frozen=True, eq=False)
class Look:
    """A picture, and where its labels are seen."""

    view: View
    where: Where


@contextmanager
def looking(
    pictures: Iterable[Pictures],
    encoder: LazyTorchEncoder,
    classifier: Classifier,
    computing: Computing,
    k: int | None = None,
    answers: Answers | None = None,
) -> Iterator[Iterator[Look | Skipped]]:
    """Decode pictures on threads, and find in each its k best labels. Yield them one by one, in order.

    Args:
        answers: for the pictures, if they are known; then their candidates are looked for.
    """
    from zsclip.pixels.pillow_setup import set_up_pillow

    decoding, preprocess = computing.decoding, encoder.spec.preprocess

    def view(some: Pictures, place: int) -> View | Skipped:
        return read_view(some, place, preprocess, decoding)

    with set_up_pillow(decoding.max_pixels):
        ahead: Ahead[View | Skipped, Any] = Ahead(
            pictures, view, batch_size=_TOGETHER, threads=computing.cpus, cpu_seconds=decoding.budget.cpu_seconds,
            give_up=lambda name, thread: given_up(name, thread, decoding),
        )  # fmt: skip
        with ahead:
            if isinstance(ahead.begins_with(), View):
                encoder.load()  # not only for the first batch, as that is timed
            yield _looks(ahead.batches(_TOGETHER), encoder, classifier, k, answers)


def _looks(
    batches: Iterable[Any], encoder: LazyTorchEncoder, classifier: Classifier, k: int | None, answers: Answers | None
) -> Iterator[Look | Skipped]:
    from zsclip.models.patches import encode_patches

    start = 0
    for batch in batches:
        found: Iterator[Where] = iter(())
        seen = [(place, name, each) for place, (name, each) in enumerate(batch, start) if isinstance(each, View)]
        if seen:
            pixels, areas = [each.pixels for *_, each in seen], [each.area for *_, each in seen]
            patches = encode_patches(encoder.model, pixels, with_embeddings=answers is None)
            if answers is None:
                found = iter(where(patches, [name for _, name, _ in seen], areas, classifier, k))
            else:
                some = answers.take(np.array([place for place, *_ in seen]))
                found = iter(where_answered(patches, areas, some, some.is_candidate(), classifier))
        for _, each in batch:
            yield Look(each, next(found)) if isinstance(each, View) else each
        start += len(batch)
