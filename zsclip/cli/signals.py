"""Makes sure that Ctrl-C, SIGTERM and SIGHUP end a run, whatever it is doing when they arrive."""

import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_AGAIN_SECONDS = 0.5
EXPLAINED = "how to go on has been said"  # a note on an exception
_ENDED_BY = {129: "hung up", 130: "interrupted", 143: "terminated"}
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C."""


class Terminated(SystemExit):
    """SIGTERM or SIGHUP; its code is 128 + the signal's number."""


def how_ended(error: BaseException) -> str:
    """Say in a word by which signal an exception ends the run; empty if by none."""
    code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "code", None)
    return _ENDED_BY.get(code, "") if isinstance(code, int) else ""


@contextmanager
def ending_signals() -> Iterator[list[int]]:
    """Raise `Interrupted` or `Terminated` when a signal arrives, and again if some code swallows that.

    A compiled extension that is being imported may clear any exception, and the run would go on. An exception that
    nobody refers to any more while the block still runs was swallowed.

    Yields:
        The numbers of the signals that have arrived. A signal that was ignored before, as under nohup, stays ignored.
    """
    received: list[int] = []
    raised: weakref.ref[BaseException] | None = None

    def exception() -> BaseException:  # not made in the handlers: their frames, in its traceback, would keep it alive
        nonlocal raised
        error = Interrupted() if received[-1] == signal.SIGINT else Terminated(128 + received[-1])
        raised = weakref.ref(error)
        return error

    def arrive(number: int, frame: object) -> None:
        received.append(number)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
        raise exception()

    def look(number: int, frame: object) -> None:
        if raised is None or raised() is None:
            raise exception()

    before = {}
    with suppress(ValueError):  # raised outside the main thread: another program calls us, and owns the signals
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, arrive)
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, look)
    try:
        yield received
    finally:
        if before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
