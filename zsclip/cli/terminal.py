"""What a person sees on stderr: notes, progress and the summary. Only cli/ uses it, and results never pass here."""

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from zsclip.answers.answers import Answers
    from zsclip.models.embed import Embedded
    from zsclip.training.log import Event

_LABELS_IN_SUMMARY = 20


def say(message: str) -> None:
    """Write one line to stderr, whatever the message holds; a stderr that is gone is no reason to stop."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: found[0].encode("unicode_escape").decode(), message)
    try:
        sys.stderr.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a person looks at a stream; a closed one is None."""
    return stream is not None and stream.isatty()


class Tally:
    """Counts of a run: how many images got which label, how many failed and how.

    Args:
        done, failed: images that an earlier run, which this one goes on with, has rows of; and of them failed.
    """

    def __init__(self, done: int = 0, failed: int = 0) -> None:
        self.done = done
        self.failed = failed
        self.labels: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.unknown = 0
        self.encoded = 0  # and not answered
        self.started = time.monotonic()  # again with the first picture: loading the model is no part of the speed

    @property
    def images(self) -> int:
        """All that had a row, failed ones too."""
        return self.labels.total() + self.unknown + self.encoded + self.errors.total()

    @property
    def exit_code(self) -> int:
        """0 if every image was classified, 1 if some failed or there was none."""
        return int(self.errors.total() + self.failed > 0 or self.images + self.done == 0)

    def count(self, batches: "Iterable[Answers]") -> "Iterator[Answers]":
        """Pass batches on, counting; more than once where failed pictures are tried again."""
        if not self.images:
            self.started = time.monotonic()
        for batch in batches:
            self.errors.update(each.error for each in batch.skipped.values())
            found = [label for label in batch.answered.tolist() if label >= 0]
            for label, count in Counter(found).items():  # in the order in which they are met
                self.labels[batch.labels[label]] += count
            self.unknown += len(batch) - len(found) - len(batch.skipped)
            yield batch

    def count_encoded(self, batches: "Iterable[Embedded]") -> "Iterator[Embedded]":
        """Pass batches on that are to be answered more than once, counting."""
        self.started = time.monotonic()
        for batch in batches:
            self.errors.update(each.error for each in batch.skipped.values())
            self.encoded += len(batch.vectors)
            yield batch

    def complete(self, file: str) -> str:
        """Say that an earlier run has done everything."""
        failed = f", {self.failed:,} failed; --retry-errors tries them again" if self.failed else ""
        return f"{file}: complete already: {_counted(self.done, 'image')}{failed}"

    def summary(self) -> list[str]:
        """Tell images, speed, labels and failures, in one to three lines."""
        seconds = time.monotonic() - self.started
        earlier = f"; {_counted(self.done, 'image')} before" if self.done else ""
        if not self.images:
            return [f"no images{earlier}"]
        speed = f"{self.images / seconds:.0f} a second"
        lines = [f"{_counted(self.images, 'image')} in {seconds:.1f} s ({speed}){earlier}"]
        answers = [f"{label} {count}" for label, count in self.labels.most_common(_LABELS_IN_SUMMARY)]
        if len(self.labels) > _LABELS_IN_SUMMARY:
            answers.append(f"and {_counted(len(self.labels) - _LABELS_IN_SUMMARY, 'more label')}")
        if self.unknown:
            answers.append(f"unknown {self.unknown}")
        if answers:
            lines.append(", ".join(answers))
        if self.errors:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self.errors.most_common())
            lines.append(f"{self.errors.total()} failed: {kinds}")
        if self.failed:
            lines.append(f"{self.failed} failed before; --retry-errors tries them again")
        return lines


@contextmanager
def images_bar(tally: Tally, visible: bool) -> Iterator[None]:
    """Show how many images are done and how fast, for as long as the block runs."""
    if not visible:
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Counts(ProgressColumn):
        def render(self, task: Task) -> Text:
            seconds = max(task.elapsed or 0, 1e-9)
            failed = f", {tally.errors.total()} failed" if tally.errors else ""
            return Text(f"{_counted(tally.images, 'image')}, {tally.images / seconds:.0f} a second{failed}")

    columns = (SpinnerColumn(), TextColumn("classifying"), Counts(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task("classifying", total=None)
        yield


@contextmanager
def prompts_bar(visible: bool) -> Iterator[Callable[[int, int], None]]:
    """Give a callback that shows prompts done of all, once it has taken longer than a second."""
    if not visible:
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("encoding prompts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("prompts", total=None)
    started = time.monotonic()

    def report(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)
        if time.monotonic() - started > 1 and done < total:
            progress.start()

    try:
        yield report
    finally:
        if progress.live.is_started:
            progress.stop()


@contextmanager
def training_report(quiet: bool, visible: bool) -> Iterator[Callable[["Event"], None]]:
    """Give a callback that tells how training goes: a bar on a terminal, elsewhere a line every half minute."""
    if quiet:
        yield lambda event: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    from zsclip.training.log import EncodingProgress, HeldOutAccuracy

    bars = Bars(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=Console(stderr=True),
        transient=True, disable=not visible,
    )  # fmt: skip
    task = bars.add_task("reading the data", total=None)
    reported_at = time.monotonic()

    def report(event: "Event") -> None:
        nonlocal reported_at
        if isinstance(event, HeldOutAccuracy):
            when = f"epoch {event.epoch}" if event.epoch else "epoch 0 (before training)"
            say(f"{when}: {event.top1:.1%} of {event.images:,} held-out pictures, {event.labels} labels")
            return
        line = f"{event.images_per_second:.0f} images a second, {event.seconds_left / 60:.0f} min left"
        if isinstance(event, EncodingProgress):
            done, total = event.done, event.total
            line = f"encoding the pictures once, {line}"
        else:
            done, total = event.step, event.steps
            line = (
                f"epoch {event.epoch}, {event.size[0]} px, loss {event.loss:.3f}, learning rate "
                f"{event.learning_rate:.1e}, temperature {1 / event.logit_scale:.4f}, {line}"
            )
        bars.update(task, description=line, completed=done, total=total)
        if not visible and time.monotonic() - reported_at > 30:
            say(f"{'picture' if isinstance(event, EncodingProgress) else 'step'} {done:,} of {total:,}, {line}")
            reported_at = time.monotonic()

    with bars:
        yield report


def listed(names: Sequence[str], most: int = 3) -> str:
    """Quote a few names and count the rest."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
