"""What `apply` does to files, and takes back: random trees, kills, full disks, other file systems."""

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trees
from conftest import HANGS
from trees import apply, contents, make_tree, snapshot, take_back, wish_for

from zsclip.errors import InputError, OutputError
from zsclip.out.actionlog import Action, open_log, read_log
from zsclip.out.reader import Answered

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    if not SHARED_MEMORY.is_dir() or SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        yield Path(folder)


def picture(path: Path, text: str = "picture") -> Answered:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return Answered(os.fspath(path), (("cat", 0.9),), 0.9)


@pytest.mark.parametrize("action", ["copy", "move", "link"])
@pytest.mark.parametrize("seed", range(12))
def test_a_random_tree_is_as_before_after_an_undo_and_nothing_is_lost_meanwhile(
    seed: int, action: Action, tmp_path: Path
) -> None:
    rows, log = make_tree(random.Random(seed), tmp_path / "tree", 30), tmp_path / "log.jsonl"
    before = snapshot(tmp_path / "tree")

    planned, outcome = apply(rows, wish_for(action, tmp_path / "tree"), log)
    after = snapshot(tmp_path / "tree")
    again, _ = apply(rows, wish_for(action, tmp_path / "tree"), log)

    assert outcome.left == []
    assert outcome.done[action] == sum(map(len, planned.groups)) > 5
    assert contents(before) <= contents(after)
    stayed = {path for path in before if action != "move" or b"/photos/" not in path}
    assert {path: after[path] for path in stayed} == {path: before[path] for path in stayed}  # nothing overwritten
    assert again.groups == []
    assert snapshot(tmp_path / "tree") == after
    undone = take_back(log)
    assert (undone.left, undone.done) == ([], outcome.done)
    assert snapshot(tmp_path / "tree") == before


@pytest.mark.parametrize("seed", range(4))
def test_a_move_to_another_file_system_is_as_before_after_an_undo(seed: int, tmp_path: Path, elsewhere: Path) -> None:
    rows, log = make_tree(random.Random(seed), tmp_path / "tree", 30), tmp_path / "log.jsonl"
    before = snapshot(tmp_path / "tree")

    _, outcome = apply(rows, wish_for("move", elsewhere), log)

    moved = snapshot(elsewhere)
    assert outcome.left == []
    assert contents(before) <= contents(snapshot(tmp_path / "tree") | moved)
    assert not [path for path in moved if b".part" in path]
    take_back(log)
    assert snapshot(elsewhere) == {}
    assert snapshot(tmp_path / "tree") == before


