"""The log of `zsclip apply`: JSON lines about every step before and after it, so that it can be continued or undone.

A line is written whole or not at all, and before what it announces is done; so a process that is killed at any moment
leaves a log that says which steps may be half done.
"""

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic, sleep
from typing import Any, Literal

from zsclip.errors import InputError, OutputError
from zsclip.pictures.identity import Look

Action = Literal["copy", "move", "link", "tag", "embed"]
State = Literal["begun", "done", "undoing", "undone"]
Key = tuple[Action, str, str]  # of a step: what two runs of one command have in common

_VERSION = 1
_PATIENCE = 1.0  # seconds
_encoded = json.JSONEncoder(separators=(",", ":")).encode
_BEGINNING = b'{"zsclip":"apply"'


@dataclass(frozen=True, slots=True)
class Change:
    """What tags do to a file, and how it was before.

    was: the bytes of a sidecar; None if there was none, or a picture is changed. mtime: of the file, if there was one,
    in nanoseconds. kept: where a picture is kept as it was; "" for a sidecar. made: the digest of the new sidecar. now:
    the new sidecar, or the new XMP of a picture, and tags: what is in it, to be shown; the log has neither.
    """

    was: bytes | None = None
    mtime: int = 0
    kept: str = ""
    made: str = ""
    now: bytes = b""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One file that is copied, moved or linked, or that gets tags.

    source, target: absolute paths; the source of a copy may also be a member of an archive, and that of tags is the
    picture. wanted: the target before it got a number. number: that of the target; 1 means none. size: of the source,
    in bytes; -1 if it is not a file. change: None unless it is about tags.
    """

    action: Action
    source: str
    target: str
    wanted: str
    number: int
    size: int
    change: Change | None = None

    @property
    def key(self) -> Key:
        """The action, the source, and the target before it got a number."""
        return self.action, self.source, self.wanted


@dataclass(slots=True)
class Entry:
    """A step in the log, and what has become of it.

    look: of the target, when the step was done. made: the digest of its content, if it gets tags.
    """

    place: int
    step: Step
    state: State
    look: Look | None = None
    made: str = ""


@dataclass
class ActionLog:
    """The steps of all runs that used one log, in order.

    name: given to this log at random, for temporary files. folders: those that were made, in order. file: an open
    descriptor; None if the log is only read. size: of all whole lines, in bytes. is_new: whether this run created it.
    """

    path: str
    name: str = ""
    entries: list[Entry] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    file: int | None = None
    size: int = 0
    is_new: bool = False
    turn: Lock = field(default_factory=Lock)  # of threads that write

    def temporary(self, entry: Entry, beside: str) -> str:
        """Give the temporary name of a step, in the folder of a file."""
        return os.path.join(os.path.dirname(beside), f".zsclip-{self.name}-{entry.place}.part")

    def begin(self, steps: Sequence[Step], folders: Iterable[str]) -> list[Entry]:
        """Announce steps and the folders that are made for them, and make sure that the disk has that."""
        entries = [Entry(len(self.entries) + place, step, "begun") for place, step in enumerate(steps)]
        folders = list(folders)
        self._write([{"folder": folder} for folder in folders] + list(map(_line, entries)), is_flushed=True)
        self.entries += entries
        self.folders += folders
        return entries

    def note(self, entries: Iterable[Entry], state: State, look: Look | None = None) -> None:
        """Write down what has become of steps."""
        entries = list(entries)
        self._write([{"step": each.place, state: look or True} | _made(each, state) for each in entries])
        for each in entries:
            each.state, each.look = state, look or each.look

    def note_made(self, entry: Entry, digest: str) -> None:
        """Write down the digest of what a step that is under way is about to put at its target."""
        self._write([{"step": entry.place, "made": digest}])
        entry.made = digest

    def note_removed(self, folders: Sequence[str]) -> None:
        """Write down that folders are gone again."""
        self._write([{"folder": folder, "undone": True} for folder in folders])
        self.folders = [folder for folder in self.folders if folder not in {*folders}]

    def close(self) -> None:
        """Close the file; one without any step is deleted."""
        if self.file is not None:
            with suppress(OSError):
                if self.is_new and not self.size:
                    os.unlink(self.path)
            os.close(self.file)
            self.file = None

    def __enter__(self) -> "ActionLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, records: list[dict[str, Any]], *, is_flushed: bool = False) -> None:
        if self.file is None or not records:
            return
        with self.turn:
            self._add(self.file, records, is_flushed=is_flushed)

    def _add(self, file: int, records: list[dict[str, Any]], *, is_flushed: bool) -> None:
        if not self.size:
            records = [{"zsclip": "apply", "version": _VERSION, "name": self.name}, *records]
        data = "".join(_encoded(record) + "\n" for record in records).encode()
        try:
            written = os.write(file, data)
            while written < len(data):
                written += os.write(file, data[written:])
            self.size += len(data)
            if is_flushed:
                _flush(file)
        except OSError as e:
            with suppress(OSError):
                os.ftruncate(file, self.size)
            raise OutputError(
                f"{self.path}: {(e.strerror or str(e)).lower()}; free some space and run the same command again"
            ) from e


def open_log(path: str, *, is_new: bool) -> ActionLog:
    """Open a log, and lock it.

    Args:
        is_new: whether it may have to be created.

    Raises:
        InputError: it is not one, or not there.
        OutputError: it cannot be written, or another process is writing it.
    """
    existed = os.path.lexists(path)
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | (os.O_CREAT if is_new else 0), 0o666)
    except FileNotFoundError as e:
        if is_new:
            raise OutputError(f"{path}: no such file or directory; make its folder first") from e
        raise InputError(f"{path}: no such file; give the log that `zsclip apply` wrote") from e
    except OSError as e:
        raise OutputError(f"{path}: {(e.strerror or str(e)).lower()}; choose another log with --log") from e
    try:
        with suppress(OSError):  # a file system without locks
            _lock(file, path)
        log = read_log(path)
        if log.size < os.fstat(file).st_size:
            os.ftruncate(file, log.size)  # half of a line, about a step that was not begun
        log.file, log.is_new = file, not existed
        return log
    except BaseException:
        os.close(file)
        raise


def _lock(file: int, path: str) -> None:
    """Lock a log; the exiftool of a run that was killed has the lock until it ends, too, which takes a moment."""
    patience = monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            if monotonic() > patience:
                raise OutputError(f"{path}: another run is writing to it; wait for it to end") from e
        sleep(0.05)


def read_log(path: str) -> ActionLog:
    """Read a log without changing it; one that is not there, or was hardly begun, has no steps.

    Raises:
        InputError: it is not one.
    """
    log = ActionLog(path, secrets.token_hex(4))
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        lines = [b""]
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {(e.strerror or str(e)).lower()}") from e
    rest = lines.pop()  # what follows the last line break was not written whole
    log.size = sum(map(len, lines)) + len(lines)
    if not lines and _BEGINNING.startswith(rest[: len(_BEGINNING)]):
        return log
    try:
        header, *records = map(json.loads, lines)
        if (header["zsclip"], header["version"]) != ("apply", _VERSION):
            raise ValueError("not of this version")
        log.name = str(header["name"])
        for record in records:
            _take(log, record)
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise InputError(f"{path}: not a log of `zsclip apply`, or damaged; give another file") from e
    return log


def waiting(log: ActionLog) -> Iterator[Entry]:
    """Yield the steps of which nobody knows whether they were done, because a run was killed."""
    return (entry for entry in log.entries if entry.state in ("begun", "undoing"))


def _flush(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as e:
        if e.errno != errno.EINVAL:  # what is no file, such as /dev/null, cannot be flushed
            raise


def _line(entry: Entry) -> dict[str, Any]:
    step = entry.step
    record = {"step": entry.place, "do": step.action, "from": step.source, "to": step.target, "size": step.size}
    if (change := step.change) is not None:
        was = None if change.was is None else change.was.decode()  # only UTF-8 gets tags
        return record | {"was": was, "mtime": change.mtime, "kept": change.kept, "made": change.made}
    return record if step.number == 1 else record | {"wanted": step.wanted, "number": step.number}


def _made(entry: Entry, state: State) -> dict[str, Any]:
    return {"made": entry.made} if state == "done" and entry.made else {}


def _take(log: ActionLog, record: dict[str, Any]) -> None:
    """Add what a line says."""
    if "folder" in record:
        if record.get("undone"):
            log.folders.remove(record["folder"])
        else:
            log.folders.append(record["folder"])
    elif "do" in record:
        wanted, number = record.get("wanted", record["to"]), record.get("number", 1)
        change = None
        if "kept" in record:
            was = None if record["was"] is None else record["was"].encode()
            change = Change(was, record["mtime"], record["kept"], record["made"])
        step = Step(record["do"], record["from"], record["to"], wanted, number, record["size"], change)
        if record["step"] != len(log.entries):
            raise ValueError("a step is missing")
        log.entries.append(Entry(record["step"], step, "begun"))
    else:
        entry = log.entries[record["step"]]
        entry.made = record.get("made", entry.made)
        for state in ("done", "undoing", "undone"):
            if state in record:
                entry.state = state
                if isinstance(record[state], list):
                    entry.look = Look(*record[state])
