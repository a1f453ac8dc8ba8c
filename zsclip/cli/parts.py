"""`zsclip classify -o FOLDER/`: rows in Parquet parts, one for each shard, which several processes may share."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING

from zsclip.cli.dry_run import left_of, report_run_ahead
from zsclip.cli.options import Inputs, Messages, Model
from zsclip.cli.progress import Progress
from zsclip.cli.rows import Output
from zsclip.cli.run import Session, build_answering, embedding, interruptible, report_run
from zsclip.cli.sharing import SHARD_SIZE
from zsclip.cli.speed import Speed, Store
from zsclip.cli.tally import Tally
from zsclip.cli.terminal import counted, duration, say

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.answers.classifier import Classifier
    from zsclip.engine.footers import Footers
    from zsclip.engine.part_files import Run
    from zsclip.engine.parts import Counts, Done, Parts
    from zsclip.engine.question import Question
    from zsclip.engine.shards import Plan, Shard
    from zsclip.models.encoder import Encoder
    from zsclip.pictures.sampling import Sampling


def run_of(
    question: "Question",
    wanted: set[str | None],
    inputs: Inputs,
    output: Output,
    model: Model,
    speed: Speed,
    store: Store,
    sampling: "Sampling",
) -> "Run":
    """Put together what decides what the run writes."""
    from zsclip.engine.options import Computing
    from zsclip.engine.part_files import Run
    from zsclip.engine.shards import Finding

    assert output.folder is not None
    finding = Finding(
        tuple(inputs.inputs), output.shard_size or SHARD_SIZE, tuple(inputs.exclude), inputs.limit, inputs.null,
        inputs.all_files, inputs.column, sampling, model.offline,
    )  # fmt: skip
    return Run(
        question=question, wanted=frozenset(wanted), model=model.name(question.model), offline=model.offline,
        computing=Computing(**{each.name: getattr(speed, each.name) for each in fields(Computing)}),
        is_stored=not store.no_store, finding=finding, folder=output.folder, embeddings=output.embeddings,
        overwrite=output.overwrite, retry_errors=output.retry_errors,
    )  # fmt: skip


def write_parts(run: "Run", output: Output, speed: Speed, store: Store, messages: Messages) -> int:
    """Write the parts of the shards that no other process works on; give the exit code."""
    from zsclip.engine.part_files import parts_gone, refuse_foreign
    from zsclip.out.output import make_folder
    from zsclip.pictures.passed_over import PassedOver
    from zsclip.words.textfiles import listed

    with Progress(messages.show_progress) as progress:
        tally = Tally(passed_over=PassedOver())
        tally.folder = run.folder
        session = Session(speed, store, messages, progress, tally)
        plan = plan_of(run, session)
        said = "looking at the parts that are there"
        progress.step(said)
        footers = refuse_foreign(run, plan.shards, lambda count: progress.step(f"{said}: {count:,} so far"))
        progress.step(f"looking for model {run.model}")
        encoder = speed.encoder(run.model, run.offline)
        if output.dry_run:
            return report_run_ahead(*left_of(run, plan, encoder, footers), encoder, speed, progress)
        make_folder(run.folder)
        on_engine = _on_ray if output.engine == "ray" and plan.shards else _here
        with interruptible(lambda: _how_to_go_on(tally, len(plan.shards)), session.signals):
            for done in on_engine(run, plan, encoder, footers, session, output):
                note_done(done, session)
    if gone := parts_gone(run, plan.shards):
        messages.note(f"images that are no longer among the inputs have rows in {listed(gone)}; delete them")
    return report_parts(session)


def _here(
    run: "Run", plan: "Plan", encoder: "Encoder", footers: "Footers", session: Session, output: Output
) -> "Iterator[Done]":
    """Work on all shards in this process."""
    from zsclip.engine.parts import Parts, do_shards

    parts = Parts(run, plan.loose, encoder, session.messages.note, footers)
    parts.check()
    local = _Local(run, parts, encoder, session, len(plan.shards))
    for done in do_shards(plan.shards, parts, local.answer):
        if done.how == "failed":
            local.take_back(done.shard)
        yield done


def _on_ray(
    run: "Run", plan: "Plan", encoder: "Encoder", footers: "Footers", session: Session, output: Output
) -> "Iterator[Done]":
    """Let actors work on all shards."""
    from zsclip.engine.question import rule_of
    from zsclip.engine.ray import do_shards_on_ray, pool_for, started_ray

    rule_of(run.question, encoder)  # checks it, before anything slow
    tally, total = session.tally, len(plan.shards)
    session.progress.step("starting Ray")
    with started_ray():
        pool = pool_for(total, run.computing.threads, output.gpus)
        with_gpu = "a GPU and " if pool.gpus else ""
        each = f"{with_gpu}{counted(pool.cpus, 'processor')}"
        session.messages.note(f"{counted(pool.actors, 'actor')} on Ray, with {each}{' each' * (pool.actors > 1)}")
        session.progress.shows(lambda: shards_status(tally, total))
        tally.started = time.monotonic()
        for done in do_shards_on_ray(run, plan, footers, pool):
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


def note_done(done: "Done", session: Session) -> None:
    """Count a shard, and say at once if it has failed."""
    tally = session.tally
    tally.shards[done.how] += 1
    for note in done.notes:
        session.messages.note(note)
    if done.how == "complete":
        tally.done += done.counts.images
    if done.how == "beside":
        tally.beside += done.counts.images
    if done.how in ("complete", "beside"):
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

    total: shards of the run. last: what was counted for the shard that was worked on last.
    """

    run: "Run"
    parts: "Parts"
    encoder: "Encoder"
    session: Session
    total: int
    last: "dict[str, Counts]" = field(default_factory=dict)

    def answer(self, shard: "Shard", counts: "Counts") -> "Iterator[Answers]":
        """Encode the pictures of a shard and answer for them, batch by batch."""
        from zsclip.engine.parts import answers_of

        session, tally = self.session, self.session.tally
        assert tally.passed_over is not None
        self.take_back(shard)  # if it was replaced while it was read
        self.last.clear()
        self.last[shard.name] = counts
        with embedding(shard.pictures(self.run.finding, tally.passed_over), self.encoder, session) as embedded:
            answers = answers_of(embedded, self.classifier, self.run, self.parts.rule)
            session.progress.shows(lambda: shards_status(tally, self.total))
            yield from tally.count(counts.of(answers), session.signals)

    def take_back(self, shard: "Shard") -> None:
        """Count the pictures of a shard no longer that were counted when it was read before."""
        if (counts := self.last.pop(shard.name, None)) is not None:
            self.session.tally.take_back(counts)

    @cached_property
    def classifier(self) -> "Classifier":
        """The text matrix or the head; made only once, after the model is loaded."""
        return build_answering(self.run.question, self.encoder, self.session)


def shards_status(tally: Tally, total: int) -> str:
    """Say how far a run is: shards, images, speed, the time left, and failures by kind."""
    seconds = max(time.monotonic() - tally.started, 1e-9)
    parts = [
        f"{tally.shards.total():,} of {counted(total, 'shard')}",
        counted(tally.done + tally.beside + tally.images, "image"),
    ]
    if tally.images:
        parts.append(f"{tally.images / seconds:,.0f} a second")
    if tally.shards["written"]:
        parts.append(f"{duration(seconds / tally.shards['written'] * (total - tally.shards.total()))} left")
    parts += [f"{count:,} {kind}" for kind, count in tally.errors.most_common()]
    return ", ".join(parts)


def _how_to_go_on(tally: Tally, total: int) -> str:
    complete = tally.shards["written"] + tally.shards["complete"] + tally.shards["beside"]
    return (
        f"{complete:,} of {counted(total, 'part')} in {tally.folder} {'is' if complete == 1 else 'are'} complete; "
        "run the same command again to continue"
    )
