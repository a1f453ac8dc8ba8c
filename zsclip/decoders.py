"""Small pictures decoded in processes of their own: the threads of one interpreter wait for each other's Python.

That is a tenth of the time that a picture of 500 x 375 takes, so that ten threads are as fast as two hundred. What such
a process does not manage, for whatever reason, is decoded as if there were none; so all errors are told in one place.
"""

import contextlib
import fcntl
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import numpy as np
from numpy.typing import NDArray

from zsclip.batches import available_cpus
from zsclip.decode import Decoding, Preprocess, set_up_pillow, to_pixels, upright

MANY_THREADS = 4  # one interpreter keeps so many busy
SOON = 256  # pictures, before processes are started: that takes a quarter of a second
SMALL_BYTES, SMALL_PIXELS = 2_000_000, 2_500_000  # of larger pictures little time is Python's, and they need a budget
CPU_SECONDS = 5  # after which a process is ended
_PIPE_BYTES = 1 << 19  # a picture in either direction; the usual 64 kB would be filled and emptied in turn

Decode = Callable[[bytes], NDArray[np.uint8]]


@contextmanager
def decoders(preprocess: Preprocess, decoding: Decoding, threads: int) -> Iterator[Decode]:
    """Give a function, file's bytes -> (3, H, W) uint8, that so many threads may call. It raises what decoding raises.

    Beyond a few threads and after some hundred pictures small ones go to processes, as many as processors.
    """
    set_up_pillow(decoding.max_pixels)
    places: SimpleQueue[_Process | None] = SimpleQueue()  # idle ones, and None for each that may be started
    for _ in range(min(threads, available_cpus())):
        places.put(None)
    started: set[_Process] = set()
    closed = threading.Event()
    seen = itertools.count()

    def elsewhere(data: bytes) -> NDArray[np.uint8] | None:
        process = places.get()
        try:
            if closed.is_set():
                return None
            if process is None:
                process = _Process(preprocess, decoding)
                started.add(process)
            if closed.is_set():  # only now
                process.end()
            return process.decode(data)
        except OSError:  # it has ended, or there is no room for another
            if process is not None:
                process.end()
                started.discard(process)
                process = None
            return None
        finally:
            places.put(process)

    def decode(data: bytes) -> NDArray[np.uint8]:
        is_small = len(data) <= SMALL_BYTES
        pixels = elsewhere(data) if is_small and threads > MANY_THREADS and next(seen) >= SOON else None
        return _decode(data, preprocess, decoding) if pixels is None else pixels

    try:
        yield decode
    finally:
        closed.set()
        for process in list(started):
            process.end()


class _Process:
    """A process that decodes what it is sent, until nobody can send it anything any more."""

    def __init__(self, preprocess: Preprocess, decoding: Decoding) -> None:
        self._shape = (3, *preprocess.size)
        settings = json.dumps([asdict(preprocess), decoding.max_pixels, decoding.fast_jpeg, CPU_SECONDS])
        # -P: nothing of the current folder is imported. A session of its own: Ctrl-C is not for it.
        command = [sys.executable, "-P", "-c", "from zsclip.decoders import main; main()", settings]
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, cast(io.BufferedReader, self._process.stdout)
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError, AttributeError):  # no such thing on macOS, or no room for so much
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def decode(self, data: bytes) -> NDArray[np.uint8] | None:
        """Give the pixels, or None where it does not manage; OSError where it has ended."""
        self._to.write(len(data).to_bytes(4, "big"))
        self._to.write(data)
        self._to.flush()
        if not (answer := self._from.read(1)):
            raise BrokenPipeError("it has ended")
        if answer == b"n":
            return None
        pixels = np.empty(self._shape, np.uint8)
        if self._from.readinto(pixels.data.cast("B")) < pixels.nbytes:
            raise BrokenPipeError("it has ended")
        return pixels

    def end(self) -> None:
        """End it; a thread that waits for its answer gets an OSError."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):  # what it has not read
                pipe.close()


def main() -> None:
    """Decode what comes from stdin, as _Process sends it: a length in four bytes, then a file."""
    fields, max_pixels, fast_jpeg, cpu_seconds = json.loads(sys.argv[1])
    preprocess = Preprocess(**fields | {name: tuple(fields[name]) for name in ("size", "mean", "std")})
    decoding = Decoding(min(max_pixels, SMALL_PIXELS), fast_jpeg)
    set_up_pillow(max_pixels)
    read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
    while len(length := read(4)) == 4:
        data = read(int.from_bytes(length, "big"))
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            pixels = _decode(data, preprocess, decoding)
        except Exception:  # decoders raise anything at all; it is found again where it is told
            write(b"n")
        else:
            write(b"y")
            write(pixels.data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.flush()


def _decode(data: bytes, preprocess: Preprocess, decoding: Decoding) -> NDArray[np.uint8]:
    with upright(io.BytesIO(data), decoding, preprocess) as image:
        return to_pixels(image, preprocess)
