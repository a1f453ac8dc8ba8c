"""Puts tags into sidecars and pictures, and takes them back to the byte.

The log has what was in a sidecar. A picture is kept beside the changed one under another name, as exiftool does.
"""

import errno
import os

from zsclip.out.actionlog import ActionLog, Change, Entry, Step
from zsclip.out.exiftool import ExifTool, packet_file
from zsclip.out.transfer import (
    are_same,
    remove,
    replace_file,
    second_name,
    settle_copy,
    take_place,
    write_file,
)
from zsclip.pictures.identity import Look, content_of


def change_file(entry: Entry, log: ActionLog, exiftool: ExifTool) -> None:
    """Do a step that is about tags, and give its entry the digest of the file that was made.

    Raises:
        Refused: exiftool cannot write to this picture.
        OSError: the file is as it was, and nothing is left behind.
        OutputError: the log cannot be written; likewise.
    """
    step, change = entry.step, _change_of(entry.step)
    temporary = log.temporary(entry, step.target)
    if change.kept:
        _embed(entry, change, log, exiftool)
        return
    if change.was is None:
        write_file(change.now, step.target, temporary)
    elif _content(step.target) != change.was:
        raise OSError(errno.EBUSY, "changed meanwhile; run the same command again", step.target)
    else:
        replace_file(change.now, step.target, temporary)
    entry.made = change.made


def settle_change(entry: Entry, temporary: str) -> bool:
    """Tidy up after a step that was cut off, or its undoing, and say whether it is done now."""
    step = entry.step
    change = _change_of(step)
    if change.kept:
        is_done = _settle_embedded(step, change, temporary)
        if is_done and not entry.made:  # of an older version, which logged this only after the step
            entry.made = _digest(step.target)
        return is_done
    if change.was is None:
        settle_copy(step.target, temporary)
    else:
        remove(temporary)
    if not os.path.isfile(step.target):
        return False
    if entry.state == "begun":  # somebody else may have written to it since
        entry.made = change.made
        return _digest(step.target) == change.made
    return _content(step.target) != change.was


def why_not_taken_back(entry: Entry) -> str | None:
    """Say why a step cannot be taken back; None if it can."""
    step, change = entry.step, _change_of(entry.step)
    try:
        look = Look.of(os.lstat(step.target))
        if look != entry.look and _digest(step.target) != entry.made:
            return "has changed since"
    except (FileNotFoundError, NotADirectoryError):
        return None if change.was is None and not change.kept else "is gone"
    except OSError as e:
        return (e.strerror or str(e)).lower()
    if change.kept and not _is_kept(step, change):
        return f"the original, {change.kept}, is gone or has changed"
    return None


def take_back(step: Step, temporary: str) -> None:
    """Take one step back.

    Raises:
        OSError: the file is as it was.
    """
    change = _change_of(step)
    if change.kept:
        os.replace(change.kept, step.target)
    elif change.was is None:
        os.unlink(step.target)
    else:
        replace_file(change.was, step.target, temporary, change.mtime)


def _embed(entry: Entry, change: Change, log: ActionLog, exiftool: ExifTool) -> None:
    """Let exiftool write a picture with tags, and keep the original.

    What was made is in the log before it takes its place: else, after a kill, nobody could tell it from what another
    program has written there since.
    """
    step, temporary = entry.step, log.temporary(entry, entry.step.target)
    try:
        exiftool.write_packet(step.source, change.now, temporary)
        log.note_made(entry, _digest(temporary))
        second_name(step.source, change.kept, _second(temporary))
    except BaseException:
        remove(temporary)
        raise
    try:
        if not _is_kept(step, change):
            raise OSError(errno.EBUSY, "changed meanwhile; run the same command again", step.source)
        take_place(temporary, step.source)
    except BaseException:
        _settle_embedded(step, change, temporary)
        raise


def _settle_embedded(step: Step, change: Change, temporary: str) -> bool:
    """Remove what a step has made if it has not changed the picture yet, and say whether it has."""
    for made in (temporary, packet_file(temporary), _second(temporary)):
        remove(made)
    if are_same(step.target, change.kept):
        remove(change.kept)
    return _is_kept(step, change)


def _second(temporary: str) -> str:
    return f"{temporary}.original"


def _is_kept(step: Step, change: Change) -> bool:
    """Whether what a step keeps is the picture as it was, not something of others with that name."""
    try:
        status = os.lstat(change.kept)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (step.size, change.mtime)


def _change_of(step: Step) -> Change:
    assert step.change is not None
    return step.change


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _digest(path: str) -> str:
    return content_of(_content(path)).hex()
