"""Delays Ctrl-C, SIGTERM and SIGHUP while a batch is written, so that the counts match the file."""

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Self


class HeldSignals:
    """Hands signals on to whoever handled them before, the first one only when nothing is being written.

    A second signal acts at once, as the reader of a pipe may never take what is left of a batch. A signal that is still
    held at the end is handed on, unless the run failed: then the failure is reported.
    """

    def __init__(self) -> None:
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._is_held = False
        self._waiting: int | None = None

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            if callable(before):  # else it is ignored, as nohup asks, or ends the process
                with suppress(ValueError):  # outside the main thread, signals are not ours
                    signal.signal(number, self._handle)
                    self._before[number] = before
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if error is not None and not isinstance(error, BrokenPipeError):  # a closed pipe is no failure
            self._waiting = None
        self.let_go()

    def hold(self) -> None:
        """Let the next signal wait."""
        self._is_held = True

    def let_go(self) -> None:
        """Hand on the signal that waits, if there is one; it usually raises."""
        self._is_held = False
        number, self._waiting = self._waiting, None
        if number is not None:
            self._before[number](number, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_held and self._waiting is None:
            self._waiting = number
        else:
            self._before[number](number, frame)
