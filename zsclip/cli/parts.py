"""`zsclip classify -o FOLDER/`: rows in Parquet parts, one for each shard, which several processes may share."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

from zsclip.cli.dry_run import left_of, report_run_ahead
from zsclip.cli.options import Inputs, Messages, Model, Speed, Store
from zsclip.cli.progress import Progress
from zsclip.cli.rows import Output
from zsclip.cli.run import Session, build_text_matrix, embedding, interruptible, report_run
from zsclip.cli.sharing import SHARD_SIZE
from zsclip.cli.tally import Tally
from zsclip.cli.terminal import counted, lasting, say

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.answers.classifier import Classifier
    from zsclip.engine.parts import Counts, Done, Parts, Run
    from zsclip.engine.question import Question
    from zsclip.engine.shards import Plan, Shard
    from zsclip.models.encoder import Encoder


def run_of(
    question: "Question",
    wanted: set[str | None],
    inputs: Inputs,
    output: Output,
    model: Model,
    speed: Speed,
    store: Store,
) -> "Run":
    """Put together what decides what the run writes."""
    from zsclip.engine.options import Computing
    from zsclip.engine.parts import Run
    from zsclip.engine.shards import Finding

    assert output.folder is not None
    finding = Finding(
        tuple(inputs.inputs), output.shard_size or SHARD_SIZE, tuple(inputs.exclude), inputs.limit, inputs.null,
        inputs.all_files, inputs.column,
    )  # fmt: skip
    return Run(
        question=question, wanted=frozenset(wanted), model=model.name(question.model), offline=model.offline,
        computing=Computing(**{each.name: getattr(speed, each.name) for each in fields(Computing)}),
        is_stored=not store.no_store, finding=finding, folder=output.folder, embeddings=output.embeddings,
        overwrite=output.overwrite, retry_errors=output.retry_errors,
    )  # fmt: skip


def write_parts(run: "Run", output: Output, speed: Speed, store: Store, messages: Messages) -> int:
    """Write the parts of the shards that no other process works on; give the exit code."""
    from zsclip.engine.parts import Parts
    from zsclip.pictures.passed_over import PassedOver

    with Progress(messages.show_progress) as progress:
        tally = Tally(passed_over=PassedOver())
        tally.folder = run.folder
        session = Session(speed, store, messages, progress, tally)
        plan = plan_of(run, session)
        progress.step(f"looking for model {run.model}")
        encoder = speed.encoder(run.model, run.offline)
        parts = Parts(run, plan.loose, encoder, messages.note)
        parts.prepare(plan.shards, is_dry=output.dry_run)
        if output.dry_run:
            return report_run_ahead(*left_of(plan, parts, run.finding), encoder, speed, progress)
        total = len(plan.shards)
        with interruptible(lambda: _how_to_go_on(tally, total), session.signals):
            for done in _on_engine(output, run, plan, parts, encoder, session):
                note_done(done, tally)
    return report_parts(session)


def _on_engine(
    output: Output, run: "Run", plan: "Plan", parts: "Parts", encoder: "Encoder", session: Session
) -> "Iterator[Done]":
    """Let the engine of the run work on all shards."""
    from zsclip.engine.parts import do_shards

    total, tally = len(plan.shards), session.tally
    if output.engine == "local" or not total:
        yield from do_shards(plan.shards, parts, _Local(run, parts, encoder, session, total).answer)
        return
    from zsclip.engine.ray import do_shards_on_ray, pool_for, started_ray

    session.progress.step("starting Ray")
    with started_ray():
        pool = pool_for(total, run.computing.threads, output.gpus)
        session.messages.note(
            f"{counted(pool.actors, 'actor')} on Ray, {'a GPU and ' if pool.gpus else ''}"
            f"{counted(pool.cpus, 'processor')} each"
        )
        session.progress.shows(lambda: shards_status(tally, total))
        tally.started = time.monotonic()
        for done in do_shards_on_ray(run, plan, pool, parts.claims):
            if done.how == "written":
                tally.add(done.counts)
            yield done


def plan_of(run: "Run", session: Session) -> "Plan":
    """Cut the run into shards."""
    from zsclip.engine.shards import plan

    passed_over, progress = session.tally.passed_over, session.progress
    assert passed_over is not None
    progress.step("listing images")
    return plan(
        run.finding,
        passed_over,
        note=session.messages.note,
        progress=lambda files: progress.step(f"listing images: {files:,} so far"),
    )


def note_done(done: "Done", tally: Tally) -> None:
    """Count a shard, and say at once if it has failed."""
    tally.shards[done.how] += 1
    if done.how == "complete":
        tally.done += done.counts.images
        tally.failed += done.counts.errors.total()
    if done.how == "failed":
        say(f"zsclip: {done.message}")


def report_parts(session: Session) -> int:
    """Write the summary, and give the exit code."""
    tally = session.tally
    if tally.shards["complete"] and tally.shards["complete"] == tally.shards.total():
        session.messages.note(tally.complete(tally.folder or ""))
        return tally.exit_code
    return report_run(session)


@dataclass(frozen=True)
class _Local:
    """This process, as it works on shards.

    total: shards of the run.
    """

    run: "Run"
    parts: "Parts"
    encoder: "Encoder"
    session: Session
    total: int

    def answer(self, shard: "Shard", counts: "Counts") -> "Iterator[Answers]":
        """Encode the pictures of a shard and answer for them, batch by batch."""
        from zsclip.engine.parts import answers_of

        session, tally = self.session, self.session.tally
        assert tally.passed_over is not None
        with embedding(shard.pictures(self.run.finding, tally.passed_over), self.encoder, session) as embedded:
            answers = answers_of(embedded, self.classifier, self.run, self.parts.rule)
            session.progress.shows(lambda: shards_status(tally, self.total))
            yield from tally.count(counts.of(answers), session.signals)

    @cached_property
    def classifier(self) -> "Classifier":
        """The text matrix; made only once, after the model is loaded."""
        asked = self.run.question
        return build_text_matrix(asked.words, self.encoder, self.session, multi_label=asked.scores.multi_label)


def shards_status(tally: Tally, total: int) -> str:
    """Say how far a run is: shards, images, speed, the time left, and failures by kind."""
    seconds = max(time.monotonic() - tally.started, 1e-9)
    parts = [f"{tally.shards.total():,} of {counted(total, 'shard')}", counted(tally.done + tally.images, "image")]
    if tally.images:
        parts.append(f"{tally.images / seconds:,.0f} a second")
    if tally.shards["written"]:
        parts.append(f"{lasting(seconds / tally.shards['written'] * (total - tally.shards.total()))} left")
    parts += [f"{count:,} {kind}" for kind, count in tally.errors.most_common()]
    return ", ".join(parts)


def _how_to_go_on(tally: Tally, total: int) -> str:
    complete = tally.shards["written"] + tally.shards["complete"]
    return (
        f"{complete:,} of {counted(total, 'part')} in {tally.folder} {'is' if complete == 1 else 'are'} complete; "
        "run the same command again to continue"
    )
