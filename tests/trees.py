"""Random folders of pictures with awkward names, what is in a folder, and runs of `apply` that are killed.

As a script (`python trees.py FOLDER FOLDER [exiftool]`), kills runs at every step, and prints what went wrong.
"""

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from sidecars import FOREIGN

from zsclip.out.act import Outcome, act, done_before, settle, undo
from zsclip.out.actionlog import Action, open_log
from zsclip.out.destinations import read_destination
from zsclip.out.exiftool import ExifTool
from zsclip.out.plan import Plan, Wish, plan
from zsclip.out.reader import Answered
from zsclip.out.tagplan import Tagging, plan_tags

STEMS = ["a", "b", "IMG_1", "new\nline", "-rf", "tab\t", "日本", "e\u0301", "\udcff\udc80", "x.y", " ", "con", "a-2"]
ENDINGS = [".jpg", ".JPG", ".heic", ".png", ""]
BESIDE = ["{stem}.xmp", "{name}.xmp", "{stem}.AAE", "{stem}.mov", "{stem}.nef", "{name}.json", "{stem}.nef.xmp", "no"]
LABELS = ["cat", "a/b", "a_b", "..", "", "CON", "x" * 300, "日本", "dot."]


def no_archive(name: str) -> BinaryIO:
    raise AssertionError(name)


def make_tree(chance: random.Random, root: Path, count: int) -> list[Answered]:
    """Make folders with pictures and files beside them, and sometimes files where they will go; give the rows."""
    rows: list[Answered] = []
    for number in range(count):
        stem, ending = chance.choice(STEMS), chance.choice(ENDINGS)
        name = stem + ending
        folder = root / "photos" / chance.choice(["", "one", "two/\udce9", "two/th ree"])
        folder.mkdir(parents=True, exist_ok=True)
        for each in (name, *(chance.choice(BESIDE).format(stem=stem, name=name) for _ in range(chance.randrange(3)))):
            write(folder / each, chance.choice(["same", f"of {number}"]) * chance.randrange(3), chance.randrange(10**9))
        some = chance.sample(LABELS[:5] if chance.random() < 0.7 else LABELS, chance.choice([0, 1, 1, 1, 2]))
        error = "unreadable" if chance.random() < 0.1 else None
        path = os.fsdecode(folder / name)
        rows.append(Answered(path, tuple((label, chance.random()) for label in some), chance.random(), error))
    for folder, name in (("cat", "a.jpg"), ("cat", "b.jpg"), ("a_b", "IMG_1.heic"), ("cat", "a-2.jpg")):
        if chance.random() < 0.5:
            (root / "sorted" / folder).mkdir(parents=True, exist_ok=True)
            write(root / "sorted" / folder / name, chance.choice(["same", "of others"]), 0)
    return rows


def write(path: Path, text: str, mtime: int) -> None:
    if not path.exists():
        path.write_text(text)
        os.utime(path, ns=(mtime, mtime))