def test_a_run_killed_before_any_system_call_goes_on_and_is_taken_back(tmp_path: Path, elsewhere: Path) -> None:
    """In a process without threads, as it forks."""
    done = subprocess.run(
        [sys.executable, trees.__file__, str(elsewhere), str(tmp_path / "sorted")],  # memory flushes at once
        capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip

    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert [line for line in lines if not line.endswith(" kills")] == []
    assert len(lines) == 10
    assert all(int(line.split()[-2]) >= 10 for line in lines)


@pytest.mark.slow
def test_a_process_killed_at_random_moments_goes_on_and_is_taken_back(tmp_path: Path) -> None:
    chance = random.Random(0)
    for number in range(30):
        root, action = tmp_path / f"{number}", chance.choice(["copy", "move", "link"])
        rows = [picture(root / f"photos/{i % 7}/{i % 50}.jpg", f"{i}") for i in range(2000)]
        rows = list({row.name: row for row in rows}.values())
        before = snapshot(root)
        (root.parent / f"{number}.jsonl").write_text(
            "".join(json.dumps({"file_name": row.name, "label": "cat", "score": 0.9}) + "\n" for row in rows)
        )
        command = [sys.executable, "-m", "zsclip", "apply", f"{number}.jsonl", f"--{action}-to", f"{number}/sorted"]
        process = subprocess.Popen([*command, "-q"], cwd=tmp_path)
        log = tmp_path / f"{number}.jsonl.apply.jsonl"
        wanted = chance.randrange(1, 150_000)  # bytes of the log
        while process.poll() is None and not (log.exists() and log.stat().st_size > wanted):
            pass
        process.kill()
        process.wait()

        assert contents(before) <= contents(snapshot(root))
        subprocess.run([*command, "-q"], cwd=tmp_path, check=True)
        moved = [path for path in (root / "sorted/cat").iterdir() if not path.name.startswith(".")]
        assert len(moved) == len(rows) == len(list((root / "sorted/cat").iterdir()))
        assert take_back(log).left == []
        assert snapshot(root) == before


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "term")]
)
def test_a_signal_ends_a_run_that_says_how_to_go_on(number: int, code: int, said: str, tmp_path: Path) -> None:
    rows = [picture(tmp_path / f"photos/{i}.jpg", f"{i}") for i in range(3000)]
    lines = "".join(json.dumps({"file_name": row.name, "label": "cat", "score": 0.9}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    command = [sys.executable, "-m", "zsclip", "apply", "rows.jsonl", "--move-to", "sorted"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "rows.jsonl.apply.jsonl"
    while not (log.exists() and log.stat().st_size > 100_000):
        assert process.poll() is None

    process.send_signal(number)

    _, err = process.communicate(timeout=HANGS)
    assert process.returncode == code
    assert re.fullmatch(rf"zsclip: {said}\w*: [\d,]+ files done; run the same command again to continue\n", err)
    assert subprocess.run([*command, "-q"], cwd=tmp_path).returncode == 0
    assert len(os.listdir(tmp_path / "sorted/cat")) == 3000


def test_files_that_have_changed_since_are_named_and_stay(tmp_path: Path) -> None:
    for action in ("copy", "move", "link"):
        root, log = tmp_path / action, tmp_path / f"{action}.jsonl"
        rows = [picture(root / "photos" / f"{name}.jpg", name) for name in "abcd"]
        apply(rows, wish_for(action, root), log)
        target = root / "sorted/cat"
        status = (target / "b.jpg").stat()
        if action == "link":
            (target / "b.jpg").unlink()
        (target / "b.jpg").write_text("B")
        os.utime(target / "b.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))  # the size is the same, too
        (target / "c.jpg").unlink()

        outcome = take_back(log)

        left = [(os.path.relpath(path, target), why) for path, why in outcome.left]
        assert left == [("c.jpg", "is gone")] * (action == "move") + [("b.jpg", "has changed since")]
        assert sorted(path.name for path in target.iterdir()) == ["b.jpg"]
        assert (target / "b.jpg").read_text() == "B"
        assert (root / "photos/a.jpg").read_text() == "a"
        (target / "b.jpg").unlink()
        assert [why for _, why in take_back(log).left] == ["is gone"] * 2 * (action == "move")


def test_a_copy_whose_original_is_gone_stays(tmp_path: Path) -> None:
    rows, log = [picture(tmp_path / "a.jpg")], tmp_path / "log.jsonl"
    apply(rows, wish_for("copy", tmp_path), log)
    (tmp_path / "a.jpg").unlink()

    assert [why for _, why in take_back(log).left] == ["its original is gone, so the copy stays"]
    assert (tmp_path / "sorted/cat/a.jpg").read_text() == "picture"


def test_a_file_that_is_back_in_the_place_of_a_moved_one_is_not_overwritten(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    apply([picture(tmp_path / "a.jpg")], wish_for("move", tmp_path), log)
    (tmp_path / "a.jpg").write_text("another")

    assert [why for _, why in take_back(log).left] == [f"{tmp_path}/a.jpg exists again"]
    assert (tmp_path / "a.jpg").read_text() == "another"
    assert (tmp_path / "sorted/cat/a.jpg").read_text() == "picture"


def test_the_log_that_was_taken_back_can_be_used_again(tmp_path: Path) -> None:
    rows, log = [picture(tmp_path / "photos/a.jpg")], tmp_path / "log.jsonl"
    before = snapshot(tmp_path)
    for _ in range(3):
        planned, _ = apply(rows, wish_for("move", tmp_path), log)
        assert planned.before == 0
        assert (tmp_path / "sorted/cat/a.jpg").exists()
        assert take_back(log).done.total() == 1
        assert {path: about for path, about in snapshot(tmp_path).items() if path != os.fsencode(log)} == before


def test_two_commands_with_one_log_are_taken_back_in_the_opposite_order(tmp_path: Path) -> None:
    rows, log = [picture(tmp_path / "photos/a.jpg")], tmp_path / "log.jsonl"
    before = snapshot(tmp_path)
    apply(rows, wish_for("copy", tmp_path / "first"), log)
    apply(rows, wish_for("move", tmp_path / "second"), log)

    assert take_back(log).left == []
    log.unlink()
    assert snapshot(tmp_path) == before


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[list[str]]:
    """What a command begins with that runs beside a tmpfs of this size at /mnt; nobody else sees that."""
    begin = ["unshare", "-m", "sh", "-ec", f'mount -t tmpfs -o size={size} none /mnt; exec "$@"', "sh"]
    if subprocess.run([*begin, "true"], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield begin


@pytest.mark.parametrize("action", ["copy", "move"])
def test_a_full_disk_ends_the_run_and_it_can_go_on_or_be_taken_back(action: str, tmp_path: Path) -> None:
    """The log is on the full disk, too."""
    rows = [picture(tmp_path / f"photos/{i}.jpg", f"{i}" * 50_000) for i in range(10)]
    lines = "".join(json.dumps({"file_name": row.name, "label": "cat", "score": 0.9}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    before = snapshot(tmp_path / "photos")
    script = f"""
        zsclip() {{ "{sys.executable}" -m zsclip "$@"; }}
        run() {{ zsclip apply rows.jsonl --{action}-to /mnt/sorted --log /mnt/log.jsonl -q; }}
        run 2>&1; echo $?
        ls photos /mnt/sorted/cat | sort -n | uniq | grep -c jpg
        ls -A /mnt/sorted/cat | grep -c part
        zsclip apply --undo /mnt/log.jsonl -q; echo $?
        ls /mnt
        rm /mnt/log.jsonl
        run > first 2>&1; mount -o remount,size=2m none /mnt
        run; echo $?
        ls /mnt/sorted/cat | wc -l
        zsclip apply --undo /mnt/log.jsonl -q; echo $?
    """
    with small_disk("256k") as begin:
        done = subprocess.run(
            [*begin, "bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=HANGS
        )

    said, *rest = done.stdout.splitlines()
    assert done.stderr == ""
    assert "no space left on device; free some space and run the same command again" in said
    assert rest == ["4", "10", "0", "0", "log.jsonl", "0", "10", "0"]
    assert snapshot(tmp_path / "photos") == before


def test_a_file_that_is_too_large_for_the_target_stays_and_leaves_nothing_behind(tmp_path: Path) -> None:
    rows = [picture(tmp_path / "large.jpg", "x" * 100_000), picture(tmp_path / "small.jpg")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        _, outcome = apply(rows, wish_for("copy", tmp_path), tmp_path / "log.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert outcome.left == [(os.fspath(tmp_path / "large.jpg"), "file too large")]
    assert [path.name for path in (tmp_path / "sorted/cat").iterdir()] == ["small.jpg"]


def test_what_belongs_to_a_picture_that_cannot_be_moved_stays_with_it(tmp_path: Path) -> None:
    rows = [picture(tmp_path / "photos/a.jpg")]
    (tmp_path / "photos/a.xmp").write_text("about")
    (tmp_path / "sorted").write_text("a file, not a folder")

    _, outcome = apply(rows, wish_for("move", tmp_path), tmp_path / "log.jsonl")

    assert [why for _, why in outcome.left] == ["not a directory", "stays with its picture"]
    assert (tmp_path / "photos/a.jpg").exists()
    assert (tmp_path / "photos/a.xmp").exists()


def test_a_torn_last_line_of_the_log_is_dropped(tmp_path: Path) -> None:
    rows, log = [picture(tmp_path / "a.jpg")], tmp_path / "log.jsonl"
    apply(rows, wish_for("copy", tmp_path), log)
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step":1,"do":"co')

    assert len(read_log(os.fspath(log)).entries) == 1
    with open_log(os.fspath(log), is_new=False):
        pass
    assert log.read_bytes() == whole


@pytest.mark.parametrize("text", ["file_name,label\n", "cat", '{"zsclip": 1}\n', '{"file_name": "a", "label": "b"}\n'])
def test_a_file_that_is_no_log_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)

    for is_new in (True, False):
        with pytest.raises(InputError, match="not a log of `zsclip apply`"):
            open_log(os.fspath(tmp_path / "x"), is_new=is_new)
    assert (tmp_path / "x").read_text() == text


def test_a_log_is_written_by_one_run_at_a_time(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "log.jsonl")
    with open_log(path, is_new=True), pytest.raises(OutputError, match="another run is writing to it"):
        open_log(path, is_new=True)

    assert not os.path.exists(path)  # nothing was done
