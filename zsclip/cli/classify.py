"""`zsclip classify`."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, count
from typing import TYPE_CHECKING

from zsclip.cli.dry_run import report_file_ahead
from zsclip.cli.groups import command
from zsclip.cli.learn import example_files, learn_first, read_teachers
from zsclip.cli.options import Inputs, Labels, Messages, Model, Prompts, model_files, set_environment
from zsclip.cli.overlays import Beside, Plan, Shown, report_overlays
from zsclip.cli.progress import Progress, total_of
from zsclip.cli.question import Scores, about_page, wanted_answers
from zsclip.cli.rows import Output, Writer
from zsclip.cli.run import (
    SLOW_PIECE,
    Looked,
    Remembered,
    Session,
    build_answering,
    build_for_all,
    build_suggested,
    embedding,
    interruptible,
    note_captions,
    note_export,
    report_run,
)
from zsclip.cli.speed import Speed, Store
from zsclip.cli.start import Start, resume_hint, start_of
from zsclip.cli.terminal import counted
from zsclip.cli.video import Video
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.answers.classifier import Classifier
    from zsclip.answers.scores import Rule
    from zsclip.engine.question import Question
    from zsclip.models.encoder import Encoder
    from zsclip.pictures.pictures import Paths, Pictures
    from zsclip.pictures.sampling import Sampling


@command(common=("inputs", "labels", "labels_file", "model", "top_k", "threshold", "format", "output", "report"))
def classify(
    inputs: Inputs,
    video: Video,
    labels: Labels,
    prompts: Prompts,
    scores: Scores,
    output: Output,
    shown: Shown,
    model: Model,
    speed: Speed,
    store: Store,
    messages: Messages,
) -> int:
    """Give every image the label that fits it best.

    A label is a word or a short phrase. zsclip puts it into a sentence, and compares the sentence with every image.

    Examples:

        zsclip classify photos/ --labels "cat,dog,bird"
        zsclip classify photos/ -l "cat,dog,bird" -o labels.csv --report labels.html
        zsclip classify "2024-*/*.jpg" --labels-file imagenet --model tiny -k 5
    """
    from zsclip.engine.question import read_question, rule_of

    _check_segments(output, scores)
    whole = scores.needs_all or (None if scores.suggest is None else "--suggest")
    if whole is not None:
        _check_whole(whole, inputs, output, store)
    set_environment(model, messages)
    given = labels.read_given(alone=scores.one_is_enough)
    question = read_question(given, prompts.read_given(), scores, read_teachers(scores, messages, model))
    name = model.name(question.model)
    wanted = wanted_answers(scores.only, question.words.answers)
    shown.check(output, scores, wanted)

    def reads() -> Iterator[tuple[str, str]]:
        own = (labels.reads(), prompts.reads(), scores.reads())
        return chain(*own, example_files(question), model_files(name))

    sampling = video.sampling(speed.max_pixels, is_kept=not store.no_store)
    found = _found(inputs, output, reads(), messages, sampling, model, resumable=whole is None)
    plan = shown.plan(found, inputs.inputs, reads(), output)
    if question.examples is not None and not output.dry_run:
        question = learn_first(question, name, model, speed, store, messages)
    if output.folder is not None:
        from zsclip.cli.parts import run_of, write_parts

        shared = run_of(question, wanted, inputs, output, model, speed, store, sampling)
        return write_parts(shared, output, speed, store, messages)
    with Progress(messages.show_progress) as progress:
        progress.step(f"looking for model {name}")
        encoder = speed.encoder(name, model.offline)
        rule = rule_of(question, encoder)
        if output.dry_run:
            return report_file_ahead(plan.paths, encoder, speed, progress)
        settings = _settings(output, question, encoder, name, speed)
        start = start_of(output, settings | shown.settings, plan.paths, messages)
        plan = plan if start.journal is None else plan.as_before(start.journal.again)
        session = Session(speed, store, messages, progress, start.tally(output, plan.paths.passed_over))
        if start.is_complete(output):
            messages.note(session.tally.complete(output.own_file or ""))
            return session.tally.exit_code
        pictures = progress.listed(plan.paths.rest(), inputs.inputs)
        for_all = None
        if whole is not None:
            pictures, for_all = _looked_at_first(Remembered(pictures), question, encoder, session)
        run = Run(question, wanted, encoder, rule, settings, output, session, inputs.limit, plan, for_all)
        run.write(pictures, start)
    return _reported(run, shown)


def _check_segments(output: Output, scores: Scores) -> None:
    """Refuse what does not go with --segments."""
    if output.segments and (scores.multi_label or (scores.top_k or 1) > 1):
        flag = "--multi-label" if scores.multi_label else "--top-k"
        raise InputError(f"--segments: joins frames that have the same one answer; leave out {flag}")
    if output.segments and scores.suggest is not None:
        raise InputError("--suggest: takes single frames; leave out --segments")


def _settings(output: Output, question: "Question", encoder: "Encoder", name: str, speed: Speed) -> dict[str, object]:
    """Give what the rows depend on; nothing if neither a journal nor the metadata of the file keeps it."""
    if output.own_file is None and output.sink_name != "parquet":
        return {}
    from zsclip.engine.settings import settings_of

    return settings_of(question, encoder, name, speed)


def _reported(run: "Run", shown: Shown) -> int:
    """Write the summary of a run, and give its exit code."""
    session, output = run.session, run.output
    files = (output.file, output.report, output.contact_sheet)
    if shown.where is not None:
        return report_overlays(session, shown.where, run.overlays.written, files, is_resumed=output.is_resumed)
    code = report_run(session, files)
    if output.contact_sheet is not None:
        note_captions(session.messages)
    note_export(run.encoder, session)
    return code


def _check_whole(flag: str, inputs: Inputs, output: Output, store: Store) -> None:
    """Refuse what does not go with a flag for which all images are encoded before the first is answered."""
    from zsclip.pictures.stdin import STDIN

    reasons = (
        (STDIN in inputs.inputs, f"-: {flag} needs all images before it can answer; give files or folders"),
        (output.folder is not None, f"{flag}: needs all images in one run; write to a file instead of a folder"),
        (output.resume, f"{flag}: depends on all images; run again without --resume"),
        (output.retry_errors, f"{flag}: depends on all images; run again without --retry-errors"),
        (
            store.no_store and flag != "--suggest",
            f"--no-store: {flag} looks at every image twice; leave one of the two out",
        ),
    )
    for is_so, reason in reasons:
        if is_so:
            raise InputError(reason)


def _looked_at_first(
    pictures: "Remembered", question: "Question", encoder: "Encoder", session: Session
) -> "tuple[list[Pictures], Classifier | None]":
    """Encode all pictures; give those to answer for, and what answers if that depends on all of them."""
    suggest = question.scores.suggest
    for_all = build_for_all(question, pictures, encoder, session, Looked(session.store))
    if suggest is None:
        return list(pictures), for_all
    classifier = for_all or build_answering(question, encoder, session)
    return [build_suggested(classifier, question.head, pictures, suggest, encoder, session)], classifier


def _found(
    inputs: Inputs,
    output: Output,
    read: "Iterable[tuple[str, str]]",
    messages: Messages,
    sampling: "Sampling",
    model: Model,
    *,
    resumable: bool,
) -> "Paths":
    """Check every input and output, then find the images.

    Args:
        read: what else the run reads, and the path of each. sampling: which frames of videos are taken.
        resumable: whether a run like this can be resumed.
    """
    own = output.written(by_earlier_run=True)
    places = output.check(chain(read, inputs.reads(output.replaced, own=own)), resumable=resumable)
    return inputs.find(messages, places, own, sampling=sampling, offline=model.offline)


@dataclass(frozen=True)
class Run:
    """Everything that the rows of one run need."""

    question: "Question"
    wanted: set[str | None]  # answers; None among them stands for unknown; empty means all
    encoder: "Encoder"
    rule: "Rule"
    settings: dict[str, object]
    output: Output
    session: Session
    limit: int | None
    plan: Plan
    for_all: "Classifier | None" = None  # what answers with all images in mind

    def write(self, pictures: "Iterable[Pictures]", start: Start) -> None:
        """Write the rows of all pictures; with --retry-errors, then redo those that failed before."""
        speed, journal = self.session.speed, start.journal
        about = about_page(self.question, self.encoder, self.rule)
        small = (speed.cpus, speed.max_pixels)
        passes, truth = self.question.scores.transductive, self.question.scores.suggest is not None
        writer = Writer(
            self.output, self.wanted, *small, about, self.settings, self.encoder.embed_dim,
            passes, truth, self._candidates,
        )  # fmt: skip
        if start.end is None:
            first = 0 if journal is None else journal.taken
            with self._interruptible(start, is_retry=False), self.answering(pictures, count(first)) as batches:
                writer.write_rows(batches, start)
        if self.output.retry_errors and journal is not None and journal.has_failures:
            from zsclip.pictures.pictures import pictures_named

            failed = [pictures_named(journal.failed_paths)]
            places = chain.from_iterable(places for _, places in journal.again)
            with self._interruptible(start, is_retry=True), self.answering(failed, places) as batches:
                writer.retry(batches, journal)

    @contextmanager
    def answering(self, pictures: "Iterable[Pictures]", places: Iterable[int]) -> "Iterator[Iterator[Answers]]":
        """Encode pictures and answer for them, batch by batch.

        Args:
            places: of the pictures among all of the run.
        """
        progress, tally = self.session.progress, self.session.tally
        with embedding(pictures, self.encoder, self.session) as embedded:
            from zsclip.answers.classify import classify

            is_slow = self.output.pages or self.output.contact_sheet or self.plan.files is not None
            most = SLOW_PIECE if is_slow else None
            rule = self._rule_of_pages() if self.output.pages else self.rule
            answers = classify(embedded, self.classifier, rule, with_vectors=self.output.embeddings is not None)
            batches = tally.count(answers, self.session.signals, most)
            if self.plan.files is not None:
                batches = self.overlays.drawn(batches, self.classifier, places)
            progress.images(tally, total_of(pictures, tally, self.limit))
            yield progress.before_first(batches) if self.output.fills_terminal else batches
            progress.stop()

    def _rule_of_pages(self) -> "Rule":
        """Ask for the runner-ups that a page shows, though rows may have fewer."""
        from zsclip.out.report import CANDIDATES

        return self.rule if self.rule.independent else replace(self.rule, k=max(self.rule.k or 1, CANDIDATES))

    @property
    def _candidates(self) -> int | None:
        """The most in a row, though a page may show more; None for all."""
        return None if self.rule.independent else self.rule.k or 1

    @cached_property
    def overlays(self) -> Beside:
        """What draws overlays beside the rows."""
        output, session = self.output, self.session
        return Beside(
            self.plan.files or (), self.encoder, session.speed, session.messages, self.wanted, self._candidates,
            output.overwrite, output.is_resumed,
        )  # fmt: skip

    @cached_property
    def classifier(self) -> "Classifier":
        """The text matrix or the head; made only once, after the model is loaded."""
        return self.for_all or build_answering(self.question, self.encoder, self.session)

    def _interruptible(self, start: Start, *, is_retry: bool) -> AbstractContextManager[None]:
        scores, session = self.question.scores, self.session

        def hint() -> str:
            if scores.needs_all is None and scores.suggest is None:
                return resume_hint(self.output, start, session.tally, is_retry, scores.only)
            how = "the same command again" if self.output.own_file is None else "again with --overwrite"
            kept = "" if session.store.no_store else "; what was encoded is kept"
            return f"{counted(session.tally.written, 'image')} done; run {how}{kept}"

        return interruptible(hint, session.signals)
