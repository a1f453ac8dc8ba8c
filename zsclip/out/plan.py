"""Rows -> what is to be done with each picture and the files that belong to it. Files are looked at, never changed."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, NamedTuple

from zsclip.out.actionlog import Action, Entry, Key, Step
from zsclip.out.companions import Companions
from zsclip.out.destinations import filled, folder_names, numbered, safe_name
from zsclip.out.reader import Answered, Scored
from zsclip.out.transfer import are_same, same_contents
from zsclip.pictures.containers import is_clip, split_member
from zsclip.pictures.refused import Refused
from zsclip.pictures.urls import is_url

_STARTS = {
    b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif",
}  # fmt: skip

Opens = Callable[[str], BinaryIO]  # opens a member of an archive, or a frame of a video, by its name


class NotPossible(Exception):
    """Raised for a picture that nothing is done with, with the reason."""


@dataclass(frozen=True)
class Wish:
    """What is to be done with the pictures of rows.

    to: where answered pictures go, as `read_destination` gives it. unknown_to: likewise for those without an answer;
    None leaves them where they are. min_score: lower scores do not count as answers. companions: whether files that
    belong to pictures go with them.
    """

    action: Action
    to: str
    unknown_to: str | None = None
    min_score: float | None = None
    companions: bool = True


@dataclass
class Plan:
    """What is to be done.

    groups: the steps for a picture, and for the files that go with it. left: pictures that nothing can be done with,
    and why. unknown, failed: the numbers of pictures that stay where they are, as they have no answer. same: files
    whose bytes are at their target already. before: files that an earlier run with this log has dealt with.
    """

    groups: list[list[Step]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    rows: int = 0
    unknown: int = 0
    failed: int = 0
    same: int = 0
    before: int = 0


@dataclass(frozen=True)
class _File:
    """A picture, or a file that goes with one.

    path: absolute. name: what the new file is called. size: in bytes. kind: `gone` if an earlier run has moved it.
    """

    path: str
    name: str
    size: int
    kind: Literal["file", "member", "gone"] = "file"


class _Spot(NamedTuple):
    """A number for a picture and what belongs to it: the target of each, and which file is there already, if any."""

    number: int
    targets: Sequence[str]
    holders: Sequence[str | None]


@dataclass
class _Tried:
    """The numbers that were tried for one name.

    last: the highest. of_size: those that are taken, by the size of the file that has them.
    """

    last: int = 0
    of_size: dict[int, list[int]] = field(default_factory=dict)


def plan(rows: Sequence[Answered], wish: Wish, done: Mapping[Key, Entry], opens: Opens) -> Plan:
    """Decide what happens to every picture of some rows.

    Args:
        done: the steps of earlier runs with this log that still hold.
        opens: opens a member of an archive.
    """
    folders = folder_names(label for row in rows for label, _ in row.labels)
    planner = _Planner(wish, folders, done, opens)
    for row in rows:
        planner.add(row)
    return planner.plan


class _Planner:
    """Decides about one row after the other; see `plan`."""

    def __init__(self, wish: Wish, folders: Mapping[str, str], done: Mapping[Key, Entry], opens: Opens) -> None:
        self.plan = Plan()
        self._wish, self._folders, self._done, self._opens = wish, folders, done, opens
        self._gone = {source for action, source, _ in done if action == "move"}
        self._companions = Companions()
        self._sources: dict[str, str] = {}  # by target, of this plan's steps
        self._tried: dict[str, _Tried] = {}  # by target without a number
        self._seen: set[tuple[str, str]] = set()  # sources and targets
        self._moved: dict[str, bool] = {}  # whether it is moved as a picture of its own, by source

    def add(self, row: Answered) -> None:
        """Decide what happens to the picture of a row."""
        self.plan.rows += 1
        if row.error is not None:
            self.plan.failed += 1
            return
        try:
            self._place(row)
        except NotPossible as e:
            self.plan.left.append((row.name, str(e)))
        except Refused as e:  # an archive that cannot be read
            self.plan.left.append((row.name, e.message))

    def _place(self, row: Answered) -> None:
        wish = self._wish
        labels = labels_of(row, wish.min_score)
        if not labels and wish.unknown_to is None:
            self.plan.unknown += 1
            return
        if wish.action == "move" and len(labels) > 1:
            # Found under one label, it would be missing under the other: no choice is right.
            raise NotPossible(f"{len(labels)} labels apply, but a file can be in only one folder; copy or link it")
        picture = self._picture(row.name)
        source, name, folders = picture.path, picture.name, self._folders
        wanted = [filled(wish.to, name=name, folder=folders[label], score=score) for label, score in labels]
        if not labels and wish.unknown_to is not None:
            wanted = [filled(wish.unknown_to, name=name, folder=None, score=row.score)]
        fresh = [target for target in dict.fromkeys(wanted) if (source, target) not in self._seen]
        self._seen.update((source, target) for target in fresh)
        if not fresh or self._moved.get(source) is False:  # a second row, or it goes with the picture it belongs to
            return
        if source in self._moved:
            raise NotPossible("another row moves it elsewhere")
        files = [picture, *self._beside(picture)]
        for target in fresh:
            self._add_group(files, target)

    def _picture(self, name: str) -> _File:
        """Look at a picture.

        Raises:
            NotPossible: it is not a file, or one that cannot be treated so.
        """
        source = absolute(name)
        try:
            status = os.lstat(source)
            if stat.S_ISLNK(status.st_mode):
                if self._wish.action == "move":
                    raise NotPossible("a symbolic link, which may lead nowhere from another folder; copy or link it")
                status = os.stat(source)
            if not stat.S_ISREG(status.st_mode):
                raise NotPossible("not a regular file")
            return _File(source, os.path.basename(source), status.st_size)
        except (FileNotFoundError, NotADirectoryError):
            if source in self._gone:
                return _File(source, os.path.basename(source), 0, "gone")
            return self._member(name)
        except (OSError, ValueError) as e:  # ValueError: half of a surrogate pair in the name
            raise NotPossible((getattr(e, "strerror", None) or str(e)).lower()) from e

    def _member(self, name: str) -> _File:
        """Find the archive or the video that holds a picture which is not a file."""
        archive, inside = archive_of(name)
        if self._wish.action != "copy":
            what = "a frame of a video" if is_clip(archive) else "inside an archive"
            raise NotPossible(f"{what}; --copy-to copies it out")
        source = absolute(name)
        own = safe_name(inside.rpartition("/")[2])
        if is_clip(archive):
            own = f"{os.path.splitext(os.path.basename(archive))[0]}-{own.removeprefix('t=')}.png"
        with self._opens(source) as file:
            if own.isdecimal():  # a row of a Parquet file
                own = f"{os.path.splitext(os.path.basename(archive))[0]}-{own}{_ending(file.read(12))}"
            return _File(source, own, file.seek(0, os.SEEK_END), "member")

    def _beside(self, picture: _File) -> Iterator[_File]:
        """Yield the files that go with a picture and have not gone with another one."""
        if self._wish.companions and picture.kind != "member":
            for path in self._companions.of(picture.path):
                if path not in self._moved:
                    with suppress(OSError):  # it has just gone
                        yield _File(path, os.path.basename(path), os.lstat(path).st_size)

    def _add_group(self, files: Sequence[_File], wanted: str) -> None:
        """Plan the steps for a picture and what belongs to it; all of them get the same number."""
        picture, action = files[0], self._wish.action
        prefix = wanted[: len(wanted) - len(picture.name)]
        keys = [(action, file.path, prefix + file.name) for file in files]
        if picture.kind == "gone" and keys[0] not in self._done:
            raise NotPossible("no such file; an earlier run has moved it")
        known = next((self._done[key].step.number for key in keys if key in self._done), None)
        spot = self._free_spot(files, prefix) if known is None else self._spot(files, prefix, known)
        steps: list[Step] = []
        for file, key, target, holder in zip(files, keys, spot.targets, spot.holders, strict=True):
            if key in self._done:
                self.plan.before += 1
            elif holder is None:
                steps.append(Step(action, file.path, target, key[2], spot.number, file.size))
            elif self._are_same(file.path, holder):
                self.plan.same += 1
                if file is picture and action == "move":  # it stays, and so does what belongs to it
                    return
            else:
                self.plan.left.append((file.path, f"{target} exists, and differs"))
        if steps:
            self.plan.groups.append(steps)
        for step in steps:
            self._sources[step.target] = step.source
            if action == "move":
                self._moved[step.source] = step.source == picture.path

    def _free_spot(self, files: Sequence[_File], prefix: str) -> _Spot:
        """Find the number with which a picture is there already, or the next with which no file replaces another.

        Thousands of pictures may want one name, so each is compared only with those of its size.
        """
        picture = files[0]
        tried = self._tried.setdefault(prefix + picture.name, _Tried())
        for number in tried.of_size.get(picture.size, ()):
            spot = self._spot(files, prefix, number)
            if self._are_same(picture.path, spot.holders[0] or ""):
                return spot
        while True:
            tried.last += 1
            spot = self._spot(files, prefix, tried.last)
            if (holder := spot.holders[0]) is not None:
                tried.of_size.setdefault(self._size(holder), []).append(tried.last)
                if self._are_same(picture.path, holder):
                    return spot
            elif all(
                holder is None or self._are_same(file.path, holder)
                for file, holder in zip(files, spot.holders, strict=True)
            ):
                tried.of_size.setdefault(picture.size, []).append(tried.last)
                return spot

    def _spot(self, files: Sequence[_File], prefix: str, number: int) -> _Spot:
        stem = os.path.splitext(files[0].name)[0]
        targets = [numbered(prefix + file.name, file.name, stem, number) for file in files]
        return _Spot(number, targets, list(map(self._holder, targets)))

    def _size(self, path: str) -> int:
        try:
            with self._opened(path) as file:
                return file.seek(0, os.SEEK_END)
        except (OSError, Refused):  # a folder of that name, or a link to nothing
            return -1

    def _holder(self, target: str) -> str | None:
        """Give the file whose bytes are, or will be, at a place; None if the place is free."""
        return self._sources.get(target) or (target if os.path.lexists(target) else None)

    def _are_same(self, source: str, holder: str) -> bool:
        if os.path.lexists(source) and os.path.lexists(holder):
            return are_same(source, holder)
        try:
            with self._opened(source) as one, self._opened(holder) as other:
                return same_contents(one, other)
        except (OSError, Refused):
            return False

    def _opened(self, path: str) -> BinaryIO:
        return open(path, "rb") if os.path.lexists(path) else self._opens(path)


def labels_of(row: Answered, min_score: float | None) -> list[Scored]:
    """Give the labels that apply to a picture, with scores that are high enough.

    Raises:
        NotPossible: a score is needed, and there is none.
    """
    return [each for each in row.labels if min_score is None or _known(each[1]) >= min_score]


def archive_of(name: str) -> tuple[str, str]:
    """Give the archive or the video that holds a picture which is not a file, and its name there.

    Raises:
        NotPossible: there is no such archive or video.
    """
    if is_url(name):
        raise NotPossible("on a server; download it first")
    archive, inside = split_member(name)
    if not inside or not os.path.isfile(archive):
        raise NotPossible("no such file; run this in the folder in which it was classified")
    return archive, inside


def absolute(name: str) -> str:
    """Give the absolute path of a name, which may be that of a member such as `x.tar#../a.jpg`."""
    return os.path.join(os.getcwd(), name) if ".." in name else os.path.abspath(name)


def _known(score: float | None) -> float:
    if score is None:
        raise NotPossible("the row has no score, which --min-score needs")
    return score


def _ending(start: bytes) -> str:
    """Give the extension of a picture, going by how it begins; "" if that says nothing."""
    if start[8:12] == b"WEBP":
        return ".webp"
    return next((ending for signature, ending in _STARTS.items() if start.startswith(signature)), "")
