"""Counts of a run: how many images got which label, how many failed and how, and the summary at the end."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from zsclip.cli.held_signals import HeldSignals
from zsclip.cli.terminal import counted, rated, sized

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.engine.parts import Counts
    from zsclip.kept.store import EmbeddingStore
    from zsclip.models.embed import Embedded
    from zsclip.pictures.passed_over import PassedOver

_LABELS_IN_SUMMARY = 20


class Tally:
    """Counts of a run.

    Args:
        done, failed: images that have rows from the earlier run that this one continues, and how many of them failed.
        passed_over: what the search for images leaves out, complete once all have been found.
    """

    def __init__(self, done: int = 0, failed: int = 0, passed_over: "PassedOver | None" = None) -> None:
        self.done = done
        self.failed = failed
        self.beside = 0  # images whose rows another process has written during this run
        self.labels: Counter[str] = Counter()  # with independent scores, an image counts for every label that applies
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self.unknown = 0
        self.encoded = 0  # but not answered yet
        self.written = 0  # images whose rows are written, including an earlier run's
        self.known = 0  # images found in the store, so not encoded
        self.fresh = 0  # images that this run encoded before it answered for any: no earlier run did
        self.looked_seconds = 0.0  # that this took
        self.new_store: str | None = None  # the store's folder, if this run created it
        self.passed_over = passed_over
        self.folder: str | None = None  # of parts
        self.shards: Counter[str] = Counter()  # by what has become of them, see `Done`
        self.started = time.monotonic()  # reset at the first image, so that speed leaves out loading the model

    @property
    def images(self) -> int:
        """The number of images with a row, failed ones included."""
        return self.answered + self.unknown + self.encoded + self.errors.total()

    @property
    def exit_code(self) -> int:
        """0 if every image was classified, 1 if some failed or there was none; those of other processes are theirs."""
        is_none = self.images + self.done + self.beside == 0 and not self.shards["elsewhere"]
        return int(self.errors.total() + self.failed + self.shards["failed"] > 0 or is_none)

    def count(self, batches: "Iterable[Answers]", signals: HeldSignals, most: int | None = None) -> "Iterator[Answers]":
        """Count batches and pass them on; called again when failed pictures are retried.

        Args:
            signals: held until the consumer asks for the next batch, and so has written this one.
            most: images in a batch, if the consumer does slow things to each.
        """
        if not self.images:
            self.started = time.monotonic()
        for batch in batches if most is None else _in_pieces(batches, most):
            signals.hold()
            self.errors.update(each.error for each in batch.skipped.values())
            has_answer = batch.answered >= 0
            found = batch.answered[has_answer] if batch.applies is None else batch.applies.nonzero()[1]
            for label, count in Counter(found.tolist()).items():  # in the order in which they are met
                self.labels[batch.vocabulary[label]] += count
            answered = int(has_answer.sum())
            self.answered += answered
            self.unknown += len(batch) - answered - len(batch.skipped)
            yield batch
            self.written += len(batch)  # the consumer has written this batch when it asks for the next
            signals.let_go()

    def count_encoded(self, batches: "Iterable[Embedded]") -> "Iterator[Embedded]":
        """Count batches that will be answered more than once and pass them on; start again for another model."""
        self.started = time.monotonic()
        self.encoded = self.known = 0
        self.errors.clear()
        for batch in batches:
            self.errors.update(each.error for each in batch.skipped.values())
            self.encoded += len(batch.vectors)
            yield batch

    def add(self, counts: "Counts") -> None:
        """Count the pictures of a shard that another process has answered."""
        self.labels += counts.labels
        self.errors += counts.errors
        self.unknown += counts.unknown
        self.answered += counts.images - counts.unknown - counts.errors.total()

    def take_back(self, counts: "Counts") -> None:
        """Count the pictures of a shard no longer, as it is read again, or has got no part."""
        self.labels -= counts.labels
        self.errors -= counts.errors
        self.unknown -= counts.unknown
        self.answered -= counts.images - counts.unknown - counts.errors.total()
        self.written -= counts.images

    def note_store(self, store: "EmbeddingStore", folder: str | None) -> None:
        """Take the store's counts at the end of a run, and its folder if this run created it."""
        self.known += store.read
        if store.kept:
            self.new_store = folder

    def after(self, look: "Tally") -> None:
        """Take the counts of a look at all images that came first; what it encoded is found in the store now."""
        self.fresh += look.encoded - look.known
        self.looked_seconds += time.monotonic() - look.started
        self.new_store = self.new_store or look.new_store

    def complete(self, file: str) -> str:
        """Say that an earlier run is already complete."""
        failed = f", {self.failed:,} failed; --retry-errors tries them again" if self.failed else ""
        return f"{file}: already complete: {counted(self.done, 'image')}{failed}"

    def summary(self, files: Iterable[str] = ()) -> list[str]:
        """Report images, speed, labels, failures and files, a line each; the first time, also the store.

        Args:
            files: the files that were written.
        """
        lines = [self._speed()]
        answers = [f"{label} {count:,}" for label, count in self.labels.most_common(_LABELS_IN_SUMMARY)]
        if len(self.labels) > _LABELS_IN_SUMMARY:
            answers.append(f"and {counted(len(self.labels) - _LABELS_IN_SUMMARY, 'more label')}")
        if self.unknown:
            answers.append(f"unknown {self.unknown:,}")
        if answers:
            lines.append(", ".join(answers))
        if self.errors:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.errors.most_common())
            lines.append(f"{self.errors.total():,} failed: {kinds}")
        if self.failed:
            lines.append(f"{self.failed:,} failed earlier; --retry-errors tries them again")
        if self.images and (left := self._passed_over()):
            lines.append(left)
        written = [f"{file} ({sized(os.path.getsize(file))})" for file in files]
        if written:
            lines.append(f"wrote {', '.join(written)}")
        if self.shards:
            lines.append(self._parts())
        if self.shards["elsewhere"]:
            lines.append(f"{self.folder} is not complete yet; run again when the other processes have ended")
        if self.new_store is not None:
            lines.append(
                f"embeddings are kept in {self.new_store}, so that these images are encoded only once; "
                "--no-store turns this off"
            )
        return lines

    def why_none(self) -> str:
        """Say that there was no image, and why."""
        from zsclip.pixels.search_summary import why_no_images

        if self.shards["elsewhere"] or self.beside:
            return "no images were left to this process"
        if self.done:
            return f"no new images; {counted(self.done, 'image')} done earlier"
        return "zsclip: " + ("no images" if self.passed_over is None else why_no_images(self.passed_over))

    def _parts(self) -> str:
        """Say how many parts were written, and what has become of the others."""
        others = [
            (self.shards["complete"], "complete before"),
            (self.shards["beside"], "written by other processes"),
            (self.shards["elsewhere"], "being written by other processes"),
            (self.shards["failed"], "failed"),
        ]
        said = "".join(f", {count:,} {what}" for count, what in others if count)
        return f"wrote {counted(self.shards['written'], 'part')} in {self.folder}{said}"

    def _passed_over(self) -> str:
        from zsclip.pixels.search_summary import passed_over_line

        return "" if self.passed_over is None else passed_over_line(self.passed_over)

    def _speed(self) -> str:
        if not self.images:
            return self.why_none()
        earlier = f"; {counted(self.done, 'image')} done earlier" if self.done else ""
        earlier += f"; {counted(self.beside, 'image')} done by other processes" if self.beside else ""
        images = counted(self.images, "image")
        before = max(0, self.known - self.fresh)
        if before >= self.images:
            return f"{images}, encoded by an earlier run{earlier}"
        known = f", {before:,} of them encoded by an earlier run" if before else ""
        seconds = self.looked_seconds + time.monotonic() - self.started
        return f"{images}{_time_and_rate(self.images, seconds)}{known}{earlier}"


def _time_and_rate(images: int, seconds: float) -> str:
    """Say how long images took; "" if it would be 0.0 s."""
    if seconds < 0.05:
        return ""
    return f" in {seconds:.1f} s ({rated(images / seconds)} a second)"


def _in_pieces(batches: "Iterable[Answers]", most: int) -> "Iterator[Answers]":
    import numpy as np

    for batch in batches:
        for start in range(0, len(batch), most):
            yield batch.take(np.arange(start, min(start + most, len(batch))))
