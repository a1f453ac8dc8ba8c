"""Pictures -> embeddings, in the order that costs the least waiting."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from zsclip.engine.options import Computing
from zsclip.kept.contents import MEMBERS
from zsclip.kept.store import EmbeddingStore
from zsclip.models.embed import Embedded, Pixels, embed_images, look_ahead
from zsclip.models.encoder import Encoder
from zsclip.pictures.pictures import Pictures
from zsclip.pictures.remote import Network


def network_of(*, offline: bool) -> Network:
    """Give what fetches the URLs of a run, and keeps what archives on servers hold."""
    return Network(offline, MEMBERS)


@contextmanager
def opened_store(encoder: Encoder, computing: Computing, *, is_wanted: bool) -> Iterator[EmbeddingStore | None]:
    """Open the store of the embeddings that are computed like this, and close it at the end; None if not wanted."""
    if not is_wanted:
        yield None
        return
    recipe = encoder.image_recipe(computing.fast_jpeg)
    store = EmbeddingStore(recipe, encoder.spec.name, encoder.embed_dim, max_pixels=computing.max_pixels)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def embedding(
    pictures: Iterable[Pictures],
    encoder: Encoder,
    store: EmbeddingStore | None,
    computing: Computing,
    *,
    loads: Callable[[], None] = lambda: None,
) -> Iterator[Iterator[Embedded]]:
    """Look up and decode pictures; meanwhile load the model if the first picture is not in the store. Yield batches.

    Args:
        loads: called just before the model is loaded.
    """
    preprocess, size = encoder.spec.preprocess, computing.size
    with look_ahead(pictures, preprocess, computing.decoding, store, batch_size=size, threads=computing.cpus) as ahead:
        if store is None or isinstance(ahead.begins_with(), Pixels | None):
            loads()
            encoder.load()  # takes a second or two, while pictures are decoded
        yield embed_images(ahead.batches(size or encoder.batch_size), encoder, store)