def snapshot(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything below a folder: folders, links, and files with their bytes, modes and times."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if os.path.islink(path):
                found[path] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                found[path] = ("folder",)
            else:
                found[path] = ("file", Path(os.fsdecode(path)).read_bytes(), status.st_mode, status.st_mtime_ns)
    return found


def contents(state: dict[bytes, tuple[Any, ...]]) -> set[bytes]:
    return {about[1] for about in state.values() if about[0] == "file"}


def wish_for(action: Action, root: Path) -> Wish:
    to = read_destination("--copy-to", os.fspath(root / "sorted"))
    unknown = read_destination("--unknown-to", os.fspath(root / "unsure"), has_label=False)
    return Wish(action, to, unknown, min_score=0.1)


def apply(rows: list[Answered], wish: Wish | Tagging, log_file: Path) -> tuple[Plan, Outcome]:
    outcome = Outcome()
    with open_log(os.fspath(log_file), is_new=True) as log, ExifTool(log.file) as exiftool:
        settle(log, no_archive)
        is_tags = isinstance(wish, Tagging)
        planned = plan_tags(rows, wish, exiftool) if is_tags else plan(rows, wish, done_before(log), no_archive)
        act(planned.groups, log, no_archive, exiftool, outcome)
    return planned, outcome


def take_back(log_file: Path) -> Outcome:
    outcome = Outcome()
    with open_log(os.fspath(log_file), is_new=False) as log:
        undo(log, no_archive, outcome)
    return outcome


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do something in a process of its own, killed just before its Nth system call of importance; False if it ended."""
    child = os.fork()
    if child == 0:
        left = [number]

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" or event.startswith("os."):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(count)
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


Case = tuple[str, Callable[[], list[Answered]], Wish | Tagging]


def cases(root: Path, elsewhere: Path) -> Iterator[Case]:
    """Give runs to be killed: of each action, a move to another file system, and tags."""

    def make() -> list[Answered]:
        for folder in (root, elsewhere):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        return make_tree(random.Random(7), root, 4)

    for action in ("copy", "move", "link"):
        yield action, make, wish_for(action, root)
    yield "move across", make, wish_for("move", elsewhere)

    def make_sidecars() -> list[Answered]:
        rows = make()
        Path(f"{rows[0].name}.xmp").write_bytes(FOREIGN["exiftool"])
        os.utime(f"{rows[0].name}.xmp", ns=(1, 1))
        return [Answered(row.name, (("dog", 0.9),)) for row in rows]

    yield "tag", make_sidecars, Tagging()


def embedding(root: Path, elsewhere: Path) -> Iterator[Case]:
    """Give a run of exiftool to be killed."""

    def make() -> list[Answered]:
        for folder in (root, elsewhere):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for name in "ab":
            Image.new("RGB", (8, 8), "red").save(root / f"{name}.jpg")
            os.utime(root / f"{name}.jpg", ns=(1, 1))
        return [Answered(os.fspath(root / f"{name}.jpg"), (("dog", 0.9),)) for name in "ab"]

    yield "embed", make, Tagging(embeds=True)


def kill_everywhere(given: Iterable[Case], root: Path, elsewhere: Path, log: Path) -> Iterator[str]:
    """Kill each run before every system call, then go on, or take it back; yield what is not as it should be."""
    for name, make, wish in given:
        for is_undo in (False, True):
            yield from kill_one(f"{name}{', undo' * is_undo}", Scene(root, elsewhere, log, make, wish), is_undo)


@dataclass(frozen=True)
class Scene:
    """A run, and where it happens."""

    root: Path
    elsewhere: Path
    log: Path
    make: Callable[[], list[Answered]]
    wish: Wish | Tagging

    def start(self) -> list[Answered]:
        self.log.unlink(missing_ok=True)
        return self.make()

    def state(self) -> dict[bytes, tuple[Any, ...]]:
        return snapshot(self.root) | snapshot(self.elsewhere)

    def settled(self) -> dict[bytes, tuple[Any, ...]]:
        """The state after a run; sidecars have the time at which they were written."""
        is_tags = isinstance(self.wish, Tagging)
        return {path: about[:3] if is_tags else about for path, about in self.state().items()}

    def apply(self, rows: list[Answered]) -> None:
        apply(rows, self.wish, self.log)

    def take_back(self) -> None:
        if self.log.exists():  # else it was killed before its first line
            take_back(self.log)


def kill_one(name: str, scene: Scene, is_undo: bool) -> Iterator[str]:
    rows = scene.start()
    before = scene.state()
    scene.apply(rows)
    after = scene.settled()
    sidecars = {FOREIGN["exiftool"]} if isinstance(scene.wish, Tagging) else set()  # the log has what was in them
    number, was_killed = 0, True
    while was_killed:
        number += 1
        for then in ("go on", "take back"):
            rows = scene.start()
            if is_undo:
                scene.apply(rows)
            was_killed = killed_at(number, scene.take_back if is_undo else partial(scene.apply, rows))
            what = f"{name}, killed at {number}, then {then}"
            if not contents(before) - sidecars <= contents(scene.state()):
                yield f"{what}: a file is in no place"
            if then == "go on":
                scene.apply(rows)
                if different := difference(scene.settled(), after):
                    yield f"{what}: it did not go on: {different}"
            scene.take_back()
            if scene.state() != before:
                yield f"{what}: it was not taken back: {difference(scene.state(), before)}"
    yield f"{name}: {number - 1} kills"


def difference(one: dict[bytes, Any], other: dict[bytes, Any]) -> list[Any]:
    return sorted(set(one.items()) ^ set(other.items()))


if __name__ == "__main__":
    place, beside = Path(sys.argv[1]), Path(sys.argv[2])
    chosen = embedding if "exiftool" in sys.argv[3:] else cases
    for line in kill_everywhere(chosen(place / "tree", beside), place / "tree", beside, place / "log.jsonl"):
        print(json.dumps(line))
