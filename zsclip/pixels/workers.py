"""Read and decode small pictures in processes, as the threads of one interpreter wait for each other's Python code.

Python code is a tenth of the time of a picture of 500 x 375, so ten threads are as fast as two hundred. A picture that
a process cannot handle, for any reason, is decoded in this one; so all errors are reported in one place.
"""

import contextlib
import fcntl
import io
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import cast

import numpy as np
from numpy.typing import NDArray

from zsclip.pictures.identity import LOOK_BYTES, Sight, content_of, file_key, settled_key
from zsclip.pixels.decode import decode_file
from zsclip.pixels.fit import Preprocess
from zsclip.pixels.limits import Decoding
from zsclip.pixels.processors import available_cpus
from zsclip.pixels.reasons import check_file

FEW = 4  # threads or processors that one interpreter can keep busy
SOON = 256  # pictures before processes are started, which takes a quarter of a second
SMALL_BYTES, SMALL_PIXELS = 2_000_000, 2_500_000  # larger pictures spend little time in Python, and need a budget
MAX_WORKERS = 64  # each needs 40 MB and, with its thread, four file descriptors of perhaps 1,024
PATIENCE = 2.0  # seconds that a thread waits for an idle process
WORKER_CPU_SECONDS = 5  # CPU time of a process for one picture; then it is ended
_PIPE_BYTES = 1 << 19  # holds a picture; the usual 64 kB would fill and drain many times
_LENGTH = struct.Struct("<I")
_SEEN = struct.Struct(f"<?{LOOK_BYTES}s32s")  # whether it has a key; the look in that; its content

Elsewhere = Callable[[str], tuple[NDArray[np.uint8], Sight] | None]


@contextmanager
def worker_pool(
    preprocess: Preprocess,
    decoding: Decoding,
    threads: int,
    *,
    processes: int | None = None,
    soon: int = SOON,
    patience: float = PATIENCE,
    start: "Callable[[Preprocess, Decoding], _Process] | None" = None,
) -> Iterator[Elsewhere]:
    """Give a function for this many threads: path -> (3, H, W) uint8 and the content read, or None to decode here.

    It gives None with few threads or processors, for the first few hundred pictures, and for large ones.

    Args:
        processes: the most to start; None: see `processes_for`.
        soon: the number of pictures that are left to the threads first.
        patience: seconds that a thread waits for an idle process.
        start: starts a process.
    """
    places: SimpleQueue[_Process | None] = SimpleQueue()  # idle processes, and None for each that may be started
    count = processes_for(threads) if processes is None else processes
    for _ in range(count):
        places.put(None)
    started: set[_Process] = set()
    closed = threading.Event()
    seen = itertools.count()
    wait_seconds = patience

    def elsewhere(path: str) -> tuple[NDArray[np.uint8], Sight] | None:
        nonlocal wait_seconds
        if not count or next(seen) < soon:
            return None
        try:
            process = places.get(timeout=wait_seconds)
            wait_seconds = patience
        except Empty:  # none works, or all hang on files that never arrive; later pictures need not wait again
            wait_seconds = 0.0
            return None
        is_lost = False
        try:
            if closed.is_set():
                return None
            if process is None:
                process = (start or _Process)(preprocess, decoding)
                started.add(process)
            if closed.is_set():  # closed meanwhile
                process.end()
            return process.decode(path)
        except Exception:  # its late output must not be taken for the answer to the next picture
            is_lost = process is None or not process.has_answered  # no process can be started, or none works
            if process is not None:
                process.end()
                started.discard(process)
                process = None
            return None
        finally:
            if not is_lost:
                places.put(process)

    try:
        yield elsewhere
    finally:
        closed.set()
        for process in list(started):
            process.end()


def processes_for(threads: int, cpus: int | None = None) -> int:
    """Count the processes worth starting for this many threads and processors; None: all processors here."""
    count = min(threads, available_cpus() if cpus is None else cpus, MAX_WORKERS)
    return count if count > FEW else 0


def read_file(path: str, most_bytes: int) -> tuple[bytes, Sight] | None:
    """Read a file and its identity; None if it is too large.

    Raises:
        Exception: it cannot be read, or must not be.
    """
    check_file(path)
    with open(path, "rb") as file:
        status, now = os.fstat(file.fileno()), time.time_ns()
        data = file.read(most_bytes + 1) if status.st_size <= most_bytes else None
    if data is None or len(data) > most_bytes:
        return None
    return data, Sight(path, content_of(data), settled_key(path, status, now))  # a change from here on shows


class _Process:
    """A process that decodes the files it is sent, until its input is closed."""

    def __init__(self, preprocess: Preprocess, decoding: Decoding, *, cpu_seconds: float = WORKER_CPU_SECONDS) -> None:
        self._shape = (3, *preprocess.size)
        self.has_answered = False
        settings = json.dumps([asdict(preprocess), decoding.max_pixels, decoding.fast_jpeg, cpu_seconds])
        # -P: import nothing from the current folder. This package's folder comes last, as it may hold other packages.
        code = "import sys; sys.path.append(sys.argv[1]); from zsclip.pixels.workers import main; main(sys.argv[2])"
        command = [sys.executable, "-P", "-c", code, str(Path(__file__).parents[2]), settings]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        self._to, self._from = self._process.stdin, cast(io.BufferedReader, self._process.stdout)
        with contextlib.suppress(OSError, AttributeError):  # not on macOS, or too large for its limits
            fcntl.fcntl(self._from, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def decode(self, path: str) -> tuple[NDArray[np.uint8], Sight] | None:
        """Give the pixels and the content read, or None if it fails; raise OSError if the process has ended."""
        name = os.fsencode(path)
        self._to.write(_LENGTH.pack(len(name)) + name)
        self._to.flush()
        answer = self._read(1)
        self.has_answered = True
        if answer == b"n":
            return None
        if answer != b"y":
            raise BrokenPipeError("that is no answer")
        is_old, look, content = _SEEN.unpack(self._read(_SEEN.size))
        pixels = np.empty(self._shape, np.uint8)
        if self._from.readinto(pixels.data.cast("B")) < pixels.nbytes:
            raise BrokenPipeError("it has ended")
        return pixels, Sight(path, content, file_key(path, look) if is_old else None)

    def _read(self, count: int) -> bytes:
        if len(data := self._from.read(count)) < count:
            raise BrokenPipeError("it has ended")
        return data

    def end(self) -> None:
        """End the process; a thread that waits for its answer gets an OSError."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process that waits for a dead disk cannot be ended
            self._process.wait(1)
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):  # input that it has not read
                pipe.close()


def main(settings: str) -> None:
    """Decode the files that stdin names as _Process writes them: a length, then a path."""
    fields, max_pixels, fast_jpeg, cpu_seconds = json.loads(settings)
    preprocess = Preprocess(**fields | {name: tuple(fields[name]) for name in ("size", "mean", "std")})
    decoding = Decoding(min(max_pixels, SMALL_PIXELS), fast_jpeg)
    read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
    while len(length := read(_LENGTH.size)) == _LENGTH.size:
        path = os.fsdecode(read(*_LENGTH.unpack(length)))
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            if (done := read_file(path, SMALL_BYTES)) is None:
                write(b"n")
            else:
                data, sight = done
                pixels = decode_file(io.BytesIO(data), preprocess, decoding)
                write(b"y" + _SEEN.pack(sight.key is not None, (sight.key or b"")[-LOOK_BYTES:], sight.content))
                write(pixels.data)
        except Exception:  # decoders raise anything at all; decoding it again in the main process reports it
            write(b"n")
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.flush()
