"""Does what a plan says, writes down every step, and can take all of it back."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from threading import Event

from zsclip.errors import OutputError
from zsclip.out.actionlog import ActionLog, Entry, Key, Step, waiting
from zsclip.out.change import change_file, settle_change, take_back, why_not_taken_back
from zsclip.out.exiftool import ExifTool
from zsclip.out.plan import Opens
from zsclip.out.transfer import (
    are_same,
    copy_file,
    link_file,
    move_file,
    same_contents,
    settle_copy,
    settle_move,
    write_file,
)
from zsclip.pictures.identity import Look
from zsclip.pictures.refused import Refused

_AT_ONCE = 256  # steps that are announced together, as the disk is waited for each time
_EACH = 32  # pictures that one of the threads deals with at a time
_THREADS = 4  # file systems spend most of the time waiting
_FULL = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some space", errno.EROFS: "choose another folder"}


@dataclass
class Outcome:
    """What was done. left: files that were left as they are, and why."""

    done: Counter[str] = field(default_factory=Counter)
    left: list[tuple[str, str]] = field(default_factory=list)


def done_before(log: ActionLog) -> dict[Key, Entry]:
    """Give the steps of earlier runs whose files are still where they were put."""
    return {each.step.key: each for each in log.entries if each.state == "done" and os.path.lexists(each.step.target)}


def settle(log: ActionLog, opens: Opens) -> None:
    """Find out what has become of the steps that were under way when a run was killed, and tidy up after them."""
    for entry in list(waiting(log)):
        step = entry.step
        if step.change is not None:
            is_done = settle_change(entry, log.temporary(entry, step.target))
        elif step.action == "move":
            there, back = step.target, step.source
            if entry.state == "undoing":
                is_done = not settle_move(there, back, log.temporary(entry, back))
            else:
                is_done = settle_move(back, there, log.temporary(entry, there))
        elif entry.state == "undoing":
            is_done = os.path.lexists(step.target)
        elif step.action == "link":
            is_done = _leads_to(step.target, step.source)
        else:
            is_whole = settle_copy(step.target, log.temporary(entry, step.target))
            is_done = _is_copy(step, opens) if is_whole is None else is_whole
        # A second name, given and taken, shows in the times of a file. Tags may be those of another program by now.
        is_touched = step.action == "move" or (entry.look is None and step.change is None)
        log.note([entry], "done" if is_done else "undone", _look(step.target) if is_done and is_touched else None)


def act(groups: Iterable[Sequence[Step]], log: ActionLog, opens: Opens, exiftool: ExifTool, outcome: Outcome) -> None:
    """Do all steps. If one fails, the files that go with the same picture stay where they are, too.

    Args:
        opens: opens a member of an archive. exiftool: writes tags into pictures. outcome: counts each step.

    Raises:
        OutputError: the disk is full, or the log cannot be written. What was done is in the log.
    """
    with ThreadPoolExecutor(_THREADS) as pool, _stopping() as stopped:
        for some in _batches(groups):
            folders = _missing_folders(step.target for group in some for step in group)
            entries = iter(log.begin([step for group in some for step in group], folders))
            for folder in folders:
                try:
                    os.mkdir(folder)
                except OSError as e:
                    _reason(e, folder)  # unless the disk is full, its files will say so
            begun = [[next(entries) for _ in group] for group in some]
            parts = [begun[start : start + _EACH] for start in range(0, len(begun), _EACH)]
            reasons = pool.map(lambda part: _all_done(part, log, opens, exiftool, stopped), parts)
            for part, whys in zip(parts, reasons, strict=True):
                for entry, why in zip(chain.from_iterable(part), whys, strict=True):
                    if why is None:
                        log.note([entry], "done", _look(entry.step.target))
                        outcome.done[entry.step.action] += 1
                    else:
                        log.note([entry], "undone")
                        outcome.left.append((entry.step.source, why))


def undo(log: ActionLog, opens: Opens, outcome: Outcome) -> None:
    """Take back every step, the last one first; files that have changed since stay as they are.

    Raises:
        OutputError: the log cannot be written.
    """
    settle(log, opens)
    left: dict[tuple[str, str], None] = {}  # each file once, though several runs may have changed it
    for entry in [entry for entry in reversed(log.entries) if entry.state == "done"]:
        why = _why_not_undone(entry)
        if why is None:
            with suppress(OutputError):  # on a full disk, this makes room
                log.note([entry], "undoing")
            why = _undone(entry, log)
            log.note([entry], "undone" if why is None else "done")
        if why is None:
            outcome.done[entry.step.action] += 1
        else:
            left[entry.step.target, why] = None
    outcome.left += left
    for folder in reversed(log.folders):
        with suppress(OSError):  # others have put something there, or it is gone
            os.rmdir(folder)
    log.note_removed([folder for folder in log.folders if not os.path.lexists(folder)])


@contextmanager
def _stopping() -> Iterator[Event]:
    """Give an event that is set when the block fails or is interrupted: then threads leave the rest of their work."""
    stopped = Event()
    try:
        yield stopped
    except BaseException:
        stopped.set()
        raise


def _all_done(
    groups: Sequence[Sequence[Entry]], log: ActionLog, opens: Opens, exiftool: ExifTool, stopped: Event
) -> list[str | None]:
    """Do the steps of some pictures; for each one that is impossible, say why."""
    whys: list[str | None] = []
    for group in groups:
        if stopped.is_set():
            break
        why = None
        for entry in group:
            why = _done(entry, log, opens, exiftool) if why is None else "stays with its picture"
            whys.append(why)
    return whys


def _done(entry: Entry, log: ActionLog, opens: Opens, exiftool: ExifTool) -> str | None:
    """Do one step; if that is impossible, say why."""
    step, temporary = entry.step, log.temporary(entry, entry.step.target)
    try:
        if step.change is not None:
            change_file(entry, log, exiftool)
        elif step.action == "move":
            move_file(step.source, step.target, temporary)
        elif step.action == "link":
            link_file(step.source, step.target)
        elif "#" not in step.source or os.path.lexists(step.source):
            copy_file(step.source, step.target, temporary)
        else:
            with opens(step.source) as file:
                write_file(file, step.target, temporary)
    except Refused as e:
        return e.message
    except FileExistsError:
        return f"{step.target} has just been created by another program; run the same command again"
    except FileNotFoundError:
        return "no such file any more" if not os.path.lexists(step.source) else "its new folder cannot be made"
    except OSError as e:
        return _reason(e, step.target)
    return None


def _why_not_undone(entry: Entry) -> str | None:
    """Say why a step cannot be taken back; None if it can."""
    step = entry.step
    if step.change is not None:
        return why_not_taken_back(entry)
    try:
        look = Look.of(os.lstat(step.target))
    except (FileNotFoundError, NotADirectoryError):
        return None if step.action != "move" or os.path.lexists(step.source) else "is gone"
    except OSError as e:
        return (e.strerror or str(e)).lower()
    if step.action == "link":
        return None if _leads_to(step.target, step.source) else "has changed since"
    if step.action == "copy":
        if not os.path.exists(step.source) and not os.path.isfile(step.source.rpartition("#")[0]):
            return "its original is gone, so the copy stays"
        return None if look == entry.look or are_same(step.source, step.target) else "has changed since"
    if look != entry.look:
        return "has changed since"
    return f"{step.source} exists again" if os.path.lexists(step.source) else None


def _undone(entry: Entry, log: ActionLog) -> str | None:
    """Take one step back; if that is impossible, say why."""
    step = entry.step
    try:
        if step.change is not None:
            take_back(step, log.temporary(entry, step.target))
        elif step.action != "move":
            os.unlink(step.target)
        elif os.path.lexists(step.target):
            os.makedirs(os.path.dirname(step.source), exist_ok=True)
            move_file(step.target, step.source, log.temporary(entry, step.source))
    except FileNotFoundError:  # it is gone already
        return None if step.action != "move" or os.path.lexists(step.source) else "is gone"
    except OSError as e:
        return _reason(e, step.target)
    return None


def _reason(e: OSError, place: str) -> str:
    """Say why a step failed; if all others would fail, too, end the run."""
    if e.errno is not None and e.errno in _FULL:
        what = (e.strerror or str(e)).lower()
        raise OutputError(f"{place}: {what}; {_FULL[e.errno]} and run the same command again") from e
    return (e.strerror or str(e)).lower()


def _batches(groups: Iterable[Sequence[Step]]) -> Iterator[list[Sequence[Step]]]:
    some: list[Sequence[Step]] = []
    for group in groups:
        some.append(group)
        if sum(map(len, some)) >= _AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _missing_folders(targets: Iterable[str]) -> list[str]:
    """Give the folders that have to be made for some files, outer ones first."""
    missing: dict[str, None] = {}
    for folder in dict.fromkeys(map(os.path.dirname, targets)):
        chain = []
        while folder not in missing and not os.path.lexists(folder):
            chain.append(folder)
            folder = os.path.dirname(folder)
        missing.update(dict.fromkeys(reversed(chain)))
    return list(missing)


def _look(path: str) -> Look | None:
    try:
        return Look.of(os.lstat(path))
    except OSError:
        return None


def _leads_to(link: str, target: str) -> bool:
    try:
        return os.readlink(link) == target
    except OSError:
        return False


def _is_copy(step: Step, opens: Opens) -> bool:
    """Whether what is at the target of a copy has the bytes of its source."""
    if os.path.lexists(step.source):
        return are_same(step.source, step.target)
    try:
        with opens(step.source) as one, open(step.target, "rb") as other:
            return same_contents(one, other)
    except (OSError, Refused):
        return False
