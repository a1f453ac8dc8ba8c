"""Claims: which of several processes works on which shard. They share nothing but a folder.

A claim is a file `NAME.0` that only one process can create, and that it touches as long as it works. A process that is
killed leaves it behind; whoever sees that creates `NAME.1`, which again only one can. Nothing is ever taken away from
a process that works, so no moment is a bad one to be killed.

Beside the claims lies `run`, with the settings of those that work there, and `overwrite`, as old as the run that writes
all parts again: both names without a dot, which every claim has.
"""

import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zsclip.errors import OutputError

EXPIRY_SECONDS = 300.0  # for processes of other machines; those of this one are looked up
_BEATS = 10  # within that time
_RUN, _OVERWRITE = "run", "overwrite"
_PATIENCE_SECONDS = 1.0  # for a file that has been created, but not written yet


class Claims:
    """The claims in a folder.

    Args:
        folder: made when it is needed, and removed when it is empty.
        run: a name for processes that belong together, of which something else makes sure that only one works on a
            shard at a time: a claim of the same name is left. Empty for a process that belongs to none.
        expiry_seconds: after this time without a touch, a claim of another machine is taken over.
    """

    def __init__(self, folder: str, *, run: str = "", expiry_seconds: float = EXPIRY_SECONDS) -> None:
        self._folder = folder
        self._expiry = expiry_seconds
        self._run = run
        self._machine = _machine()

    @contextmanager
    def take(self, name: str) -> Iterator[str | None]:
        """Claim a shard; give the path of a temporary file for what is made of it, or None if it is claimed already."""
        try:
            claim = self._take(name)
        except OSError as e:
            raise self.unwritable(e) from e
        if claim is None:
            yield None
            return
        ended = threading.Event()
        try:
            threading.Thread(target=self._beat, args=(claim, ended), daemon=True).start()
            yield f"{claim}.part"
        finally:
            ended.set()
            for file in (f"{claim}.part", claim):
                with suppress(OSError):
                    os.unlink(file)

    def given_up(self, name: str) -> int:
        """Count the processes of this run that have ended while they worked on a shard; asked before it is taken."""
        claims = [self._path(name, generation) for generation in self._generations(name)]
        return sum(self._owner(claim).get("run") == self._run for claim in claims)

    def clean(self, name: str) -> None:
        """Remove what processes that were killed have left of a shard that is complete."""
        for file in self._files(name):
            with suppress(OSError):
                os.unlink(os.path.join(self._folder, file))

    def names(self) -> set[str]:
        """Give the shards that have claims."""
        return {found[1] for file in self._claims() if (found := _CLAIM.fullmatch(file))}

    def _claims(self) -> list[str]:
        """List the claims of all shards; none if another process has just removed the folder."""
        with suppress(FileNotFoundError):
            return [file for file in os.listdir(self._folder) if _CLAIM.fullmatch(file)]
        return []

    def unwritable(self, e: OSError) -> OutputError:
        """Say why nothing can be written here."""
        why = (e.strerror or str(e)).lower()
        return OutputError(f"{self._folder}: {why}; choose a place that you can write to")

    def join(self, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Say with which settings this process works here; give those of others that work with other ones, else None.

        Args:
            settings: as JSON gives them.
        """
        mark = os.path.join(self._folder, _RUN)
        while (descriptor := self._new(mark)) is None:
            theirs = self._settings(mark)
            if theirs == settings:
                return None
            marks = [os.path.join(self._folder, file) for file in (_RUN, *self._claims())]
            if theirs is not None and not all(map(self._is_left, marks)):
                return theirs
            with suppress(FileNotFoundError):
                os.unlink(mark)  # they were killed
        with open(descriptor, "w") as file:
            json.dump(self._me() | {"settings": settings}, file)
        return None

    def began(self) -> int:
        """Give the time in nanoseconds by the clock of the file system."""
        while True:
            self._make_folder()
            with (
                suppress(FileNotFoundError),  # the process that was the last one here has just removed the folder
                tempfile.TemporaryFile(dir=self._folder) as file,
            ):
                return os.fstat(file.fileno()).st_mtime_ns

    def overwriting_since(self, *, is_begun: bool) -> int | None:
        """Give when the run that writes all parts again was begun, whoever did it, in nanoseconds; None if it was not.

        Args:
            is_begun: begin it now, if that is so.
        """
        mark = os.path.join(self._folder, _OVERWRITE)
        if is_begun and (descriptor := self._new(mark)) is not None:
            os.close(descriptor)
        with suppress(FileNotFoundError):
            return os.stat(mark).st_mtime_ns
        return None

    def close(self, *, is_done: bool = True) -> None:
        """Remove the folder if nobody has a claim in it.

        Args:
            is_done: nothing is left to do; else what the same command needs to continue is kept.
        """
        with suppress(OSError):
            mark = os.path.join(self._folder, _RUN)
            if self.names():
                return
            if is_done or self._owner(mark).get("pid") == os.getpid():
                with suppress(FileNotFoundError):
                    os.unlink(mark)
            if is_done:
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, _OVERWRITE))
            os.rmdir(self._folder)

    def _settings(self, mark: str) -> Mapping[str, Any] | None:
        """Read the settings in a mark; None if its owner was killed before it wrote them, or it has gone."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (owner := self._owner(mark)) and os.path.exists(mark) and time.monotonic() < deadline:
            time.sleep(0.01)
        found = owner.get("settings")
        return found if isinstance(found, dict) else None

    def _me(self) -> dict[str, object]:
        pid = os.getpid()
        return {"machine": self._machine, "pid": pid, "started": _started(pid), "run": self._run}

    def _take(self, name: str) -> str | None:
        generations = self._generations(name)
        if generations and not self._is_left(self._path(name, generations[-1])):
            return None
        claim = self._path(name, generations[-1] + 1 if generations else 0)
        if (descriptor := self._new(claim)) is None:
            return None
        try:
            with open(descriptor, "w") as file:
                json.dump(self._me(), file)
        except BaseException:  # an interruption
            os.unlink(claim)
            raise
        return claim

    def _new(self, path: str) -> int | None:
        """Create a file here; give its descriptor, or None if there is one already."""
        while True:
            self._make_folder()
            try:
                return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                return None
            except FileNotFoundError:  # the process that was the last one here has just removed the folder
                continue

    def _make_folder(self) -> None:
        with suppress(FileExistsError):  # exist_ok raises this if another process removes the folder at this moment
            os.makedirs(self._folder)

    def _path(self, name: str, generation: int) -> str:
        return os.path.join(self._folder, f"{name}.{generation}")

    def _files(self, name: str) -> list[str]:
        with suppress(FileNotFoundError):
            return [file for file in os.listdir(self._folder) if file.startswith(f"{name}.")]
        return []

    def _generations(self, name: str) -> list[int]:
        """Give the numbers of a shard's claims, ascending; only the last one counts."""
        found = (_CLAIM.fullmatch(file) for file in self._files(name))
        return sorted(int(each[2]) for each in found if each and each[1] == name)

    def _owner(self, claim: str) -> dict[str, object]:
        try:
            owner = json.loads(Path(claim).read_text())
        except (OSError, ValueError):  # its owner is about to write it, or was killed before
            return {}
        return owner if isinstance(owner, dict) else {}

    def _is_left(self, claim: str) -> bool:
        """Whether the process that made a claim works no longer."""
        owner = self._owner(claim)
        if self._run and owner.get("run") == self._run:
            return True
        if self._machine and owner.get("machine") == self._machine:
            return _started(owner.get("pid")) != owner.get("started")
        try:
            return self._now() - os.stat(claim).st_mtime > self._expiry
        except FileNotFoundError:  # it has just ended
            return True

    def _now(self) -> float:
        """Give the time by the clock of the file system, as those of the machines may differ."""
        with tempfile.TemporaryFile(dir=self._folder) as file:
            return os.fstat(file.fileno()).st_mtime

    def _beat(self, claim: str, ended: threading.Event) -> None:
        while not ended.wait(self._expiry / _BEATS):
            with suppress(OSError):
                os.utime(claim)


_CLAIM = re.compile(r"(.+)\.(\d+)")


def _machine() -> str:
    """Identify this machine, and its numbering of processes; "" if that cannot be seen."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    return ""


def _started(pid: object) -> str | None:
    """Give when a process was started, as a number is used again; None if it runs no longer."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None
