"""Pictures -> where in them labels are seen, with what is needed to draw it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zsclip.answers.classifier import Classifier
from zsclip.answers.where import Where, where
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
) -> Iterator[Iterator[Look | Skipped]]:
    """Decode pictures on threads, and find in each its k best labels. Yield them one by one, in order."""
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
            yield _looks(ahead.batches(_TOGETHER), encoder, classifier, k)


def _looks(
    batches: Iterable[Any], encoder: LazyTorchEncoder, classifier: Classifier, k: int | None
) -> Iterator[Look | Skipped]:
    from zsclip.models.patches import encode_patches

    for batch in batches:
        found: Iterator[Where] = iter(())
        seen = [(name, each) for name, each in batch if isinstance(each, View)]
        if seen:
            patches = encode_patches(encoder.model, [each.pixels for _, each in seen])
            found = iter(where(patches, [name for name, _ in seen], [each.area for _, each in seen], classifier, k))
        for _, each in batch:
            yield Look(each, next(found)) if isinstance(each, View) else each
