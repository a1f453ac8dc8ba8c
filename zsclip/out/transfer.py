"""Copies, moves and links files. Only tags replace a file, and at no moment is a file in no place.

A file gets its name by a hard link, which fails where the name is taken. Whatever is written goes to a temporary
sibling first, so that a process killed at any moment leaves either nothing under the new name or all of the file.
"""

import errno
import os
import stat
from contextlib import suppress
from typing import BinaryIO

from zsclip.kept.folders import flush_folder

_CHUNK = 1 << 20
# What file systems say that have no hard links, or none for this file: FAT, some network shares, files of others.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_NO_COPIES = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}  # of copy_file_range


def copy_file(source: str, target: str, temporary: str) -> None:
    """Copy a file with its times, mode and extended attributes.

    Args:
        temporary: an unused name in the folder of the target.

    Raises:
        FileExistsError: the target exists.
        OSError: anything else; nothing is left behind.
    """
    try:
        _copy(source, temporary)
        _give_name(temporary, target)
    except BaseException:
        remove(temporary)
        raise


def write_file(data: bytes | BinaryIO, target: str, temporary: str) -> None:
    """Write a new file; see `copy_file`."""
    try:
        with open(temporary, "xb") as out:
            if isinstance(data, bytes):
                out.write(data)
            else:
                while some := data.read(_CHUNK):
                    out.write(some)
        _give_name(temporary, target)
    except BaseException:
        remove(temporary)
        raise


def link_file(source: str, target: str) -> None:
    """Make a symbolic link to a file, by its absolute path."""
    os.symlink(source, target)


def move_file(source: str, target: str, temporary: str) -> None:
    """Move a file; to another file system it is copied, flushed to the disk, compared and only then deleted.

    Args:
        temporary: an unused name in the folder of the target.

    Raises:
        FileExistsError: the target exists.
        OSError: anything else; the source is where it was.
    """
    try:
        os.link(source, target)
    except OSError as e:
        if e.errno == errno.EXDEV:
            _move_across(source, target, temporary)
        elif e.errno in _NO_LINKS:
            _rename(source, target)
        else:
            raise
        return
    _unlink_or_undo(source, target)


def replace_file(data: bytes, target: str, temporary: str, mtime: int | None = None) -> None:
    """Replace what is in a file, but not its mode and extended attributes; it is flushed to the disk first.

    Args:
        mtime: in nanoseconds; None means now.

    Raises:
        OSError: the file is as it was, and nothing is left behind.
    """
    try:
        with open(temporary, "xb") as out:
            out.write(data)
        if mtime is not None:
            os.utime(temporary, ns=(mtime, mtime))
        take_place(temporary, target)
    except BaseException:
        remove(temporary)
        raise


def second_name(source: str, target: str, temporary: str) -> None:
    """Give a file a second name; where a file can have only one, make a copy of it.

    Raises:
        FileExistsError: the second name is taken.
        OSError: anything else; nothing is left behind.
    """
    try:
        os.link(source, target)
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        copy_file(source, target, temporary)


def take_place(made: str, target: str) -> None:
    """Put a file that was made in the place of another, with the owner, mode and extended attributes of that one."""
    given, out = os.open(target, os.O_RDONLY), os.open(made, os.O_RDWR)
    try:
        status = os.fstat(given)
        for owner in ((-1, status.st_gid), (status.st_uid, -1)):
            with suppress(OSError):  # only root may give files to others, and a user only to groups of their own
                os.fchown(out, *owner)
        _copy_attributes(given, out, status)
        os.fsync(out)
    finally:
        os.close(out)
        os.close(given)
    os.replace(made, target)


def settle_move(source: str, target: str, temporary: str) -> bool:
    """Tidy up after a move that was cut off, and say whether the file is at its target now.

    A move that was not complete is taken back, as the source is still there.
    """
    here, there, half = _status(source), _status(target), _status(temporary)
    if here is None:
        if half is not None:  # the last step was missing
            remove(temporary)
        return there is not None
    if there is not None and _is_own(source, target, here, there, half):
        os.unlink(target)
    if half is not None:
        remove(temporary)
    return False


def settle_copy(target: str, temporary: str) -> bool | None:
    """Tidy up after a copy that was cut off, and say whether it is complete; None if only contents can show that."""
    there, half = _status(target), _status(temporary)
    if half is not None:
        is_named = there is not None and os.path.samestat(there, half)
        if there is not None and not is_named and _is_reserved(there):
            os.unlink(target)
        remove(temporary)
        return is_named
    return False if there is None else None


