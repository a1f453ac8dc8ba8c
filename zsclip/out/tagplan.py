"""Rows -> which sidecars or pictures get which tags. Files are read, never changed."""

import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from unicodedata import normalize

from zsclip.out.actionlog import Action, Change, Step
from zsclip.out.exiftool import ExifTool
from zsclip.out.plan import NotPossible, Plan, absolute, archive_of, labels_of
from zsclip.out.rdf import LARGEST, NotXmp
from zsclip.out.reader import Answered
from zsclip.out.xmp import Tag, spelt, tagged
from zsclip.pictures.containers import is_clip
from zsclip.pictures.identity import content_of
from zsclip.pictures.refused import Refused

_THREADS = 4  # disks and exiftool are waited for
_Place = tuple[int, int, str]  # the device and inode of a folder, and a name in it: the same on every path


@dataclass(frozen=True)
class Tagging:
    """Where tags go.

    embeds: whether into the pictures, else into sidecars. by_stem: whether the sidecar of `a.jpg` is `a.xmp`, as for
    Adobe's programs, not `a.jpg.xmp`. groups: of labels, by label in NFC. min_score: lower scores do not count as
    answers.
    """

    embeds: bool = False
    by_stem: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    min_score: float | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A picture, and the XMP in or beside it.

    target: the file that tags are written to. place, mtime: of the target; the time in nanoseconds. xmp: None if there
    is none.
    """

    picture: str
    target: str
    place: _Place
    size: int
    mtime: int = 0
    xmp: bytes | None = None


def plan_tags(rows: Sequence[Answered], tagging: Tagging, exiftool: ExifTool) -> Plan:
    """Decide which tags every picture of some rows gets.

    Args:
        exiftool: reads what is in pictures, if tags go into those.
    """
    plan, tags_of = Plan(), dict[_Place, tuple[str, list[Tag]]]()
    with ThreadPoolExecutor(_THREADS) as pool:
        for row, found in zip(rows, pool.map(lambda row: _find(row, tagging, exiftool), rows), strict=True):
            plan.rows += 1
            try:
                _add(plan, tags_of, row, found, tagging)
            except NotPossible as e:
                plan.left.append((row.name, str(e)))
    return plan


def _add(
    plan: Plan, tags_of: dict[_Place, tuple[str, list[Tag]]], row: Answered, found: _Found | str, tagging: Tagging
) -> None:
    """Add what happens to the picture of a row.

    Args:
        tags_of: the pictures of earlier rows and their tags, by the file that those are written to.
        found: why nothing can be done, if it is a text.
    """
    if row.error is not None:
        plan.failed += 1
        return
    labels = [label for label, _ in labels_of(row, tagging.min_score)]
    tags = [Tag(label, tagging.groups.get(normalize("NFC", label), "")) for label in labels]
    if isinstance(found, str):
        raise NotPossible(found)
    picture, known = tags_of.setdefault(found.place, (os.path.basename(found.picture), tags))
    if known is not tags:
        if {*known} != {*tags}:
            whose = "another row" if picture == os.path.basename(found.picture) else picture
            raise NotPossible(f"{os.path.basename(found.target)} gets the tags of {whose}")
        return
    plan.unknown += not tags
    try:
        now = tagged(found.xmp, tags)
    except NotXmp as e:
        raise NotPossible(f"{'its XMP' if tagging.embeds else os.path.basename(found.target)}: {e}") from e
    if now is None or now == found.xmp:
        plan.same += bool(tags)
        return
    shown = tuple(spelt("lr", tag) for tag in tags)
    action: Action = "embed" if tagging.embeds else "tag"
    if tagging.embeds:
        change = Change(None, found.mtime, _free_name(f"{found.picture}_original"), now=now, tags=shown)
    else:
        change = Change(found.xmp, found.mtime, made=content_of(now).hex(), now=now, tags=shown)
    plan.groups.append([Step(action, found.picture, found.target, found.target, 1, found.size, change)])


def _find(row: Answered, tagging: Tagging, exiftool: ExifTool) -> _Found | str:
    """Look at a picture and its XMP; if that is impossible, say why."""
    if row.error is not None:
        return row.error
    try:
        picture, size, mtime = _picture(row.name, tagging)
        if tagging.embeds:
            return _Found(picture, picture, _place_of(picture), size, mtime, exiftool.read_packet(picture))
        target = f"{os.path.splitext(picture)[0] if tagging.by_stem else picture}.xmp"
        return _read_sidecar(_Found(picture, target, _place_of(target), size))
    except NotPossible as e:
        return str(e)
    except Refused as e:
        return e.message
    except (OSError, ValueError) as e:  # ValueError: half of a surrogate pair in the name
        return (getattr(e, "strerror", None) or str(e)).lower()


def _picture(name: str, tagging: Tagging) -> tuple[str, int, int]:
    """Give the path of a picture, its size and its time."""
    path = absolute(name)
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if tagging.embeds:
                raise NotPossible("a symbolic link; tag the file that it leads to, or use --tag xmp")
            status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as e:
        is_frame = is_clip(archive_of(name)[0])
        what = "a frame of a video, which is not a file" if is_frame else "inside an archive; extract it to tag it"
        raise NotPossible(what) from e
    if not stat.S_ISREG(status.st_mode):
        raise NotPossible("not a regular file")
    return path, status.st_size, status.st_mtime_ns


def _read_sidecar(found: _Found) -> _Found:
    """Add what is in a sidecar, if there is one."""
    try:
        status = os.lstat(found.target)
    except FileNotFoundError:
        return found
    name = os.path.basename(found.target)
    if not stat.S_ISREG(status.st_mode):
        raise NotPossible(f"{name} is not a regular file")
    if status.st_size > LARGEST:
        raise NotPossible(f"{name} is larger than {LARGEST >> 20} MB")
    with open(found.target, "rb") as file:
        return replace(found, mtime=status.st_mtime_ns, xmp=file.read())


def _place_of(path: str) -> _Place:
    folder, name = os.path.split(path)
    status = os.stat(folder)
    return status.st_dev, status.st_ino, name


def _free_name(path: str) -> str:
    names = (path if number == 1 else f"{path}-{number}" for number in count(1))
    return next(name for name in names if not os.path.lexists(name))
