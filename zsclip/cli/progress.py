"""The progress line on a terminal: the current step, how far the run is, and the time left."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zsclip.cli.tally import Tally
from zsclip.cli.terminal import counted, duration, rated

if TYPE_CHECKING:
    from queue import SimpleQueue

    from rich.progress import Progress as Bar

    from zsclip.pictures.pictures import Pictures

_MOST_LISTED = 1_000_000  # paths in memory


class Progress:
    """One line on stderr that says what is going on.

    Args:
        visible: if False, nothing is shown, and rich is not imported.
    """

    def __init__(self, visible: bool) -> None:
        self.visible = visible
        self._status: Callable[[], str] = str
        self._bar: Bar | None = None
        self._prompts_began = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def step(self, what: str) -> None:
        """Show one step, such as "loading tiny"."""
        self._show(lambda: what)

    def prompts(self, done: int, total: int) -> None:
        """Show how many prompts are encoded, and the time left."""
        if done == 0:
            self._prompts_began = time.monotonic()
        left = (time.monotonic() - self._prompts_began) * (total - done) / max(done, 1)
        if done < total:
            self.step(f"encoding prompts: {done:,} of {total:,}" + (f", {duration(left)} left" if done else ""))

    def images(self, tally: Tally, total: Callable[[], int | None]) -> None:
        """Show how many images are done, of how many where that is known, how fast, and the time left."""
        self._show(lambda: images_status(tally, total()))

    def listed(self, pictures: "Iterable[Pictures]", inputs: Sequence[str]) -> "Iterable[Pictures]":
        """List pictures ahead if their number will be shown, but not those of a stream, which is still written.

        Listing an archive on a server would fetch all of it, long before its pictures are wanted.
        """
        is_listed = self.visible and "-" not in inputs and not any("://" in each for each in inputs)
        return Listing(pictures) if is_listed else pictures

    def shows(self, status: Callable[[], str]) -> None:
        """Show what a function says, whenever the line is drawn."""
        self._show(status)

    def stop(self) -> None:
        """Remove the line, as the next output may go to the same terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def before_first(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Pass batches on, and remove the line before the first one."""
        for batch in batches:
            self.stop()
            yield batch

    def _show(self, status: Callable[[], str]) -> None:
        if not self.visible:
            return
        self._status = status
        if self._bar is None:
            self._bar = _started_bar(lambda: self._status())
        self._bar.refresh()


def images_status(tally: Tally, total: int | None) -> str:
    """Say how far a run is.

    Args:
        total: images of the run, including those of an earlier run; None if not known.
    """
    seconds = max(time.monotonic() - tally.started, 1e-9)
    done, rate = tally.done + tally.images, tally.images / seconds
    images = f"{done:,} of {counted(total, 'image')}" if total is not None else counted(done, "image")
    parts = [images]
    if tally.images:
        parts.append(f"{rated(rate)} a second")
    if tally.images and total is not None:
        parts.append(f"{duration(max(0, total - done) / rate)} left")
    if tally.errors:
        parts.append(f"{tally.errors.total():,} failed")
    return ", ".join(parts)


def total_of(pictures: "Iterable[Pictures]", tally: Tally, limit: int | None = None) -> Callable[[], int | None]:
    """Give a function that returns the number of images of a run, with those counted before, or None until it is known.

    Args:
        limit: the value of --limit, used as the number until the real one is known.
    """
    before = tally.done + tally.images
    if isinstance(pictures, Listing):
        return lambda: None if pictures.total is None else before + pictures.total
    return lambda: before + sum(map(len, pictures)) if isinstance(pictures, Sequence) else limit


class Listing:
    """Pictures that a thread lists ahead of the consumer, so that their number is known early.

    Args:
        pictures: taken in order; an error that they raise is raised again in its place.
    """

    def __init__(self, pictures: "Iterable[Pictures]") -> None:
        import queue

        self.total: int | None = None
        self._taken = 0
        self._room = threading.Condition()
        self._items: SimpleQueue[Pictures | _End] = queue.SimpleQueue()
        threading.Thread(target=self._list, args=(pictures,), daemon=True).start()

    def __iter__(self) -> "Iterator[Pictures]":
        while not isinstance(item := self._items.get(), _End):
            with self._room:
                self._taken += len(item)
                self._room.notify()
            yield item
        if item.error is not None:
            raise item.error

    def _list(self, pictures: "Iterable[Pictures]") -> None:
        count, error = 0, None
        try:
            for some in pictures:
                count += len(some)
                self._items.put(some)
                with self._room:
                    self._room.wait_for(lambda: count - self._taken < _MOST_LISTED)  # noqa: B023
            self.total = count
        except BaseException as e:  # raised again for the consumer of the pictures
            error = e
        self._items.put(_End(error))


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _started_bar(status: Callable[[], str]) -> "Bar":
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn, SpinnerColumn, Task
    from rich.text import Text

    class Status(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(status())

    bar = Bar(SpinnerColumn(), Status(), console=Console(stderr=True), transient=True, redirect_stdout=False)
    bar.add_task("")
    bar.start()
    return bar