def same_contents(one: BinaryIO, other: BinaryIO) -> bool:
    """Whether two files have the same bytes."""
    while True:
        some, others = one.read(_CHUNK), other.read(_CHUNK)
        if some != others:
            return False
        if not some:
            return True


def are_same(source: str, target: str) -> bool:
    """Whether two paths lead to the same file, or to files with the same bytes."""
    try:
        here, there = os.stat(source), os.stat(target)
        if os.path.samestat(here, there):
            return True
        if not stat.S_ISREG(there.st_mode) or here.st_size != there.st_size:
            return False
        with open(source, "rb") as one, open(target, "rb") as other:
            return same_contents(one, other)
    except OSError:  # a link to nothing, or no permission: not the same as far as anybody can say
        return False


def _copy(source: str, temporary: str, *, is_flushed: bool = False) -> None:
    """Copy a file to a new one, and check that it did not change meanwhile."""
    given = os.open(source, os.O_RDONLY | os.O_NONBLOCK)  # a pipe could block for ever
    try:
        before = os.fstat(given)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", source)
        out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            copied = _copy_bytes(given, out, before.st_size)
            after = os.fstat(given)
            if (copied, after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
                raise OSError(errno.EBUSY, "changed while it was copied", source)
            _copy_status(given, out, before)
            if is_flushed:
                os.fsync(out)
        finally:
            os.close(out)
    finally:
        os.close(given)


def _copy_bytes(given: int, out: int, size: int) -> int:
    """Copy all bytes between two descriptors, inside the kernel where it can; give their number."""
    copied = 0
    with suppress(AttributeError):  # macOS
        try:
            while copied < size and (some := os.copy_file_range(given, out, size - copied)):
                copied += some
        except OSError as e:
            if e.errno not in _NO_COPIES:
                raise
    while data := os.read(given, _CHUNK):  # what the kernel did not copy, or what was added
        copied += len(data)
        while data:
            data = data[os.write(out, data) :]
    return copied


def _copy_status(given: int, out: int, status: os.stat_result) -> None:
    _copy_attributes(given, out, status)
    os.utime(out, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_attributes(given: int, out: int, status: os.stat_result) -> None:
    os.fchmod(out, stat.S_IMODE(status.st_mode) & 0o777)
    with suppress(OSError, AttributeError):  # file systems without extended attributes, and macOS
        for name in os.listxattr(given):
            with suppress(OSError):
                os.setxattr(out, name, os.getxattr(given, name))


def _move_across(source: str, target: str, temporary: str) -> None:
    try:
        _copy(source, temporary, is_flushed=True)
        with open(source, "rb") as one, open(temporary, "rb") as other:
            if not same_contents(one, other):
                raise OSError(errno.EIO, "the copy differs from the original", target)
        # The temporary name stays until the source is gone: it shows that the target is ours.
        _give_name(temporary, target, is_kept=True)
        flush_folder(os.path.dirname(target))
        _unlink_or_undo(source, target)
    finally:
        remove(temporary)


def _give_name(made: str, target: str, *, is_kept: bool = False) -> None:
    """Give a finished file its name, unless that is taken."""
    try:
        os.link(made, target)
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        _rename(made, target)
    else:
        if not is_kept:
            os.unlink(made)


def _rename(source: str, target: str) -> None:
    """Rename a file where there are no hard links: the name is reserved with an empty file, which is then replaced."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0))
    try:
        os.rename(source, target)
    except OSError:  # nothing else: after a signal, the file may have its new name already
        if _is_reserved(os.lstat(target)):
            os.unlink(target)
        raise


def _unlink_or_undo(source: str, target: str) -> None:
    """Delete the old name of a file; if that is impossible, its new one."""
    try:
        os.unlink(source)
    except OSError:
        if os.path.lexists(source):  # else it is gone, whatever a server says
            os.unlink(target)
            raise


def _is_own(source: str, target: str, here: os.stat_result, there: os.stat_result, half: os.stat_result | None) -> bool:
    """Whether what is at the target of a move that was cut off is of that move, and the source still has it."""
    if os.path.samestat(here, there) or (half is not None and os.path.samestat(half, there)):
        return True
    return _is_reserved(there) or (here.st_mtime_ns == there.st_mtime_ns and are_same(source, target))


def _is_reserved(status: os.stat_result) -> bool:
    """Whether a file is one with which `_rename` reserves a name."""
    return stat.S_ISREG(status.st_mode) and not status.st_size and not stat.S_IMODE(status.st_mode)


def remove(path: str) -> None:
    """Delete a file if that is possible."""
    with suppress(OSError):
        os.unlink(path)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
