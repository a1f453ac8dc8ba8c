"""What commands have in common: decode and encode pictures, build the text matrix, and report how a run went."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from zsclip.cli.held_signals import HeldSignals
from zsclip.cli.options import Data, Messages
from zsclip.cli.progress import Progress
from zsclip.cli.signals import EXPLAINED, how_ended
from zsclip.cli.speed import Speed, Store
from zsclip.cli.tally import Tally
from zsclip.cli.terminal import counted, say

if TYPE_CHECKING:
    from zsclip.answers.classifier import Classifier
    from zsclip.answers.heads import Head
    from zsclip.engine.question import Question
    from zsclip.kept.store import EmbeddingStore
    from zsclip.measure.labelled import Labelled
    from zsclip.models.embed import Embedded
    from zsclip.models.encoder import Encoder
    from zsclip.out.output import FileId
    from zsclip.pictures.pictures import Pictures
    from zsclip.words.labels import Label
    from zsclip.words.prompts import PromptSet
    from zsclip.words.words import Words

_FEW_IMAGES = 100  # a run with these takes less time than torch, to start
SLOW_PIECE = 32  # images that are drawn or decoded again before a signal is heard
_MOST_KEPT = 1 << 30  # bytes of vectors: half a million images of a model with 512 dimensions


@dataclass(frozen=True)
class Session:
    """How a run computes, what it keeps, and where it reports progress."""

    speed: Speed
    store: Store
    messages: Messages
    progress: Progress
    tally: Tally = field(default_factory=Tally)
    signals: HeldSignals = field(default_factory=HeldSignals)


@contextmanager
def counted_store(encoder: "Encoder", session: Session) -> "Iterator[EmbeddingStore | None]":
    """Open the store for a run, and count at the end what was found and kept; give None with --no-store."""
    from zsclip.engine.run import opened_store
    from zsclip.kept import storefile
    from zsclip.kept.cache import cache_dir

    is_new = not os.path.exists(storefile.path())
    with opened_store(encoder, session.speed, is_wanted=not session.store.no_store) as store:
        try:
            yield store
        finally:
            if store is not None:
                session.tally.note_store(store, str(cache_dir()) if is_new else None)


@contextmanager
def embedding(
    pictures: "Iterable[Pictures]", encoder: "Encoder", session: Session, looked: "Looked | None" = None
) -> "Iterator[Iterator[Embedded]]":
    """Look up and decode pictures; meanwhile load the model if the first picture is not in the store. Give batches.

    Args:
        looked: a first look at the same pictures, whose batches are given again if it has any.
    """
    if looked is not None and looked.batches:
        yield iter(looked.batches)
        return
    session.progress.step("looking up images")
    from zsclip.engine.run import embedding

    def loads() -> None:
        session.progress.step(f"loading {encoder.spec.name}")

    with (
        counted_store(encoder, session) as store,
        embedding(pictures, encoder, store, session.speed, loads=loads) as batches,
    ):
        yield batches


def build_text_matrix(
    words: "Words", encoder: "Encoder", session: Session, *, multi_label: bool = False
) -> "Classifier":
    """Make the text matrix, and note what was cut or may not be understood."""
    from zsclip.answers.classifier import build_classifier, notes

    classifier = build_classifier(words, encoder, multi_label=multi_label, progress=session.progress.prompts)
    for note in notes(words, classifier.cut, encoder):
        session.messages.note(note)
    return classifier


def build_answering(question: "Question", encoder: "Encoder", session: Session) -> "Classifier":
    """Give the head that answers, or make the text matrix."""
    if question.head is None:
        return build_text_matrix(question.words, encoder, session, multi_label=question.scores.multi_label)
    from zsclip.engine.question import classifier_of

    return classifier_of(question, encoder)


class Remembered:
    """Pictures that can be gone through again, but are looked for only as the first run through them goes on.

    Whatever is found too early waits in memory until it is read, as the frames of videos do, of which only some can.
    """

    def __init__(self, found: "Iterable[Pictures]") -> None:
        self._found = iter(found)
        self._known: list[Pictures] = []

    def __iter__(self) -> "Iterator[Pictures]":
        yield from self._known
        for some in self._found:
            self._known.append(some)
            yield some


class Looked:
    """Batches of a first look at all images, for the second one: only if they fit, and only without the store.

    The store has them otherwise, and is read in moments.
    """

    def __init__(self, store: Store) -> None:
        self.batches: list[Embedded] | None = [] if store.no_store else None
        self._left = _MOST_KEPT

    def keep(self, batches: "Iterable[Embedded]") -> "Iterator[Embedded]":
        """Pass batches on."""
        for batch in batches:
            if self.batches is not None:
                self._left -= batch.vectors.nbytes
                self.batches.append(batch)
                if self._left < 0:
                    self.batches = None
            yield batch


@contextmanager
def first_look(session: Session) -> Iterator[Session]:
    """Give a session for a look at all images before the first is answered; its counts are its own."""
    own = replace(session, tally=Tally())
    try:
        yield own
    except BaseException:
        session.tally.encoded = own.tally.encoded  # an interrupted run says what is kept
        raise
    session.tally.after(own.tally)


def build_for_all(
    question: "Question", pictures: "Iterable[Pictures]", encoder: "Encoder", session: Session, looked: Looked
) -> "Classifier | None":
    """Encode all pictures, and give what answers with all of them in mind; None if each is answered by itself.

    Args:
        looked: keeps what was encoded.
    """
    if question.scores.needs_all is None:
        return None
    from zsclip.engine.question import answering_all

    classifier = build_answering(question, encoder, session)
    with first_look(session) as own, embedding(pictures, encoder, own) as embedded:
        session.progress.images(own.tally, lambda: None)
        found = answering_all(question, classifier, looked.keep(own.tally.count_encoded(embedded)))
    return found


def build_suggested(
    classifier: "Classifier", head: "Head | None", pictures: "Iterable[Pictures]", count: int, encoder: "Encoder",
    session: Session,
) -> "Pictures":  # fmt: skip
    """Encode all pictures, and give those whose labels would teach most; none that is an example of the head.

    Args:
        pictures: gone through twice.
    """
    import numpy as np

    from zsclip.answers.suggest import worth_labelling
    from zsclip.pictures.pictures import pictures_named

    known = set() if head is None else {vector.tobytes() for vector in head.vectors}
    vectors, places, start = [np.empty((0, encoder.embed_dim), np.float32)], [np.empty(0, np.int64)], 0
    with first_look(session) as own, embedding(pictures, encoder, own) as embedded:
        session.progress.images(own.tally, lambda: None)
        for batch in own.tally.count_encoded(embedded):
            is_new = np.array([vector.tobytes() not in known for vector in batch.vectors], bool)
            vectors.append(batch.vectors[is_new])
            places.append(start + batch.places[is_new].astype(np.int64))
            start += len(batch)
    session.tally.looked_seconds = 0.0  # few of all those images get a row, and the rate would be theirs
    session.tally.errors += own.tally.errors
    chosen = np.concatenate(places)[worth_labelling(np.concatenate(vectors), classifier, count)]
    names = [name for some in pictures for name in some.names]
    return pictures_named([names[place] for place in chosen.tolist()])


@contextmanager
def interruptible(resume_hint: Callable[[], str], signals: HeldSignals | None = None) -> Iterator[None]:
    """If the block is interrupted or terminated, say how to continue.

    Args:
        signals: those that wait while a batch is written.
    """
    try:
        with signals or nullcontext():
            yield
    except (KeyboardInterrupt, SystemExit) as e:
        if ended := how_ended(e):
            say(f"zsclip: {ended}: {resume_hint()}")
            e.add_note(EXPLAINED)
        raise


@contextmanager
def measuring(speed: Speed, store: Store, messages: Messages) -> Iterator[Session]:
    """Open a session for a command that writes nothing until the end."""

    def resume_hint() -> str:
        images = counted(session.tally.images, "image")
        if store.no_store:
            return f"{images} encoded, but not kept, because of --no-store"
        return f"{images} encoded and kept; run the same command again to continue"

    with Progress(messages.show_progress) as progress:
        session = Session(speed, store, messages, progress)
        with interruptible(resume_hint, session.signals):
            yield session


def read_data(data: Data, session: Session, places: "Mapping[FileId, str]", *, offline: bool) -> "Labelled":
    """Find all labelled pictures, or with --limit some from all over the data.

    Args:
        places: of files that the run replaces, none of which may be one of the data's.
    """
    session.progress.step(f"reading {data.data}")
    from zsclip.engine.run import network_of
    from zsclip.measure.labelled import read_labelled
    from zsclip.out.output import check_inputs

    network = network_of(offline=offline)
    labelled = read_labelled(data.data, all_files=data.all_files, note=session.messages.note, network=network)
    session.tally.passed_over = labelled.passed_over
    check_inputs(((f"{file!r} of the data", file) for file in labelled.files), places)
    some = labelled.spread(data.limit)
    if some is not labelled:
        taken, total = len(some.pictures), len(labelled.pictures)
        session.messages.note(f"using {taken:,} of {total:,} images, spread evenly over the data")
    return some


def words_and_truths(
    labelled: "Labelled", given: "list[Label] | None", sentences: "PromptSet"
) -> "tuple[Words, list[str]]":
    """Put the labels (by default those of the data) into sentences, and give the true label of each picture."""
    from zsclip.measure.evaluate import found_labels, truths_of
    from zsclip.words.words import expand

    labels = given or found_labels(labelled.vocabulary, meanings=labelled.meanings)
    return expand(labels, sentences), truths_of(labelled.words, labels, labelled.meanings)


def report_run(session: Session, files: Iterable[str | None] = ()) -> int:
    """Write the summary of a run to stderr, and give its exit code."""
    from zsclip.out.output import is_replaceable

    tally = session.tally
    if not session.messages.quiet:
        for line in tally.summary([file for file in files if file is not None and is_replaceable(file)]):
            say(line)
    elif not (tally.images or tally.done or tally.beside):  # there are no rows that could say it
        say(tally.why_none())
    return tally.exit_code


def note_captions(messages: Messages) -> None:
    """Say which letters were left out of the pictures that were drawn, as no font here has them."""
    from zsclip.out.fonts import package_for, take_undrawn
    from zsclip.words.textfiles import listed

    if letters := take_undrawn():
        packages = " and ".join(dict.fromkeys(map(package_for, letters)))
        were = "it was" if len(letters) == 1 else "they were"
        messages.note(
            f"captions: no font here has {listed(letters, 5)}, so {were} left out; "
            f"install one, such as Debian's {packages}"
        )


def note_export(encoder: "Encoder", session: Session) -> None:
    """After a short run that waited for torch, say once for each model how the next ones need not."""
    from zsclip.models.graphs import is_first_hint, missing_to_export
    from zsclip.models.lazy_torch import LazyTorchEncoder

    speed, tally = session.speed, session.tally
    if not (isinstance(encoder, LazyTorchEncoder) and encoder.is_loaded) or not 0 < tally.images <= _FEW_IMAGES:
        return
    may_change = speed.runtime == "auto" and speed.onnx_can and encoder.device == "cpu" and not session.messages.quiet
    if may_change and not missing_to_export() and is_first_hint(encoder.spec):
        name = encoder.spec.name
        session.messages.note(
            f"run `zsclip models export {name}` once, and {name} will start several times as fast, without torch"
        )


def note_if_few(pictures: int, messages: Messages) -> None:
    """Warn if there are too few pictures to measure well."""
    from zsclip.measure.metrics import FEW

    if pictures < FEW:
        messages.note(f"only {counted(pictures, 'image')}: these figures may be far off; use {FEW} or more")


def drain(batches: Iterable[object], out: object = None) -> None:
    """Consume all batches and write nothing."""
    deque(batches, maxlen=0)
