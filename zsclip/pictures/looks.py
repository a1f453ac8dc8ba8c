"""The looks of many files, taken by a second process while this one looks up and scores the files before them.

Most of the time of `os.stat` goes into Python objects, so threads do not help: two took twice as long as one.
"""

import contextlib
import fcntl
import io
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import cast

from zsclip.pictures import stat_script
from zsclip.pictures.identity import LOOK_BYTES, LOOK_FORMAT
from zsclip.pictures.pictures import Pictures

SOON = 4096  # files before the process is started: with fewer, its start takes longer than they do
_PIPE_BYTES = 1 << 19  # holds several groups; with the usual 64 kB, each process would often wait for the other
_STUCK_SECONDS = 60.0  # without an answer, after which the process is taken to be stopped
_NONE = b"\xff" * LOOK_BYTES  # a look begins with a NUL


@contextmanager
def looking_ahead(pictures: Iterable[Pictures], *, soon: int = SOON) -> Iterator[Iterator[Pictures]]:
    """Give the same pictures; after the first files, another process takes the looks of those that come.

    Their keys must be asked for in order, those of all.
    """
    process = _Process()
    try:
        yield _ahead(pictures, soon, process)
    finally:
        process.end()


def _ahead(pictures: Iterable[Pictures], soon: int, process: "_Process") -> Iterator[Pictures]:
    files = 0
    for some in pictures:
        are_files = some.read is None
        yield replace(some, looks=process.ask(some.names)) if are_files and files >= soon else some
        files += are_files * len(some)


class _Process:
    """A process that takes the looks of files; started when it is asked, and no longer used once anything fails."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_lost = False
        self._writing, self._reading = threading.Lock(), threading.Lock()  # held while the pipes must stay open

    def ask(self, names: Sequence[str]) -> Callable[[], Sequence[bytes | None] | None] | None:
        """Ask for the looks of some files; give what waits for them, or None if this process has to take them."""
        together = "\0".join(names)
        if not names or together.count("\0") != len(names) - 1:
            return None
        data = os.fsencode(together)
        left = memoryview(len(data).to_bytes(stat_script.LENGTH_BYTES, "big") + data)
        with self._writing:
            try:
                while left and not self._is_lost:
                    left = left[cast(io.FileIO, self._started().stdin).write(left) :]
            except (OSError, ValueError):  # it cannot be started, or has ended
                self._is_lost = True
        return None if left else cache(partial(self._answer, len(names)))

    def end(self) -> None:
        """End the process; whoever waits for it gets no looks."""
        self._is_lost = True
        if self._process is not None:
            self._process.kill()
        taken = [lock for lock in (self._writing, self._reading) if lock.acquire(timeout=1)]
        if self._process is not None and len(taken) == 2:  # else it waits for a dead disk, and cannot be ended
            self._process.kill()  # it may have been started a moment ago
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            for pipe in (self._process.stdin, self._process.stdout):
                cast(io.FileIO, pipe).close()
        for lock in taken:
            lock.release()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            if getattr(sys, "frozen", False):
                raise ValueError("sys.executable is the bundled program, not Python")
            # -I and -S: nothing is imported from the current folder, nor from what is installed.
            command = [sys.executable or "", "-I", "-S", str(Path(stat_script.__file__)), LOOK_FORMAT]
            self._process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError, AttributeError):  # not on macOS, or too large for its limits
                    fcntl.fcntl(cast(io.FileIO, pipe), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return self._process

    def _answer(self, count: int) -> Sequence[bytes | None] | None:
        """Give the looks of the files that were asked for next; None in place of one without, or of all."""
        answer, left = bytearray(), count * LOOK_BYTES
        with self._reading, contextlib.suppress(OSError):
            while left and not self._is_lost and (part := self._read(left)):
                answer += part
                left -= len(part)
        if left:
            self._is_lost = True
            return None
        whole = bytes(answer)
        looks = [whole[start : start + LOOK_BYTES] for start in range(0, len(whole), LOOK_BYTES)]
        return [None if look == _NONE else look for look in looks] if _NONE in whole else looks

    def _read(self, most: int) -> bytes:
        """Read a part of an answer; nothing if the process has ended, or is ended as it gives none."""
        process = self._started()
        pipe = cast(io.FileIO, process.stdout)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        if not poll.poll(_STUCK_SECONDS * 1000):
            process.kill()  # or the thread that asks would wait for ever, too
            return b""
        return pipe.read(most)
