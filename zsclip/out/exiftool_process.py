"""A process of exiftool that answers one command after the other. What the commands do is not its concern."""

import os
import re
import secrets
import selectors
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

# At the end of its input, exiftool waits for more; so when zsclip is killed, `cat` ends and takes exiftool with it.
# When exiftool is killed, `cat` ends, too: nobody is left who holds the pipes open. `0` is all of their group.
_TOGETHER = '{ cat; kill -9 0; } | { "$@"; kill -9 0; }'
_CHUNK = 1 << 16


class Died(Exception):
    """Raised when exiftool ended before it answered, with what it said."""


class ExifToolProcess:
    """A running exiftool.

    Args:
        program: its path.
        inherited: descriptors that stay open as long as it runs.
    """

    def __init__(self, program: str, inherited: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", _TOGETHER, "sh", program, "-config", "", "-stay_open", "True", "-@", "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            pass_fds=inherited, start_new_session=True,  # Ctrl-C is for zsclip alone
        )  # fmt: skip

    def ask(self, options: Sequence[str], seconds: float) -> tuple[int, bytes, bytes]:
        """Let it execute a command, and give its exit status, output and errors.

        Args:
            options: none has a line break in it, or begins with white space or `#`.

        Raises:
            TimeoutError: it takes too long.
            Died: it ended.
        """
        number = secrets.randbits(63)  # no picture can guess it, so nothing in one is taken for the end of the output
        lines = [*options, "-echo4", f"{{{number} ${{status}}}}", f"-execute{number}"]
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(os.fsencode("".join(f"{line}\n" for line in lines)))
        except BrokenPipeError as e:
            raise Died("") from e
        return self._answer(b"{ready%d}\n" % number, re.compile(rb"\{%d (\d+)\}\n\Z" % number), seconds)

    def _answer(self, end: bytes, status: re.Pattern[bytes], seconds: float) -> tuple[int, bytes, bytes]:
        """Read output up to its end, and errors up to the status after them."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        deadline = monotonic() + seconds
        out, errors = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ, out)
            selector.register(self._process.stderr, selectors.EVENT_READ, errors)
            while not (out.endswith(end) and (found := status.search(errors))):
                ready = selector.select(max(deadline - monotonic(), 0))
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    some = os.read(key.fd, _CHUNK)
                    if not some:
                        raise Died(os.fsdecode(bytes(errors)))
                    key.data.extend(some)
        return int(found[1]), bytes(out.removesuffix(end)), bytes(errors[: found.start()])

    def close(self) -> None:
        """End it, whatever it does at the moment."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(OSError):
                stream.close()
        self._process.wait()
